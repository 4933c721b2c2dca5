"""The verifying clients against a real node with real models."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from running import CHAT, EMBEDDER, RunningNode, running

import adyton
from adyton.verify import pinned_context


def options(node: RunningNode, **more: Any) -> dict[str, Any]:
    return {
        "base_url": node.url,
        "api_key": node.key(),
        "root": Path(node.facts["root"]),
        "measurement": node.facts["measurement"],
        "max_retries": 0,
    } | more


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=8,
        temperature=0,
        **more,
    )


def test_every_kind_of_request_comes_with_a_verified_receipt(node: RunningNode) -> None:
    with adyton.Client(**options(node)) as client:
        plain = ask(client).choices[0].message.content
        parts = [c.choices[0].delta.content or "" for c in ask(client, stream=True) if c.choices]
        legacy = client.completions.create(model=CHAT, prompt="One, two,", max_tokens=4)
        vectors = client.embeddings.create(model=EMBEDDER, input=["a", "b"])
        receipts = [v.receipt for v in client.adyton.receipts]
        assert client.adyton.node.keyset.digest == node.facts["keyset_digest"]
        assert client.adyton.node.simulated
    assert plain and "".join(parts) == plain
    assert legacy.choices[0].text and len(vectors.data) == 2
    assert [r.endpoint for r in receipts] == [
        "/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
    ]
    assert all(r.checked_request and r.checked_response and r.model_digest for r in receipts)


async def test_async_client_streams_many_at_once(node: RunningNode) -> None:
    async def one(client: adyton.AsyncClient, n: int) -> str:
        stream = await client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": f"Count to {n}."}],
            max_tokens=8,
            temperature=0,
            stream=True,
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async with adyton.AsyncClient(**options(node)) as client:
        texts = await asyncio.gather(*(one(client, n) for n in range(6)))
        assert len(client.adyton.receipts) == 6
    assert all(texts)


def test_threads_share_a_client(node: RunningNode) -> None:
    with adyton.Client(**options(node)) as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask(client).choices[0].message.content, range(12)))
        assert len(client.adyton.receipts) == 12
    assert len(set(answers)) == 1


def test_unmodified_openai_pinned_to_the_verified_certificate(node: RunningNode) -> None:
    established = adyton.verify_node(
        node.url, root=Path(node.facts["root"]), measurement=node.facts["measurement"]
    )
    http = httpx2.Client(verify=pinned_context(established), trust_env=False)
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key(), http_client=http) as client:
        assert ask(client).choices[0].message.content


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"root": None}, adyton.VerificationError),
        ({"measurement": "00" * 48}, adyton.PolicyError),
        ({"measurement": None}, adyton.PolicyError),
    ],
)
def test_unwanted_node_gets_no_prompt(
    node: RunningNode, change: dict[str, Any], kind: type[Exception]
) -> None:
    with adyton.Client(**options(node, **change)) as client, pytest.raises(kind):
        ask(client)


def test_errors_of_the_api_come_through_with_their_receipts(node: RunningNode) -> None:
    with adyton.Client(**options(node)) as client:
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(
                model="none", messages=[{"role": "user", "content": "x"}]
            )
        with pytest.raises(openai.BadRequestError):
            ask(client, top_p=7)
        stranger = client.with_options(api_key="adk-unknown")
        with pytest.raises(openai.AuthenticationError):
            ask(stranger)
        assert ask(client).choices


def test_leaving_a_stream_leaves_the_client_usable(node: RunningNode) -> None:
    with adyton.Client(**options(node)) as client:
        stream = client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "Count."}], max_tokens=64, stream=True
        )
        next(iter(stream))
        stream.close()
        assert ask(client).choices[0].message.content


def test_bundles_are_kept_and_judged_offline(node: RunningNode, tmp_path: Path) -> None:
    with adyton.Client(**options(node, receipt_dir=tmp_path / "kept")) as client:
        ask(client, stream=True).close()
        for _ in ask(client, stream=True):
            pass
        established = client.adyton.verify()
    trust = adyton.Trust.of(root=Path(node.facts["root"]), measurement=node.facts["measurement"])
    (path,) = (tmp_path / "kept").glob("*.json")
    bundle = adyton.Bundle.load(path)
    proven, receipt = bundle.verify(trust, now=established.verified_at_unix)
    assert proven.keyset.digest == established.keyset_digest
    assert receipt.checked_request and receipt.checked_response


@pytest.mark.slow
def test_renewed_keys_and_a_restart_are_verified_on_the_way(tmp_path: Path) -> None:
    """SIGHUP gives the node new keys under a running client; a restart, new connections."""
    with running(tmp_path / "state") as node, adyton.Client(**options(node)) as client:
        assert ask(client).choices
        first = client.adyton.node.keyset.digest
        os.kill(node.process.pid, signal.SIGHUP)
        node.until(lambda: _served_digest(node) != first, what="a new keyset")
        assert ask(client).choices
        assert client.adyton.node.keyset.digest != first
        assert client.adyton.node.keyset.digest == _served_digest(node)


def _served_digest(node: RunningNode) -> str:
    """The digest in the header, asked for as anybody could (the key itself may have changed)."""
    import httpx

    with httpx.Client(verify=False) as client:
        return client.get(f"{node.url}/healthz").headers["x-aci-keyset-digest"]
