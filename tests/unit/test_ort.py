"""Threads that run the model take denormal numbers for zero, all of them alike."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from enclave.engine import ort


def smallest_product() -> float:
    """1e-30 * 1e-10 in float32: a denormal number, or zero where those are flushed."""
    factors = np.full(64, 1e-30, np.float32), np.full(64, 1e-10, np.float32)
    return float((factors[0] * factors[1])[0])


@pytest.mark.skipif(not ort._CAN_FLUSH, reason="only x86-64 with glibc flushes denormals here")
def test_a_thread_that_runs_the_model_flushes_and_others_do_not() -> None:
    seen: list[float] = []

    def work() -> None:
        seen.append(smallest_product())
        ort.flush_denormals()
        ort.flush_denormals()
        seen.append(smallest_product())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0] > 0 and seen[1] == 0
