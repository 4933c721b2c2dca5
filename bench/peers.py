"""llama.cpp as a peer: answers measurement commands on standard input.

Runs under whatever interpreter has `llama_cpp`, so it imports nothing of ours. One JSON
command a line, one JSON answer a line: {"do": "load" | "prefill" | "decode" | "score" | "rss"}.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp as ll
import numpy as np


class Llama:
    """A model with one context shared by several sequences."""

    def __init__(self, path: str, rows: int, context: int, threads: int) -> None:
        ll.llama_backend_init()
        silent = ll.llama_log_callback(lambda *_: None)
        ll.llama_log_set(silent, ctypes.c_void_p(0))
        self._silent = silent
        self._model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        params = ll.llama_context_default_params()
        params.n_ctx = rows * context
        params.n_batch = 512
        params.n_ubatch = 512
        params.n_seq_max = rows
        params.n_threads = params.n_threads_batch = threads
        self._context = ll.llama_init_from_model(self._model, params)
        vocabulary = ll.llama_model_get_vocab(self._model)
        self._vocabulary = ll.llama_vocab_n_tokens(vocabulary)
        self._batch = ll.llama_batch_init(512, 0, 1)
        self._ends = [ll.llama_vocab_eos(vocabulary), ll.llama_vocab_bos(vocabulary)]

    def feed(self, items: list[tuple[int, int, int, bool]]) -> None:
        """Decode (token, position, sequence, wants logits) in one batch."""
        b = self._batch
        b.n_tokens = len(items)
        for i, (token, position, sequence, wanted) in enumerate(items):
            b.token[i], b.pos[i] = token, position
            b.n_seq_id[i] = 1
            b.seq_id[i][0] = sequence
            b.logits[i] = wanted
        if ll.llama_decode(self._context, b) != 0:
            raise RuntimeError("llama_decode failed")

    def logits(self, i: int) -> Any:
        pointer = ll.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary,))

    def clear(self) -> None:
        ll.llama_memory_clear(ll.llama_get_memory(self._context), True)

    def prompt(self, tokens: list[int], sequence: int) -> int:
        last = len(tokens) - 1
        self.feed([(t, i, sequence, i == last) for i, t in enumerate(tokens)])
        return int(self.logits(last).argmax())

    def prefill(self, tokens: list[int]) -> float:
        """Prompt tokens a second."""
        self.clear()
        start = time.perf_counter()
        self.prompt(tokens, 0)
        return len(tokens) / (time.perf_counter() - start)

    def decode(self, tokens: list[int], rows: int, count: int) -> float:
        """Generated tokens a second, `rows` sequences together."""
        self.clear()
        last = [self.prompt(tokens, row) for row in range(rows)]
        start = time.perf_counter()
        for step in range(count):
            position = len(tokens) + step
            self.feed([(t, position, row, True) for row, t in enumerate(last)])
            for row in range(rows):
                logits = self.logits(row)
                logits[self._ends] = -np.inf
                last[row] = int(logits.argmax())
        return rows * count / (time.perf_counter() - start)

    def score(self, tokens: list[int], out: str) -> None:
        """Logits at every position, saved as a numpy file."""
        self.clear()
        self.feed([(t, i, 0, True) for i, t in enumerate(tokens)])
        np.save(out, np.stack([self.logits(i).copy() for i in range(len(tokens))]))


def rss_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def main() -> None:
    engine: Llama | None = None
    for line in sys.stdin:
        c = json.loads(line)
        answer: Any = None
        if c["do"] == "load":
            engine = Llama(c["path"], c["rows"], c["context"], c["threads"])
        elif c["do"] == "rss":
            answer = rss_mb()
        elif engine is not None:
            if c["do"] == "prefill":
                answer = engine.prefill(c["tokens"])
            elif c["do"] == "decode":
                answer = engine.decode(c["tokens"], c["rows"], c["count"])
            elif c["do"] == "score":
                engine.score(c["tokens"], c["out"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
