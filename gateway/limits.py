"""How much one API key, and all of them together, may ask for.

Rates are token buckets that refill over a minute; concurrency is counted. State is in
memory: a restart forgives.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.errors import shutting_down, too_many, unavailable
from gateway.settings import Limits

_REMEMBERED: Final = 4096
"""Idle callers kept; beyond it the least recently seen is forgotten, full bucket and all."""


class TokenBucket:
    """Holds up to `per_minute` tokens and gains them back evenly over a minute."""

    __slots__ = ("_capacity", "_clock", "_filled_at", "_tokens")

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(per_minute)
        self._tokens = float(per_minute)
        self._clock = clock
        self._filled_at = clock()

    def take(self) -> float:
        """0 when a token was taken, otherwise the seconds until there is one."""
        now = self._clock()
        rate = self._capacity / 60
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / rate


class _Caller:
    __slots__ = ("bucket", "running")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.running = 0


class Lease:
    """One admitted request; `release` gives its place back, once however often it is called."""

    __slots__ = ("_caller", "_gate")

    def __init__(self, gate: Gate, caller: _Caller) -> None:
        self._gate: Gate | None = gate
        self._caller = caller

    def release(self) -> None:
        if self._gate is not None:
            self._caller.running -= 1
            self._gate.leave()
            self._gate = None


class Gate:
    """Admits requests while their key and the node have room for them."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self.inflight = 0
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()

    def admit(
        self,
        caller_id: str,
        rate_per_minute: int | None = None,
        max_concurrency: int | None = None,
    ) -> Lease:
        """A place for one request of this caller. Raises ApiError 429 or 503.

        A caller's own limits replace the node's.
        """
        if self.draining:
            raise shutting_down()
        rate = rate_per_minute or self._limits.requests_per_minute
        concurrency = max_concurrency or self._limits.concurrent_requests
        caller = self._caller(caller_id, rate)
        if caller.running >= concurrency:
            raise too_many(f"This key already has {concurrency} requests running.", 1)
        if wait_s := caller.bucket.take():
            raise too_many(f"This key may make {rate} requests a minute.", wait_s)
        if self.inflight >= self._limits.max_inflight:
            raise unavailable("The node is at capacity; try again shortly.", "overloaded")
        caller.running += 1
        self.inflight += 1
        self.idle.clear()
        return Lease(self, caller)

    def leave(self) -> None:
        """One admitted request has ended; `idle` is set when it was the last."""
        self.inflight -= 1
        if not self.inflight:
            self.idle.set()

    def _caller(self, caller_id: str, rate: int) -> _Caller:
        caller = self._callers.get(caller_id)
        if caller is None:
            caller = _Caller(TokenBucket(rate, self._clock))
            self._callers[caller_id] = caller
            self._forget()
        self._callers.move_to_end(caller_id)
        return caller

    def _forget(self) -> None:
        if len(self._callers) > _REMEMBERED:
            idle = next((k for k, c in self._callers.items() if not c.running), None)
            if idle is not None:
                del self._callers[idle]
