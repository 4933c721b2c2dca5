"""The only importer of onnxruntime: sessions over graphs and weights that live in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from numpy.typing import NDArray

from enclave.errors import ModelError

onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(4)

OrtValue = onnxruntime.OrtValue
Array = NDArray[Any]


def open_session(
    model: bytes,
    weights: Mapping[str, Array],
    *,
    threads: int,
    options: Mapping[str, str] | None = None,
    profile: str | None = None,
) -> onnxruntime.InferenceSession:
    """A CPU session over `model` whose external initialisers are the arrays in `weights`.

    onnxruntime borrows the arrays, so whoever holds the session holds them too. Raises
    ModelError when it refuses the graph.
    """
    so = onnxruntime.SessionOptions()
    so.intra_op_num_threads = threads
    so.inter_op_num_threads = 1
    so.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    so.log_severity_level = 4
    so.enable_cpu_mem_arena = True
    so.enable_mem_pattern = False
    if profile:
        so.enable_profiling = True
        so.profile_file_prefix = profile
    for key, value in (options or {}).items():
        so.add_session_config_entry(key, value)
    names = list(weights)
    values = [OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
    so.add_external_initializers(names, values)
    try:
        return onnxruntime.InferenceSession(model, so, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has no common root for its errors
        raise ModelError(f"onnxruntime refuses the model: {str(e)[:400]}") from None
