"""Our engine behind the same measurement commands as its peer, through its public interface.

Decoding is measured with everything a request gets: sampling, detokenising, events.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from enclave.engine import load_chat_engine
from enclave.engine.api import EventBatch, Sampling
from enclave.engine.chat import open_forward
from enclave.engine.gguf import GgufFile
from enclave.engine.graph import convert


class Subject:
    """An engine, and the token counts of what runs in it."""

    def __init__(self, path: str, rows: int, context: int, threads: int) -> None:
        self._wanted = 0
        self._counts: dict[int, int] = {}
        self._window: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._unfinished = 0
        self._engine = load_chat_engine(
            Path(path),
            id="bench",
            rows=rows,
            context=context,
            threads=threads,
            deliver=self._deliver,
        )

    def _deliver(self, events: EventBatch) -> None:
        now = time.perf_counter()
        for number, event in events:
            self._counts[number] = event.completion_tokens
            if event.finish_reason or event.error:
                self._unfinished -= 1
        together = len(self._counts) == self._wanted and min(self._counts.values()) > 0
        if together and (self._unfinished == self._wanted or not self._window):
            self._window.append((now, sum(self._counts.values())))
        if self._unfinished == 0:
            self._ended.set()

    def _run(self, tokens: list[int], rows: int, count: int) -> None:
        self._counts, self._window = {}, []
        self._wanted = self._unfinished = rows
        self._ended.clear()
        never = {0: -100.0, 1: -100.0, 2: -100.0}
        for _ in range(rows):
            self._engine.submit(tokens, Sampling(0.0, max_tokens=count, logit_bias=never))
        self._ended.wait()

    def prefill(self, tokens: list[int]) -> float:
        """Prompt tokens a second, from submission to the first token."""
        start = time.perf_counter()
        self._run(tokens, 1, 1)
        return len(tokens) / (time.perf_counter() - start)

    def decode(self, tokens: list[int], rows: int, count: int) -> float:
        """Generated tokens a second while all `rows` run.

        Rows join one after another, so the first has a head start: about four steps a row.
        """
        self._run(tokens, rows, count + 5 * rows)
        (start, before), (end, after) = self._window[0], self._window[-1]
        return (after - before) / (end - start)


def score(path: str, tokens: list[int], out: str, threads: int) -> None:
    """Logits at every position, saved as a numpy file."""
    model = convert(GgufFile.read(Path(path)), len(tokens) + 1)
    forward = open_forward(model, rows=1, context=len(tokens) + 1, threads=threads)
    positions = np.arange(len(tokens))
    np.save(out, forward.score(0, np.array(tokens, np.int64), 0, positions))


def main() -> None:
    subject: Subject | None = None
    for line in sys.stdin:
        c = json.loads(line)
        answer: Any = None
        if c["do"] == "load":
            subject = Subject(c["path"], c["rows"], c["context"], c["threads"])
        elif c["do"] == "rss":
            answer = psutil.Process().memory_info().rss / (1 << 20)
        elif c["do"] == "score":
            score(c["path"], c["tokens"], c["out"], c["threads"])
        elif subject is not None and c["do"] == "prefill":
            answer = subject.prefill(c["tokens"])
        elif subject is not None and c["do"] == "decode":
            answer = subject.decode(c["tokens"], c["rows"], c["count"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
