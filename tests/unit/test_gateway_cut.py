"""A cut ends exactly the block it guards, whenever it comes."""

from __future__ import annotations

import asyncio

import pytest

from gateway.cut import Cut, Interrupted, Reason


async def test_a_block_that_waits_is_ended() -> None:
    cut = Cut()
    asyncio.get_running_loop().call_later(0.01, cut.trip, Reason.TIMEOUT)
    with pytest.raises(Interrupted) as ended:
        async with cut:
            await asyncio.Event().wait()
    assert ended.value.reason is Reason.TIMEOUT
    await asyncio.sleep(0)


async def test_the_first_reason_counts() -> None:
    cut = Cut()
    loop = asyncio.get_running_loop()
    loop.call_soon(cut.trip, Reason.SHUTDOWN)
    loop.call_soon(cut.trip, Reason.CLIENT_DISCONNECTED)
    with pytest.raises(Interrupted) as ended:
        async with cut:
            await asyncio.Event().wait()
    assert ended.value.reason is Reason.SHUTDOWN


async def test_a_cut_before_the_block_keeps_it_from_running() -> None:
    cut = Cut()
    cut.trip(Reason.CLIENT_DISCONNECTED)
    with pytest.raises(Interrupted):
        async with cut:
            pytest.fail("the block ran")


async def test_a_cut_after_the_block_changes_nothing() -> None:
    cut = Cut()
    async with cut:
        pass
    cut.trip(Reason.SHUTDOWN)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    assert cut.reason is Reason.SHUTDOWN


async def test_a_cut_in_the_blocks_last_moment_leaves_no_cancellation_behind() -> None:
    cut = Cut()
    with pytest.raises(Interrupted):
        async with cut:
            cut.trip(Reason.SHUTDOWN)
    await asyncio.sleep(0.01)


async def test_an_error_during_a_cut_does_not_hide_it() -> None:
    cut = Cut()
    with pytest.raises(Interrupted):
        async with cut:
            cut.trip(Reason.SHUTDOWN)
            raise ValueError
    await asyncio.sleep(0.01)


async def test_cancelling_the_task_itself_is_not_mistaken_for_a_cut() -> None:
    async def guarded() -> None:
        async with Cut():
            await asyncio.Event().wait()

    task = asyncio.create_task(guarded())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
