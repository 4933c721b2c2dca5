"""What the worker makes of the numbers and texts it is sent, and of its own errors."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.engine.api import FinishReason, GenerationEvent, TokenLogprob
from enclave.errors import (
    EnclaveError,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Overloaded,
    SlowReader,
    WorkerUnavailable,
)
from enclave.worker.convert import check_tokens, event_message, parse_messages, parse_sampling
from enclave.worker.mailbox import Mailbox, join_events
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.wire import error_of, status_of

VOCAB = 100


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -0.01),
        ("temperature", 2.01),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("frequency_penalty", -2.01),
        ("frequency_penalty", math.nan),
        ("presence_penalty", 2.01),
        ("presence_penalty", -math.inf),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("top_logprobs", -1),
        ("top_logprobs", 21),
        ("stop", [""]),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ["x" * 1025]),
        ("logit_bias", {VOCAB: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: 100.5}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: -math.inf}),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(param: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_sampling(pb.Sampling(**{param: value}), VOCAB)
    assert refusal.value.param == param


def test_the_ends_of_every_range_are_accepted() -> None:
    low = pb.Sampling(
        temperature=0,
        top_p=1e-6,
        top_k=0,
        seed=-(2**63),
        max_tokens=1,
        stop=["x"],
        logit_bias={0: -100},
        frequency_penalty=-2,
        presence_penalty=-2,
        top_logprobs=0,
    )
    high = pb.Sampling(
        temperature=2,
        top_p=1,
        top_k=2**31 - 1,
        seed=2**63 - 1,
        max_tokens=2**31 - 1,
        stop=["a", "b", "c", "d" * 1024],
        logit_bias={VOCAB - 1: 100},
        frequency_penalty=2,
        presence_penalty=2,
        top_logprobs=20,
    )
    assert parse_sampling(low, VOCAB).temperature == 0
    assert parse_sampling(low, VOCAB).top_logprobs == 0
    assert parse_sampling(high, VOCAB).logit_bias == {VOCAB - 1: 100}
    assert parse_sampling(high, VOCAB).seed == 2**63 - 1


def test_what_is_absent_has_openais_default_and_zero_is_not_absent() -> None:
    absent = parse_sampling(pb.Sampling(), VOCAB)
    assert (absent.temperature, absent.top_p, absent.top_k) == (1.0, 1.0, 0)
    assert absent.seed is None and absent.max_tokens is None and absent.top_logprobs is None
    zero = parse_sampling(pb.Sampling(temperature=0, seed=0, top_logprobs=0), VOCAB)
    assert (zero.temperature, zero.seed, zero.top_logprobs) == (0.0, 0, 0)


@given(
    st.builds(
        pb.Sampling,
        temperature=st.floats(width=32),
        top_p=st.floats(width=32),
        top_k=st.integers(-(2**31), 2**31 - 1),
        max_tokens=st.integers(-(2**31), 2**31 - 1),
        stop=st.lists(st.text(), max_size=6),
        logit_bias=st.dictionaries(
            st.integers(-(2**31), 2**31 - 1), st.floats(width=32), max_size=3
        ),
        frequency_penalty=st.floats(width=32),
        presence_penalty=st.floats(width=32),
        top_logprobs=st.integers(-(2**31), 2**31 - 1),
    )
)
def test_no_number_gets_past_its_range(message: pb.Sampling) -> None:
    try:
        sampling = parse_sampling(message, VOCAB)
    except InvalidRequest:
        return
    assert 0 <= sampling.temperature <= 2 and 0 < sampling.top_p <= 1 and sampling.top_k >= 0
    assert all(-2 <= p <= 2 for p in (sampling.frequency_penalty, sampling.presence_penalty))
    assert all(0 <= t < VOCAB and -100 <= b <= 100 for t, b in sampling.logit_bias.items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '"hello"',
        "[1]",
        "[[]]",
        "[{}, null]",
        "not json",
        '[{"role":"user","content":"\\ud800"}]',
        "[" * 100_000,
        '[{"n":' + "9" * 10_000 + "}]",
    ],
)
def test_messages_that_are_not_a_list_of_text_objects_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_messages(text)
    assert refusal.value.param == "messages"


def test_an_escaped_pair_of_surrogates_is_text() -> None:
    messages = parse_messages('[{"role":"user","content":"\\ud83d\\ude00"}]')
    assert messages == [{"role": "user", "content": "\U0001f600"}]


@given(st.text())
def test_arbitrary_messages_raise_only_invalid_request(text: str) -> None:
    try:
        assert parse_messages(text)
    except InvalidRequest as refusal:
        assert refusal.param == "messages"


@pytest.mark.parametrize("ids", [[], [-1], [VOCAB], [0, VOCAB]])
def test_token_ids_outside_the_vocabulary_are_refused(ids: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        check_tokens(ids, VOCAB)


def test_an_event_keeps_everything_on_its_way() -> None:
    top = TokenLogprob(7, "b", b"b", -2.0)
    event = GenerationEvent(
        3, 2, "\u00e9", (TokenLogprob(5, "\ufffd", b"\xc3", -0.5, (top,)),), FinishReason.LENGTH
    )
    message = event_message(event)
    assert (message.prompt_tokens, message.completion_tokens, message.text) == (3, 2, "\u00e9")
    assert message.finish_reason == pb.FINISH_REASON_LENGTH
    assert message.logprobs[0].token_bytes == b"\xc3"
    assert message.logprobs[0].top[0].logprob == -2.0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("stop", "no", "bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (InvalidRequest("stop", "no"), grpc.StatusCode.INVALID_ARGUMENT),
        (ModelNotFound("gpt-9"), grpc.StatusCode.NOT_FOUND),
        (Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (SlowReader("slow"), grpc.StatusCode.ABORTED),
        (WorkerUnavailable("gone"), grpc.StatusCode.UNAVAILABLE),
        (ModelError("other digest"), grpc.StatusCode.FAILED_PRECONDITION),
        (EnclaveError("broken"), grpc.StatusCode.INTERNAL),
    ],
)
def test_our_errors_survive_the_way_there_and_back(error: Any, code: grpc.StatusCode) -> None:
    status, details = status_of(error)
    back: Any = error_of(status, details)
    assert status is code
    assert type(back) is type(error)
    assert str(back) == str(error)
    if isinstance(error, InvalidRequest):
        assert (back.param, back.message, back.code) == (error.param, error.message, error.code)


def test_an_unforeseen_error_travels_without_its_message() -> None:
    code, details = status_of(ValueError("canary: the prompt was about cheese"))
    assert code is grpc.StatusCode.INTERNAL
    assert "ValueError" in details and "cheese" not in details


@pytest.mark.parametrize("details", ["", "null", "[]", "{}", "{", '{"param":1}', "7"])
def test_an_invalid_argument_without_our_details_is_still_our_error(details: str) -> None:
    error = error_of(grpc.StatusCode.INVALID_ARGUMENT, details)
    assert type(error) is EnclaveError


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_is_one_of_our_errors(code: grpc.StatusCode) -> None:
    assert isinstance(error_of(code, None), EnclaveError)


def test_a_long_message_fits_the_headers_it_travels_in() -> None:
    _, details = status_of(InvalidRequest("messages", "x" * 100_000))
    assert len(details) < 4096 and json.loads(details)["param"] == "messages"
    assert len(status_of(ModelError("x" * 100_000))[1]) <= 4096


# --- the mailbox ---------------------------------------------------------------------


def text(part: str, count: int = 0, finish: pb.FinishReason = 0) -> pb.GenerateEvent:  # type: ignore[assignment]
    return pb.GenerateEvent(text=part, completion_tokens=count, finish_reason=finish)


def test_joined_events_tell_what_both_told() -> None:
    first = pb.GenerateEvent(prompt_tokens=9, text="a", completion_tokens=1)
    first.logprobs.add(id=1)
    second = text("b", 2, pb.FINISH_REASON_STOP)
    second.logprobs.add(id=2)
    join_events(first, second)
    assert (first.prompt_tokens, first.text, first.completion_tokens) == (9, "ab", 2)
    assert [entry.id for entry in first.logprobs] == [1, 2]
    assert first.finish_reason == pb.FINISH_REASON_STOP


async def test_events_nobody_took_become_one_and_no_text_is_lost() -> None:
    box = Mailbox(patience_s=60)
    for i in range(1000):
        assert box.put(text(f"{i},", i + 1))
    box.put(text("end", 1001, pb.FINISH_REASON_STOP))
    event = await box.get()
    assert event is not None
    assert event.text == "".join(f"{i}," for i in range(1000)) + "end"
    assert event.completion_tokens == 1001
    assert await box.get() is None


async def test_a_reader_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("enclave.worker.mailbox.time.monotonic", lambda: clock[0])
    box = Mailbox(patience_s=5)
    assert box.put(text("a"))
    clock[0] = 4.0
    assert box.put(text("b"))
    assert (await box.get()) is not None  # it read, so its patience starts anew
    assert box.put(text("c"))
    clock[0] = 9.5
    assert not box.put(text("d"))


async def test_an_error_comes_after_what_was_already_told() -> None:
    box = Mailbox(patience_s=60)
    box.put(text("a"))
    box.fail(WorkerUnavailable("gone"))
    box.fail(Overloaded("too late to change the reason"))
    box.put(text("too late"))
    event = await box.get()
    assert event is not None and event.text == "a"
    with pytest.raises(WorkerUnavailable):
        await box.get()


async def test_a_waiting_reader_is_woken_by_an_event_and_by_an_error() -> None:
    box = Mailbox(patience_s=60)
    reader = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    box.put(text("a"))
    assert (await reader).text == "a"  # type: ignore[union-attr]
    reader = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    box.fail(Overloaded("full"))
    with pytest.raises(Overloaded):
        await reader
