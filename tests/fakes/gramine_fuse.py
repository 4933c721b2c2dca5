"""Gramine's /dev/attestation. Spec: Gramine, "Attestation and Secret Provisioning", and what
its pseudo-files do.

A quote or report is made when its file is opened, of the one `user_report_data` the whole
process shares. Every write replaces the whole value: short is zero-padded, long is silently
cut. A fresh open of `user_report_data` reads nothing. Refusals are EACCES at open.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from fakes.pseudo import Directory, File, Handle, failure

USER_REPORT_DATA_BYTES = 64
TARGET_INFO_BYTES = 512
REPORT_BYTES = 432
KEY_BYTES = 16


class Computed(File):
    """Read-only; `make` runs at open, and its OSError is what open fails with."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make

    def opened(self) -> Handle:
        return Handle(self._make())


class _Writing(Handle):
    def __init__(self, content: bytes, save: Callable[[bytes], None]) -> None:
        super().__init__(content)
        self._save = save

    def write(self, offset: int, data: bytes) -> int:
        self._save(data)
        self.content = data
        return len(data)


class Value(File):
    """Read-write; `save` gets each write whole. Opened, it reads what `load` says: nothing."""

    mode = 0o666

    def __init__(self, save: Callable[[bytes], None], load: Callable[[], bytes] = bytes) -> None:
        self._save = save
        self._load = load

    def opened(self) -> Handle:
        return _Writing(self._load(), self._save)


class Keys(Directory):
    """`keys/`: 16 raw bytes by name; unset reads empty, and SGX's own are read-only."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._keys = keys
        self._files: dict[str, File] = {}

    def children(self) -> Mapping[str, File | Directory]:
        for name in self._keys:
            self._files.setdefault(name, self._file(name))
        return self._files

    def _file(self, name: str) -> File:
        if name.startswith("_sgx_"):
            return Computed(lambda: self._keys[name])
        return Value(lambda data: self._set(name, data), lambda: self._keys[name])

    def _set(self, name: str, data: bytes) -> None:
        if len(data) != KEY_BYTES:
            raise failure(errno.EACCES)
        self._keys[name] = data


class Attestation(Directory):
    """The device of one process. `quote` makes a quote of 64 bytes; tests replace what they like.

    `attestation_type` "none" leaves the quote file out, as Gramine does.
    """

    def __init__(self, quote: Callable[[bytes], bytes]) -> None:
        self.report_data = bytes(USER_REPORT_DATA_BYTES)
        self.target_info = bytes(TARGET_INFO_BYTES)
        self.kind = b"dcap"
        self.keys = {"_sgx_mrenclave": b"e" * 16, "_sgx_mrsigner": b"s" * 16, "default": b""}
        self.quote = quote
        self.after_write: Callable[[], None] = lambda: None
        self._files: dict[str, File | Directory] = {
            "attestation_type": Computed(lambda: self.kind),
            "user_report_data": Value(self._set_report_data),
            "target_info": Value(self._set_target_info),
            "my_target_info": Computed(lambda: b"t" * TARGET_INFO_BYTES),
            "report": Computed(lambda: self.report_data.rjust(REPORT_BYTES, b"\0")),
            "keys": Keys(self.keys),
        }
        self._quote_file = Computed(lambda: self.quote(self.report_data))

    def children(self) -> Mapping[str, File | Directory]:
        if self.kind == b"none":
            return self._files
        return {**self._files, "quote": self._quote_file}

    def _set_report_data(self, data: bytes) -> None:
        size = USER_REPORT_DATA_BYTES
        self.report_data = data[:size].ljust(size, b"\0")
        self.after_write()

    def _set_target_info(self, data: bytes) -> None:
        self.target_info = data[:TARGET_INFO_BYTES].ljust(TARGET_INFO_BYTES, b"\0")
