"""One generation from its first token to its end: text, stop strings, limits, events."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enclave.engine.api import FinishReason, GenerationEvent, Sampling, TokenLogprob
from enclave.engine.sampling import Sampler
from enclave.engine.tokenizer import ChatTokenizer, Detokenizer


class StopStrings:
    """Text goes in; text that can no longer become part of a stop string comes out."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text now certain, whether a stop string was met; what follows it is dropped)."""
        self._held += text
        found = [at for at in (self._held.find(s) for s in self._stops) if at >= 0]
        if found:
            certain, self._held = self._held[: min(found)], ""
            return certain, True
        keep = self._undecided()
        certain, self._held = (
            self._held[: len(self._held) - keep],
            self._held[-keep:] if keep else "",
        )
        return certain, False

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    @property
    def holding(self) -> bool:
        return bool(self._held)

    def _undecided(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest


class Generation:
    """State of one request. `length` counts tokens in its cache row."""

    def __init__(
        self,
        number: int,
        prompt: Sequence[int],
        sampling: Sampling,
        tokenizer: ChatTokenizer,
        context: int,
    ) -> None:
        self.number = number
        self.prompt: NDArray[np.int64] = np.array(prompt, np.int64)
        self.length = 0
        self.last_token = -1
        self._limit = context - len(prompt)
        if sampling.max_tokens is not None:
            self._limit = min(self._limit, sampling.max_tokens)
        self._ends = tokenizer.end_tokens
        self._sampler = Sampler(sampling, tokenizer)
        self._text = Detokenizer(tokenizer)
        self._stops = StopStrings(sampling.stop)
        self._count = 0
        self._chars = 0  # decoded so far
        self._emitted = 0  # of those, sent
        self._unsent: deque[tuple[int, TokenLogprob]] = deque()

    @property
    def prefilled(self) -> bool:
        return self.length >= len(self.prompt)

    def started(self) -> GenerationEvent:
        return self._event()

    def failed(self, error: Exception) -> GenerationEvent:
        return GenerationEvent(len(self.prompt), self._count, error=error)

    def advance(self, logits: NDArray[np.float32]) -> GenerationEvent:
        """Choose the next token and say what became certain."""
        token, logprob = self._sampler.choose(logits)
        self.last_token = token
        self._count += 1
        if token in self._ends:
            return self._finished(FinishReason.STOP)
        piece = self._text.push(token)
        self._chars += len(piece)
        if logprob is not None:
            self._unsent.append((self._chars + self._text.pending, logprob))
        certain, stopped = self._stops.push(piece)
        self._emitted += len(certain)
        if stopped:
            return self._event(certain, FinishReason.STOP)
        if self._count >= self._limit:
            return self._finished(FinishReason.LENGTH, certain)
        return self._event(certain)

    def _finished(self, reason: FinishReason, certain: str = "") -> GenerationEvent:
        text, stopped = self._stops.push(self._text.finish())
        rest = certain + text + ("" if stopped else self._stops.flush())
        self._emitted = self._chars + 1  # nothing more is coming: every token is accounted for
        return self._event(rest, FinishReason.STOP if stopped else reason)

    def _event(self, text: str = "", finish: FinishReason | None = None) -> GenerationEvent:
        logprobs = []
        while self._unsent and self._unsent[0][0] <= self._emitted:
            logprobs.append(self._unsent.popleft()[1])
        return GenerationEvent(len(self.prompt), self._count, text, tuple(logprobs), finish)
