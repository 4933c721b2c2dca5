"""Every check of the contracts is missed by some test when it is gone.

    python tests/contracts/mutate.py [--only TEXT] [--jobs N] [--list]

Drops one check at a time from a copy of the sources: the condition of an `if` that reverts, a
term of a flag that assembly collects, a call that only requires something, an `onlyOwner`. What
depends on the file is compiled again and the tests of this folder run, those first that name the
error; one of them must fail. Those that compare gas or bytecode do not count. Verdicts are kept
in contracts/cache/mutants.json, so that a run that was stopped goes on where it was; survivors
are printed and make it fail. Takes about a minute a check.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "contracts"
TESTS = ROOT / "tests" / "contracts"
STATE = PROJECT / "cache" / "mutants.json"
NOT_COUNTED = ("test_gas.py", "test_artefacts.py")
LAST = ("test_quote_vectors.py",)  # the slowest, and it needs the vectors

REVERTS = re.compile(r"\s*(?:\{\s*)?(?:revert\s+(\w+)|(_refuse\w*)\()")
REQUIRES = re.compile(r"^[ \t]*(?:\w+\.)?_?require\w*\([^;{}]*\);", re.MULTILINE)
COLLECTS = re.compile(r"^[ \t]*(ok := and\(ok, |wrong := or\(wrong, )", re.MULTILINE)
OTHERWISE = re.compile(r"else revert (\w+)\([^;]*\);")
YUL_IF = re.compile(r"\bif ([^{}()]*\(.*\)) \{\s*(?:let [^}]*)?(?:mstore\(0[^}]*)?revert\(")


@dataclass(frozen=True)
class Mutant:
    """One check gone: `was` at `start` of `file` becomes `becomes`. `error` is what it reverts."""

    file: str
    start: int
    was: str
    becomes: str
    error: str
    line: int

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line} {self.error} [{' '.join(self.was.split())[:90]}]"


def bare(text: str) -> str:
    """The text with comments blanked out, every position kept."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())  # noqa: E731
    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.DOTALL)


def closing(text: str, at: int) -> int:
    """Where the parenthesis that opens at `at` closes."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise AssertionError("a parenthesis is never closed")


def _spans(text: str) -> Iterator[tuple[int, int, str, str]]:
    """(start, end, replacement, error) of every check."""
    for found in re.finditer(r"\bif \(", text):
        start = found.end() - 1
        end = closing(text, start)
        if reverts := REVERTS.match(text, end + 1):
            yield start + 1, end, "false", reverts[1] or reverts[2]
    for found in OTHERWISE.finditer(text):
        yield found.start(), found.end(), "else {}", found[1]
    for found in REQUIRES.finditer(text):
        yield found.start(), found.end(), "", found.group().strip().partition("(")[0]
    for found in COLLECTS.finditer(text):
        end = closing(text, text.index("(", found.start()))
        flag = found.group().strip().partition(" ")[0]
        yield found.start(), end + 1, f"{flag} := {flag}", flag
    for found in YUL_IF.finditer(text):
        yield found.start(1), found.end(1), "0", "revert"
    for found in re.finditer(r" onlyOwner\b(?=[^;{]*\{)", text):
        yield found.start(), found.end(), "", "OwnableUnauthorizedAccount"


def mutants() -> list[Mutant]:
    found = []
    for path in sorted((PROJECT / "src").rglob("*.sol")):
        text = path.read_text()
        for start, end, becomes, error in sorted(_spans(bare(text))):
            line = text.count("\n", 0, start) + 1
            file = str(path.relative_to(PROJECT))
            found.append(Mutant(file, start, text[start:end], becomes, error, line))
    return found


def ordered_tests(error: str) -> list[str]:
    """Test files, those that name the error first."""
    paths = [p for p in sorted(TESTS.glob("test_*.py")) if p.name not in NOT_COUNTED]
    rank = {p: (p.name in LAST, error not in p.read_text(), p.name) for p in paths}
    return [str(p) for p in sorted(paths, key=rank.__getitem__)]


def run_tests(
    paths: list[str], options: list[str], env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    always = ["-q", "--no-header", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *always, *options, *paths]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def named(output: str) -> list[str]:
    """The tests that a run of pytest says have failed."""
    return re.findall(r"^(?:FAILED|ERROR) (\S+(?:\[.*?\])?)(?: - |$)", output, re.MULTILINE)


def bounds_of_gas() -> list[str]:
    """Tests that fail with every check in place, compiled as mutants are: they bound the gas."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as out:
        env = {**os.environ, "ADYTON_SOLC_QUICK": "1", "ADYTON_ARTEFACTS": out}
        node = env.setdefault("ADYTON_NODE", "node")
        subprocess.run([node, str(PROJECT / "tools" / "compile.mjs"), "--out", out], env=env)
        return named(run_tests(ordered_tests("nothing"), [], env).stdout)


def judge(mutant: Mutant, aside: list[str]) -> str:
    """killed, survived, or why it could not be tried; tests set `aside` are not run."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy, out = Path(folder) / "contracts", Path(folder) / "out"
        shutil.copytree(PROJECT / "src", copy / "src")
        shutil.copytree(PROJECT / "test" / "harness", copy / "test" / "harness")
        for name in ("foundry.toml", "package.json"):
            shutil.copy(PROJECT / name, copy / name)
        (copy / "node_modules").symlink_to(PROJECT / "node_modules")
        source = copy / mutant.file
        text = source.read_text()
        end = mutant.start + len(mutant.was)
        assert text[mutant.start : end] == mutant.was
        source.write_text(text[: mutant.start] + mutant.becomes + text[end:])
        node = os.environ.get("ADYTON_NODE", "node")
        compiler = [node, str(PROJECT / "tools" / "compile.mjs")]
        where = ["--project", str(copy), "--out", str(out)]
        env = {**os.environ, "ADYTON_SOLC_JOBS": "1", "ADYTON_SOLC_QUICK": "1"}
        made = subprocess.run([*compiler, *where], env=env, capture_output=True, text=True)
        if made.returncode:
            return "does not compile: " + made.stderr.strip()[:300]
        # what code costs is another matter, and this code is compiled in a hurry
        env |= {"ADYTON_ARTEFACTS": str(out), "ADYTON_NODE": node}
        options = ["-x", *(f"--deselect={test}" for test in aside)]
        tried = run_tests(ordered_tests(mutant.error), options, env)
        if tried.returncode == 1:
            return f"killed by {(named(tried.stdout) or ['?'])[0]}"
        if tried.returncode == 0:
            return "survived"
        return f"pytest ended with {tried.returncode}: {tried.stdout[-300:]}"


def key(mutant: Mutant) -> str:
    """Verdicts hold while the file and the tests do not change."""
    parts = [mutant.name, mutant.becomes, (PROJECT / mutant.file).read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--list", action="store_true", help="name them, and try none")
    options = parser.parse_args()
    chosen = [m for m in mutants() if options.only in m.name]
    if options.list:
        print(*(m.name for m in chosen), f"{len(chosen)} checks", sep="\n")
        return 0
    STATE.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, str] = json.loads(STATE.read_text()) if STATE.is_file() else {}
    lock = threading.Lock()

    def try_one(mutant: Mutant) -> str:
        verdict = known.get(key(mutant), "")
        if not verdict.startswith("killed"):
            verdict = judge(mutant, aside)
            with lock:
                known[key(mutant)] = verdict
                STATE.write_text(json.dumps(known, indent=1))
        print(f"{verdict}: {mutant.name}", flush=True)
        return verdict

    aside = bounds_of_gas()
    print("not counted, since they fail with every check in place, compiled in a hurry:")
    print(*(f"  {test}" for test in aside), sep="\n", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        verdicts = list(pool.map(try_one, chosen))
    alive = [m.name for m, v in zip(chosen, verdicts, strict=True) if not v.startswith("killed")]
    print(f"\n{len(chosen)} checks, {len(chosen) - len(alive)} of them missed by some test")
    print(*(f"not missed: {name}" for name in alive), sep="\n")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main())
