"""Continuous batching: whoever shares the batch, each generation is its own single run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_models import CONTEXT, packaged_forward, packaged_tokenizer, write_tiny

from enclave.engine.api import EventBatch, FinishReason, GenerationEvent, Sampling
from enclave.engine.batch import CHUNK_SHARED, Batch
from enclave.engine.chat import open_forward
from enclave.engine.generation import Generation, StopStrings
from enclave.engine.gguf import GgufFile
from enclave.engine.graph import convert
from enclave.engine.tokenizer import ChatTokenizer
from enclave.errors import EnclaveError, InvalidRequest, Overloaded, WorkerUnavailable

PROMPTS = [
    "The harbour at Saint-Malo empties twice a day, and when the tide",
    "def fibonacci(n):",
    "1, 2, 3, 4, 5, 6, 7,",
    "Once upon a time there was a ruler that sank. " * 9,
    "Water",
    "Dear Ada, thank you for your letter of the 4th. I read it on the train and",
    "The three laws of thermodynamics are",
    "Bonjour, je m'appelle",
]
NEVER_END = {0: -100.0, 2: -100.0}


class Collector:
    """Receives events; `wait` returns once these generations have ended."""

    def __init__(self) -> None:
        self.events: dict[int, list[GenerationEvent]] = {}
        self.calls = 0
        self._changed = threading.Condition()
        self.on_event: Callable[[int, GenerationEvent], None] | None = None

    def __call__(self, batch: EventBatch) -> None:
        with self._changed:
            self.calls += 1
            for number, event in batch:
                self.events.setdefault(number, []).append(event)
            self._changed.notify_all()
        for number, event in batch:
            if self.on_event is not None:
                self.on_event(number, event)

    def wait(self, numbers: Sequence[int]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: all(self._ended(n) for n in numbers), 120)

    def wait_for_tokens(self, number: int, count: int) -> None:
        def enough() -> bool:
            return any(e.completion_tokens >= count for e in self.events.get(number, []))

        with self._changed:
            assert self._changed.wait_for(enough, 120)

    def _ended(self, number: int) -> bool:
        last = self.events.get(number, [None])[-1]
        return last is not None and (last.finish_reason is not None or last.error is not None)

    def ids(self, number: int) -> list[int]:
        return [t.id for e in self.events[number] for t in e.logprobs]

    def text(self, number: int) -> str:
        return "".join(e.text for e in self.events[number])


@pytest.fixture
def batch() -> Iterator[tuple[Batch, Collector]]:
    collector = Collector()
    b = Batch(packaged_forward(), packaged_tokenizer(), collector)
    yield b, collector
    b.close()


def prompt(i: int) -> list[int]:
    return packaged_tokenizer().encode(PROMPTS[i])


def settings(i: int, tokens: int = 32) -> Sampling:
    """Even ones greedy, odd ones seeded, all of known length."""
    common: dict[str, Any] = {"max_tokens": tokens, "logit_bias": NEVER_END, "top_logprobs": 0}
    if i % 2 == 0:
        return Sampling(temperature=0.0, **common)
    return Sampling(temperature=0.9, top_p=0.95, seed=i, **common)


@pytest.fixture(scope="module")
def single_runs() -> dict[int, list[int]]:
    """The tokens of each prompt when it has the engine to itself."""
    collector = Collector()
    b = Batch(packaged_forward(), packaged_tokenizer(), collector)
    out = {}
    for i in range(len(PROMPTS)):
        number = b.submit(prompt(i), settings(i))
        collector.wait([number])
        out[i] = collector.ids(number)
        assert len(out[i]) == 32
    b.close()
    return out


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_rows_together_equal_single_runs(
    batch: tuple[Batch, Collector], single_runs: dict[int, list[int]], rows: int
) -> None:
    b, collector = batch
    numbers = [b.submit(prompt(i), settings(i)) for i in range(rows)]
    collector.wait(numbers)
    for i, number in enumerate(numbers):
        assert collector.ids(number) == single_runs[i]


def test_joining_and_leaving_mid_flight_disturbs_nobody(
    batch: tuple[Batch, Collector], single_runs: dict[int, list[int]]
) -> None:
    b, collector = batch
    numbers: dict[int, int] = {}
    for i in (0, 1, 2):
        numbers[i] = b.submit(prompt(i), settings(i))
    collector.wait_for_tokens(numbers[0], 5)
    gone = b.submit(prompt(4), settings(4, tokens=200))
    short = b.submit(prompt(5), replace(settings(5), max_tokens=3))
    numbers[3] = b.submit(prompt(3), settings(3))  # a long prompt, read in chunks
    collector.wait_for_tokens(gone, 4)
    b.cancel(gone)
    numbers[6] = b.submit(prompt(6), settings(6))
    numbers[7] = b.submit(prompt(7), settings(7))
    collector.wait([*numbers.values(), short])
    for i, number in numbers.items():
        assert collector.ids(number) == single_runs[i]
    assert collector.ids(short) == single_runs[5][:3]
    assert collector.events[gone][-1].finish_reason is None


def test_more_requests_than_rows_all_finish(batch: tuple[Batch, Collector]) -> None:
    b, collector = batch
    numbers = [b.submit(prompt(i % 8), settings(i % 8, tokens=4)) for i in range(20)]
    collector.wait(numbers)
    assert all(len(collector.ids(n)) == 4 for n in numbers)
    assert b.stats().rows_running == 0


def test_cancelled_row_is_free_again_and_says_no_more(batch: tuple[Batch, Collector]) -> None:
    b, collector = batch
    numbers = [b.submit(prompt(i), settings(i, tokens=300)) for i in range(8)]
    collector.wait_for_tokens(numbers[-1], 1)
    for number in numbers:
        b.cancel(number)
    b.cancel(987654)  # unknown: ignored
    after = b.submit(prompt(0), settings(0, tokens=2))
    collector.wait([after])
    said = {n: len(collector.events[n]) for n in numbers}
    last = b.submit(prompt(0), settings(0, tokens=3))
    collector.wait([last])
    assert said == {n: len(collector.events[n]) for n in numbers}
    assert b.stats().rows_running == 0
    assert not any(part[row].any() for part in packaged_forward().cache.parts for row in range(8))


def test_waiting_line_is_bounded() -> None:
    collector = Collector()
    b = Batch(packaged_forward(), packaged_tokenizer(), collector, max_waiting=2)
    running = [b.submit(prompt(i), settings(i, tokens=300)) for i in range(1)]
    collector.wait_for_tokens(running[0], 1)
    filled = []
    with pytest.raises(Overloaded):
        for _ in range(30):
            filled.append(b.submit(prompt(3), settings(0, tokens=300)))
    waiting = filled[-1]
    b.cancel(waiting)  # leaves the line without ever having a row
    b.close()
    assert waiting not in collector.events


def test_close_ends_running_and_waiting_with_an_error() -> None:
    collector = Collector()
    b = Batch(packaged_forward(), packaged_tokenizer(), collector)
    numbers = [b.submit(prompt(0), settings(0, tokens=300)) for _ in range(12)]
    collector.wait_for_tokens(numbers[0], 1)
    b.close()
    for number in numbers:
        assert isinstance(collector.events[number][-1].error, WorkerUnavailable)
    with pytest.raises(WorkerUnavailable):
        b.submit(prompt(0), settings(0))


def test_failing_model_step_ends_its_generations_and_not_the_engine(
    batch: tuple[Batch, Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    b, collector = batch
    forward = packaged_forward()

    def broken(*_: Any) -> Any:
        raise RuntimeError("canary-prompt")

    monkeypatch.setattr(forward, "decode", broken)
    number = b.submit(prompt(0), settings(0))
    collector.wait([number])
    error = collector.events[number][-1].error
    assert isinstance(error, EnclaveError) and "canary" not in str(error)
    monkeypatch.undo()
    again = b.submit(prompt(0), settings(0, tokens=2))
    collector.wait([again])
    assert len(collector.ids(again)) == 2


def test_events_count_and_begin_and_end_as_promised(batch: tuple[Batch, Collector]) -> None:
    b, collector = batch
    number = b.submit(prompt(0), settings(0, tokens=6))
    collector.wait([number])
    first, *rest = collector.events[number]
    assert (first.prompt_tokens, first.completion_tokens, first.text) == (len(prompt(0)), 0, "")
    assert [e.completion_tokens for e in rest] == [1, 2, 3, 4, 5, 6]
    assert rest[-1].finish_reason is FinishReason.LENGTH
    assert all(e.finish_reason is None for e in rest[:-1])


def test_the_first_token_does_not_wait_for_the_second(
    batch: tuple[Batch, Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    b, collector = batch
    known: list[str] = []
    decode = b._forward.decode

    def watched(*arguments: Any) -> Any:
        known.append("".join(e.text for events in collector.events.values() for e in events))
        return decode(*arguments)

    monkeypatch.setattr(b._forward, "decode", watched)
    number = b.submit(prompt(0), settings(0, tokens=3))
    collector.wait([number])
    assert known[0] and collector.text(number).startswith(known[0])


def test_long_prompt_is_read_in_chunks_between_steps(batch: tuple[Batch, Collector]) -> None:
    b, collector = batch
    runner = b.submit(prompt(0), settings(0, tokens=60))
    collector.wait_for_tokens(runner, 2)
    long = (prompt(3) * 4)[: 4 * CHUNK_SHARED]
    reader = b.submit(long, settings(0, tokens=1))
    started_at: list[int] = []
    collector.on_event = lambda number, event: (
        started_at.append(len(collector.events[runner])) if number == reader else None
    )
    collector.wait([runner, reader])
    assert started_at[-1] - started_at[0] >= 2  # the runner went on while the prompt was read


def test_context_is_the_limit(batch: tuple[Batch, Collector]) -> None:
    b, collector = batch
    long = (prompt(3) * 4)[: CONTEXT - 3]
    number = b.submit(long, replace(settings(0), max_tokens=None))
    collector.wait([number])
    assert len(collector.ids(number)) == 3
    assert collector.events[number][-1].finish_reason is FinishReason.LENGTH
    with pytest.raises(InvalidRequest) as caught:
        b.submit([5] * CONTEXT, settings(0))
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("bad", [[], [-1], [49152], [1 << 40]])
def test_prompts_that_cannot_be_run(batch: tuple[Batch, Collector], bad: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        batch[0].submit(bad, settings(0))


def test_stop_string_over_token_borders_is_never_sent(
    batch: tuple[Batch, Collector], single_runs: dict[int, list[int]]
) -> None:
    b, collector = batch
    whole = packaged_tokenizer().decode(single_runs[0])
    stop = whole[20:29]
    number = b.submit(prompt(0), replace(settings(0), stop=("never seen", stop)))
    collector.wait([number])
    assert collector.text(number) == whole[: whole.index(stop)]
    assert collector.events[number][-1].finish_reason is FinishReason.STOP


def test_end_token_stops_and_is_not_text(tmp_path: Path) -> None:
    file = GgufFile.read(write_tiny(tmp_path / "m.gguf"))
    forward = open_forward(convert(file, 32), rows=1, context=32, threads=1)
    collector = Collector()
    b = Batch(forward, ChatTokenizer(file, 128), collector)
    number = b.submit([5, 6], Sampling(temperature=0, logit_bias={2: 100.0}, top_logprobs=0))
    collector.wait([number])
    b.close()
    assert collector.text(number) == ""
    assert collector.events[number][-1].finish_reason is FinishReason.STOP
    assert collector.ids(number) == []


def test_stop_strings_hold_back_only_what_may_become_one() -> None:
    s = StopStrings(["END", "</s>"])
    assert s.push("abcE") == ("abc", False)
    assert s.holding
    assert s.push("X<") == ("EX", False)
    assert s.push("/s") == ("", False)
    assert s.push("> tail") == ("", True)
    assert StopStrings(["aab"]).push("xaaab") == ("xa", True)
    s = StopStrings(["ab"])
    assert s.push("a") == ("", False)
    assert s.flush() == "a"


def scripted(tokens: list[int], **parameters: Any) -> list[GenerationEvent]:
    """What a generation says when the model insists on these tokens."""
    s = Sampling(temperature=0.0, top_logprobs=0, **parameters)
    g = Generation(1, [5], s, packaged_tokenizer(), 1000)
    out = []
    for token in tokens:
        row = np.full(49152, -50.0, np.float32)
        row[token] = 50.0
        out.append(g.advance(row))
    return out


def test_logprobs_come_with_the_text_they_complete() -> None:
    tokenizer = packaged_tokenizer()
    ids = tokenizer.encode("a𓀀b")
    events = scripted(ids)
    for event in events:
        raw = b"".join(t.token_bytes for t in event.logprobs)
        assert raw.decode() == event.text
    assert [t.id for e in events for t in e.logprobs] == ids


def test_length_limit_inside_a_character_sends_a_replacement() -> None:
    ids = packaged_tokenizer().encode("𓀀")
    events = scripted(ids[:-1], max_tokens=len(ids) - 1)
    assert events[-1].text == "\ufffd"
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert [t.id for t in events[-1].logprobs] == ids[:-1]


def test_length_limit_releases_text_held_for_a_stop_string() -> None:
    ids = packaged_tokenizer().encode("Hello EN")
    events = scripted(ids, stop=("END",), max_tokens=len(ids))
    assert "".join(e.text for e in events) == "Hello EN"
    assert len([t for e in events for t in e.logprobs]) == len(ids)
