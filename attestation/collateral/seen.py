"""What has been seen, so that nothing older is accepted again.

A replayed document is genuine in every other respect: its signature holds and it may still
be within its window. What it cannot have is a number or time of issue above the newest one
known. Kept apart from the items themselves, so that emptying the cache forgets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from attestation.collateral.check import Checked, iso
from attestation.collateral.errors import CollateralRolledBack
from attestation.errors import CollateralError

FORMAT: Final = "adyton-collateral-seen/1"
MAX_ENTRIES: Final = 4096
_MAX_VALUE: Final = 1 << 200
"""CRL numbers have up to 20 bytes (RFC 5280, section 5.2.3)."""


class Seen:
    """Newest version of each item, by root: (evaluation or CRL number, time of issue)."""

    def __init__(self, newest: Mapping[str, tuple[int, int]] | None = None) -> None:
        self._newest = dict(newest or {})

    @staticmethod
    def _name(checked: Checked) -> str:
        return f"{checked.anchor_sha256}/{checked.item.key}"

    def check(self, checked: Checked, now: int) -> None:
        """`checked` is not older than what was seen, and `now` not before its issue.

        Raises CollateralRolledBack; CollateralError when the clock has gone back.
        """
        prefix = f"{checked.anchor_sha256}/"
        latest = max((v[1] for n, v in self._newest.items() if n.startswith(prefix)), default=0)
        if now < latest:
            raise CollateralError(
                f"clock: it is {iso(now)} here, but a document issued at {iso(latest)} was seen"
            )
        key, seen = checked.item.key, self._newest.get(self._name(checked))
        if seen is not None and checked.version[0] < seen[0]:
            raise CollateralRolledBack(
                f"{key}: rolled back, number {checked.version[0]} after {seen[0]}"
            )
        if seen is not None and checked.version[1] < seen[1]:
            raise CollateralRolledBack(
                f"{key}: rolled back, issued {iso(checked.version[1])} after {iso(seen[1])}"
            )

    def remember(self, checked: Checked) -> bool:
        """From now on nothing older than `checked` passes; True if that is news."""
        name, version = self._name(checked), checked.version
        if not any(version):
            return False  # a certificate has no successor to be rolled back from
        old = self._newest.get(name, (0, 0))
        newest = (max(old[0], version[0]), max(old[1], version[1]))
        if self._newest.get(name) == newest:
            return False
        if name not in self._newest and len(self._newest) >= MAX_ENTRIES:
            raise CollateralError(f"cache: remembers {MAX_ENTRIES} documents, and no more")
        self._newest[name] = newest
        return True

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read the JSON form. Raises CollateralError."""
        newest = obj.get("newest") if isinstance(obj, Mapping) else None
        if not isinstance(newest, Mapping) or obj.get("format") != FORMAT:
            raise CollateralError(f"seen: not {FORMAT}")
        if len(newest) > MAX_ENTRIES or not all(map(_is_version, newest.values())):
            raise CollateralError("seen: not versions of documents")
        return cls({name: (value[0], value[1]) for name, value in newest.items()})

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"format": FORMAT, "newest": {k: list(v) for k, v in sorted(self._newest.items())}}


def _is_version(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(n) is int and 0 <= n < _MAX_VALUE for n in value)
    )
