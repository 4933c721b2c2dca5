"""Our engine against llama.cpp on the same GGUF: `python -m bench.engine [--json]`.

Both run in their own process with two threads and take turns, so that a machine's mood falls on
both; each figure is the best of its rounds. The last line with `--json` is one object:
`prefill`, `decode_x1`, `decode_x4`, `decode_x8`, `rss_x8` as ours divided by llama.cpp's, and
`kl`, our divergence from a float32 computation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from enclave.engine.gguf import GgufFile
from enclave.engine.tokenizer import ChatTokenizer, Segment
from enclave.models import default_chat_model

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from llama_reference import divergence, reference_logits  # noqa: E402 - beside the tests

PEER: Final = "llama-cpp-python==0.3.36"
THREADS: Final = 2
PROMPT: Final = 256
GENERATE: Final = 96
CONTEXT: Final = 512


class Engine:
    """A process that answers measurement commands."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} stopped while asked to {do}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def peer_python() -> str:
    """An interpreter that has llama.cpp; built once into `.venv-bench` if there is none."""
    given = os.environ.get("ADYTON_BENCH_PEER_PYTHON")
    if given:
        return given
    own = ROOT / ".venv-bench" / "bin" / "python"
    for python in (sys.executable, str(own)):
        if Path(python).exists() and _has_llama(python):
            return python
    print(f"[bench] building {PEER} into .venv-bench: about ten minutes, once", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(own.parent.parent)], check=True)
    install = [str(own), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    subprocess.run([*install, PEER, "numpy"], check=True)
    return str(own)


def _has_llama(python: str) -> bool:
    found = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False)
    return found.returncode == 0


def ours() -> Engine:
    return Engine("ours", [sys.executable, "-m", "bench.subject"])


def theirs(python: str) -> Engine:
    return Engine("llama.cpp", [python, str(ROOT / "bench" / "peers.py")])


ASKED: Final = (
    ("prefill", "prefill", {}),
    *((f"decode_x{n}", "decode", {"rows": n, "count": GENERATE}) for n in (1, 4, 8)),
)


def speeds(
    model: str, tokens: list[int], python: str, rounds: int, threads: int
) -> dict[str, list[float]]:
    """Best [ours, theirs] of each figure in tokens a second.

    The two take turns figure by figure: what else the machine does comes and goes within
    seconds, only ever slows, and should find both.
    """
    best: dict[str, list[float]] = {}
    load = {"path": model, "rows": 8, "context": CONTEXT, "threads": threads}
    with ours() as a, theirs(python) as b:
        for engine in (a, b):
            engine.ask("load", **load)
            engine.ask("prefill", tokens=tokens)
        for round_number in range(1, rounds + 1):
            for figure, what, options in ASKED:
                pair = best.setdefault(figure, [0.0, 0.0])
                for i, engine in enumerate((a, b)):
                    pair[i] = max(pair[i], engine.ask(what, tokens=tokens, **options))
            shown = ", ".join(f"{f} {x:.0f} to {y:.0f}" for f, (x, y) in best.items())
            print(f"[bench] best after round {round_number}: {shown}", flush=True)
    return best


def memory(model: str, tokens: list[int], python: str) -> list[float]:
    """Resident megabytes [ours, theirs] after eight rows have run, in fresh processes."""
    out = []
    for engine in (ours(), theirs(python)):
        with engine:
            engine.ask("load", path=model, rows=8, context=CONTEXT, threads=THREADS)
            engine.ask("decode", tokens=tokens, rows=8, count=GENERATE)
            out.append(engine.ask("rss"))
    return out


def kl(model: Path) -> tuple[float, float]:
    """(KL(float32 || ours), top-1 agreement) on the text the tests use."""
    text = (ROOT / "tests" / "vectors" / "engine" / "kl.txt").read_text()
    file = GgufFile.read(model)
    tokenizer = ChatTokenizer(file, file.tensors["token_embd.weight"].rows)
    tokens = tokenizer.encode_segments([Segment(text, trusted=True)])
    with tempfile.TemporaryDirectory() as folder, ours() as engine:
        out = str(Path(folder) / "logits.npy")
        engine.ask("score", path=str(model), tokens=tokens, out=out, threads=THREADS)
        return divergence(reference_logits(model, tokens), np.load(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--model", type=Path, default=None, help="a GGUF file")
    arguments = parser.parse_args()
    model = arguments.model or default_chat_model()
    python = peer_python()
    tokens = np.random.default_rng(0).integers(1000, 40000, PROMPT).tolist()
    figures = speeds(str(model), tokens, python, arguments.rounds, arguments.threads)
    figures["rss_x8"] = memory(str(model), tokens, python)
    divergence_nats, agreement = kl(model)
    print(f"{'':12}{'ours':>10}{'llama.cpp':>12}{'ratio':>8}")
    result = {}
    for figure, (mine, peer) in figures.items():
        unit = "MB" if figure.startswith("rss") else "tok/s"
        result[figure] = round(mine / peer, 3)
        print(f"{figure:12}{mine:10.1f}{peer:12.1f}{result[figure]:8.2f}  {unit}")
    result["kl"] = round(divergence_nats, 6)
    print(f"{'kl':12}{divergence_nats:10.5f} nats, first choice agrees {agreement:.3f}")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
