"""Collateral that stays fresh while a node runs: renewed before it expires, never after.

The last good collateral serves until it expires. A failure is reported and tried again
soon; nothing is served past its time, whatever the service does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from attestation.collateral.source import Obtained
from attestation.errors import CollateralError

T = TypeVar("T")
MIN_WAIT_S: Final = 30.0
RETRY_S: Final = 300.0
_SPREAD: Final = 0.1
"""Renewals come up to this part of the wait early, so that many nodes do not come at once."""


class Watcher(Protocol):
    """Who is told what became of each renewal."""

    def renewed(self, not_after: int) -> None:
        """There is new collateral, usable until `not_after` (Unix seconds)."""
        ...

    def failed(self, error: CollateralError, not_after: int | None) -> None:
        """There is none; the last good one, if any, serves until `not_after`."""
        ...


class Refresher(Generic[T]):
    """Holds the newest value of `obtain` and renews it. One task calls `run`."""

    def __init__(
        self,
        obtain: Callable[[int], Awaitable[Obtained[T]]],
        watcher: Watcher,
        *,
        clock: Callable[[], int] = lambda: int(time.time()),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`obtain` gets the time and raises CollateralError; `chance` is in [0, 1)."""
        self._obtain = obtain
        self._watcher = watcher
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._held: Obtained[T] | None = None

    @property
    def current(self) -> T | None:
        """The newest value, or None once it has expired or while there is none yet."""
        held = self._held
        return None if held is None or self._clock() > held.not_after else held.value

    async def renew(self) -> None:
        """Get a new value now. Raises CollateralError; what is held stays.

        A service that is silent while a cache stands in for it is a failure to the watcher,
        and none to the caller.
        """
        try:
            held = await self._obtain(self._clock())
        except CollateralError as e:
            self._watcher.failed(e, None if self._held is None else self._held.not_after)
            raise
        self._held = held
        if held.silent is None:
            self._watcher.renewed(held.not_after)
        else:
            self._watcher.failed(held.silent, held.not_after)

    async def run(self) -> None:
        """Renew when it is time, forever."""
        failed = False
        while True:
            await self._sleep(self.wait_s(failed=failed))
            try:
                await self.renew()
            except CollateralError:
                failed = True  # told to the watcher, and tried again
            else:
                failed = False

    def wait_s(self, *, failed: bool) -> float:
        """Seconds until the next attempt: at `due_at`, or soon after a failure."""
        if self._held is None:
            due_s = RETRY_S if failed else 0.0
        else:
            now = self._clock()
            due_s = float(self._held.due_at - now)
            if failed or due_s <= 0:
                left_s = max(0, self._held.not_after - now)
                due_s = min(RETRY_S, left_s / 10)
        return max(MIN_WAIT_S, due_s * (1 - _SPREAD * self._chance()))
