"""The unmodified openai package against a node, told only which certificate to trust."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import openai
import pytest
from running import CHAT, EMBEDDER, RunningNode

pytestmark = pytest.mark.slow

ASK = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def ai(node: RunningNode) -> Iterator[openai.OpenAI]:
    with httpx2.Client(verify=node.tls()) as transport:
        yield openai.OpenAI(
            base_url=node.url + "/v1", api_key=node.key(), http_client=transport, max_retries=0
        )


@pytest.fixture
async def async_ai(node: RunningNode) -> AsyncIterator[openai.AsyncOpenAI]:
    async with httpx2.AsyncClient(verify=node.tls()) as transport:
        yield openai.AsyncOpenAI(
            base_url=node.url + "/v1", api_key=node.key(), http_client=transport, max_retries=0
        )


def test_chat(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.create(model=CHAT, messages=ASK, max_tokens=16, temperature=0)
    assert answer.choices[0].message.content
    assert answer.usage and answer.usage.completion_tokens <= 16


def test_streamed_chat_says_the_same(ai: openai.OpenAI) -> None:
    plain = ai.chat.completions.create(model=CHAT, messages=ASK, max_tokens=16, temperature=0)
    stream = ai.chat.completions.create(
        model=CHAT,
        messages=ASK,
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == plain.choices[0].message.content
    assert usage == plain.usage


async def test_async_streaming_helper(async_ai: openai.AsyncOpenAI) -> None:
    async with async_ai.chat.completions.stream(
        model=CHAT, messages=ASK, max_tokens=60, temperature=0, stop=[" ", "."]
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "content.delta" in kinds
    assert final.choices[0].finish_reason == "stop"


def test_raw_response_names_the_receipt(ai: openai.OpenAI) -> None:
    raw = ai.chat.completions.with_raw_response.create(model=CHAT, messages=ASK, max_tokens=2)
    assert raw.headers["x-receipt-id"].startswith("rcpt-")


def test_completions(ai: openai.OpenAI) -> None:
    answer = ai.completions.create(model=CHAT, prompt="Once upon a time", max_tokens=4, stop=["."])
    assert answer.object == "text_completion"


def test_embeddings(ai: openai.OpenAI) -> None:
    answer = ai.embeddings.create(model=EMBEDDER, input=["one", "two"])
    assert [len(item.embedding) for item in answer.data] == [384, 384]
    assert sum(x * x for x in answer.data[0].embedding) == pytest.approx(1, abs=1e-4)


def test_models(ai: openai.OpenAI) -> None:
    assert [model.id for model in ai.models.list()] == [CHAT, EMBEDDER]
    assert ai.models.retrieve(CHAT).owned_by == "adyton"


def test_its_errors_are_the_packages_own(node: RunningNode, ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ai.chat.completions.create(model="gpt-9", messages=ASK)
    with pytest.raises(openai.BadRequestError) as refused:
        ai.chat.completions.create(model=CHAT, messages=ASK, temperature=9)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        ai.with_options(api_key="sk-wrong").models.list()


def test_it_refuses_a_node_whose_certificate_it_was_not_told(node: RunningNode) -> None:
    stranger = openai.OpenAI(base_url=node.url + "/v1", api_key=node.key(), max_retries=0)
    with stranger, pytest.raises(openai.APIConnectionError):
        stranger.models.list()
