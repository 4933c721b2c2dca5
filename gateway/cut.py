"""Ends one request's wait for the engine when its client leaves, time is up or the node stops.

Works like `asyncio.timeout`: the guarded block is cancelled and `Interrupted` comes out of
it. Nothing is paid per event, and outside the block nothing is cancelled, so a receipt is
always written to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from types import TracebackType
from typing import Self

from starlette.types import Receive

from gateway.errors import GatewayError


class Reason(Enum):
    """Why an answer ended early, as `stream.truncated` says it."""

    CLIENT_DISCONNECTED = "client_disconnected"
    ENGINE_FAILED = "engine_failed"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    STORAGE_FAILED = "storage_failed"
    NODE_RESTARTED = "node_restarted"


class Interrupted(GatewayError):  # noqa: N818 - reads as the fact it states
    """The guarded block was ended from outside."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Cut:
    """Guards the task that makes it. The first reason given is the one that counts."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a Cut guards a task and is made in it")
        self._task = task
        self._armed = False
        self._cancelled = False
        self.reason: Reason | None = None

    def trip(self, reason: Reason) -> None:
        """End the guarded block, now or as soon as it is entered."""
        if self.reason is None:
            self.reason = reason
            if self._armed:
                self._cancelled = True
                self._task.cancel()

    async def __aenter__(self) -> Self:
        if self.reason is not None:
            raise Interrupted(self.reason)
        self._armed = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._armed = False
        if not self._cancelled or self.reason is None:
            return
        self._cancelled = False
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            # The block ended on its own with our cancellation still on its way: take it here.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if self._task.uncancel() == 0 and (
            kind is None or issubclass(kind, (asyncio.CancelledError, Exception))
        ):
            raise Interrupted(self.reason) from None


async def trip_when_gone(receive: Receive, cut: Cut) -> None:
    """Wait until the client closes its connection, then cut."""
    while (await receive())["type"] != "http.disconnect":
        pass
    cut.trip(Reason.CLIENT_DISCONNECTED)
