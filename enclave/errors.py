"""What the enclave refuses or fails to do. The gateway maps these to HTTP, by class."""

from __future__ import annotations


class EnclaveError(Exception):
    """Root of every error this package raises on purpose."""


class ModelError(EnclaveError):
    """A model cannot be loaded: missing, unsupported, or not the pinned digest."""


class ModelNotFound(EnclaveError):  # noqa: N818 - reads as the fact it states
    """No loaded model has this id, or it is of the wrong kind."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model[:128]!r} is not served here")
        self.model = model


class InvalidRequest(EnclaveError):  # noqa: N818 - OpenAI's name for it
    """The request cannot be run as asked. `param` is the OpenAI parameter at fault.

    `code` is OpenAI's machine-readable code, e.g. `context_length_exceeded`, or None.
    The message never repeats prompt content.
    """

    def __init__(self, param: str, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.message = message
        self.code = code


class Overloaded(EnclaveError):  # noqa: N818 - reads as the fact it states
    """The waiting line is full; try again later."""


class WorkerUnavailable(EnclaveError):  # noqa: N818 - reads as the fact it states
    """The engine worker died, is restarting or is draining; the request did not finish."""


class SlowReader(WorkerUnavailable):
    """Nobody read the answer for too long, so its row was given to others."""


class SealingError(EnclaveError):
    """Sealed state cannot be opened by this measurement, or was tampered with."""
