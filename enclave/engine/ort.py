"""The only importer of onnxruntime: sessions over graphs and weights that live in memory."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from numpy.typing import NDArray

from enclave.errors import ModelError

onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(4)

OrtValue = onnxruntime.OrtValue
Array = NDArray[Any]

# glibc's fenv_t on x86-64 ends with MXCSR; its bits 15 and 6 flush results and operands.
_FENV_BYTES: Final = 32
_MXCSR: Final = 28
_FLUSH: Final = 1 << 15 | 1 << 6


def _libm() -> Any:
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return None
    try:
        return ctypes.CDLL("libm.so.6")
    except OSError:
        return None


_LIBM: Final = _libm()
_CAN_FLUSH: Final = _LIBM is not None


class Session:
    """A loaded graph, and the arrays it reads: onnxruntime borrows them without a reference."""

    def __init__(self, raw: onnxruntime.InferenceSession, borrowed: list[Any]) -> None:
        self._raw = raw
        self._borrowed = borrowed

    def binding(self) -> Any:
        """A fresh set of bound inputs and outputs for `run`."""
        return self._raw.io_binding()

    def run(self, binding: Any) -> None:
        with floating_point(flush=True):
            self._raw.run_with_iobinding(binding)

    def call(self, output: str, inputs: Mapping[str, Array]) -> Array:
        """The value of `output` for these inputs."""
        with floating_point(flush=True):
            found: Array = self._raw.run([output], dict(inputs))[0]
        return found

    def end_profiling(self) -> str:
        """The path of the profile, when one was asked for."""
        return str(self._raw.end_profiling())


@contextmanager
def floating_point(*, flush: bool) -> Iterator[None]:
    """This thread's floating-point state is afterwards what it was before.

    With `flush`, numbers below 1e-38 are zero within. Attention leaves many of them where a
    token hardly looks, and each costs as much as a hundred others. onnxruntime's own threads
    do so by a session option; the thread that runs a step has to be told, or results would
    depend on which of them computes what. Nothing outside a step may notice.
    """
    if not _CAN_FLUSH:
        yield
        return
    before = ctypes.create_string_buffer(_FENV_BYTES)
    _LIBM.fegetenv(before)
    try:
        if flush:
            state = int.from_bytes(before.raw[_MXCSR:], "little") | _FLUSH
            within = before.raw[:_MXCSR] + state.to_bytes(4, "little")
            _LIBM.fesetenv(ctypes.create_string_buffer(within, _FENV_BYTES))
        yield
    finally:
        _LIBM.fesetenv(before)


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
    so.add_session_config_entry("session.set_denormal_as_zero", "1" if _CAN_FLUSH else "0")
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
        # Making the process's first session also sets the option on the calling thread.
        with floating_point(flush=False):
            raw = onnxruntime.InferenceSession(model, so, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has no common root for its errors
        raise ModelError(f"onnxruntime refuses the model: {str(e)[:400]}") from None
    return Session(raw, values)
