"""One row of logits becomes one token, by OpenAI's parameters.

Every generation owns a counter-based random stream, so the same seed gives the same tokens
whoever shares the batch.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from enclave.engine.api import Sampling, TokenLogprob
from enclave.engine.tokenizer import ChatTokenizer
from enclave.errors import InvalidRequest

GREEDY_BELOW = 1e-5
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
NUCLEUS_GUESS = 256
PEAK_BLOCK = 64
SEED_MASK = (1 << 64) - 1

F32 = NDArray[np.float32]


def check_sampling(s: Sampling, vocab_size: int) -> None:
    """Refuse parameters outside OpenAI's ranges, NaN included. Raises InvalidRequest."""
    _within("temperature", s.temperature, 0.0, 2.0)
    _within("top_p", s.top_p, 0.0, 1.0)
    _within("frequency_penalty", s.frequency_penalty, -2.0, 2.0)
    _within("presence_penalty", s.presence_penalty, -2.0, 2.0)
    if s.top_k < 0:
        raise InvalidRequest("top_k", "top_k must not be negative")
    if s.max_tokens is not None and s.max_tokens < 1:
        raise InvalidRequest("max_tokens", "max_tokens must be at least 1")
    if s.top_logprobs is not None and not 0 <= s.top_logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidRequest("top_logprobs", f"top_logprobs must be 0 to {MAX_TOP_LOGPROBS}")
    if len(s.stop) > MAX_STOPS:
        raise InvalidRequest("stop", f"at most {MAX_STOPS} stop strings")
    if any(not 0 < len(text) <= MAX_STOP_CHARS for text in s.stop):
        raise InvalidRequest("stop", f"a stop string has 1 to {MAX_STOP_CHARS} characters")
    for token, bias in s.logit_bias.items():
        if not 0 <= token < vocab_size:
            raise InvalidRequest("logit_bias", "logit_bias names a token that does not exist")
        _within("logit_bias", bias, -100.0, 100.0)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(name, f"{name} must be from {low:g} to {high:g}")


class Sampler:
    """The choices of one generation. `s` has passed `check_sampling`."""

    def __init__(self, s: Sampling, tokenizer: ChatTokenizer) -> None:
        self._s = s
        self._tokenizer = tokenizer
        seed = secrets.randbits(64) if s.seed is None else s.seed & SEED_MASK
        self._random = np.random.Generator(np.random.Philox(key=seed))
        self._seen: Counter[int] = Counter()
        self._biased = np.array(list(s.logit_bias), np.int64)
        self._bias = np.array(list(s.logit_bias.values()), np.float32)
        self._scratch: F32 | None = None
        self._penalised = bool(s.frequency_penalty or s.presence_penalty)

    def choose(self, logits: F32) -> tuple[int, TokenLogprob | None]:
        """The next token from logits float32 (vocabulary,), which are left unchanged."""
        scores = self._adjusted(logits)
        greedy = self._s.temperature < GREEDY_BELOW
        token = int(scores.argmax()) if greedy else self._draw(scores)
        if self._penalised:
            self._seen[token] += 1
        return token, self._report(logits, token)

    def _adjusted(self, logits: F32) -> F32:
        if not len(self._biased) and not self._seen:
            return logits
        scores = logits.copy()
        if self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            counts = np.fromiter(self._seen.values(), np.float32, len(self._seen))
            scores[ids] -= counts * self._s.frequency_penalty + self._s.presence_penalty
        scores[self._biased] += self._bias
        return scores

    def _draw(self, scores: F32) -> int:
        if self._scratch is None:  # a fresh array a token would cost more than the arithmetic
            self._scratch = np.empty_like(scores)
        weights = np.subtract(scores, scores.max(), out=self._scratch)
        weights *= np.float32(1.0 / self._s.temperature)
        np.exp(weights, out=weights)
        u = self._random.random()
        if self._s.top_k or self._s.top_p < 1.0:
            ids = self._nucleus(weights)
            return int(ids[_pick(weights[ids], u)])
        return _pick(weights, u)

    def _nucleus(self, weights: F32) -> NDArray[np.int64]:
        """Ids allowed by top_k, then by top_p of what it leaves, likeliest first; at least one."""
        top_p = self._s.top_p
        if 0 < self._s.top_k < len(weights):
            ids = _largest(weights, self._s.top_k)
            return _covering(ids, weights, top_p * float(weights[ids].sum(dtype=np.float64)))
        total = float(weights.sum(dtype=np.float64))
        ids = _largest(weights, NUCLEUS_GUESS)
        if weights[ids].sum(dtype=np.float64) < top_p * total:
            # All weights under this floor together are less than top_p leaves out.
            ids = np.flatnonzero(weights >= (1.0 - top_p) * total / len(weights))
            ids = ids[np.argsort(-weights[ids], kind="stable")]
        return _covering(ids, weights, top_p * total)

    def _report(self, logits: F32, token: int) -> TokenLogprob | None:
        """Log-probabilities under the model's own distribution, before any adjustment."""
        if self._s.top_logprobs is None:
            return None
        peak = logits.max()
        norm = float(peak) + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
        best = _largest(logits, self._s.top_logprobs) if self._s.top_logprobs else ()
        top = tuple(self._entry(int(i), float(logits[i]) - norm) for i in best)
        return self._entry(token, float(logits[token]) - norm, top)

    def _entry(
        self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        raw = self._tokenizer.token_bytes(token)
        return TokenLogprob(token, raw.decode("utf-8", "replace"), raw, logprob, top)


def _covering(ids: NDArray[np.int64], weights: F32, mass: float) -> NDArray[np.int64]:
    """The first of `ids` whose weights add up to `mass`."""
    cumulative = np.cumsum(weights[ids], dtype=np.float64)
    return ids[: int(np.searchsorted(cumulative, mass)) + 1]


def _largest(values: F32, count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest values, largest first, ties by index.

    The count-th largest of the blocks' peaks is a floor under all of them, which leaves few
    candidates of a whole vocabulary to sort.
    """
    blocks = len(values) // PEAK_BLOCK
    if count < blocks:
        peaks = values[: blocks * PEAK_BLOCK].reshape(blocks, PEAK_BLOCK).max(axis=1)
        floor = np.partition(peaks, blocks - count)[blocks - count]
        some = np.flatnonzero(values >= floor)
    else:
        some = np.arange(len(values))
    return some[np.argsort(-values[some], kind="stable")[:count]]


def _pick(weights: F32, u: float) -> int:
    """The index at which the running sum of `weights` passes u of the total (0 <= u < 1).

    Sums of 256 weights narrow the search, so that a whole vocabulary is summed once, not
    accumulated.
    """
    block = 256
    whole = len(weights) // block * block
    sums = weights[:whole].reshape(-1, block).sum(axis=1)
    edges = np.cumsum(np.append(sums, weights[whole:].sum()), dtype=np.float64)
    target = u * edges[-1]
    b = int(np.searchsorted(edges, target, side="right"))
    b = min(b, len(edges) - 1)
    start = b * block
    inside = np.cumsum(weights[start : start + block], dtype=np.float64)
    before = edges[b - 1] if b else 0.0
    at = int(np.searchsorted(inside, target - before, side="right"))
    if at >= len(inside):  # rounding put the target past the last weight
        return int(np.flatnonzero(weights)[-1])
    return start + at
