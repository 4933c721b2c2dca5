"""A step of the model takes denormal numbers for zero, and nothing outside it notices."""

from __future__ import annotations

import numpy as np
import pytest
from engine_models import packaged_forward

from enclave.engine import ort


def smallest_product() -> float:
    """1e-30 * 1e-10 in float32: a denormal number, or zero where those are flushed."""
    factors = np.full(64, 1e-30, np.float32), np.full(64, 1e-10, np.float32)
    return float((factors[0] * factors[1])[0])


@pytest.mark.skipif(not ort._CAN_FLUSH, reason="only x86-64 with glibc flushes denormals here")
def test_denormals_are_zero_within_a_step_and_numbers_again_after_it() -> None:
    assert smallest_product() > 0
    with ort.floating_point(flush=True):
        assert smallest_product() == 0
    assert smallest_product() > 0
    with pytest.raises(RuntimeError), ort.floating_point(flush=True):
        raise RuntimeError
    assert smallest_product() > 0


def test_loading_and_running_a_model_leaves_the_callers_arithmetic_alone() -> None:
    forward = packaged_forward()
    forward.prefill(0, [1, 2, 3], 0)
    assert smallest_product() > 0
