"""The endorsements a hardware node hands out with its evidence, kept fresh while it runs.

They come from the operator's PCCS or KDS through a cache on disk, are checked under the
vendor's roots, and are renewed in the background before they expire. Clients check them
again: a node with bad collateral is refused, not believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypedDict

from prometheus_client import Counter, Gauge

from attestation.collateral.errors import CollateralUnavailable
from attestation.collateral.fetch import afetch_for_platform
from attestation.collateral.fetch_snp import afetch_endorsements
from attestation.collateral.item import Platform
from attestation.collateral.model import Collateral
from attestation.collateral.platform import platform_of
from attestation.collateral.refresh import Refresher
from attestation.collateral.snp import SnpEndorsements
from attestation.collateral.source import Obtained
from attestation.errors import AttestationError, CollateralError, MalformedEvidence
from attestation.issuers.base import SEV_SNP, IssuedEvidence, Issuer, IssuerError
from attestation.roots import PRODUCTION_ROOTS
from gateway.errors import StartError
from gateway.logs import event
from gateway.metrics import Metrics
from gateway.settings import Settings

CACHE_FOLDER: Final = "collateral"
_REPORT_DATA: Final = bytes(64)

Endorsing = Collateral | SnpEndorsements
Obtain = Callable[[int], Awaitable[Obtained[Endorsing]]]


class Where(TypedDict):
    """What every fetching function is told alike."""

    url: str | None
    cache: Path
    roots: tuple[bytes, ...]
    now: int


class CollateralMetrics:
    """How renewal goes, for Prometheus and the log, which is told the reason as well."""

    def __init__(self, metrics: Metrics) -> None:
        self._renewals = Counter(
            "adyton_collateral_renewals",
            "Attempts to renew the collateral, by how they ended",
            ["outcome"],
            registry=metrics.registry,
        )
        for outcome in ("renewed", "failed"):
            self._renewals.labels(outcome)  # a rate needs the zero before the first event
        self._not_after = Gauge(
            "adyton_collateral_not_after_seconds",
            "When the collateral expires, Unix time; 0 where there is none",
            registry=metrics.registry,
        )

    def renewed(self, not_after: int) -> None:
        """There is new collateral."""
        self._renewals.labels("renewed").inc()
        self._not_after.set(not_after)
        event("collateral_renewed", not_after=not_after)

    def failed(self, error: CollateralError, not_after: int | None) -> None:
        """There is none; the last good one, if any, serves until `not_after`."""
        self._renewals.labels("failed").inc()
        self._not_after.set(not_after or 0)
        event(
            "collateral_not_renewed",
            logging.WARNING,
            error=type(error).__name__,
            reason=str(error)[:400],
            not_after=not_after,
            seconds_left=None if not_after is None else max(0, not_after - int(time.time())),
        )


class CollateralKeeper:
    """Holds the newest collateral of one machine. Made by `open`, ended by `close`."""

    def __init__(self, refresher: Refresher[Endorsing]) -> None:
        self._refresher = refresher
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        settings: Settings,
        issuer: Issuer,
        metrics: Metrics,
        *,
        roots: tuple[bytes, ...] = PRODUCTION_ROOTS,
    ) -> CollateralKeeper | None:
        """The keeper for this machine, with collateral in hand; None where no URL was given.

        Raises StartError when there is none to begin with: a node that cannot be verified
        should not start and seem well.
        """
        if settings.collateral_url is None:
            return None
        if issuer.simulated:
            raise StartError("the simulator makes its own collateral: leave --collateral-url out")
        if settings.collateral is not None:
            raise StartError("give --collateral or --collateral-url, not both")
        keeper = cls(Refresher(_obtain(settings, issuer, roots), CollateralMetrics(metrics)))
        try:
            await keeper._refresher.renew()
        except AttestationError as e:
            raise StartError(f"no collateral: {e}") from None
        keeper._task = asyncio.create_task(keeper._refresher.run())
        return keeper

    @property
    def current(self) -> Endorsing | None:
        """The newest collateral; None once it has expired."""
        return self._refresher.current

    def endorse(self, evidence: IssuedEvidence) -> IssuedEvidence:
        """`evidence` with the newest collateral, or with none once that has expired."""
        return replace(evidence, collateral=self.current)

    async def close(self) -> None:
        """Stop renewing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def _obtain(settings: Settings, issuer: Issuer, roots: tuple[bytes, ...]) -> Obtain:
    """How to get collateral for this machine, whose evidence says each time what it needs.

    Each time, because firmware may be updated, and with it an SEV-SNP chip's key, while the
    node runs.
    """
    cache: Path = settings.collateral_cache or settings.state_dir / CACHE_FOLDER

    async def obtain(now: int) -> Obtained[Endorsing]:
        evidence = await asyncio.to_thread(_evidence, issuer)
        where: Where = {
            "url": settings.collateral_url,
            "cache": cache,
            "roots": roots,
            "now": now,
        }
        if evidence.tee_type == SEV_SNP:
            own = evidence.collateral
            vlek = own.vek if isinstance(own, SnpEndorsements) else None
            return await afetch_endorsements(evidence.quote, vlek=vlek, **where)
        return await afetch_for_platform(_platform(evidence.quote), **where)

    return obtain


def _evidence(issuer: Issuer) -> IssuedEvidence:
    try:
        return issuer.issue(_REPORT_DATA)
    except IssuerError as e:
        raise CollateralUnavailable(f"evidence: {e}") from None


def _platform(quote: bytes) -> Platform:
    try:
        return platform_of(quote)
    except MalformedEvidence as e:
        raise CollateralError(f"evidence: {e}") from None
