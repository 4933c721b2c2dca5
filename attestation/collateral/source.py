"""Where collateral comes from: the cache while it is fresh, a service when it is not.

A service that cannot be reached leaves what is cached in use until it expires. A service
that answers wrongly (forged, stale, replayed, of another platform) is an error at once:
whoever asks should hear of it, and nothing it sent is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from attestation.collateral.cache import Cache, Kept
from attestation.collateral.check import Checked, check_item, join_checked
from attestation.collateral.errors import CollateralRolledBack, CollateralUnavailable
from attestation.collateral.item import Item, Key, Kind, Platform
from attestation.collateral.model import Collateral
from attestation.collateral.seen import Seen
from attestation.errors import CollateralError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
DAY_S: Final = 86_400
"""Levels may be withdrawn any day, so nothing is used longer without asking again."""
LASTING_S: Final = 30 * DAY_S
"""Certificates of chips do not change; what is withdrawn stands in the CRL."""


class Client(Protocol):
    """A service that has items: PcsClient or KdsClient."""

    async def fetch(self, key: Key) -> Item:
        """The item as served, unchecked. Raises CollateralUnavailable or CollateralError."""
        ...


@dataclass(frozen=True, slots=True)
class Obtained(Generic[T_co]):
    """A whole set of endorsements: usable until `not_after`, to be renewed from `due_at` on.

    `silent` is why the service gave nothing newer, where cached parts stand in for it.
    """

    value: T_co
    parts: tuple[Checked, ...]
    not_after: int
    due_at: int
    silent: CollateralUnavailable | None = None


class CollateralSource:
    """Gets collateral through `client`, or from `cache` alone where that is None.

    Without a cache, what was seen is remembered for as long as this object lives.
    """

    def __init__(
        self,
        client: Client | None,
        *,
        roots: Sequence[bytes],
        cache: Cache | None = None,
        max_age_s: int = DAY_S,
    ) -> None:
        self._client = client
        self._roots = tuple(roots)
        self._cache = cache
        self._max_age_s = max_age_s
        self._seen = Seen()
        self._silent: CollateralUnavailable | None = None

    async def collateral(
        self, platform: Platform, now: int, *, renew: bool = False
    ) -> Obtained[Collateral]:
        """Collateral for quotes of `platform`, every part checked at `now` (Unix seconds).

        `renew` asks the service even while the cached parts are fresh. Raises
        CollateralError naming the part that could not be had, or not be accepted.
        """
        self.begin()
        kept = [await self.item(key, now, renew=renew) for key in platform.keys]
        return self.obtained(join_checked([k.checked for k in kept]), kept)

    def begin(self) -> None:
        """A new set is asked for: a service that was silent gets another chance."""
        self._silent = None

    def obtained(self, value: T, kept: Sequence[Kept]) -> Obtained[T]:
        """`value`, made of these parts, with the times of the one that is first to expire."""
        return Obtained(
            value,
            tuple(k.checked for k in kept),
            min(k.checked.not_after for k in kept),
            min(self._due_at(k) for k in kept),
            self._silent,
        )

    async def item(self, key: Key, now: int, *, renew: bool = False) -> Kept:
        """One item, from the cache if it is fresh. Raises CollateralError."""
        kept, why = await asyncio.to_thread(self._cached, key, now)
        if kept is not None and not renew and kept.fetched_at <= now < self._due_at(kept):
            return kept
        try:
            return await self._fetch(key, now)
        except CollateralUnavailable as e:
            if kept is not None:
                return kept
            raise CollateralUnavailable(f"{e}; cached: {why}") from None
        except CollateralRolledBack:
            # Another process may have fetched something newer since this one asked.
            after, _ = await asyncio.to_thread(self._cached, key, now)
            if after is None or (kept is not None and after.checked.item == kept.checked.item):
                raise
            return after

    def _due_at(self, kept: Kept) -> int:
        """After two thirds of what was left when it was fetched, and at least every `max_age_s`."""
        left_s = max(0, kept.checked.not_after - kept.fetched_at)
        lasting = kept.checked.item.key.kind in (Kind.SNP_VCEK, Kind.SNP_CHAIN)
        age_s = max(self._max_age_s, LASTING_S) if lasting else self._max_age_s
        return kept.fetched_at + min(age_s, left_s * 2 // 3)

    def _cached(self, key: Key, now: int) -> tuple[Kept | None, str]:
        if self._cache is None:
            return None, "no cache is in use"
        try:
            return self._cache.load(key, self._roots, now), ""
        except CollateralError as e:
            return None, str(e)

    async def _fetch(self, key: Key, now: int) -> Kept:
        if self._client is None:
            raise CollateralUnavailable(f"{key}: no service is asked")
        if self._silent is not None:
            raise self._silent
        try:
            item = await self._client.fetch(key)
        except CollateralUnavailable as e:
            # One silence is enough: the other parts of the set need not wait for theirs.
            self._silent = e
            raise
        if item.key != key:
            raise CollateralError(f"{key}: the service answered with {item.key}")
        checked = check_item(item, self._roots, now)
        if self._cache is not None:
            return await asyncio.to_thread(self._cache.store, checked, now)
        self._seen.check(checked, now)
        self._seen.remember(checked)
        return Kept(checked, now)
