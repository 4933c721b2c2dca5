"""Rates refill evenly, places are given back once, and nobody is remembered forever."""

from __future__ import annotations

import pytest

from gateway.errors import ApiError
from gateway.limits import Gate, TokenBucket
from gateway.settings import Limits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_refills_evenly_and_never_overflows() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)
    assert [bucket.take() for _ in range(60)] == [0.0] * 60
    assert bucket.take() == pytest.approx(1.0)
    clock.now += 1.0
    assert bucket.take() == 0.0
    assert bucket.take() > 0
    clock.now += 3600
    assert sum(bucket.take() == 0.0 for _ in range(100)) == 60


def test_a_lease_is_released_once() -> None:
    gate = Gate(Limits())
    lease = gate.admit("a")
    assert gate.inflight == 1 and not gate.idle.is_set()
    lease.release()
    lease.release()
    assert gate.inflight == 0 and gate.idle.is_set()


def test_a_key_that_is_refused_for_concurrency_pays_no_token() -> None:
    gate = Gate(Limits(requests_per_minute=2, concurrent_requests=1), Clock())
    lease = gate.admit("a")
    for _ in range(5):
        with pytest.raises(ApiError) as refused:
            gate.admit("a")
        assert refused.value.status == 429
    lease.release()
    gate.admit("a").release()


def test_callers_do_not_share_limits() -> None:
    gate = Gate(Limits(requests_per_minute=1), Clock())
    gate.admit("a")
    with pytest.raises(ApiError) as refused:
        gate.admit("a")
    assert int(refused.value.headers["retry-after"]) >= 1
    gate.admit("b")
    gate.admit("c", rate_per_minute=5).release()
    gate.admit("c", rate_per_minute=5).release()


def test_a_draining_node_admits_nobody() -> None:
    gate = Gate(Limits())
    gate.draining = True
    with pytest.raises(ApiError) as refused:
        gate.admit("a")
    assert refused.value.code == "shutting_down"


def test_idle_callers_are_forgotten_and_running_ones_are_not() -> None:
    gate = Gate(Limits(requests_per_minute=1, max_inflight=10_000), Clock())
    busy = gate.admit("busy")
    for number in range(5000):
        gate.admit(f"caller {number}").release()
    assert len(gate._callers) <= 4097 and "busy" in gate._callers
    busy.release()
