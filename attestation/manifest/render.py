"""Manifests from templates, as gramine-manifest renders them, with every file hashed.

The template language, the functions templates may call and the meaning of
`sgx.trusted_files` are Gramine 1.9's, so the output is what `gramine-manifest` and
`gramine-sgx-sign` would write for the same files. Templates run in Jinja's sandbox.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Final

from attestation.errors import AttestationError
from attestation.manifest.bundle import ask, hash_file
from attestation.manifest.libraries import library_closure
from attestation.manifest.measure import (
    DEFAULT_SIZE,
    DEFAULT_SIZE_EDMM,
    DEFAULT_THREADS,
    parse_manifest,
    table,
)

GRAMINE_PKGLIBDIR: Final = "/usr/lib/x86_64-linux-gnu/gramine"
"""Where Gramine's packages put it; this path goes into the manifest."""

NODE_TEMPLATE: Final = "node.manifest.template"
MAX_TRUSTED_FILES: Final = 4000
_MAX_TEMPLATE: Final = 1 << 20
_CPU_FEATURES: Final = {
    **dict.fromkeys(("avx", "avx512", "amx"), "unspecified"),
    **dict.fromkeys(("mpx", "pkru"), "disabled"),
}


class RenderError(AttestationError):
    """The template cannot be rendered, or names files that are not there."""


class HostPath(PurePosixPath):
    """A path as templates see it: they may ask about it, not write to it."""

    def is_dir(self) -> bool:
        return Path(self).is_dir()

    def is_file(self) -> bool:
        return Path(self).is_file()

    def exists(self) -> bool:
        return Path(self).exists()


@dataclass(frozen=True, slots=True)
class Gramine:
    """Gramine's files: `installed` is what the manifest says, `local` where to hash them.

    `local` None: Gramine is not here, and its own files stay without hashes.
    """

    local: Path | None
    installed: str = GRAMINE_PKGLIBDIR

    @classmethod
    def find(cls, local: Path | None = None, installed: str = GRAMINE_PKGLIBDIR) -> Gramine:
        """The given folder or the installed one, if it holds Gramine. Raises RenderError."""
        place = Path(installed) if local is None else local
        if (place / "libsysdb.so").is_file():
            return cls(place, installed)
        if local is not None:
            raise RenderError(f"{local} holds no libsysdb.so, so it is no Gramine")
        return cls(None, installed)

    def on_disk(self, path: PurePosixPath) -> Path | None:
        """Where a file of Gramine's lies here; None where Gramine does not."""
        if self.local is None:
            return None
        return self.local / path.relative_to(self.installed)

    def owns(self, path: PurePosixPath) -> bool:
        return path.is_relative_to(self.installed)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The manifest's bytes; `missing` are trusted files that could not be hashed here."""

    data: bytes
    trusted_files: int
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.missing


class _RuntimeDir:
    """`gramine.runtimedir()`, callable and printable as in gramine-manifest."""

    def __init__(self, installed: str) -> None:
        self._installed = installed

    def __call__(self, libc: str = "glibc") -> PurePosixPath:
        return PurePosixPath(self._installed) / "runtime" / libc

    def __str__(self) -> str:
        return str(self())

    def __truediv__(self, other: str) -> PurePosixPath:
        return self() / other


def template_text(source: Path | None) -> str:
    """The template in a file, or the node's own. Raises RenderError."""
    try:
        if source is None:
            place = resources.files("attestation.manifest") / "templates" / NODE_TEMPLATE
            return place.read_text(encoding="utf-8")
        if source.stat().st_size > _MAX_TEMPLATE:
            raise RenderError(f"{source} is longer than {_MAX_TEMPLATE} bytes")
        return source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RenderError(f"{source}: {e}") from None


def render(
    template: str,
    variables: Mapping[str, Any],
    *,
    root: Path,
    gramine: Gramine,
    env: Mapping[str, str] | None = None,
    python: Path | None = None,
) -> Rendered:
    """The manifest that `template` means, trusted files expanded and hashed.

    Relative URIs are files below `root`. `env` is what templates see as the environment:
    nothing by default, since what a manifest says must not depend on who renders it.
    Raises RenderError, BundleError, or MalformedEvidence where the result is no manifest.
    """
    text = _expand(template, variables, gramine, dict(env or {}), python)
    document = parse_manifest(text.encode())
    return complete(document, root=root, gramine=gramine)


def complete(document: dict[str, Any], *, root: Path, gramine: Gramine) -> Rendered:
    """Defaults spelled out, trusted files hashed, written as TOML of one form."""
    import tomli_w

    _spell_out(document, gramine)
    sgx, missing = document["sgx"], []
    entrypoint = document["loader"]["entrypoint"]
    files = dict(_trusted(sgx["trusted_files"], root, gramine))
    if len(files) > MAX_TRUSTED_FILES:
        raise RenderError(f"{len(files)} trusted files, more than {MAX_TRUSTED_FILES}")
    if "sha256" not in entrypoint:
        hashed = _hash(entrypoint["uri"], None, root, gramine)
        entrypoint |= {} if hashed is None else {"sha256": hashed}
    for uri, sha256 in ((entrypoint["uri"], entrypoint.get("sha256")), *files.items()):
        if sha256 is None:
            missing.append(uri)
    sgx["trusted_files"] = [
        {"uri": uri} if sha256 is None else {"uri": uri, "sha256": sha256}
        for uri, sha256 in files.items()
    ]
    return Rendered(tomli_w.dumps(document).encode(), len(files), tuple(missing))


# --- the template -----------------------------------------------------------------------------


def _expand(
    template: str,
    variables: Mapping[str, Any],
    gramine: Gramine,
    env: dict[str, str],
    python: Path | None,
) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    jinja = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    jinja.globals.update(_globals(gramine, env, Path(sys.executable) if python is None else python))
    try:
        return jinja.from_string(template).render(**variables)
    except TemplateError as e:
        line = getattr(e, "lineno", None)
        raise RenderError(f"template{f' line {line}' if line else ''}: {e.message or e}") from None
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as e:
        raise RenderError(f"template: {type(e).__name__}: {e}") from None


def _globals(gramine: Gramine, env: dict[str, str], python: Path) -> dict[str, Any]:
    """What gramine-manifest gives to templates, as far as it is the same on every machine."""

    def get_sys_path(interpreter: object, include_nonexisting: bool = False) -> list[HostPath]:
        if Path(str(interpreter)).resolve() != python.resolve():
            raise RenderError(f"only {python} is asked for its path, not {interpreter}")
        paths = ask(python, "sys-path", {})["sys_path"]
        return [HostPath(p) for p in paths if include_nonexisting or Path(p).exists()]

    def ldd(*binaries: object) -> list[str]:
        return sorted(
            str(path) for b in binaries for path in library_closure(Path(str(b)), []).found.values()
        )

    paths = {name: HostPath(path) for name, path in sysconfig.get_paths().items()}
    installed = PurePosixPath(gramine.installed)
    return {
        "gramine": {
            "libos": installed / "libsysdb.so",
            "pkglibdir": installed,
            "libdir": installed.parent,
            "runtimedir": _RuntimeDir(gramine.installed),
        },
        "python": {
            **{name: paths[name] for name in ("stdlib", "platstdlib", "purelib")},
            "get_config_var": sysconfig.get_config_var,
            "ext_suffix": sysconfig.get_config_var("EXT_SUFFIX"),
            "get_path": lambda name: paths[name],
            "get_paths": lambda: dict(paths),
            "implementation": sys.implementation.name,
            "get_sys_path": get_sys_path,
        },
        "env": env,
        "ldd": ldd,
    }


# --- the manifest ---------------------------------------------------------------------------


def _spell_out(document: dict[str, Any], gramine: Gramine) -> None:
    """Gramine's defaults, written where the template is silent, in the order its tools do.

    Raises MalformedEvidence or RenderError.
    """
    sgx = table(document, "sgx")
    document["sgx"] = sgx
    edmm = sgx.get("edmm_enable", False)
    for name, value in (
        ("trusted_files", []),
        ("max_threads", DEFAULT_THREADS),
        ("isvprodid", 0),
        ("isvsvn", 0),
        ("remote_attestation", "none"),
        ("debug", False),
        ("enable_stats", False),
        ("edmm_enable", False),
        ("enclave_size", DEFAULT_SIZE_EDMM if edmm else DEFAULT_SIZE),
        ("use_exinfo", False),
    ):
        sgx.setdefault(name, value)
    features = table(sgx, "cpu_features")
    sgx["cpu_features"] = features
    for name, text in _CPU_FEATURES.items():
        features.setdefault(name, text)
    loader = table(document, "loader")
    document["loader"] = loader
    entrypoint = loader.setdefault("entrypoint", {})
    if not isinstance(entrypoint, dict) or not isinstance(sgx["trusted_files"], list):
        raise RenderError("loader.entrypoint is a table, and sgx.trusted_files a list")
    entrypoint.setdefault("uri", f"file:{gramine.installed}/libsysdb.so")


def _trusted(entries: list[Any], root: Path, gramine: Gramine) -> Iterator[tuple[str, str | None]]:
    """(URI, SHA-256) of every trusted file, folders expanded, each URI once."""
    seen: dict[str, str | None] = {}
    for entry in entries:
        uri = entry.get("uri") if isinstance(entry, dict) else entry
        given = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(uri, str) or not uri.startswith("file:"):
            raise RenderError(f"trusted file {str(entry)[:80]!r} is no `file:` URI")
        if given is not None and uri.endswith("/"):
            raise RenderError(f"{uri} is a folder, which has no hash of its own")
        for name in (uri,) if given is not None else _below(uri, root, gramine):
            sha256 = _hash(name, given, root, gramine)
            if name in seen and seen[name] != sha256:
                raise RenderError(f"two different hashes are given for {name}")
            if name not in seen:
                seen[name] = sha256
                yield name, sha256


def _place(uri: str, root: Path, gramine: Gramine) -> Path | None:
    path = PurePosixPath(uri.removeprefix("file:"))
    if gramine.owns(path):
        return gramine.on_disk(path)
    return root / path


def _below(uri: str, root: Path, gramine: Gramine) -> Iterator[str]:
    """The URI itself, or those of the files below where it names a folder with `/`."""
    place = _place(uri, root, gramine)
    if place is not None and not place.exists():
        raise RenderError(f"there is no {uri} (looked for {place})")
    if place is not None and place.is_dir() != uri.endswith("/"):
        raise RenderError(f"{uri} must end with / if and only if it is a folder")
    if not uri.endswith("/"):
        yield uri
        return
    if place is None:
        raise RenderError(f"{uri} cannot be listed: Gramine is not installed here")
    prefix = f"file:{PurePosixPath(uri.removeprefix('file:'))}"
    for child in sorted(place.iterdir()):
        if child.is_dir() and not child.is_symlink():
            yield from _below(f"{prefix}/{child.name}/", root, gramine)
        elif child.is_file():
            yield f"{prefix}/{child.name}"


def _hash(uri: str, given: Any, root: Path, gramine: Gramine) -> str | None:
    if given is not None:
        return str(given)
    place = _place(uri, root, gramine)
    if place is None:
        return None
    try:
        return hash_file(place)
    except OSError as e:
        raise RenderError(f"{uri}: {e.strerror}") from None
