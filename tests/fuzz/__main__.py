"""Coverage-guided fuzzing of every parser: `python tests/fuzz [TARGET...] [--seconds N]`.

Each target runs in its own process under atheris, from the inputs in `corpus/<target>` and
from ones our own issuers make. A finding is written to `findings/<target>-*`, and the run
ends with 1. `--keep` adds to the corpus what reached new code, after shrinking it.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
FINDINGS = HERE / "findings"
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

from targets import TARGETS  # noqa: E402 - found through the path above

RSS_LIMIT_MB = 2048
SLOW_INPUT_S = 10
KEPT_FILES = 24
KEPT_BYTES = 4096


def in_process(name: str, script: str, arguments: list[str]) -> None:
    """Hand one target to libFuzzer with these arguments. Never returns."""
    import atheris

    target = TARGETS[name]
    with atheris.instrument_imports(include=["attestation"]):
        # One run imports what the target needs, while imports are instrumented.
        target.run(b"")
    atheris.Setup([script, *arguments], target.run)
    atheris.Fuzz()


def _child(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """libFuzzer over one target. It starts itself again to merge, so it gets a script to run."""
    script = folder.with_suffix(".sh")
    command = [sys.executable, str(HERE), "--in-process", name, str(script)]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} -- "$@"\n')
    script.chmod(0o700)
    try:
        return subprocess.run(
            [*command, "--", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    finally:
        script.unlink()


def fuzz(name: str, seconds: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Fuzz one target; `folder` then holds what reached new code."""
    target = TARGETS[name]
    for i, seed in enumerate(target.seeds()):
        (folder / f"seed-{i}").write_bytes(seed)
    return _child(
        name,
        folder,
        f"-max_total_time={seconds}",
        f"-max_len={target.max_len}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-timeout={SLOW_INPUT_S}",
        f"-artifact_prefix={FINDINGS}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
        str(folder),
        *_checked_in(name),
    )


def _checked_in(name: str) -> list[str]:
    folder = CORPUS / name
    return [str(folder)] if folder.is_dir() else []


def keep(name: str, folder: Path) -> None:
    """Shrink what was found to what reaches distinct code, and check in the smallest of it."""
    with tempfile.TemporaryDirectory(prefix="adyton-fuzz-") as temporary:
        merged = Path(temporary)
        sources = [str(folder), *_checked_in(name)]
        done = _child(name, merged, "-merge=1", "-verbosity=0", str(merged), *sources)
        if done.returncode:
            print(_without_noise(done.stdout)[-4000:], flush=True)
            return
        into = CORPUS / name
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        found = sorted(merged.iterdir(), key=lambda f: (f.stat().st_size, f.name))
        for file in [f for f in found if f.stat().st_size <= KEPT_BYTES][:KEPT_FILES]:
            shutil.copy(file, into / file.name)


def _runs(output: str) -> str:
    lines = [line for line in output.splitlines() if "number_of_executed_units" in line]
    return lines[-1].rpartition(":")[2].strip() if lines else "?"


def _without_noise(output: str) -> str:
    lines = output.splitlines()
    return "\n".join(
        line for line in lines if not line.startswith(("INFO: Instr", "WARNING: Fail"))
    )


def run_target(name: str, seconds: int, *, kept: bool) -> bool:
    """Fuzz one target in a process of its own; True when nothing was found."""
    with tempfile.TemporaryDirectory(prefix="adyton-fuzz-") as temporary:
        folder = Path(temporary)
        done = fuzz(name, seconds, folder)
        good = done.returncode == 0
        print(f"{'ok   ' if good else 'FOUND'} {name}: {_runs(done.stdout)} inputs", flush=True)
        if not good:
            print(_without_noise(done.stdout)[-8000:], flush=True)
        if kept:
            keep(name, folder)
        return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=20, help="for each target (default 20)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at once (default 2)")
    parser.add_argument("--keep", action="store_true", help="add what reached new code")
    FINDINGS.mkdir(exist_ok=True)
    if sys.argv[1:2] == ["--in-process"]:
        name, script, _, *arguments = sys.argv[2:]
        in_process(name, script, arguments)
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = chosen.targets or list(TARGETS)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        results = pool.map(lambda n: run_target(n, chosen.seconds, kept=chosen.keep), names)
        return 0 if all(list(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
