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


class Session:
    """A loaded graph, and the arrays it reads: onnxruntime borrows them without a reference."""

    def __init__(self, raw: onnxruntime.InferenceSession, borrowed: list[Any]) -> None:
        self._raw = raw
        self._borrowed = borrowed

    def binding(self) -> Any:
        """A fresh set of bound inputs and outputs for `run`."""
        return self._raw.io_binding()

    def run(self, binding: Any) -> None:
        self._raw.run_with_iobinding(binding)

    def call(self, output: str, inputs: Mapping[str, Array]) -> Array:
        """The value of `output` for these inputs."""
        found: Array = self._raw.run([output], dict(inputs))[0]
        return found

    def end_profiling(self) -> str:
        """The path of the profile, when one was asked for."""
        return str(self._raw.end_profiling())


def open_session(
    model: bytes,
    weights: Mapping[str, Array],
    *,
    threads: int,
    options: Mapping[str, str] | None = None,
    profile: str | None = None,
) -> Session:
    """A CPU session over `model` whose external initialisers are the arrays in `weights`.

    Raises ModelError when onnxruntime refuses the graph.
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
        raw = onnxruntime.InferenceSession(model, so, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has no common root for its errors
        raise ModelError(f"onnxruntime refuses the model: {str(e)[:400]}") from None
    return Session(raw, values)
