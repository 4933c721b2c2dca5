"""What we read of ELF files: segments to measure, and libraries to carry along.

Spec: System V ABI, chapters 4 and 5 (program header, dynamic section); ld.so(8) for the
order in which libraries are searched.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from attestation.errors import MalformedEvidence

MAX_ELF_BYTES: Final = 1 << 30
MAX_SEGMENTS: Final = 64
MAX_NEEDED: Final = 256
_MAGIC: Final = b"\x7fELF"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadSegment:
    """One PT_LOAD entry. `readable`, `writable`, `executable` are p_flags 4, 2 and 1."""

    offset: int
    address: int
    data: bytes
    memory_size: int
    flags: int

    @property
    def readable(self) -> bool:
        return bool(self.flags & 4)

    @property
    def writable(self) -> bool:
        return bool(self.flags & 2)

    @property
    def executable(self) -> bool:
        return bool(self.flags & 1)


@dataclass(frozen=True, slots=True)
class Program:
    """An x86-64 ELF file as a loader maps it: entry point and PT_LOAD segments, in file order."""

    entry: int
    segments: tuple[LoadSegment, ...]


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What the dynamic section asks of the loader; `rpath` holds where there is no `runpath`."""

    soname: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def is_elf(path: Path) -> bool:
    """The file starts as an ELF file does."""
    with path.open("rb") as f:
        return f.read(4) == _MAGIC


def read_program(data: bytes, name: str) -> Program:
    """The entry point and segments of `data`. Raises MalformedEvidence naming `name`."""
    return _guarded(name, lambda: _program(data, name))


def read_dynamic(path: Path) -> Dynamic:
    """The dynamic section of the file, empty where it has none. Raises MalformedEvidence."""
    return _guarded(path.name, lambda: _dynamic(path))


def _guarded(name: str, work: Callable[[], T]) -> T:
    """`work()`, whatever pyelftools raises on hostile bytes told as ours."""
    from elftools.common.exceptions import ELFError

    try:
        return work()
    except MalformedEvidence:
        raise
    except (ELFError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as e:
        raise MalformedEvidence(name, f"not an ELF file ({str(e)[:120]})") from None


def _file(stream: Any, name: str) -> Any:
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(stream)
    if elf.elfclass != 64 or not elf.little_endian or elf["e_machine"] != "EM_X86_64":
        raise MalformedEvidence(name, "not an x86-64 ELF file")
    if elf.num_segments() > MAX_SEGMENTS:
        raise MalformedEvidence(name, f"more than {MAX_SEGMENTS} segments")
    return elf


def _program(data: bytes, name: str) -> Program:
    elf = _file(io.BytesIO(data), name)
    segments = []
    for segment in elf.iter_segments(type="PT_LOAD"):
        header = segment.header
        offset, size = header.p_offset, header.p_filesz
        if offset + size > len(data) or size > header.p_memsz:
            raise MalformedEvidence(name, "a segment lies outside the file", offset)
        segments.append(
            LoadSegment(
                offset, header.p_vaddr, data[offset : offset + size], header.p_memsz, header.p_flags
            )
        )
    return Program(elf["e_entry"], tuple(segments))


def _dynamic(path: Path) -> Dynamic:
    if path.stat().st_size > MAX_ELF_BYTES:
        raise MalformedEvidence(path.name, f"longer than {MAX_ELF_BYTES} bytes")
    with path.open("rb") as f:
        elf = _file(f, path.name)
        tags: dict[str, list[str]] = {
            "DT_NEEDED": [],
            "DT_SONAME": [],
            "DT_RPATH": [],
            "DT_RUNPATH": [],
        }
        for segment in elf.iter_segments(type="PT_DYNAMIC"):
            for tag in segment.iter_tags():
                if tag.entry.d_tag in tags:
                    tags[tag.entry.d_tag].append(getattr(tag, tag.entry.d_tag[3:].lower()))
    if len(tags["DT_NEEDED"]) > MAX_NEEDED:
        raise MalformedEvidence(path.name, f"needs more than {MAX_NEEDED} libraries")
    runpath = _search_path(tags["DT_RUNPATH"])
    return Dynamic(
        soname=tags["DT_SONAME"][0] if tags["DT_SONAME"] else None,
        needed=tuple(tags["DT_NEEDED"]),
        rpath=() if runpath else _search_path(tags["DT_RPATH"]),
        runpath=runpath,
    )


def _search_path(values: list[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.split(":") if part)
