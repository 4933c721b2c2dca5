"""Reference values: which measurements belong to which release, signed by who publishes them.

A policy names the file and the keys it believes; the measurements in it then count as if
they stood in the policy. The file is a JSON object of `purpose`, `version`, `releases` and
`signatures`; each Ed25519 signature is over the JCS form of the object without
`signatures`. docs/spec/policy.md, "Reference values", is the reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from attestation.canonical import jcs, loads_strict
from attestation.errors import MalformedEvidence, VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PURPOSE: Final = "adyton.reference_values.v1"
ALGO: Final = "ed25519"
MAX_FILE: Final = 4 << 20
MAX_RELEASES: Final = 1024
MAX_SIGNATURES: Final = 16
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")
Registers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Release:
    """One release and what it measures as, per TEE. `not_after` (Unix seconds) None: no end."""

    name: str
    version: str
    measurements: Mapping[str, tuple[Registers, ...]]
    not_after: int | None = None

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    def good_at(self, now: int) -> bool:
        return self.not_after is None or now <= self.not_after

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "measurements": {
                tee: [dict(r) for r in registers] for tee, registers in self.measurements.items()
            },
        }
        return out if self.not_after is None else {**out, "not_after": self.not_after}


def read_reference(data: bytes) -> tuple[Release, ...]:
    """The releases in the file, whoever signed it: for showing and extending it.

    Raises MalformedEvidence.
    """
    return tuple(map(_release, _document(data)["releases"]))


def verify_reference(data: bytes, public_keys: Iterable[bytes]) -> tuple[Release, ...]:
    """The releases in the file, signed by one of these Ed25519 keys (32 bytes each).

    Raises MalformedEvidence; VerificationError with step `reference_values.unsigned`, `.key`
    (none of the signatures is by a key that is trusted) or `.signature`.
    """
    document = _document(data)
    signatures = document.pop("signatures")
    if not signatures:
        raise VerificationError("reference_values.unsigned", "the file has no signature")
    trusted = {key.hex() for key in public_keys}
    ours = [s for s in signatures if s["algo"] == ALGO and s["public_key"] in trusted]
    if not ours:
        raise VerificationError("reference_values.key", "signed by none of the keys trusted")
    payload = jcs(document)
    for signature in ours:
        _verify(signature, payload)
    return tuple(map(_release, document["releases"]))


def sign_reference(releases: Sequence[Release], keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """The signed file; equal releases and keys give equal bytes.

    Raises MalformedEvidence where a release is not one.
    """
    document: dict[str, Any] = {
        "purpose": PURPOSE,
        "version": 1,
        "releases": [r.to_json() for r in sorted(releases, key=lambda r: (r.name, r.version))],
    }
    payload = jcs(document)
    document["signatures"] = [
        {
            "algo": ALGO,
            "public_key": key.public_key().public_bytes_raw().hex(),
            "value": key.sign(payload).hex(),
        }
        for key in keys
    ]
    data = json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
    _document(data)
    return data


def select(releases: Sequence[Release], wanted: Sequence[str] | None) -> tuple[Release, ...]:
    """The releases that `wanted` names, as `name` or `name@version`; all where it is None.

    Raises MalformedEvidence where a wanted release is not there: nothing is dropped silently.
    """
    if wanted is None:
        return tuple(releases)
    for text in wanted:
        if not any(text in (r.name, r.label) for r in releases):
            raise MalformedEvidence(
                "policy.reference_values.releases", f"{text} is not in the file"
            )
    return tuple(r for r in releases if r.name in wanted or r.label in wanted)


def measurements_at(
    releases: Sequence[Release], tee: str, now: int
) -> tuple[tuple[Registers, ...], tuple[tuple[Release, Registers], ...]]:
    """What counts for this TEE at `now`, and what no longer does, with its release."""
    good, outdated = [], []
    for release in releases:
        for registers in release.measurements.get(tee, ()):
            if release.good_at(now):
                good.append(registers)
            else:
                outdated.append((release, registers))
    return tuple(good), tuple(outdated)


def _verify(signature: Mapping[str, str], payload: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["public_key"]))
    try:
        key.verify(bytes.fromhex(signature["value"]), payload)
    except InvalidSignature:
        raise VerificationError(
            "reference_values.signature", f"is not by {signature['public_key']}"
        ) from None


def _document(data: bytes) -> dict[str, Any]:
    from jsonschema.exceptions import best_match

    if len(data) > MAX_FILE:
        raise MalformedEvidence("reference_values", f"longer than {MAX_FILE} bytes")
    document: dict[str, Any] = loads_strict(data, "reference_values")
    error = best_match(_validator().iter_errors(document))
    if error is not None:
        where = ".".join(("reference_values", *map(str, error.absolute_path)))
        raise MalformedEvidence(where, error.message[:300])
    labels = list(_labels(document))
    for label in labels:
        if labels.count(label) > 1:
            raise MalformedEvidence("reference_values.releases", f"{label} stands there twice")
    return document


def _labels(document: Mapping[str, Any]) -> Iterator[str]:
    return (f"{r['name']}@{r['version']}" for r in document["releases"])


@lru_cache(maxsize=1)
def _validator() -> Any:
    """Checks the file; measurements have the shape they have in a policy."""
    from jsonschema import Draft202012Validator

    place = resources.files("attestation.policy")
    policy = json.loads(place.joinpath("policy.schema.json").read_text())
    schema = json.loads(place.joinpath("reference.schema.json").read_text())
    pinned = next(
        s for s in policy["properties"]["measurements"]["oneOf"] if s.get("type") == "object"
    )
    schema["$defs"] = {**policy["$defs"], **schema["$defs"], "measurements": pinned}
    return Draft202012Validator(schema)


def _release(value: Mapping[str, Any]) -> Release:
    return Release(
        name=value["name"],
        version=value["version"],
        measurements=MappingProxyType(
            {
                tee: tuple(MappingProxyType(dict(r)) for r in alternatives)
                for tee, alternatives in value["measurements"].items()
            }
        ),
        not_after=value.get("not_after"),
    )
