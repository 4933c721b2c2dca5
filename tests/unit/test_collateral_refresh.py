"""Renewal in the background: early enough, reported when it fails, never past the end."""

from __future__ import annotations

import pytest

from attestation.collateral.errors import CollateralUnavailable
from attestation.collateral.refresh import MIN_WAIT_S, RETRY_S, Refresher
from attestation.collateral.source import Obtained
from attestation.errors import CollateralError

DAY = 86_400


class World:
    """A clock, a service and a watcher; `sleep` moves the clock and ends the run in time."""

    def __init__(self, *answers: Obtained[str] | CollateralError) -> None:
        self.now = 1000
        self.answers = list(answers)
        self.waits: list[float] = []
        self.told: list[str] = []
        self.refresher = Refresher(
            self.obtain, self, clock=lambda: self.now, sleep=self.sleep, chance=lambda: 0.0
        )

    async def obtain(self, now: int) -> Obtained[str]:
        answer = self.answers.pop(0)
        if isinstance(answer, CollateralError):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        if not self.answers:
            raise StopAsyncIteration
        self.waits.append(seconds)
        self.now += int(seconds)

    def renewed(self, not_after: int) -> None:
        self.told.append(f"renewed {not_after}")

    def failed(self, error: CollateralError, not_after: int | None) -> None:
        self.told.append(f"failed {error} {not_after}")

    async def run(self) -> None:
        with pytest.raises((StopAsyncIteration, RuntimeError)):
            await self.refresher.run()


def obtained(
    value: str, not_after: int, due_at: int, silent: CollateralUnavailable | None = None
) -> Obtained[str]:
    return Obtained(value, (), not_after, due_at, silent)


DOWN = CollateralUnavailable("down")


async def test_renewal_comes_when_it_is_due() -> None:
    w = World(obtained("a", 1000 + 30 * DAY, 1000 + DAY), obtained("b", 40 * DAY, 30 * DAY))
    await w.refresher.renew()
    assert w.refresher.current == "a"
    await w.run()
    assert w.waits == [DAY]
    assert w.refresher.current == "b"
    assert w.told == [f"renewed {1000 + 30 * DAY}", f"renewed {40 * DAY}"]


async def test_a_failure_keeps_the_last_good_one_and_is_tried_again_soon() -> None:
    w = World(
        obtained("a", 1000 + 30 * DAY, 1000 + DAY), DOWN, DOWN, obtained("b", 60 * DAY, 50 * DAY)
    )
    await w.refresher.renew()
    await w.run()
    assert w.waits == [DAY, RETRY_S, RETRY_S]
    assert w.told[1:3] == [f"failed down {1000 + 30 * DAY}"] * 2
    assert w.refresher.current == "b"


async def test_nothing_is_served_past_its_end() -> None:
    w = World(obtained("a", 2000, 1500), DOWN)
    await w.refresher.renew()
    w.now = 2000
    assert w.refresher.current == "a"
    w.now = 2001
    assert w.refresher.current is None
    await w.run()
    assert w.refresher.current is None


async def test_the_first_failure_is_the_callers() -> None:
    w = World(DOWN)
    with pytest.raises(CollateralUnavailable, match="down"):
        await w.refresher.renew()
    assert w.refresher.current is None
    assert w.told == ["failed down None"]


async def test_a_silent_service_behind_a_cache_is_reported_and_asked_again_soon() -> None:
    w = World(obtained("a", 1000 + 30 * DAY, 900, silent=DOWN), obtained("b", 60 * DAY, 50 * DAY))
    await w.refresher.renew()
    assert w.refresher.current == "a"
    assert w.told == [f"failed down {1000 + 30 * DAY}"]
    await w.run()
    assert w.waits == [RETRY_S]
    assert w.refresher.current == "b"


async def test_close_to_the_end_retries_come_closer_together() -> None:
    w = World(obtained("a", 2000, 1500))
    await w.refresher.renew()
    assert w.refresher.wait_s(failed=True) == 100.0
    w.now = 1999
    assert w.refresher.wait_s(failed=True) == MIN_WAIT_S
    w.now = 9999
    assert w.refresher.wait_s(failed=True) == MIN_WAIT_S


def test_with_nothing_in_hand_the_first_attempt_is_at_once() -> None:
    w = World()
    assert w.refresher.wait_s(failed=False) == MIN_WAIT_S
    assert w.refresher.wait_s(failed=True) == RETRY_S


async def test_many_nodes_do_not_come_at_once() -> None:
    w = World(obtained("a", 1000 + 30 * DAY, 1000 + DAY))
    await w.refresher.renew()
    w.refresher._chance = lambda: 0.999
    assert 0.9 * DAY <= w.refresher.wait_s(failed=False) < 0.91 * DAY
