"""The asynchronous client refuses what the synchronous one refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fake_node import FakeNode, TlsIdentity

import adyton

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a secret"}]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path, "node").running() as running:
        yield running


def client_for(node: FakeNode, **options: Any) -> adyton.AsyncClient:
    settings = {
        "base_url": node.url,
        "api_key": "key",
        "root": node.root,
        "measurement": node.measurement,
        "max_retries": 0,
    }
    return adyton.AsyncClient(**(settings | options))


async def ask(client: adyton.AsyncClient) -> str:
    answer = await client.chat.completions.create(**ASK)
    return answer.choices[0].message.content or ""


async def drop_connections(client: adyton.AsyncClient) -> None:
    """The next request needs a new connection."""
    state = client._client.verifying._state  # type: ignore[attr-defined]
    await state.channel.pool.aclose()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"root": None}, adyton.VerificationError),
        ({"measurement": "00" * 48}, adyton.PolicyError),
        ({"measurement": None}, adyton.PolicyError),
    ],
)
async def test_unwanted_node_gets_no_prompt(
    node: FakeNode, change: dict[str, Any], kind: type[Exception]
) -> None:
    async with client_for(node, **change) as client:
        with pytest.raises(kind):
            await ask(client)
        assert client.adyton.node is None and client.adyton.established is None
    assert node.prompts == []


async def test_man_in_the_middle_is_refused(tmp_path: Path) -> None:
    genuine, middle = FakeNode(tmp_path, "genuine"), FakeNode(tmp_path, "middle")
    middle.report_from = genuine
    with middle.running():
        async with client_for(middle) as client:
            with pytest.raises(adyton.ChannelError):
                await ask(client)
    assert middle.prompts == []


async def test_new_connection_with_another_key_is_refused(node: FakeNode, tmp_path: Path) -> None:
    async with client_for(node) as client:
        await ask(client)
        await drop_connections(client)
        node.context.load_cert_chain(TlsIdentity(tmp_path, "thief").path)
        with pytest.raises(adyton.ChannelError):
            await ask(client)
    assert len(node.prompts) == 1


async def test_restarted_node_is_verified_and_used(node: FakeNode) -> None:
    async with client_for(node) as client:
        await ask(client)
        node.rotate(tls=True)
        await drop_connections(client)
        answers = await asyncio.gather(*(ask(client) for _ in range(4)))
    assert set(answers) == {"A quiet answer, é."}
    assert node.count("attestation") == 2, "four requests, one verification"


async def test_renewed_keys_are_verified_before_the_response_is_handed_on(node: FakeNode) -> None:
    async with client_for(node) as client:
        await ask(client)
        node.rotate(tls=True)
        assert await ask(client) == "A quiet answer, é."
        assert client.adyton.node is not None
        assert client.adyton.node.keyset.digest == node.keyset.digest


async def test_renewed_keys_that_do_not_verify_are_refused(node: FakeNode) -> None:
    async with client_for(node) as client:
        await ask(client)
        node.rotate()
        node.fixed_report = node.report("22" * 32)
        for _ in range(2):
            with pytest.raises(adyton.VerificationError):
                await ask(client)
    assert len(node.prompts) == 2, "the second request was not sent"


async def test_response_naming_a_keyset_nobody_proved_is_refused(node: FakeNode) -> None:
    async with client_for(node) as client:
        await ask(client)
        node.digest_header = "sha256:" + "00" * 32
        with pytest.raises(adyton.ChannelError, match="names keyset"):
            await ask(client)


async def test_redirects_and_other_hosts_are_refused(node: FakeNode) -> None:
    async with client_for(node) as client:
        with pytest.raises(adyton.ChannelError):
            await ask(client.with_options(base_url="https://127.0.0.2:9/v1"))
        node.redirect = "https://evil.example/"
        with pytest.raises(adyton.errors.RedirectRefused):
            await ask(client)


@pytest.mark.parametrize(
    ("knob", "value", "kind"),
    [
        ("flip_response", True, adyton.ReceiptError),
        ("send_receipt_id", False, adyton.ReceiptError),
        ("receipt_id_header", "unknown", adyton.ReceiptError),
        ("raw_receipt", (-1, b""), adyton.NodeUnreachable),
        ("raw_receipt", (200, b"[]"), adyton.ReceiptError),
        ("status", 400, openai.BadRequestError),
    ],
)
async def test_answers_without_their_receipt_are_refused(
    node: FakeNode, knob: str, value: Any, kind: type[Exception]
) -> None:
    setattr(node, knob, value)
    async with client_for(node) as client:
        with pytest.raises(kind):
            await ask(client)


@pytest.mark.parametrize("mode", ["no-done", "stated-with-done"])
async def test_truncated_streams_are_refused(node: FakeNode, mode: str) -> None:
    node.truncate = mode
    async with client_for(node) as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        with pytest.raises(adyton.TruncatedStream):
            async for _ in stream:
                pass


async def test_keys_renewed_between_answer_and_receipt(node: FakeNode) -> None:
    async with client_for(node) as client:
        await ask(client)
        node.close_after_answer = True
        renewed = iter([True])
        node.after_answer = lambda: node.rotate(tls=True) if next(renewed, False) else None
        assert await ask(client) == "A quiet answer, é."
        assert len(client.adyton.receipts) == 2


async def test_cancelled_verification_leaves_the_client_usable(node: FakeNode) -> None:
    async with client_for(node) as client:
        task = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await ask(client) == "A quiet answer, é."


async def test_explicit_verification_and_a_callback(node: FakeNode) -> None:
    seen: list[str] = []
    async with client_for(node, verify_receipts=lambda v: seen.append(v.receipt_id)) as client:
        established = await client.adyton.verify()
        assert established.keyset_digest == node.keyset.digest
        await ask(client)
    assert seen == list(node.receipts)


async def test_ensure_asks_only_when_nothing_fresh_is_established(node: FakeNode) -> None:
    async with client_for(node) as client:
        transport = client._client.verifying  # type: ignore[attr-defined]
        assert await transport.ensure() is await transport.ensure()
    assert node.count("attestation") == 1


async def test_another_http_client_is_refused(node: FakeNode) -> None:
    async with httpx2.AsyncClient() as other:
        with pytest.raises(TypeError, match="bypass"):
            client_for(node, http_client=other)


async def test_settings_of_another_service_are_not_sent(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "foreign-secret")
    async with client_for(node, api_key=None) as client:
        await ask(client)
    assert "foreign-secret" not in json.dumps([headers for _, _, headers, _ in node.requests])
