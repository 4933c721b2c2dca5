"""A running node against the ACI specification and OpenAI's shapes, over real TLS."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from aci_check import check_hardware, check_receipt, check_report
from running import (
    CHAT,
    EMBEDDER,
    GIVEN_KEY,
    RunningNode,
    chat,
    events_of,
    gateway,
    receipt_events,
)

from attestation.roots import INTEL_SGX_ROOT

pytestmark = pytest.mark.slow


def report_of(client: httpx.Client, nonce: str | None = None) -> dict[str, Any]:
    params = {} if nonce is None else {"nonce": nonce}
    answer = client.get("/v1/aci/attestation", params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def peer_certificate(node: RunningNode) -> bytes:
    with node.socket() as connection:
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


@pytest.fixture
def keyset(node: RunningNode, client: httpx.Client) -> dict[str, Any]:
    nonce = secrets.token_hex(32)
    return check_report(
        report_of(client, nonce),
        nonce=nonce,
        root_der=Path(node.facts["root"]).read_bytes(),
        peer_certificate=peer_certificate(node),
    )


def receipt_of(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    found = client.get(f"/v1/aci/receipts/{answer.headers['x-receipt-id']}")
    assert found.status_code == 200, found.text
    return dict(found.json())


# --- who it is -----------------------------------------------------------------


def test_the_ready_line_says_what_a_script_needs(node: RunningNode) -> None:
    facts = node.facts
    assert facts["url"].startswith("https://127.0.0.1:")
    assert facts["simulated"] is True and facts["tee_type"] == "tdx"
    assert len(facts["measurement"]) == 96
    assert facts["keyset_digest"].startswith("sha256:")
    assert facts["models"] == [CHAT, EMBEDDER]
    assert facts["pid"] == node.process.pid
    assert facts["root_sha256"] and "BEGIN CERTIFICATE" in facts["root_pem"]
    assert ssl.PEM_cert_to_DER_cert(facts["root_pem"]) == Path(facts["root"]).read_bytes()


def test_a_verifier_written_from_the_specification_accepts_the_report(
    node: RunningNode, keyset: dict[str, Any]
) -> None:
    assert keyset["receipt_signing_keys"][0]["algo"] == "ed25519"
    assert keyset["not_after"] > time.time() + 20 * 86400


def test_the_evidence_is_nothing_under_intels_root(client: httpx.Client) -> None:
    evidence = report_of(client)["attestation"]["evidence"]
    with pytest.raises(ValueError, match=r"."):
        check_hardware(evidence, INTEL_SGX_ROOT)


@pytest.mark.parametrize("shift", [-20 * 365 * 86400, 20 * 365 * 86400])
def test_a_clock_outside_the_collaterals_validity_refuses(
    node: RunningNode, client: httpx.Client, shift: int
) -> None:
    evidence = report_of(client)["attestation"]["evidence"]
    root = Path(node.facts["root"]).read_bytes()
    with pytest.raises(ValueError, match=r"."):
        check_hardware(evidence, root, now=int(time.time()) + shift)


def test_the_report_says_simulated_to_people_and_in_a_measured_field(client: httpx.Client) -> None:
    attestation = report_of(client)["attestation"]
    assert attestation["evidence"]["simulated"] is True
    assert attestation["evidence"]["key_custody"]["kind"] == "sealed"
    assert b"adyton-simulator" in bytes.fromhex(attestation["evidence"]["quote"])
    assert attestation["source_provenance"]["image_digest"].startswith("sha256:")


def test_a_report_without_nonce_is_shared_and_one_with_is_not(client: httpx.Client) -> None:
    assert report_of(client) == report_of(client)
    first, second = secrets.token_hex(32), secrets.token_hex(32)
    data = {report_of(client, n)["attestation"]["report_data"] for n in (first, second, None)}
    assert len(data) == 3


def test_a_key_given_by_digest_opens_the_node_and_stands_in_no_list(node: RunningNode) -> None:
    with node.client(GIVEN_KEY) as client:
        assert client.get("/v1/models").status_code == 200
    with node.client("adt-" + "j" * 43) as client:
        assert client.get("/v1/models").status_code == 401
    listed = json.loads(
        gateway("keys", "list", "--state-dir", str(node.state_dir), "--json").stdout
    )
    assert "given" not in {key["name"] for key in listed["keys"]}


@pytest.mark.parametrize(
    "query",
    [
        "nonce=",
        "nonce=abc",
        "nonce=" + "A" * 64,
        "nonce=" + "a" * 63,
        "nonce=" + "a" * 65,
        "nonce=" + "a" * 62 + "%0a",
        "nonce=%ff" + "a" * 61,
        "nonce=" + "a" * 64 + "&nonce=" + "a" * 64,
        "nonce=" + "a" * 64 + "&extra=1",
        "Nonce=" + "a" * 64,
        "&",
    ],
)
def test_a_bad_nonce_is_a_400(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/v1/aci/attestation?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("OPTIONS", "/v1/models", 405),
        ("GET", "/v1/models/none", 404),
        ("POST", "/v1/chat/completions", 415),
        ("GET", "/v1/aci/sessions/" + "a" * 64, 404),
    ],
)
def test_every_response_carries_acis_headers(
    node: RunningNode, client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["x-aci-version"] == "aci/1"
    assert answer.headers["x-aci-keyset-digest"] == node.facts["keyset_digest"]
    if status >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_bytes_that_are_not_http_are_answered_in_the_same_shape(node: RunningNode) -> None:
    with node.socket() as connection:
        connection.sendall(b"this is not http\r\n\r\n")
        raw = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"x-aci-version: aci/1" in head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_endless_headers_are_refused(node: RunningNode) -> None:
    with node.socket() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000 + b"\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 431")


def test_plain_http_is_not_spoken(node: RunningNode) -> None:
    with socket.create_connection(node.address, timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answered = connection.recv(4096)
    assert not answered.startswith(b"HTTP/")


def test_no_private_key_is_on_disk_in_the_clear(node: RunningNode) -> None:
    for path in node.state_dir.rglob("*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes(), path


def test_direct_services_have_no_sessions(client: httpx.Client) -> None:
    assert client.get("/v1/aci/sessions?upstream_name=x&model=y").json() == {
        "api_version": "aci/1",
        "sessions": [],
    }
    assert client.get("/v1/aci/sessions/" + "0" * 64).json()["error"]["type"] == "not_found"


# --- what it answers -------------------------------------------------------------


def test_a_chat_and_its_receipt(client: httpx.Client, keyset: dict[str, Any]) -> None:
    answer = client.post("/v1/chat/completions", json=chat())
    assert answer.status_code == 200
    document = answer.json()
    assert document["object"] == "chat.completion" and document["model"] == CHAT
    assert document["choices"][0]["message"]["role"] == "assistant"
    assert document["choices"][0]["finish_reason"] in {"stop", "length"}
    spent = document["usage"]
    assert spent["total_tokens"] == spent["prompt_tokens"] + spent["completion_tokens"]
    receipt = receipt_of(client, answer)
    events = check_receipt(receipt, keyset, request=answer.request.content, response=answer.content)
    assert list(events) == [
        "request.received",
        "request.forwarded",
        "model.loaded",
        "response.returned",
    ]
    assert events["request.forwarded"]["body_hash"] == events["request.received"]["body_hash"]
    models = {m["id"]: m for m in client.get("/v1/models").json()["data"]}
    assert events["model.loaded"]["model_digest"] == models[CHAT]["model_digest"]
    assert receipt["chat_id"] == document["id"] and receipt["model"] == CHAT
    assert client.get(f"/v1/aci/receipts/{document['id']}").json() == receipt


def test_a_stream_is_hashed_with_its_framing(client: httpx.Client, keyset: dict[str, Any]) -> None:
    body = chat(stream=True, stream_options={"include_usage": True}, max_tokens=12)
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        raw = b"".join(answer.iter_raw())
    check_receipt(receipt_of(client, answer), keyset, request=answer.request.content, response=raw)
    *chunks, done = events_of(raw)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0]["finish_reason"] in {"stop", "length"}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] <= 12
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    plain = client.post("/v1/chat/completions", json=chat(max_tokens=12)).json()
    assert text == plain["choices"][0]["message"]["content"]


def test_a_stream_has_no_usage_unless_asked(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=chat(stream=True))
    assert all("usage" not in chunk for chunk in events_of(answer.content)[:-1])


def test_logprobs_in_both_forms(client: httpx.Client) -> None:
    body = chat(logprobs=True, top_logprobs=3, max_tokens=4)
    plain = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    tokens = plain["logprobs"]["content"]
    assert len(tokens) == 4 and all(len(t["top_logprobs"]) == 3 for t in tokens)
    assert b"".join(bytes(t["bytes"]) for t in tokens).decode() == plain["message"]["content"]
    streamed = client.post("/v1/chat/completions", json={**body, "stream": True})
    pieces = [
        token["token"]
        for chunk in events_of(streamed.content)[:-1]
        for choice in chunk["choices"]
        if choice["logprobs"]
        for token in choice["logprobs"]["content"]
    ]
    assert pieces == [t["token"] for t in tokens]


def test_completions_take_text_and_token_ids(client: httpx.Client) -> None:
    body = {"model": CHAT, "prompt": "The capital of France is", "max_tokens": 6, "temperature": 0}
    first = client.post("/v1/completions", json={**body, "logprobs": 2}).json()
    assert first["object"] == "text_completion"
    assert first["choices"][0]["logprobs"]["text_offset"][0] == 0
    listed = client.post("/v1/completions", json={**body, "prompt": [body["prompt"]]}).json()
    assert listed["choices"][0]["text"] == first["choices"][0]["text"]
    ids = client.post("/v1/completions", json={**body, "prompt": [504, 3575]})
    assert ids.status_code == 200 and ids.json()["usage"]["prompt_tokens"] == 2
    streamed = events_of(client.post("/v1/completions", json={**body, "stream": True}).content)
    text = "".join(chunk["choices"][0]["text"] for chunk in streamed[:-1])
    assert text == first["choices"][0]["text"]


def test_embeddings_as_numbers_and_as_base64(client: httpx.Client, keyset: dict[str, Any]) -> None:
    body = {"model": EMBEDDER, "input": ["a cat", "a kitten", "the stock market"]}
    answer = client.post("/v1/embeddings", json=body)
    vectors = [item["embedding"] for item in answer.json()["data"]]
    check_receipt(
        receipt_of(client, answer),
        keyset,
        request=answer.request.content,
        response=answer.content,
    )
    assert [len(v) for v in vectors] == [384] * 3
    near, far = (sum(a * b for a, b in zip(vectors[0], v, strict=True)) for v in vectors[1:])
    assert near > far
    packed = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack("<384f", raw) == pytest.approx(vectors[0], abs=1e-6)


def test_same_seed_same_answer(client: httpx.Client) -> None:
    body = chat("Tell me a story.", temperature=1, seed=7, max_tokens=16)
    texts = {
        client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        for _ in range(2)
    }
    assert len(texts) == 1


# --- whose receipt it is -----------------------------------------------------------


def test_a_receipt_is_for_the_key_that_made_the_request(
    node: RunningNode, client: httpx.Client
) -> None:
    answer = client.post("/v1/chat/completions", json=chat())
    path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}"
    with node.client("") as nobody, node.client(node.key("other")) as other:
        without = nobody.get(path)
        foreign = other.get(path)
        by_chat_id = other.get(f"/v1/aci/receipts/{answer.json()['id']}")
        unknown = other.get("/v1/aci/receipts/rcpt-" + "0" * 32)
    with node.client("adt-" + "x" * 43) as stranger:
        made_up = stranger.get(path)
    assert without.status_code == 401 and without.json()["error"]["type"] == "unauthorized"
    for answer in (foreign, by_chat_id, unknown, made_up):
        assert answer.status_code == 404
        assert answer.content == foreign.content
        assert answer.json()["error"]["type"] == "not_found"


def test_a_revoked_key_opens_nothing(node: RunningNode) -> None:
    with node.client(node.key("short-lived")) as client:
        answer = client.post("/v1/chat/completions", json=chat())
        assert answer.status_code == 200
        done = gateway("keys", "revoke", "short-lived", "--state-dir", str(node.state_dir))
        assert done.returncode == 0
        node.until(lambda: client.get("/v1/models").status_code == 401, 5, "the revocation")
        path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}"
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("key", ["", "adt-" + "y" * 43, "sk-something", "x" * 5000])
def test_without_a_valid_key_there_is_no_answer(node: RunningNode, key: str) -> None:
    with node.client(key) as client:
        for answer in (
            client.get("/v1/models"),
            client.post("/v1/chat/completions", json=chat()),
            client.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x"}),
        ):
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] in {"invalid_api_key", "missing_api_key"}
            assert "x-receipt-id" not in answer.headers


def test_a_keys_own_limits_hold(node: RunningNode) -> None:
    with node.client(node.key("slow", "--requests-per-minute", "2")) as client:
        statuses = [
            client.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x"}).status_code
            for _ in range(4)
        ]
        assert statuses[:2] == [200, 200] and statuses[3] == 429
        refused = client.post("/v1/chat/completions", json=chat())
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


# --- ACI serving constraints ------------------------------------------------------


def test_a_direct_service_satisfies_aci_verified(client: httpx.Client) -> None:
    body = chat(provider={"aci_verified": True, "order": ["anything"]})
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_pinned_sessions_cannot_be_served_and_the_refusal_has_a_receipt(
    client: httpx.Client, keyset: dict[str, Any]
) -> None:
    body = chat(provider={"aci_session_ids": ["ab" * 32]})
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 412
    assert answer.json()["error"]["type"] == "session_not_accepted"
    events = check_receipt(
        receipt_of(client, answer),
        keyset,
        request=answer.request.content,
        response=answer.content,
    )
    assert list(events) == ["request.received", "response.returned"]


@pytest.mark.parametrize(
    "provider",
    [
        {"aci_unknown": 1},
        {"aci_verified": "yes"},
        {"aci_verified": False, "aci_session_ids": ["ab" * 32]},
        {"aci_session_ids": []},
        {"aci_session_ids": ["AB" * 32]},
        {"aci_session_ids": "ab" * 32},
        "strict",
    ],
)
def test_malformed_constraints_are_a_400(client: httpx.Client, provider: Any) -> None:
    answer = client.post("/v1/chat/completions", json=chat(provider=provider))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("provider")
    assert "response.returned" in receipt_events(receipt_of(client, answer))


# --- operating it -----------------------------------------------------------------


def test_metrics_count_and_name_nobody(node: RunningNode, client: httpx.Client) -> None:
    client.post("/v1/chat/completions", json=chat())
    client.get("/attacker/chosen/path/12345")
    text = client.get("/metrics").text
    assert "adyton_ready 1.0" in text
    assert f'adyton_tokens_total{{kind="completion",model="{CHAT}"}}' in text
    assert 'adyton_receipts_total{outcome="answered"}' in text
    assert "attacker" not in text and "main" not in text


def test_a_second_node_on_the_same_state_is_refused_in_one_line(node: RunningNode) -> None:
    second = gateway(
        *("serve", "--tee", "simulator", "--port", "0"), "--state-dir", str(node.state_dir)
    )
    assert second.returncode == 1
    assert second.stderr.strip() == f"error: another node is using {node.state_dir}"


def test_a_port_in_use_is_said_in_one_line(node: RunningNode, tmp_path: Path) -> None:
    second = gateway(
        *("serve", "--tee", "simulator", "--state-dir", str(tmp_path / "s")),
        *("--port", str(node.address[1])),
    )
    assert second.returncode == 1
    assert "Address already in use" in second.stderr and second.stderr.count("\n") == 1


def test_the_tee_is_always_named_by_a_person(tmp_path: Path) -> None:
    none = gateway("serve", "--port", "0", "--state-dir", str(tmp_path))
    assert none.returncode == 2 and "--tee" in none.stderr


@pytest.mark.parametrize("tee", ["gramine", "tsm", "dstack"])
def test_hardware_that_is_not_there_is_never_simulated(tee: str, tmp_path: Path) -> None:
    refused = gateway("serve", "--tee", tee, "--port", "0", "--state-dir", str(tmp_path / "s"))
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and not refused.stdout
