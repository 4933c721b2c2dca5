"""Shared libraries that ELF files need, found as the dynamic loader would find them.

Spec: ld.so(8). DT_RPATH of the object and of the program first, then DT_RUNPATH, then the
directories of /etc/ld.so.conf and the standard ones. LD_LIBRARY_PATH plays no part: what
is bundled must not depend on who bundles it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attestation.errors import AttestationError
from attestation.manifest.elf import Dynamic, is_elf, read_dynamic

GLIBC: Final = re.compile(
    r"ld-linux-x86-64\.so\.2|lib(c\.so\.6|m\.so\.6|mvec\.so\.1|dl\.so\.2|pthread\.so\.0|rt\.so\.1"
    r"|util\.so\.1|resolv\.so\.2|anl\.so\.1|nss_\w+\.so\.2|thread_db\.so\.1)"
)
"""Libraries of glibc: they come from Gramine's own build of it, never from the host's."""

STANDARD: Final = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
_CONFIG: Final = Path("/etc/ld.so.conf")
_ORIGIN: Final = re.compile(r"\$(?:ORIGIN\b|\{ORIGIN\})")


class BundleError(AttestationError):
    """The files of the node cannot be put together; says which, and why."""


@dataclass(frozen=True, slots=True)
class Closure:
    """Libraries that files need: `found` by the name asked for; `glibc` by name alone."""

    found: dict[str, Path] = field(default_factory=dict)
    glibc: set[str] = field(default_factory=set)


def configured_directories(config: Path = _CONFIG) -> tuple[str, ...]:
    """What ld.so.conf lists, its includes in order. A missing file lists nothing."""
    out: list[str] = []
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    for line in (text.partition("#")[0].strip() for text in lines):
        if line.startswith("include "):
            pattern = line.removeprefix("include ").strip().lstrip("/")
            for path in sorted(Path("/").glob(pattern)):
                out.extend(configured_directories(path))
        elif line:
            out.append(line)
    return tuple(out)


def library_closure(
    program: Path, objects: Iterable[Path], directories: tuple[str, ...] | None = None
) -> Closure:
    """Every library that `program` and `objects` need, and those need in turn.

    Raises BundleError naming the file and the library that is nowhere.
    """
    search = (*configured_directories(), *STANDARD) if directories is None else directories
    closure = Closure()
    inherited = _expanded(read_dynamic(program).rpath, program)
    todo = [program, *sorted(set(objects))]
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in seen or not is_elf(path):
            continue
        seen.add(path)
        dynamic = read_dynamic(path)
        for name in dynamic.needed:
            if GLIBC.fullmatch(name):
                closure.glibc.add(name)
                continue
            library = _find(name, path, dynamic, inherited, search)
            _note(closure, name, library)
            todo.append(library)
    return closure


def _note(closure: Closure, name: str, library: Path) -> None:
    """Remember where a name leads. Two wheels may carry two libraries under one name, each
    beside itself; whoever bundles decides whether that is a conflict."""
    known = closure.found.get(name)
    if known is not None and known != library:
        name = f"{name}@{library}"
    closure.found[name] = library


def _find(
    name: str,
    needed_by: Path,
    dynamic: Dynamic,
    inherited: tuple[str, ...],
    search: tuple[str, ...],
) -> Path:
    if "/" in name:
        raise BundleError(f"{needed_by} needs {name} by its path, which the enclave lacks")
    own = _expanded(dynamic.rpath, needed_by)
    # A DT_RUNPATH switches off every DT_RPATH, the program's too.
    first = _expanded(dynamic.runpath, needed_by) if dynamic.runpath else (*own, *inherited)
    for directory in (*first, *search):
        candidate = Path(directory) / name
        if candidate.is_file() and is_elf(candidate):
            return candidate.resolve()
    raise BundleError(f"{needed_by} needs {name}, which is in none of the loader's directories")


def _expanded(paths: tuple[str, ...], of: Path) -> tuple[str, ...]:
    origin = os.fspath(of.resolve().parent)
    return tuple(_ORIGIN.sub(lambda _: origin, path) for path in paths)
