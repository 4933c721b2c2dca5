"""Linux's configfs-tsm. Spec: Documentation/ABI/testing/configfs-tsm-report, and what
drivers/virt/coco/guest/report.c and fs/configfs/file.c do.

mkdir makes a report with the attributes its provider has. Text attributes are read when
first read and stored by each write. `inblob` takes at most 64 bytes (EFBIG) and is stored
when it is closed, where a refusal reaches nobody. `outblob` and `auxblob` come from one
report, made when either is first read after a change; `generation` counts the changes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from fakes.pseudo import Directory, File, Handle, failure

INBLOB_MAX = 64
OUTBLOB_MAX = 32 << 10
PRIVLEVEL_MAX = 3
Make = Callable[[bytes, int], tuple[bytes, bytes]]
"""(inblob, privilege level) to (outblob, auxblob)."""


class _Text(Handle):
    """Shown once, at the first read; each write is a whole value."""

    def __init__(self, show: Callable[[], bytes], store: Callable[[bytes], None]) -> None:
        super().__init__()
        self._show = show
        self._store = store
        self._shown = False

    def read(self, offset: int, size: int) -> bytes:
        if not self._shown:
            self.content, self._shown = self._show(), True
        return super().read(offset, size)

    def write(self, offset: int, data: bytes) -> int:
        self._store(data)
        return len(data)


class _Binary(Handle):
    """A configfs binary attribute: read whole at first, written whole at close."""

    def __init__(
        self, read: Callable[[], bytes], write: Callable[[bytes], None], limit: int
    ) -> None:
        super().__init__()
        self._load = read
        self._store = write
        self._limit = limit
        self._loaded = False
        self._written: bytes | None = None

    def read(self, offset: int, size: int) -> bytes:
        if not self._loaded:
            content = self._load()
            if len(content) > self._limit:
                raise failure(errno.EFBIG)
            self.content, self._loaded = content, True
        return super().read(offset, size)

    def write(self, offset: int, data: bytes) -> int:
        if offset + len(data) > self._limit:
            raise failure(errno.EFBIG)
        before = self._written or b""
        self._written = before[:offset].ljust(offset, b"\0") + data
        return len(data)

    def close(self) -> None:
        if self._written is None:
            return
        written, self._written = self._written, None
        try:
            self._store(written)
        except OSError:
            return  # release has nobody to tell


class Attribute(File):
    def __init__(self, mode: int, opened: Callable[[], Handle]) -> None:
        self.mode = mode
        self._opened = opened

    def opened(self) -> Handle:
        return self._opened()


def _nothing(_: bytes) -> None:
    raise failure(errno.EACCES)


class Report(Directory):
    """One report directory: desc, blobs and the two generations of the kernel's state."""

    mode = 0o755

    def __init__(self, tsm: Tsm) -> None:
        self.tsm = tsm
        self.inblob = b""
        self.privlevel = 0
        self.generation = 0
        self._made_at: int | None = None
        self._blobs = (b"", b"")
        binary: dict[str, File] = {
            "inblob": Attribute(0o200, lambda: _Binary(lambda: b"", self._set_inblob, INBLOB_MAX)),
            "outblob": self._blob(0),
        }
        text = {
            "generation": self._shown(lambda: b"%d\n" % self.generation),
            "provider": self._shown(tsm.shown_provider),
        }
        if tsm.provider == b"sev_guest":
            binary["auxblob"] = self._blob(1)
            text["privlevel"] = Attribute(0o200, lambda: _Text(bytes, self._set_privlevel))
            text["privlevel_floor"] = self._shown(lambda: b"%d\n" % tsm.privlevel_floor)
        self._attributes: dict[str, File] = {**text, **binary}

    def children(self) -> Mapping[str, File | Directory]:
        return self._attributes

    def _shown(self, show: Callable[[], bytes]) -> File:
        return Attribute(0o444, lambda: _Text(show, _nothing))

    def _blob(self, which: int) -> File:
        return Attribute(0o400, lambda: _Binary(lambda: self._read(which), _nothing, OUTBLOB_MAX))

    def _set_inblob(self, data: bytes) -> None:
        self.tsm.before_store(self)
        self.inblob = data
        self.generation += 1
        self.tsm.after_write(self)

    def _set_privlevel(self, data: bytes) -> None:
        try:
            value = int(data.strip().decode(), 0)
        except ValueError:
            raise failure(errno.EINVAL) from None
        if not self.tsm.privlevel_floor <= value <= PRIVLEVEL_MAX:
            raise failure(errno.EINVAL)
        self.privlevel = value
        self.generation += 1

    def _read(self, which: int) -> bytes:
        if self.tsm.provider is None:
            raise failure(errno.ENXIO)
        if not self.inblob:
            raise failure(errno.EINVAL)
        if self._made_at != self.generation:
            made_at = self.generation
            self._blobs = self._make()
            self._made_at = made_at
        return self._blobs[which]

    def _make(self) -> tuple[bytes, bytes]:
        """What the provider's report_new does: both want exactly 64 bytes."""
        if len(self.inblob) != INBLOB_MAX:
            raise failure(errno.EINVAL)
        return self.tsm.report(self.inblob, self.privlevel)


class Tsm(Directory):
    """/sys/kernel/config/tsm/report. `report` makes the blobs; tests replace what they like."""

    mode = 0o755

    def __init__(self, report: Make, provider: bytes = b"tdx_guest") -> None:
        self.reports: dict[str, Report] = {}
        self.made = 0
        self.provider: bytes | None = provider
        self.privlevel_floor = 0
        self.report = report
        self.before_store: Callable[[Report], None] = lambda _: None
        self.after_write: Callable[[Report], None] = lambda _: None

    def shown_provider(self) -> bytes:
        if self.provider is None:
            raise failure(errno.ENXIO)
        return self.provider + b"\n"

    def children(self) -> Mapping[str, File | Directory]:
        return self.reports

    def make(self, name: str) -> None:
        if self.provider is None:
            raise failure(errno.ENXIO)
        if name in self.reports:
            raise failure(errno.EEXIST)
        self.reports[name] = Report(self)
        self.made += 1

    def remove(self, name: str) -> None:
        if name not in self.reports:
            raise failure(errno.ENOENT)
        del self.reports[name]
