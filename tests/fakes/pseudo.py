"""A small model of pseudo files: what a fake device is made of, however it is reached.

A fake says what opening, reading, writing and closing its files does; every failure is an
OSError with the number the kernel would give. `InProcess` lets an issuer use such a tree
without a kernel, `fakes.fuse` mounts the same tree for real system calls.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from attestation.issuers.base import IssuerError
from attestation.issuers.device import DeviceError, DeviceFiles


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Handle:
    """One open file. This one holds fixed content and takes no writes."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    def read(self, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]

    def write(self, offset: int, data: bytes) -> int:
        raise failure(errno.EBADF)

    def close(self) -> None:
        """What the device does when the last descriptor goes; its failures reach nobody."""


class File:
    """Something that can be opened; `mode` are its permission bits, enforced here."""

    mode = 0o444

    def open(self, flags: int) -> Handle:
        """A handle, when the permission bits allow this access. Raises EACCES as the kernel."""
        access = flags & os.O_ACCMODE
        if access != os.O_WRONLY and not self.mode & 0o444:
            raise failure(errno.EACCES)
        if access != os.O_RDONLY and not self.mode & 0o222:
            raise failure(errno.EACCES)
        return self.opened()

    def opened(self) -> Handle:
        raise failure(errno.EACCES)


class Directory:
    """Named files and directories; making and removing entries is refused by default."""

    mode = 0o555

    def children(self) -> Mapping[str, File | Directory]:
        return {}

    def make(self, name: str) -> None:
        raise failure(errno.EPERM)

    def remove(self, name: str) -> None:
        raise failure(errno.EPERM)

    def find(self, name: str) -> File | Directory:
        try:
            return self.children()[name]
        except KeyError:
            raise failure(errno.ENOENT) from None


class InProcess(DeviceFiles):
    """The tree as an issuer sees it at `root`, without a kernel between them."""

    def __init__(self, root: Path, tree: Directory) -> None:
        self.root = root
        self.tree = tree

    def _find(self, path: Path) -> File | Directory:
        found: File | Directory = self.tree
        for name in path.relative_to(self.root).parts:
            if not isinstance(found, Directory):
                raise failure(errno.ENOTDIR)
            found = found.find(name)
        return found

    def _open(self, path: Path, flags: int) -> Handle:
        found = self._find(path)
        if isinstance(found, Directory):
            raise failure(errno.EISDIR)
        return found.open(flags)

    def _parent(self, path: Path) -> Directory:
        parent = self._find(path.parent)
        if not isinstance(parent, Directory):
            raise failure(errno.ENOTDIR)
        return parent

    def write(self, path: Path, data: bytes) -> None:
        try:
            handle = self._open(path, os.O_WRONLY)
            written = handle.write(0, data)
        except OSError as e:
            raise DeviceError(path, e) from e
        handle.close()
        if written != len(data):
            raise IssuerError(f"{path}: took {written} of {len(data)} bytes")

    def read(self, path: Path, limit: int) -> bytes:
        out = b""
        try:
            handle = self._open(path, os.O_RDONLY)
            while len(out) <= limit and (chunk := handle.read(len(out), limit + 1 - len(out))):
                out += chunk
        except OSError as e:
            raise DeviceError(path, e) from e
        handle.close()
        if len(out) > limit:
            raise IssuerError(f"{path}: holds more than {limit} bytes")
        return out

    def is_directory(self, path: Path) -> bool:
        try:
            return isinstance(self._find(path), Directory)
        except OSError:
            return False

    def make_directory(self, path: Path) -> None:
        try:
            self._parent(path).make(path.name)
        except OSError as e:
            raise DeviceError(path, e) from e

    def remove_directory(self, path: Path) -> None:
        try:
            self._parent(path).remove(path.name)
        except OSError as e:
            raise DeviceError(path, e) from e
