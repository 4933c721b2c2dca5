"""Keeps the node registered on a chain, from a thread of its own.

A registration ends with the first of its collateral or its keyset, so it is renewed when a
third of its time is left, when the node has new keys, and when its collateral changes. A seat
is taken where the operator wants one, again when an epoch's end took it away. The chain may be
silent, or refuse: the node serves all the same, and tries again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Counter, Gauge

from attestation.errors import AttestationError
from attestation.issuers.base import IssuedEvidence
from attestation.onchain.client import NodeRecord
from attestation.onchain.faults import ChainError, ContractRefused
from attestation.onchain.rpc import Block
from attestation.onchain.sender import Mined
from attestation.statement import report_data
from enclave.keys import NodeKeys
from gateway.chain import Registry
from gateway.logs import event, where
from gateway.metrics import Metrics

_LEFT: Final = 1 / 3
"""Of a registration's time: when so little is left, it is renewed."""
_GLANCE_S: Final = 2.0
"""How soon new keys or collateral of our own are noticed."""
_LOOK_S: Final = 600.0
"""How soon it is noticed on the chain that a registration no longer counts."""
_SOONEST_S: Final = 30.0
_FIRST_RETRY_S: Final = 5.0
_LAST_RETRY_S: Final = 900.0


class ChainMetrics:
    """How registering goes, for Prometheus, the log and /readyz."""

    def __init__(self, metrics: Metrics) -> None:
        self._attempts = Counter(
            "adyton_chain_registrations",
            "Attempts to register the node on its chain, by how they ended",
            ["outcome"],
            registry=metrics.registry,
        )
        for outcome in ("registered", "failed"):
            self._attempts.labels(outcome)  # a rate needs the zero before the first event
        self._until = Gauge(
            "adyton_chain_registered_until_seconds",
            "When the node's registration ends, Unix time; 0 where it does not count",
            registry=metrics.registry,
        )
        self.state: Mapping[str, Any] = {"state": "starting", "failures": 0}
        """As /readyz shows it. Replaced, never changed: another thread reads it."""

    def absent(self, signer: str) -> None:
        """The registry accepts nothing that the node signs now."""
        self._until.set(0)
        failures = self.state["failures"]
        self.state = {"state": "not_registered", "signer": signer, "failures": failures}

    def stands(self, signer: str, record: NodeRecord, mined: Mined | None) -> None:
        """The registry accepts what the node signs now; `mined` is what made it so."""
        self._until.set(record.expiry)
        until: dict[str, Any] = {"signer": signer, "registered_until": record.expiry}
        seat = {"seated": self.state["seated"]} if "seated" in self.state else {}
        self.state = {"state": "registered", **until, **seat, "failures": 0}
        if mined is not None:
            self._attempts.labels("registered").inc()
            event("chain_registered", **until, transaction=mined.tx_hash, gas=mined.gas_used)

    def seated(self, *, has_one: bool) -> None:
        """Whether the node has a seat: its receipts count either way."""
        if not has_one and self.state.get("seated") is not False:
            event("chain_seats_taken", logging.WARNING)
        self.state = {**self.state, "seated": has_one}

    def unseated(self, error: AttestationError) -> None:
        """It could not be found out, or taken. The registration stands, and it is tried again."""
        event(
            "chain_not_seated",
            logging.WARNING,
            error=type(error).__name__,
            reason=str(error)[:400],
        )
        self.state = {**self.state, "seated": False}

    def failed(self, error: Exception, retry_s: float) -> None:
        """An attempt came to nothing. The reason is told where it is the contract's or ours."""
        self._attempts.labels("failed").inc()
        problem = type(error).__name__
        if isinstance(error, ContractRefused) and error.name:
            problem = error.name
        failures = self.state["failures"] + 1
        self.state = {**self.state, "failures": failures, "problem": problem}
        event(
            "chain_not_registered",
            logging.WARNING,
            error=type(error).__name__,
            reason=str(error)[:400],
            at=where(error.__traceback__),
            retry_s=round(retry_s),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a registration depends on here; another one is needed when it changes."""

    keyset_digest: str
    collateral: object


class Registrar:
    """Registers one node again and again. Made running by `start`, ended by `stop`.

    `keys`, `issue` and `collateral` say what the node is now; `issue` gives evidence for 64
    bytes of report data, with the collateral it is judged by. `stopping` is shared with the
    registry, whose waiting it ends.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: ChainMetrics,
        *,
        keys: Callable[[], NodeKeys],
        issue: Callable[[bytes], IssuedEvidence],
        collateral: Callable[[], object],
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self.metrics = registry, metrics
        self._keys, self._issue, self._collateral = keys, issue, collateral
        self._stopping, self._clock = stopping, clock
        self._seen: Seen | None = None
        self._again = False
        self._due = 0.0
        self._retry_s = _FIRST_RETRY_S
        # A daemon, because the chain must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask no more of the chain. What was sent may still be mined, which does no harm."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.glance()
            self._stopping.wait(_GLANCE_S)

    def glance(self) -> None:
        """See whether anything is due or has changed, and do it. Raises nothing."""
        now, keys = self._clock(), self._keys()
        seen = Seen(keys.keyset.digest, self._collateral())
        if seen != self._seen:
            self._again = self._seen is not None
            self._seen, self._due, self._retry_s = seen, now, _FIRST_RETRY_S
        if now < self._due:
            return
        try:
            self._due = now + self._ensure(keys)
            self._again, self._retry_s = False, _FIRST_RETRY_S
        except Exception as e:  # nobody would notice a thread that died
            self._due = now + self._retry_s
            if not self._stopping.is_set():
                self.metrics.failed(e, self._retry_s)
            self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)

    def _ensure(self, keys: NodeKeys) -> float:
        """The node is registered for a good while; seconds until that is looked at again.

        Times are the chain's own: a clock that differs must not renew without end.
        """
        signer, mined = keys.evm_address, None
        block = self._registry.latest_block()
        record = self._registry.standing(signer)
        if record is None:
            self.metrics.absent(signer)
        if record is None or self._again or block.time >= _renewal(record):
            mined = self._register(keys, block)
            record = self._registry.standing(signer)
            if record is None:
                raise ChainError(f"{mined.tx_hash} was mined, and the node does not count yet")
        self.metrics.stands(signer, record, mined)
        self._seat(signer)
        return min(_LOOK_S, max(_SOONEST_S, _renewal(record) - block.time))

    def _seat(self, signer: str) -> None:
        """The node has a seat, if it is to have one. Its registration does not depend on that."""
        try:
            has_one = self._registry.seat(signer)
        except AttestationError as e:
            if not self._stopping.is_set():
                self.metrics.unseated(e)
            return
        if has_one is not None:
            self.metrics.seated(has_one=has_one)

    def _register(self, keys: NodeKeys, block: Block) -> Mined:
        data = report_data(keys.keyset.digest, self._registry.nonce(block))
        return self._registry.register(keys.keyset, self._issue(data), block)


def _renewal(record: NodeRecord) -> float:
    """When a third of the registration's time is left, Unix seconds of the chain."""
    return record.expiry - (record.expiry - record.renewed_at) * _LEFT
