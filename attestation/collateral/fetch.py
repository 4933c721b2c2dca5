"""Collateral for one quote, in one call: which is needed, from where, and is it any good.

`url` None asks nobody and uses the cache alone. Nothing here is done by itself: a person or
a setting chose to ask a service, which then learns which platform (FMSPC) is being judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attestation.collateral.cache import Cache
from attestation.collateral.http import Fetcher, Patience
from attestation.collateral.item import Platform
from attestation.collateral.model import Collateral
from attestation.collateral.pcs import INTEL_PCS, PcsClient
from attestation.collateral.platform import platform_of
from attestation.collateral.source import CollateralSource, Obtained

__all__ = [
    "INTEL_PCS",
    "afetch_collateral",
    "afetch_for_platform",
    "fetch_collateral",
    "fetch_for_platform",
]

T = TypeVar("T")


async def afetch_for_platform(
    platform: Platform,
    *,
    url: str | None = INTEL_PCS,
    cache: Path | None,
    roots: Sequence[bytes],
    now: int,
    renew: bool = False,
    tls_ca: Path | None = None,
    patience: Patience | None = None,
) -> Obtained[Collateral]:
    """Collateral for every quote of `platform`, checked under `roots` (DER) at `now`.

    `renew` asks the service even while the cached parts are fresh. Raises CollateralError.
    """
    kept = None if cache is None else Cache(cache)
    if url is None:
        return await CollateralSource(None, roots=roots, cache=kept).collateral(platform, now)
    async with Fetcher(patience, tls_ca=tls_ca) as fetcher:
        source = CollateralSource(PcsClient(fetcher, url), roots=roots, cache=kept)
        return await source.collateral(platform, now, renew=renew)


async def afetch_collateral(
    quote: bytes,
    *,
    url: str | None = INTEL_PCS,
    cache: Path | None,
    roots: Sequence[bytes],
    now: int,
    update: str = "standard",
    tls_ca: Path | None = None,
) -> Collateral:
    """What verifying `quote` needs. Raises MalformedEvidence or CollateralError."""
    platform = platform_of(quote, update)
    obtained = await afetch_for_platform(
        platform, url=url, cache=cache, roots=roots, now=now, tls_ca=tls_ca
    )
    return obtained.value


def run(work: Coroutine[Any, Any, T]) -> T:
    """`work` to its end, where no event loop is running."""
    return asyncio.run(work)


def fetch_for_platform(platform: Platform, **options: Any) -> Obtained[Collateral]:
    """`afetch_for_platform` for callers without an event loop."""
    return run(afetch_for_platform(platform, **options))


def fetch_collateral(
    quote: bytes,
    *,
    url: str | None = INTEL_PCS,
    cache: Path | None,
    roots: Sequence[bytes],
    now: int,
    update: str = "standard",
    tls_ca: Path | None = None,
) -> Collateral:
    """What verifying `quote` needs, for callers without an event loop.

    Raises MalformedEvidence when it is no quote, CollateralError otherwise.
    """
    return run(
        afetch_collateral(
            quote, url=url, cache=cache, roots=roots, now=now, update=update, tls_ca=tls_ca
        )
    )
