"""Runs in the interpreter that is to be bundled, with nothing of ours but this file.

`python probe.py describe` prints what that interpreter has installed; `python probe.py
compile` reads jobs from standard input and compiles them; `sys-path` prints where modules
are looked for. All speak JSON. It uses the
standard library and `packaging`, which every node has, and is started afresh each time:
what a compiled module looks like must not depend on what ran before.
"""

from __future__ import annotations

import importlib.util
import json
import py_compile
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any


def closure(root: str, extra: str, dropped: Iterable[str]) -> Iterator[Distribution]:
    """`root[extra]` and what it requires, installed here, each once, by name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    skip = set(dropped)
    found: dict[str, Distribution] = {}
    done: set[tuple[str, tuple[str, ...]]] = set()
    todo: list[tuple[str, tuple[str, ...]]] = [(root, (extra,))]
    while todo:
        name, extras = todo.pop()
        key = (canonicalize_name(name), tuple(sorted(extras)))
        if key in done or key[0] in skip:
            continue
        done.add(key)
        found[key[0]] = installed = distribution(name)
        for text in installed.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (*extras, "")):
                todo.append((requirement.name, tuple(requirement.extras)))
    return (found[name] for name in sorted(found))


def describe(question: dict[str, Any]) -> dict[str, Any]:
    """Interpreter, standard library, distributions of the node, our packages, the models."""
    try:
        distributions = list(closure(question["root"], question["extra"], question["dropped"]))
    except PackageNotFoundError as e:
        return {"error": f"{e.name} is not installed in {sys.executable}"}
    return {
        "executable": str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()),
        "version": [sys.version_info.major, sys.version_info.minor],
        "stdlib": sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}),
        "dynload": sysconfig.get_config_var("DESTSHARED"),
        "base_prefix": sys.base_prefix,
        "distributions": [_facts(d) for d in distributions],
        "packages": {name: _folder(name) for name in question["packages"]},
    }


def _facts(installed: Distribution) -> dict[str, Any]:
    """Where a distribution lies and which files its RECORD lists."""
    return {
        "name": installed.metadata["Name"],
        "version": installed.version,
        "root": str(installed.locate_file("")),
        "files": sorted(str(f) for f in installed.files or ()),
    }


def _folder(name: str) -> str | None:
    """The folder of an importable package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return str(next(iter(spec.submodule_search_locations)))


def compile_all(jobs: list[list[str]]) -> None:
    """Each (source, compiled, name in tracebacks), with a hash that is never checked again."""
    for source, target, shown in jobs:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        py_compile.compile(
            source,
            cfile=target,
            dfile=shown,
            doraise=True,
            optimize=0,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def main() -> None:
    question = json.load(sys.stdin)
    if sys.argv[1:] == ["compile"]:
        compile_all(question)
        json.dump({"compiled": len(question)}, sys.stdout)
    elif sys.argv[1:] == ["sys-path"]:
        here = str(Path(__file__).parent)
        json.dump({"sys_path": [p for p in sys.path if p and p != here]}, sys.stdout)
    else:
        json.dump(describe(question), sys.stdout)


if __name__ == "__main__":
    main()
