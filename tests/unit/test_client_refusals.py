"""Every way a node, or somebody between us and it, can be other than what was verified."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from fake_node import FakeNode, TlsIdentity

import adyton
from adyton.client import HttpClient
from attestation.keyset import TlsKey

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a secret"}]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path, "node").running() as running:
        yield running


def client_for(node: FakeNode, **options: Any) -> adyton.Client:
    settings = {
        "base_url": node.url,
        "api_key": "key",
        "root": node.root,
        "measurement": node.measurement,
        "max_retries": 0,
    }
    return adyton.Client(**(settings | options))


def ask(client: adyton.Client) -> str:
    return client.chat.completions.create(**ASK).choices[0].message.content or ""


def ask_stream(client: adyton.Client) -> str:
    stream = client.chat.completions.create(**ASK, stream=True)
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


# --- what works ------------------------------------------------------------------


def test_plain_and_streamed_answers_come_with_verified_receipts(node: FakeNode) -> None:
    with client_for(node) as client:
        assert ask(client) == "A quiet answer, é."
        assert ask_stream(client) == "One two three"
        receipts = list(client.adyton.receipts)
    assert [r.receipt.checked_response for r in receipts] == [True, True]
    assert [r.request_body for r in receipts] == node.prompts
    assert node.count("attestation") == 1


def test_nothing_but_a_nonce_reaches_the_node_before_it_is_verified(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
    method, path, headers, body = node.requests[0]
    assert (method, body) == ("GET", b"") and "/v1/aci/attestation?nonce=" in path
    assert "authorization" not in headers


def test_responses_are_asked_for_unencoded(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
    assert {headers.get("accept-encoding") for _, _, headers, _ in node.requests} == {"identity"}


def test_each_verification_uses_its_own_nonce(node: FakeNode) -> None:
    with client_for(node) as client:
        nonces = {client.adyton.verify().nonce for _ in range(3)}
    assert len(nonces) == 3


def test_threads_share_one_verification(node: FakeNode) -> None:
    with client_for(node) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(client), range(16)))
    assert answers == ["A quiet answer, é."] * 16
    assert node.count("attestation") == 1


def test_with_options_keeps_the_verified_transport(node: FakeNode) -> None:
    with client_for(node) as client:
        copy = client.with_options(timeout=5, max_retries=1)
        assert ask(copy) == "A quiet answer, é."
        assert copy.adyton.receipts is client.adyton.receipts
    assert node.count("attestation") == 1


def test_raw_responses_are_checked_too(node: FakeNode) -> None:
    with client_for(node) as client:
        raw = client.chat.completions.with_raw_response.create(**ASK)
        assert raw.headers["x-receipt-id"] == client.adyton.receipts[0].receipt_id


def test_a_callback_sees_each_verified_receipt(node: FakeNode) -> None:
    seen: list[str] = []
    with client_for(node, verify_receipts=lambda v: seen.append(v.receipt_id)) as client:
        ask(client)
        assert seen == [r.receipt_id for r in client.adyton.receipts]


def test_receipts_off_fetches_none(node: FakeNode) -> None:
    with client_for(node, verify_receipts="off") as client:
        assert ask(client) == "A quiet answer, é."
    assert node.count("receipts") == 0


def test_a_receipt_that_is_not_final_yet_is_asked_for_again(node: FakeNode) -> None:
    node.receipt_delays = 2
    with client_for(node) as client:
        ask(client)
        assert len(client.adyton.receipts) == 1


def test_leaving_a_stream_early_is_no_error(node: FakeNode) -> None:
    with client_for(node) as client:
        stream = client.chat.completions.create(**ASK, stream=True)
        assert next(iter(stream)).choices[0].delta.content == "One"
        stream.close()
        assert ask(client) == "A quiet answer, é."


async def test_async_streams_share_connections_with_receipts(node: FakeNode) -> None:
    """The openai package reads a finished stream to its end again; that must touch nothing."""
    import asyncio

    async def one(client: adyton.AsyncClient) -> str:
        stream = await client.chat.completions.create(**ASK, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async with adyton.AsyncClient(
        base_url=node.url, api_key="k", root=node.root, measurement=node.measurement
    ) as client:
        for _ in range(4):
            texts = await asyncio.gather(*(one(client) for _ in range(6)))
            assert texts == ["One two three"] * 6
        assert len(client.adyton.receipts) == 24


async def test_a_finished_body_yields_nothing_more(node: FakeNode) -> None:
    with client_for(node) as client:
        http = client._client
        with http.stream(
            "POST", f"{node.url}/v1/chat/completions", json=ASK, headers={"authorization": "k"}
        ) as response:
            first, second = b"".join(response.stream), b"".join(response.stream)  # type: ignore[arg-type]
    assert b"quiet" in first and second == b""


async def test_async_client_verifies_once_for_many_tasks(node: FakeNode) -> None:
    import asyncio

    async with adyton.AsyncClient(
        base_url=node.url, api_key="k", root=node.root, measurement=node.measurement
    ) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(8)))
        stream = await client.chat.completions.create(**ASK, stream=True)
        text = [c.choices[0].delta.content async for c in stream]
        assert client.adyton.node is not None
        assert len(client.adyton.receipts) == 9
    assert {a.choices[0].message.content for a in answers} == {"A quiet answer, é."}
    assert text == ["One", " two", " three"]
    assert node.count("attestation") == 1


# --- the node is not the one we want ---------------------------------------------


def refused(node: FakeNode, kind: type[Exception], **options: Any) -> Exception:
    """The client refuses with exactly this, and the node never sees the prompt."""
    with client_for(node, **options) as client, pytest.raises(kind) as caught:
        ask(client)
    assert node.prompts == []
    return caught.value


def test_simulator_without_its_root_named_is_refused(node: FakeNode) -> None:
    error = refused(node, adyton.VerificationError, root=None)
    assert isinstance(error, adyton.VerificationError) and error.step == "root"


def test_root_of_another_simulator_is_refused(node: FakeNode) -> None:
    from fake_node import issuer

    stranger = issuer(seed=b"another seed, thirty-two bytes..").root_der
    refused(node, adyton.VerificationError, root=stranger)


def test_an_empty_list_of_roots_believes_nobody(node: FakeNode) -> None:
    refused(node, adyton.VerificationError, root=None, roots=[])


def test_wrong_measurement_is_refused(node: FakeNode) -> None:
    error = refused(node, adyton.PolicyError, measurement="ab" * 48)
    assert isinstance(error, adyton.PolicyError)
    assert [f.field for f in error.findings] == ["measurements.tdx.mr_td"]


def test_strict_without_a_measurement_is_refused(node: FakeNode) -> None:
    refused(node, adyton.PolicyError, measurement=None)


def test_expired_keyset_is_refused(node: FakeNode) -> None:
    node.not_after = int(time.time()) - 1
    refused(node, adyton.VerificationError)


def test_replayed_report_is_refused(node: FakeNode) -> None:
    node.fixed_report = node.report("11" * 32)
    error = refused(node, adyton.VerificationError)
    assert isinstance(error, adyton.VerificationError) and error.step == "report_data"


def test_unchallenged_report_is_refused(node: FakeNode) -> None:
    node.fixed_report = node.report(None)
    refused(node, adyton.VerificationError)


def test_man_in_the_middle_with_a_genuine_report_is_refused(tmp_path: Path) -> None:
    genuine = FakeNode(tmp_path, "genuine")
    middle = FakeNode(tmp_path, "middle")
    middle.report_from = genuine
    with middle.running():
        error = refused(middle, adyton.ChannelError)
    assert "does not end in the attested node" in str(error)


def test_man_in_the_middle_listing_his_own_key_is_refused(node: FakeNode) -> None:
    def edit(report: dict[str, Any]) -> dict[str, Any]:
        keyset = report["attestation"]["workload_keyset"]
        report["attestation"]["workload_keyset"] = keyset | {"not_after": node.not_after + 5}
        return report

    node.edit_report = edit
    refused(node, adyton.VerificationError)


def test_tls_key_listed_for_another_hostname_is_refused(node: FakeNode) -> None:
    node.listed = [TlsKey(node.tls.spki_sha256, "node.example")]
    refused(node, adyton.ChannelError)


def test_keyset_without_tls_keys_is_refused(node: FakeNode) -> None:
    node.listed = []
    refused(node, adyton.ChannelError)


def test_error_status_instead_of_a_report_is_refused(node: FakeNode) -> None:
    node.report_status = 503
    error = refused(node, adyton.NodeRefused)
    assert isinstance(error, adyton.NodeRefused) and error.status == 503


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'{"a":1,"a":2}', b"\xff", b"{}"])
def test_report_that_is_no_report_is_refused(node: FakeNode, body: bytes) -> None:
    node.fixed_report = body or b" "
    refused(node, adyton.AttestationError)


def test_endless_report_is_refused(node: FakeNode) -> None:
    node.fixed_report = b" " * ((4 << 20) + 1)
    refused(node, adyton.MalformedResponse)


# --- the way to the node -----------------------------------------------------------


def test_plain_http_is_refused_before_connecting() -> None:
    with pytest.raises(adyton.UnsafeUrl):
        adyton.Client(base_url="http://127.0.0.1:1", api_key="k")


@pytest.mark.parametrize("url", ["", "ftp://h", "https://", "https://u:p@h", "https://h/?q", "h:1"])
def test_urls_that_cannot_be_attested_are_refused(url: str) -> None:
    with pytest.raises(adyton.UnsafeUrl):
        adyton.Client(base_url=url, api_key="k")


def test_no_base_url_is_refused_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    with pytest.raises(adyton.UnsafeUrl):
        adyton.Client(api_key="k")


def test_keys_meant_for_another_service_are_not_sent(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "foreign-secret")
    with client_for(node, api_key=None) as client:
        ask(client)
        ask(client.with_options(timeout=5))
    sent = json.dumps([headers for _, _, headers, _ in node.requests])
    assert "foreign-secret" not in sent


def test_proxies_from_the_environment_are_ignored(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with client_for(node) as client:
        assert ask(client) == "A quiet answer, é."


def test_a_request_for_another_host_is_refused(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        elsewhere = client.with_options(base_url="https://127.0.0.2:9/v1")
        with pytest.raises(adyton.ChannelError, match="has verified"):
            ask(elsewhere)


@pytest.mark.parametrize(
    "target", ["https://evil.example/v1/x", "http://127.0.0.1/", "//e.example"]
)
def test_redirect_to_another_origin_is_refused(node: FakeNode, target: str) -> None:
    node.redirect = target
    with client_for(node) as client, pytest.raises(adyton.errors.RedirectRefused):
        ask(client)


def test_redirect_within_the_node_is_not_followed_by_itself(node: FakeNode) -> None:
    node.redirect = "/v1/elsewhere"
    with client_for(node) as client, pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert caught.value.status_code == 307


def test_websocket_apis_cannot_go_around_the_transport(node: FakeNode) -> None:
    with client_for(node) as client:
        assert ".invalid" in str(client.websocket_base_url)
        assert ".invalid" in str(client.with_options(timeout=1).websocket_base_url)


def test_another_http_client_is_refused(node: FakeNode) -> None:
    import httpx2

    with pytest.raises(TypeError, match="bypass"):
        client_for(node, http_client=httpx2.Client())


@pytest.mark.parametrize("option", ["workload_identity", "provider", "data_residency"])
def test_options_that_choose_another_service_are_refused(node: FakeNode, option: str) -> None:
    with pytest.raises(TypeError, match="not for an attested node"):
        client_for(node, **{option: "eu"})


def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    with FakeNode(tmp_path, "gone").running() as node:
        client = client_for(node)
    with pytest.raises(adyton.NodeUnreachable):
        ask(client)


# --- the node changes under us -------------------------------------------------------


def test_new_connection_with_another_key_is_refused_before_a_byte_is_sent(
    node: FakeNode, tmp_path: Path
) -> None:
    with client_for(node) as client:
        ask(client)
        transport = client._client
        assert isinstance(transport, HttpClient)
        state = transport.verifying._state
        assert state is not None
        state.channel.pool.close()  # the next request needs a new connection
        before = len(node.prompts)
        node.context.load_cert_chain(TlsIdentity(tmp_path, "thief").path)
        with pytest.raises(adyton.ChannelError):
            ask(client)
    assert len(node.prompts) == before
    assert transport.verifying.established is None


def test_restarted_node_with_new_keys_is_verified_and_used(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        first = client.adyton.node.keyset.digest
        node.rotate(tls=True)
        client._client.verifying._state.channel.pool.close()  # type: ignore[attr-defined]
        assert ask(client) == "A quiet answer, é."
        assert client.adyton.node.keyset.digest != first
    assert node.count("attestation") == 2


def test_changed_keyset_is_verified_before_its_response_is_handed_on(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        node.rotate()
        assert ask(client) == "A quiet answer, é."
        assert client.adyton.node.keyset.digest == node.keyset.digest
    assert node.count("attestation") == 2


def test_renewed_tls_key_under_an_open_connection_is_verified_and_used(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        old = client.adyton.node.keyset
        node.rotate(tls=True)
        assert ask(client) == "A quiet answer, é.", "the old connection still answers"
        assert ask(client) == "A quiet answer, é.", "and later requests use the new key"
        assert client.adyton.node.keyset.tls_public_keys != old.tls_public_keys
    assert node.count("attestation") == 2


def test_changed_keyset_that_does_not_verify_is_refused(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        node.rotate()
        node.fixed_report = node.report("22" * 32)
        with pytest.raises(adyton.VerificationError):
            ask(client)
        before = len(node.prompts)
        with pytest.raises(adyton.VerificationError):
            ask(client)
    assert len(node.prompts) == before, "nothing is sent after a failed re-verification"


def test_changed_keyset_of_another_workload_is_refused(node: FakeNode, tmp_path: Path) -> None:
    with client_for(node) as client:
        ask(client)
        node.issuer = FakeNode(tmp_path, "other", model=b"another model").issuer
        node.rotate()
        with pytest.raises(adyton.PolicyError):
            ask(client)


def test_response_naming_a_keyset_nobody_proved_is_refused(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        node.digest_header = "sha256:" + "00" * 32
        with pytest.raises(adyton.ChannelError, match="names keyset"):
            ask(client)


def test_response_naming_no_keyset_is_verified_at_once(node: FakeNode) -> None:
    node.digest_header = None
    with client_for(node) as client:
        assert ask(client) == "A quiet answer, é."
    assert node.count("attestation") > 1


def test_keyset_that_expires_is_verified_again_before_the_next_request(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        object.__setattr__(client._client.verifying.trust, "clock", lambda: node.not_after + 1)  # type: ignore[attr-defined]
        before = len(node.prompts)
        with pytest.raises(adyton.VerificationError):
            ask(client)
    assert len(node.prompts) == before


def test_report_older_than_allowed_is_asked_for_again(node: FakeNode) -> None:
    with client_for(node, max_age_s=0.0) as client:
        ask(client)
        ask(client)
    assert node.count("attestation") >= 2


def test_stream_in_flight_survives_a_rotation_seen_by_another_thread(node: FakeNode) -> None:
    with client_for(node) as client:
        stream = client.chat.completions.create(**ASK, stream=True)
        first = next(iter(stream))
        node.rotate()
        worker = threading.Thread(target=ask, args=(client,))
        worker.start()
        worker.join()
        rest = [c.choices[0].delta.content for c in stream]
    assert first.choices[0].delta.content == "One"
    assert rest == [" two", " three"]


# --- the receipt is not of this exchange ---------------------------------------------


@pytest.mark.parametrize("asked", [ask, ask_stream])
def test_flipped_byte_in_the_answer_is_refused(node: FakeNode, asked: Any) -> None:
    node.flip_response = True
    with client_for(node) as client, pytest.raises(adyton.ReceiptError) as caught:
        asked(client)
    assert caught.value.step == "response.returned"
    assert len(client.adyton.receipts) == 0


async def test_flipped_byte_in_an_async_stream_is_refused(node: FakeNode) -> None:
    node.flip_response = True
    async with adyton.AsyncClient(
        base_url=node.url, api_key="k", root=node.root, measurement=node.measurement
    ) as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        with pytest.raises(adyton.ReceiptError):
            async for _ in stream:
                pass


@pytest.mark.parametrize("asked", [ask, ask_stream])
def test_answer_without_a_receipt_id_is_refused(node: FakeNode, asked: Any) -> None:
    node.send_receipt_id = False
    with client_for(node) as client, pytest.raises(adyton.ReceiptError) as caught:
        asked(client)
    assert caught.value.step == "missing"


@pytest.mark.parametrize("header", ["../aci/attestation", "a b", "x" * 300, "a,b"])
def test_receipt_id_that_is_no_token_is_refused(node: FakeNode, header: str) -> None:
    node.receipt_id_header = header
    with client_for(node) as client, pytest.raises(adyton.ReceiptError) as caught:
        ask(client)
    assert caught.value.step == "id"


def test_receipt_that_never_appears_is_refused(node: FakeNode) -> None:
    node.receipt_id_header = "unknown"
    with client_for(node) as client, pytest.raises(adyton.ReceiptError) as caught:
        ask(client)
    assert caught.value.step == "fetch"


def renew_before_the_receipt(node: FakeNode) -> None:
    """The next receipt is asked for on a connection that finds the node with new keys."""

    def renew() -> None:
        node.before_answer = lambda: None
        node.close_after_answer = True
        node.after_answer = lambda: node.rotate(tls=True)

    node.before_answer = renew


@pytest.mark.parametrize("asked", [ask, ask_stream])
def test_keys_renewed_between_answer_and_receipt(node: FakeNode, asked: Any) -> None:
    with client_for(node) as client:
        ask(client)
        first = client.adyton.node.keyset.digest
        renew_before_the_receipt(node)
        assert asked(client)
        assert client.adyton.receipts[-1].receipt.keyset_digest == first
        assert client.adyton.node.keyset.digest != first


def test_node_gone_before_the_receipt_is_a_refusal(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        node.raw_receipt = (-1, b"")
        with pytest.raises(adyton.NodeUnreachable):
            ask(client)


def test_connection_lost_while_fetching_the_receipt_is_tried_again(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        node.drop_receipts = 2
        assert ask(client) == "A quiet answer, é."


def test_receipt_of_an_earlier_identical_exchange_is_refused(node: FakeNode) -> None:
    with client_for(node) as client:
        ask(client)
        first = node.receipts[client.adyton.receipts[0].receipt_id]
        node.raw_receipt = (200, json.dumps(first).encode())
        with pytest.raises(adyton.ReceiptError) as caught:
            ask(client)
    assert caught.value.step == "receipt_id"


@pytest.mark.parametrize(
    ("member", "value"),
    [("endpoint", "/v1/embeddings"), ("endpoint", ""), ("endpoint", 7), ("method", "GET")],
)
def test_receipt_for_another_place_is_refused(node: FakeNode, member: str, value: Any) -> None:
    node.edit_receipt = lambda r: r | {member: value}
    with client_for(node) as client, pytest.raises(adyton.ReceiptError) as caught:
        ask(client)
    assert caught.value.step == member


def test_receipt_signed_by_another_key_is_refused(node: FakeNode) -> None:
    digest = node.keyset.digest
    with client_for(node) as client:
        client.adyton.verify()
        node.digest_header = digest
        node.rotate()
        with pytest.raises(adyton.ReceiptError):
            ask(client)


@pytest.mark.parametrize("mode", ["no-done", "stated", "stated-with-done"])
def test_truncated_stream_is_refused(node: FakeNode, mode: str) -> None:
    node.truncate = mode
    with client_for(node) as client, pytest.raises(adyton.TruncatedStream):
        ask_stream(client)


def test_truncated_stream_is_refused_without_receipts_too(node: FakeNode) -> None:
    node.truncate = "no-done"
    with (
        client_for(node, verify_receipts="off") as client,
        pytest.raises(adyton.TruncatedStream),
    ):
        ask_stream(client)


def test_connection_cut_mid_stream_is_a_connection_error(node: FakeNode) -> None:
    node.truncate = "hang-up"
    with client_for(node) as client, pytest.raises(openai.APIConnectionError):
        ask_stream(client)


def test_refusals_of_the_api_stay_what_they_are(node: FakeNode) -> None:
    node.status = 400
    with client_for(node) as client, pytest.raises(openai.BadRequestError):
        ask(client)
    assert len(client.adyton.receipts) == 1, "an error's receipt is checked as well"


def test_unauthorized_is_not_hidden_behind_a_missing_receipt(node: FakeNode) -> None:
    node.status = 401
    with client_for(node) as client, pytest.raises(openai.AuthenticationError):
        ask(client)


def test_encoded_response_is_hashed_as_it_came_off_the_wire(node: FakeNode) -> None:
    node.content_encoding = "identity"
    with client_for(node) as client:
        assert ask(client) == "A quiet answer, é."
        assert client.adyton.receipts[0].receipt.checked_response


def test_unverified_end_of_a_stream_is_held_back(node: FakeNode) -> None:
    """A reader that stops at [DONE] must meet the refusal before it."""
    node.raw_receipt = (500, b"{}")
    seen = []
    with client_for(node) as client:
        stream = client.chat.completions.with_streaming_response.create(**ASK, stream=True)
        with stream as response, pytest.raises(adyton.ReceiptError):
            for line in response.iter_lines():
                seen.append(line)
    assert any("three" in line for line in seen)
    assert not any("[DONE]" in line for line in seen)
