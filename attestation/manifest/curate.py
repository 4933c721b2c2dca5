"""Which files of an installed Python the node needs, and which it is better off without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = "adyton"
EXTRA: Final = "node"
OWN_PACKAGES: Final = ("attestation", "enclave", "gateway")
"""The node's own code. `adyton` itself is the client, which no node imports."""

DROPPED: Final[Mapping[str, str]] = {
    "openai": "the client's: a node answers this API, it does not call it",
    "huggingface-hub": "downloads models; a node is given files",
}
"""Distributions that are required but not carried along, and why. Tests run without them."""

_UNWANTED_PARTS: Final = frozenset(
    (
        *("__pycache__", "tests", "test", "testing", "testdata", "_pyinstaller"),
        *("include", "docs", "doc", "examples", "benchmarks", "licenses"),
    )
)
_UNWANTED_SUFFIXES: Final = frozenset(
    (
        *(".pyi", ".pyx", ".pxd", ".pxi", ".typed", ".pth", ".pyc", ".egg-link"),
        *(".h", ".hpp", ".c", ".cc", ".cpp", ".cu", ".a", ".lib", ".o", ".cmake", ".pc", ".exe"),
        *(".md", ".rst", ".html", ".ipynb", ".sh", ".bat"),
    )
)
_UNWANTED_FOLDERS: Final = (
    "alembic/templates",
    "attestation/manifest",
    "gguf/scripts",
    "numpy/distutils",
    "numpy/f2py",
    "onnx/backend",
    "onnx/bin",
    "onnx/fuzz",
    "onnx/reference",
    "onnx/tools",
    "onnxruntime/backend",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
)
_METADATA: Final = ("METADATA", "entry_points.txt")

_UNWANTED_STDLIB: Final = frozenset(
    (
        *("test", "idlelib", "ensurepip", "lib2to3", "tkinter", "turtledemo", "turtle.py"),
        *("venv", "distutils", "pydoc_data", "msilib", "curses", "site-packages", "dist-packages"),
        *("lib-dynload", "__phello__", "__pycache__", "antigravity.py", "this.py"),
    )
)
_UNWANTED_EXTENSIONS: Final = (
    *("_tkinter", "_test", "_ctypes_test", "_xx", "xx", "readline", "_curses", "nis"),
    *("_dbm", "_gdbm", "ossaudiodev", "_crypt", "spwd"),
)


def wanted_in_wheel(path: PurePosixPath) -> bool:
    """A file of a distribution, named from site-packages, that the node may read."""
    if path.is_absolute() or ".." in path.parts:
        return False  # scripts and data outside site-packages
    if path.parts[0].endswith(".dist-info"):
        return len(path.parts) == 2 and path.name in _METADATA
    if path.suffix in _UNWANTED_SUFFIXES or _UNWANTED_PARTS.intersection(path.parts[:-1]):
        return False
    if path.parts[0].startswith("__editable__"):
        return False
    return not any(path.is_relative_to(folder) for folder in _UNWANTED_FOLDERS)


def wanted_in_stdlib(path: PurePosixPath) -> bool:
    """A file of the standard library, named from its folder, that the node may import."""
    if path.suffix != ".py" or _UNWANTED_STDLIB.intersection(path.parts):
        return False
    return not {"tests", "test"}.intersection(path.parts) and not path.parts[0].startswith(
        "config-"
    )


def wanted_extension(path: Path) -> bool:
    """A compiled module of the standard library that the node may import."""
    return ".so" in path.suffixes and not path.name.startswith(_UNWANTED_EXTENSIONS)


def is_pure(paths: list[PurePosixPath]) -> bool:
    """Nothing but modules and metadata: it can be imported from an archive."""
    return all(p.suffix == ".py" or p.parts[0].endswith(".dist-info") for p in paths)
