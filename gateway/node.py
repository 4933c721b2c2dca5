"""The node: one attested workload, put together from its parts and taken apart again.

The order of assembly follows from what is measured. The worker loads the models and says
what their digests are; the issuer measures them with the code and the settings; only then
are there keys, since sealed keys belong to a measurement; and only then is there a
listener, since its certificate is one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from attestation.errors import AttestationError
from attestation.issuers.base import IssuedEvidence, Issuer
from attestation.issuers.nvidia import GpuIssuer
from enclave.errors import EnclaveError, ModelNotFound, WorkerUnavailable
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.supervisor import Supervisor, WorkerState
from gateway.attest import Attester
from gateway.catalog import specs
from gateway.chain import ChainRegistry
from gateway.collateral import CollateralKeeper
from gateway.cut import Cut, Reason
from gateway.edge import RequestContext
from gateway.errors import GatewayError
from gateway.exchange import Exchange, ReceiptDesk
from gateway.identity import KeyRing
from gateway.limits import Gate
from gateway.logs import event, failure
from gateway.machine import Machine, find_gpus
from gateway.metrics import Metrics
from gateway.registrar import ChainMetrics, Registrar
from gateway.settings import DATABASE_FILE, Settings
from gateway.storage import ApiKeyStore, Binding, Database, ReceiptStore, StorageError, given_key
from gateway.work import Engine

_RETRY_S: Final = 2.0
_RENEWAL_CHECK_S: Final = 60.0
_PURGE_S: Final = 3600.0
Progress = Callable[[str], None]


class Node:
    """Everything a running node holds. Made by `start`, ended by `stop`."""

    def __init__(
        self,
        settings: Settings,
        *,
        issuer: Issuer,
        database: Database,
        supervisor: Supervisor,
        gpus: GpuIssuer | None = None,
    ) -> None:
        self.settings = settings
        self.issuer = issuer
        self.metrics = Metrics()
        self.gate = Gate(settings.limits)
        self.cuts: set[Cut] = set()
        self.started_at = int(time.time())
        self.models: dict[str, pb.ModelInfo] = {m.id: m for m in supervisor.models}
        self.ring = KeyRing(settings, issuer)
        self.receipts = ReceiptStore(database)
        self.api_keys = ApiKeyStore(
            database, given=[given_key(k.name, k.digest) for k in settings.api_keys]
        )
        self.desk = ReceiptDesk(self.receipts, self.metrics)
        self.attester = Attester(
            issuer,
            provenance=settings.provenance,
            per_minute=settings.limits.attestations_per_minute,
            endorse=self._endorsed,
            gpus=gpus,
        )
        self._keeper: CollateralKeeper | None = None
        self.registrar: Registrar | None = None
        self._database = database
        self._supervisor = supervisor
        self._chores: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, settings: Settings, progress: Progress) -> Node:
        """A node whose models are loaded and whose past is settled, not yet listening.

        Raises StartError, EnclaveError, AttestationError or StorageError.
        """
        machine = await asyncio.to_thread(Machine.open, settings)
        gpus = await asyncio.to_thread(find_gpus, settings)
        database = await asyncio.to_thread(
            Database.open, settings.database_url or settings.state_dir / DATABASE_FILE
        )
        supervisor: Supervisor | None = None
        try:
            progress("loading models")
            supervisor = _supervise(settings)
            await supervisor.start()
            progress("measuring and making keys")
            issuer = await asyncio.to_thread(
                machine.issuer, [(m.id, m.model_digest) for m in supervisor.models]
            )
            node = cls(settings, issuer=issuer, database=database, supervisor=supervisor, gpus=gpus)
            for warning in node.ring.current.keys.warnings:
                event("warning", message=warning)
            settled = await node.desk.settle_restart(node.ring.current)
            if settled:
                event("restart_settled", receipts=settled)
            node._keeper = await CollateralKeeper.open(settings, issuer, node.metrics)
            node.registrar = await asyncio.to_thread(node.make_registrar)
        except BaseException:
            if supervisor is not None:
                await supervisor.stop(0)
            await database.close()
            raise
        node._begin_chores()
        if node.registrar is not None:
            node.registrar.start()
        return node

    # --- what serving a prompt needs (gateway.prompt.Host) -----------------------------

    @property
    def engine(self) -> Engine:
        return self._supervisor.client

    @property
    def generation_timeout_s(self) -> float:
        return self.settings.limits.generation_timeout_s

    def begin(
        self,
        context: RequestContext,
        endpoint: str,
        owner: bytes,
        body: bytes,
        binding: Binding,
    ) -> Exchange:
        return Exchange(
            self.desk,
            context.identity,
            endpoint=endpoint,
            owner=owner,
            body=body,
            binding=binding,
        )

    def served(self, model: str, kind: pb.ModelKind) -> str:
        """The digest of a model of this kind, if it can run now.

        Raises ModelNotFound, or WorkerUnavailable: a worker that is still loading would
        not know the model either, and nobody should be told that there is none.
        """
        info = self.models.get(model)
        if info is None or info.kind != kind:
            raise ModelNotFound(model)
        if not self._supervisor.ready:
            raise WorkerUnavailable(self._supervisor.state.value)
        return info.model_digest

    def model_digest(self, model: str) -> str:
        return self.models[model].model_digest

    def count_tokens(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        self.metrics.tokens.labels(model, "prompt").inc(prompt_tokens)
        self.metrics.tokens.labels(model, "completion").inc(completion_tokens)

    def count_first_token(self, model: str, context: RequestContext) -> None:
        seconds = time.monotonic() - context.started
        self.metrics.first_token_seconds.labels(model).observe(seconds)

    def _endorsed(self, evidence: IssuedEvidence) -> IssuedEvidence:
        return evidence if self._keeper is None else self._keeper.endorse(evidence)

    # --- what a chain is told ---------------------------------------------------------

    def make_registrar(self) -> Registrar | None:
        """What keeps the node registered, None where nobody asked. Raises StartError."""
        if self.settings.chain is None:
            return None
        stopping = threading.Event()
        return Registrar(
            ChainRegistry.open(self.settings.chain, self.issuer.tee_type, stopping),
            ChainMetrics(self.metrics),
            keys=lambda: self.ring.current.keys,
            issue=lambda data: self._endorsed(self.issuer.issue(data)),
            collateral=lambda: None if self._keeper is None else self._keeper.current,
            stopping=stopping,
        )

    @property
    def on_chain(self) -> Mapping[str, Any] | None:
        """How registering goes, None where nobody asked for it."""
        return None if self.registrar is None else self.registrar.metrics.state

    # --- how it is doing ------------------------------------------------------------

    def not_ready(self) -> str | None:
        """Why no prompts are taken now, or None."""
        if self.gate.draining:
            return "draining"
        if not self._supervisor.ready:
            return "worker " + self._supervisor.state.value
        return None

    @property
    def worker_pid(self) -> int | None:
        return self._supervisor.pid

    async def observe(self) -> None:
        """Bring the gauges up to date."""
        m = self.metrics
        stats = pb.HealthResponse()
        if self._supervisor.ready:
            try:
                stats = await self._supervisor.client.health(timeout_s=1.0)
            except EnclaveError as e:
                failure("health_unknown", e)
        m.rows.labels("running").set(stats.rows_running)
        m.rows.labels("total").set(stats.rows_total)
        m.waiting.set(stats.waiting)
        m.inflight.set(self.gate.inflight)
        m.restarts.set(self._supervisor.restarts)
        m.ready.set(self.not_ready() is None)
        m.keyset_not_after.set(self.ring.current.keys.keyset.not_after)

    # --- what happens without being asked ------------------------------------------------

    def _begin_chores(self) -> None:
        for chore, every_s in (
            (self.desk.retry, _RETRY_S),
            (self.ring.renew_if_due, _RENEWAL_CHECK_S),
            (self._purge, _PURGE_S),
        ):
            self._chores.append(asyncio.create_task(_repeat(chore, every_s)))

    async def _purge(self) -> None:
        """Forget receipts past their retention."""
        removed = await self.receipts.purge(
            before=int(time.time() - self.settings.receipt_days * 86400)
        )
        if removed:
            event("receipts_purged", count=removed)

    async def renew_keys(self) -> None:
        """New keys now, as asked for by SIGHUP; on failure the old ones stay."""
        try:
            await self.ring.renew()
        except (EnclaveError, AttestationError, OSError) as e:
            failure("keys_not_rotated", e)

    # --- the end ------------------------------------------------------------------

    async def drain(self) -> None:
        """Take no more prompts, wait for those running, then cut what is left, receipts and all."""
        self.gate.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.limits.drain_timeout_s):
                await self.gate.idle.wait()
        for cut in list(self.cuts):
            cut.trip(Reason.SHUTDOWN)

    async def stop(self) -> None:
        """Let go of everything; the server has ended and every exchange with it."""
        if self.registrar is not None:
            self.registrar.stop()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        if self._keeper is not None:
            await self._keeper.close()
        self.attester.close()
        await self._supervisor.stop(1.0)
        await self.desk.retry()
        await self._database.close()


async def _repeat(chore: Callable[[], Awaitable[object]], every_s: float) -> None:
    """Do it again and again; a failure is logged and does not end it."""
    while True:
        try:
            await chore()
        except (EnclaveError, AttestationError, GatewayError, StorageError, OSError) as e:
            failure("chore_failed", e, chore=getattr(chore, "__name__", "chore"))
        await asyncio.sleep(every_s)


def _supervise(settings: Settings) -> Supervisor:
    return Supervisor(
        specs(settings),
        runtime_dir=settings.state_dir / "run",
        rows=settings.rows,
        context=settings.context,
        threads=settings.threads,
        queue=settings.limits.max_inflight,
        on_state=_log_state,
    )


def _log_state(state: WorkerState) -> None:
    event("worker", state=state.value)
