"""Mounts a tree of `fakes.pseudo` as a real filesystem, so that issuers make system calls.

Speaks the kernel's FUSE protocol (7.31, include/uapi/linux/fuse.h) on /dev/fuse itself:
the bindings on PyPI need a libfuse that no wheel brings, and a device of a dozen files
needs few of the operations. Every open is direct I/O, so each read and write of a process
reaches the fake as it was made. Needs root and /dev/fuse; `unavailable` says why not.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fakes.pseudo import Directory, File, Handle, failure

_MNT_DETACH = 2
_DIRECT_IO = 1
_ROOT = 1
_MAX_WRITE = 1 << 17
_FATTR_SIZE = 1 << 3
(
    _LOOKUP, _FORGET, _GETATTR, _SETATTR, _MKDIR, _UNLINK, _RMDIR, _OPEN, _READ, _WRITE,
    _RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _CREATE, _INTERRUPT,
    _BATCH_FORGET,
) = (1, 2, 3, 4, 9, 10, 11, 14, 15, 16, 18, 25, 26, 27, 28, 29, 35, 36, 42)  # fmt: skip
_SILENT = frozenset({_FORGET, _INTERRUPT, _BATCH_FORGET})
Node = File | Directory

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise failure(ctypes.get_errno())


@cache
def unavailable() -> str | None:
    """Why nothing can be mounted here, or None. Found out by mounting an empty directory."""
    if os.geteuid() != 0:
        return "mounting needs root"
    try:
        with TemporaryDirectory(prefix="adyton-") as folder, mounted(Path(folder), Directory()):
            return None
    except OSError as e:
        return f"FUSE cannot be mounted here: {e}"


@contextmanager
def mounted(at: Path, tree: Directory) -> Iterator[Path]:
    """`tree` at the directory `at`, while the block runs. Raises OSError where it cannot."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
        _check(_libc.mount(b"fake", os.fsencode(at), b"fuse", 0, options.encode()))
        server = threading.Thread(target=_Server(device, tree).run, daemon=True)
        server.start()
        try:
            yield at
        finally:
            # The kernel then answers the server's next read with ENODEV.
            _check(_libc.umount2(os.fsencode(at), _MNT_DETACH))
            server.join(10)
    finally:
        os.close(device)


class _Server:
    """Answers one mount's requests in turn. Nodes and handles are numbered as they appear."""

    def __init__(self, device: int, tree: Directory) -> None:
        self._device = device
        self._nodes: dict[int, Node] = {_ROOT: tree}
        self._numbers: dict[int, int] = {id(tree): _ROOT}
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1
        self._operations: dict[int, Callable[[int, bytes], bytes]] = {
            _INIT: self._init,
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _SETATTR: self._setattr,
            _MKDIR: self._mkdir,
            _RMDIR: self._rmdir,
            _UNLINK: self._refuse,
            _CREATE: self._refuse,
            _OPEN: self._open,
            _READ: self._read,
            _WRITE: self._write,
            _FLUSH: self._flush,
            _RELEASE: self._release,
            _OPENDIR: lambda *_: struct.pack("<QII", 0, 0, 0),
            _READDIR: self._readdir,
            _RELEASEDIR: lambda *_: b"",
        }

    def run(self) -> None:
        while True:
            try:
                request = os.read(self._device, _MAX_WRITE + 4096)
            except OSError as e:
                if e.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation in _SILENT:
                continue
            number, body = self._answer(operation, node, request[40:])
            with contextlib.suppress(FileNotFoundError):  # the caller was interrupted
                os.write(self._device, struct.pack("<IiQ", 16 + len(body), -number, unique) + body)

    def _answer(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        handler = self._operations.get(operation)
        if handler is None:
            return errno.ENOSYS, b""
        try:
            return 0, handler(node, body)
        except OSError as e:
            return e.errno or errno.EIO, b""
        except Exception:  # a broken fake must not hang the test that uses it
            return errno.EIO, b""

    def _init(self, _: int, body: bytes) -> bytes:
        read_ahead = struct.unpack_from("<III", body)[2]
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, read_ahead, 0, 16, 12, _MAX_WRITE, 1, 0, 0, 0)

    # --- names ---------------------------------------------------------------------

    def _directory(self, node: int) -> Directory:
        found = self._nodes[node]
        if not isinstance(found, Directory):
            raise failure(errno.ENOTDIR)
        return found

    def _number(self, node: Node) -> int:
        number = self._numbers.setdefault(id(node), len(self._numbers) + 1)
        self._nodes[number] = node
        return number

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        kind = stat.S_IFDIR if isinstance(node, Directory) else stat.S_IFREG
        return struct.pack(
            "<6Q10I", number, 0, 0, 0, 0, 0, 0, 0, 0, kind | node.mode, 1, 0, 0, 0, 4096, 0
        )

    def _entry(self, node: Node) -> bytes:
        """No name or attribute is remembered by the kernel: all validities are zero."""
        number = self._number(node)
        return struct.pack("<QQQQII", number, 0, 0, 0, 0, 0) + self._attributes(number)

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._directory(node).find(_text(body)))

    def _getattr(self, node: int, _: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _setattr(self, node: int, body: bytes) -> bytes:
        """Truncation at open is accepted and ignored, as pseudo files do; nothing else is."""
        if struct.unpack_from("<I", body)[0] & 0xFF & ~(_FATTR_SIZE | 1 << 6):
            raise failure(errno.EPERM)
        return self._getattr(node, b"")

    def _mkdir(self, node: int, body: bytes) -> bytes:
        directory, name = self._directory(node), _text(body[8:])
        directory.make(name)
        return self._entry(directory.find(name))

    def _rmdir(self, node: int, body: bytes) -> bytes:
        self._directory(node).remove(_text(body))
        return b""

    def _refuse(self, *_: object) -> bytes:
        """The device alone decides which files there are."""
        raise failure(errno.EPERM)

    def _readdir(self, node: int, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<8xQI", body)
        out = b""
        for index, (name, child) in enumerate(self._directory(node).children().items(), 1):
            kind = stat.S_IFDIR if isinstance(child, Directory) else stat.S_IFREG
            encoded = name.encode()
            entry = struct.pack("<QQII", self._number(child), index, len(encoded), kind >> 12)
            entry += encoded + bytes(-len(encoded) % 8)
            if index > offset and len(out) + len(entry) <= size:
                out += entry
        return out

    # --- contents ------------------------------------------------------------------

    def _open(self, node: int, body: bytes) -> bytes:
        found = self._nodes[node]
        if isinstance(found, Directory):
            raise failure(errno.EISDIR)
        handle = found.open(struct.unpack_from("<I", body)[0])
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = handle
        return struct.pack("<QII", number, _DIRECT_IO, 0)

    def _read(self, _: int, body: bytes) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", body)
        return self._handles[number].read(offset, size)

    def _write(self, _: int, body: bytes) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", self._handles[number].write(offset, body[40 : 40 + size]), 0)

    def _flush(self, _: int, body: bytes) -> bytes:
        """close(2) waits for this and not for RELEASE, so here is where a handle closes."""
        self._handles[struct.unpack_from("<Q", body)[0]].close()
        return b""

    def _release(self, _: int, body: bytes) -> bytes:
        del self._handles[struct.unpack_from("<Q", body)[0]]
        return b""


def _text(body: bytes) -> str:
    return body.partition(b"\0")[0].decode()
