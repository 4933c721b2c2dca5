"""Serves attestation reports: a fresh quote for a nonce, a shared one without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from attestation.errors import MalformedEvidence
from attestation.issuers.base import GpuEvidence, IssuedEvidence, Issuer, IssuerError
from attestation.issuers.nvidia import GpuIssuer
from attestation.report import build_report
from attestation.statement import check_nonce, report_data
from attestation.verify.nvidia_gpu import gpu_nonce
from gateway.errors import invalid, too_many, unavailable
from gateway.identity import Identity
from gateway.limits import TokenBucket
from gateway.logs import failure
from gateway.settings import Provenance
from gateway.sse import dumps

_CACHE_S: Final = 600.0
_ISSUING: Final = 2
"""Quotes made at once; a device works on one at a time anyway."""
_MAX_WAITING: Final = 64
"""Reports asked for and not made yet. GPUs take their time, and nobody needs an API key to ask."""


class Attester:
    """Asks the machine and its GPUs for evidence over an identity, wrapped as ACI's report."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        provenance: Provenance,
        per_minute: int,
        endorse: Callable[[IssuedEvidence], IssuedEvidence] = lambda evidence: evidence,
        gpus: GpuIssuer | None = None,
    ) -> None:
        """`endorse` adds the newest collateral to evidence, where the issuer has none."""
        self._issuer = issuer
        self._gpus = gpus
        self._endorse = endorse
        self._provenance = provenance
        self._bucket = TokenBucket(per_minute)
        self._threads = ThreadPoolExecutor(_ISSUING, thread_name_prefix="attest")
        self._cached: tuple[str, float, bytes] | None = None
        self._caching = asyncio.Lock()
        self._waiting = 0

    async def report(self, identity: Identity, nonce: str | None) -> bytes:
        """The report's JSON. Raises ApiError 400, 429 or 503."""
        if nonce is None:
            return await self._unchallenged(identity)
        try:
            check_nonce(nonce)
        except MalformedEvidence as e:
            raise invalid("nonce", f"nonce {e.detail}.") from None
        if wait_s := self._bucket.take():
            raise too_many("The node issues no more reports this minute.", wait_s)
        if self._waiting >= _MAX_WAITING:
            raise unavailable("The node has all the reports to make that it can.", "overloaded")
        self._waiting += 1
        try:
            return await self._fresh(identity, nonce)
        finally:
            self._waiting -= 1

    async def _unchallenged(self, identity: Identity) -> bytes:
        """The nonce-less report, made once and shared: it proves no freshness anyway."""
        async with self._caching:
            now = time.monotonic()
            cached = self._cached
            if cached is None or cached[0] != identity.digest or cached[1] < now:
                body = await self._fresh(identity, None)
                cached = self._cached = (identity.digest, now + _CACHE_S, body)
            return cached[2]

    async def _fresh(self, identity: Identity, nonce: str | None) -> bytes:
        loop = asyncio.get_running_loop()
        data = report_data(identity.digest, nonce)
        try:
            evidence, gpus = await loop.run_in_executor(self._threads, self._issue, data)
        except IssuerError as e:
            failure("evidence_not_issued", e)
            raise unavailable(
                "The machine gave no evidence; try again shortly.", "evidence_unavailable"
            ) from None
        report = build_report(
            keyset=identity.keys.keyset,
            nonce=nonce,
            evidence=self._endorse(evidence),
            gpus=gpus,
            key_custody={"kind": identity.keys.custody},
            source_provenance=self._provenance.to_json(),
        )
        return dumps(report).encode()

    def _issue(self, data: bytes) -> tuple[IssuedEvidence, tuple[GpuEvidence, ...]]:
        """All of it or nothing: a GPU that fell silent is an outage, not a node without it."""
        evidence = self._issuer.issue(data)
        return evidence, () if self._gpus is None else self._gpus.issue(gpu_nonce(data))

    def close(self) -> None:
        """Make no more reports. The GPUs' driver is let go when the process ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)
