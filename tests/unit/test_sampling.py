"""Sampling follows OpenAI's parameters, by distribution and by seed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_models import packaged_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from enclave.engine.api import Sampling
from enclave.engine.sampling import Sampler, check_sampling
from enclave.errors import InvalidRequest

VOCABULARY = 49152
LIKELY = {5: 3.0, 40000: 2.0, 300: 1.0, 49151: 0.0}


def logits(values: dict[int, float] | None = None, low: float = -60.0) -> np.ndarray:
    out = np.full(VOCABULARY, low, np.float32)
    for token, value in (values or LIKELY).items():
        out[token] = value
    return out


def sampler(**parameters: Any) -> Sampler:
    s = Sampling(**parameters)
    check_sampling(s, VOCABULARY)
    return Sampler(s, packaged_tokenizer())


def draw(count: int, row: np.ndarray, **parameters: Any) -> Counter[int]:
    s = sampler(**parameters)
    return Counter(s.choose(row)[0] for _ in range(count))


def expected(temperature: float = 1.0) -> dict[int, float]:
    weights = {t: math.exp(v / temperature) for t, v in LIKELY.items()}
    return {t: w / sum(weights.values()) for t, w in weights.items()}


def test_zero_temperature_is_the_likeliest_token() -> None:
    assert set(draw(5, logits(), temperature=0.0)) == {5}
    assert set(draw(5, logits(), temperature=1e-30)) == {5}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_distribution(temperature: float) -> None:
    count = 3000
    found = draw(count, logits(), temperature=temperature, seed=1)
    for token, p in expected(temperature).items():
        assert abs(found[token] / count - p) < 5 * math.sqrt(p * (1 - p) / count)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert set(draw(60, logits(), top_p=0.8, seed=2)) == {5, 40000}
    assert set(draw(20, logits(), top_p=0.0, seed=2)) == {5}


def test_top_k_keeps_k_and_top_p_applies_to_what_is_left() -> None:
    assert set(draw(60, logits(), top_k=3, seed=3)) == {5, 40000, 300}
    assert set(draw(60, logits(), top_k=2, top_p=0.7, seed=3)) == {5}
    assert set(draw(20, logits(), top_k=1, temperature=2.0, seed=3)) == {5}


def test_nucleus_wider_than_the_first_guess() -> None:
    flat = np.zeros(VOCABULARY, np.float32)
    found = draw(400, flat, top_p=0.5, seed=4)
    assert len(found) > 350
    assert max(found) < VOCABULARY // 2 + 1  # ties by index: the first half is the nucleus


@given(st.integers(0, 2**63 - 1), st.floats(0, 1), st.integers(0, 500))
def test_nucleus_equals_a_full_sort(seed: int, top_p: float, top_k: int) -> None:
    row = np.random.default_rng(seed).standard_normal(2000).astype(np.float32) * 4
    weights = np.exp(row - row.max())
    order = np.argsort(-weights, kind="stable")[: top_k or None]
    cumulative = np.cumsum(weights[order], dtype=np.float64)
    mass = top_p * float(weights[order].sum(dtype=np.float64))
    keep = int(np.searchsorted(cumulative, mass)) + 1
    found = Sampler(Sampling(top_p=top_p, top_k=top_k), packaged_tokenizer())._nucleus(weights)
    assert set(order[:keep].tolist()) == set(found.tolist())


def test_same_seed_same_tokens_other_seed_others() -> None:
    row = np.random.default_rng(0).standard_normal(VOCABULARY).astype(np.float32)

    def tokens(seed: int | None) -> list[int]:
        s = sampler(seed=seed)
        return [s.choose(row)[0] for _ in range(20)]

    assert tokens(7) == tokens(7)
    assert tokens(-7) == tokens(-7)
    assert tokens(7) != tokens(8)
    assert tokens(None) != tokens(None)


def test_logit_bias_bans_and_forces() -> None:
    assert 5 not in draw(200, logits(), logit_bias={5: -100.0}, seed=5)
    assert set(draw(20, logits(), logit_bias={777: 100.0}, seed=5)) == {777}


def test_penalties_count_generated_tokens() -> None:
    row = logits({5: 1.0, 6: 0.9}, low=-100.0)
    s = sampler(temperature=0.0, presence_penalty=0.5)
    assert [s.choose(row)[0] for _ in range(4)] == [5, 6, 5, 5]
    s = sampler(temperature=0.0, frequency_penalty=0.5)
    assert [s.choose(row)[0] for _ in range(4)] == [5, 6, 5, 6]
    assert row[5] == 1.0  # the caller's logits are not touched


def test_logprobs_are_the_models_own_before_any_adjustment() -> None:
    s = sampler(temperature=0.0, top_logprobs=3, logit_bias={5: -100.0})
    token, report = s.choose(logits())
    assert token == 40000 and report is not None
    p = expected()
    assert report.logprob == pytest.approx(math.log(p[40000]), abs=1e-5)
    assert [t.id for t in report.top] == [5, 40000, 300]
    assert report.top[0].logprob == pytest.approx(math.log(p[5]), abs=1e-5)
    assert report.token_bytes == packaged_tokenizer().token_bytes(40000)


def test_logprobs_without_alternatives_and_none_at_all() -> None:
    _, report = sampler(temperature=0.0, top_logprobs=0).choose(logits())
    assert report is not None and report.top == ()
    assert sampler(temperature=0.0).choose(logits())[1] is None


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("param", "value"),
    [
        *[("temperature", v) for v in (-0.1, 2.1, NAN, INF)],
        *[("top_p", v) for v in (-0.1, 1.1, NAN)],
        ("top_k", -1),
        ("max_tokens", 0),
        ("max_tokens", -5),
        *[("frequency_penalty", v) for v in (-2.1, 2.1, NAN)],
        *[("presence_penalty", v) for v in (-2.1, 2.1, INF)],
        *[("top_logprobs", v) for v in (-1, 21)],
        *[("logit_bias", v) for v in ({VOCABULARY: 1.0}, {-1: 1.0}, {5: NAN}, {5: 101.0})],
        *[("stop", v) for v in (("",), ("x",) * 17, ("x" * 2000,))],
    ],
)
def test_parameters_out_of_range_are_named(param: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_sampling(replace(Sampling(), **{param: value}), VOCABULARY)
    assert caught.value.param == param
