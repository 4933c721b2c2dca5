"""Requests are read strictly, and refusals carry rules rather than values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedEvidence
from enclave.errors import InvalidRequest
from gateway import work
from gateway.errors import ApiError
from gateway.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    parse,
    read_json,
    requested_model,
)

DIGEST = "sha256:" + "0" * 64
BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def read(kind: Any, value: dict[str, Any]) -> Any:
    return parse(kind, value, max_messages=4, max_inputs=4)


def refusal(kind: Any, value: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as refused:
        read(kind, value)
    assert refused.value.status == 400
    return refused.value


def test_null_means_absent_for_every_optional_member() -> None:
    optional = set(ChatRequest.model_fields) - {"model", "messages"}
    request = read(ChatRequest, {**BASE, **dict.fromkeys(optional)})
    assert request.stop_strings == [] and not request.include_usage


def test_unsupported_members_are_fine_while_they_ask_for_nothing() -> None:
    harmless = {"n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}}
    request = read(ChatRequest, {**BASE, **harmless, "logit_bias": {}, "modalities": ["text"]})
    assert (request.model, request.logit_bias) == (BASE["model"], {})


@pytest.mark.parametrize("value", [True, 2, "1", [1]])
def test_one_choice_is_the_number_one(value: Any) -> None:
    assert refusal(ChatRequest, {**BASE, "n": value}).param == "n"


def test_a_member_nobody_knows_is_named_only_if_it_is_a_name() -> None:
    assert refusal(ChatRequest, {**BASE, "min_p": 1}).param == "min_p"
    unnamed = refusal(ChatRequest, {**BASE, "my secret prompt": 1})
    assert unnamed.param is None and "secret" not in unnamed.message


def test_long_arrays_are_refused_before_they_are_read() -> None:
    assert refusal(ChatRequest, {**BASE, "messages": [None] * 5}).code == "array_too_long"
    assert refusal(EmbeddingRequest, {"model": "m", "input": [7] * 5}).code == "array_too_long"


def test_parts_and_roles_are_rendered_for_the_template() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": parts}, *BASE["messages"]]
    generation = work.chat(read(ChatRequest, {**BASE, "messages": messages}), DIGEST)
    expected = '[{"role":"system","content":"ab"},{"role":"user","content":"hi"}]'
    assert generation.request.messages_json == expected


def test_sampling_reaches_the_engine_and_absence_stays_absence() -> None:
    absent = work.chat(read(ChatRequest, BASE), DIGEST).request.sampling
    assert not absent.HasField("temperature") and not absent.HasField("max_tokens")
    assert not absent.HasField("top_logprobs")
    value = {
        **BASE,
        "temperature": 0,
        "top_p": 1,
        "seed": -3,
        "max_completion_tokens": 9,
        "stop": "x",
        "logit_bias": {"17": -100},
        "logprobs": True,
    }
    sampling = work.chat(read(ChatRequest, value), DIGEST).request.sampling
    assert sampling.HasField("temperature") and sampling.temperature == 0
    assert (sampling.seed, sampling.max_tokens, list(sampling.stop)) == (-3, 9, ["x"])
    assert dict(sampling.logit_bias) == {17: -100}
    assert sampling.HasField("top_logprobs") and sampling.top_logprobs == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_members_that_contradict_each_other(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        work.chat(read(ChatRequest, {**BASE, **change}), DIGEST)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("prompt", "field"),
    [("text", "text"), (["text"], "text"), ([1, 2], "tokens"), ([[1, 2]], "tokens")],
)
def test_the_forms_of_one_prompt(prompt: Any, field: str) -> None:
    generation = work.text(read(CompletionRequest, {"model": "m", "prompt": prompt}), DIGEST)
    assert generation.request.WhichOneof("prompt") == field
    assert generation.request.sampling.max_tokens == work.DEFAULT_COMPLETION_TOKENS


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null"])
def test_a_body_is_an_object(body: bytes) -> None:
    with pytest.raises(ApiError):
        read_json(body)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_our_errors(body: bytes) -> None:
    try:
        value = read_json(body)
        read(ChatRequest, value)
    except (ApiError, MalformedEvidence):
        return
    assert requested_model(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.sampled_from([ChatRequest, CompletionRequest, EmbeddingRequest]),
    st.dictionaries(
        st.sampled_from(sorted({*ChatRequest.model_fields, "prompt", "input", "tools"})), JSON
    ),
)
def test_arbitrary_members_raise_only_our_errors(kind: Any, members: dict[str, Any]) -> None:
    try:
        read(kind, {**BASE, **members})
    except ApiError as e:
        assert e.status == 400 and e.message


@given(st.text(min_size=6, max_size=30).filter(lambda s: not s.isascii() or " " in s))
def test_no_refusal_repeats_a_value(secret: str) -> None:
    for change in (
        {"temperature": secret},
        {"messages": [{"role": secret, "content": "x"}]},
        {"messages": [{"role": "user", "content": {"x": secret}}]},
        {"stop": [secret, 1]},
        {"logit_bias": {secret: 0}},
        {"stream_options": {secret: 1}},
        {"provider": {"aci_" + secret: 1}},
    ):
        error = refusal(ChatRequest, {**BASE, **change})
        assert secret not in error.message
