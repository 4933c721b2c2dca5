"""What clients send by mistake or malice: refused by name, receipted, and never a 5xx."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from running import CHAT, EMBEDDER, RunningNode, chat, events_of, post_raw, receipt_events, sha256

pytestmark = pytest.mark.slow

CHAT_PATH = "/v1/chat/completions"


def send(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.post(CHAT_PATH, content=body, headers={"content-type": "application/json"})


def refused(client: httpx.Client, answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error, after checking that its receipt tells the same story."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    found = client.get(f"/v1/aci/receipts/{answer.headers['x-receipt-id']}")
    events = receipt_events(found.json())
    assert events["request.received"]["body_hash"] == sha256(answer.request.content)
    assert events["response.returned"]["body_hash"] == sha256(answer.content)
    return dict(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"model": NaN}',
        b'{"model": "m", "temperature": Infinity}',
        b'{"model": "a", "model": "b"}',
        b'{"model": "\\ud800"}',
        b"[]",
        b'"text"',
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"9" * 5000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_malformed_json(client: httpx.Client, body: bytes) -> None:
    assert refused(client, send(client, body))["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b'{"model": "\xff"}', b"\xfe\xff\x00{", b'{"model": "\xc3'])
def test_invalid_utf8(client: httpx.Client, body: bytes) -> None:
    assert "UTF-8" in refused(client, send(client, body))["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 300}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 4, "max_tokens": 5}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stop": ["ok", 5]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"999999999": 1}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"made_up": 1}, "made_up"),
    ],
)
def test_wrong_types_and_unsupported_members(
    client: httpx.Client, change: dict[str, Any], param: str | None
) -> None:
    error = refused(client, client.post(CHAT_PATH, json=chat(**change)))
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", 10**400),
        ("top_p", 0),
        ("top_p", -1),
        ("top_p", 1.01),
        ("top_k", -5),
        ("seed", 2**63),
        ("max_tokens", -1),
        ("max_tokens", 2**40),
        ("frequency_penalty", -2.5),
        ("presence_penalty", 3),
        ("top_logprobs", 21),
    ],
)
def test_parameters_out_of_range(client: httpx.Client, name: str, value: Any) -> None:
    assert refused(client, client.post(CHAT_PATH, json=chat(**{name: value})))["param"] == name


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(client: httpx.Client, number: str) -> None:
    body = json.dumps(chat(temperature=0.25)).replace("0.25", number)
    refused(client, send(client, body.encode()))


def test_members_that_change_nothing_are_accepted(client: httpx.Client) -> None:
    body = chat(user="u", metadata={"a": "b"}, store=False, service_tier="auto", n=1, tools=None)
    assert client.post(CHAT_PATH, json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT_PATH, chat(model="gpt-9")),
        (CHAT_PATH, chat(model=EMBEDDER)),
        ("/v1/completions", {"model": "gpt-9", "prompt": "x"}),
        ("/v1/embeddings", {"model": CHAT, "input": "x"}),
    ],
)
def test_unknown_model(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    error = refused(client, client.post(path, json=body), 404)
    assert error["code"] == "model_not_found" and error["param"] == "model"


def test_empty_messages(client: httpx.Client) -> None:
    assert refused(client, client.post(CHAT_PATH, json=chat(messages=[])))["param"] == "messages"


def test_an_empty_prompt_is_not_an_error_of_ours(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"model": CHAT, "prompt": "", "max_tokens": 2})
    assert answer.status_code in {200, 400}
    for texts in ("", [], [""], ["ok", ""]):
        body = {"model": EMBEDDER, "input": texts}
        assert refused(client, client.post("/v1/embeddings", json=body))["param"] == "input"


def test_a_message_beyond_the_context(client: httpx.Client) -> None:
    error = refused(client, client.post(CHAT_PATH, json=chat("word " * 50_000)))
    assert error["code"] == "context_length_exceeded"
    stream = client.post(CHAT_PATH, json=chat("word " * 5_000, stream=True))
    assert refused(client, stream)["code"] == "context_length_exceeded"


def test_ten_thousand_messages(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": f"message {i}"} for i in range(10_000)]
    error = refused(client, client.post(CHAT_PATH, json=chat(messages=messages)))
    assert error["param"] == "messages" and error["code"] == "array_too_long"


def test_ten_megabytes(node: RunningNode, client: httpx.Client) -> None:
    answer = client.post(CHAT_PATH, json=chat("a" * 10_000_000))
    assert answer.status_code == 413 and "x-receipt-id" not in answer.headers
    assert answer.json()["error"]["code"] == "request_too_large"
    chunked = client.post(
        CHAT_PATH,
        content=(b"a" * 100_000 for _ in range(100)),
        headers={"content-type": "application/json"},
    )
    assert chunked.status_code == 413
    assert client.post(CHAT_PATH, json=chat()).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": ""},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_other_media_types(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post(CHAT_PATH, content=json.dumps(chat()), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("id", ["rcpt-" + "0" * 32, "x", "%00", "a" * 4000, "..%2f..%2fetc", "%ff"])
def test_unknown_receipt_ids(client: httpx.Client, id: str) -> None:
    answer = client.get(f"/v1/aci/receipts/{id}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found"


def test_more_prompts_than_one(client: httpx.Client) -> None:
    for prompt in (["a", "b"], [], [[1], [2]], [["a"]], {"text": "a"}, 7, [-1], [2**40]):
        body = {"model": CHAT, "prompt": prompt}
        error = refused(client, client.post("/v1/completions", json=body))
        assert error["param"].startswith("prompt")
    for extra in ({"echo": True}, {"n": 2}, {"best_of": 3}, {"suffix": "x"}, {"logprobs": 6}):
        body = {"model": CHAT, "prompt": "x", **extra}
        assert refused(client, client.post("/v1/completions", json=body))["param"] in extra


def test_token_ids_are_not_embedded(client: httpx.Client) -> None:
    for tokens in ([1, 2], [[1, 2]]):
        body = {"model": EMBEDDER, "input": tokens}
        assert "token ids" in refused(client, client.post("/v1/embeddings", json=body))["message"]


def test_refusals_do_not_repeat_what_was_sent(client: httpx.Client) -> None:
    canary = "canary-in-a-wrong-place"
    for change in (
        {"temperature": canary},
        {"stop": [canary, 5]},
        {"messages": [{"role": "user", "content": {"text": canary}}]},
        {"logit_bias": {canary: 1}},
        {"messages": [{"role": canary, "content": "x"}]},
    ):
        answer = client.post(CHAT_PATH, json=chat(**change))
        assert answer.status_code == 400 and canary not in answer.text


# --- clients that misbehave on the wire ----------------------------------------------


def _head(raw: bytes) -> bytes:
    return raw.partition(b"\r\n")[0]


def test_slow_client(node: RunningNode) -> None:
    """A body that trickles in is given up, with a reason, within its deadline."""
    with node.socket() as connection:
        head, _, body = post_raw(CHAT_PATH, node.key(), b"x" * 1000).partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        connection.settimeout(20)
        stop = threading.Event()

        def trickle() -> None:
            for byte in body:
                if stop.wait(0.2):
                    return
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        answer = connection.recv(4096)
        stop.set()
        sender.join()
    assert _head(answer) == b"HTTP/1.1 408 Request Timeout"
    assert b"x-aci-version: aci/1" in answer


def test_a_client_that_leaves_before_its_body_is_complete(node: RunningNode) -> None:
    node.until(lambda: node.metric("adyton_requests_inflight") == 0, 10, "a quiet node")
    with contextlib.ExitStack() as connections:
        for _ in range(5):
            connection = connections.enter_context(node.socket())
            connection.sendall(post_raw(CHAT_PATH, node.key(), b"{" * 100)[:-50])
        node.until(lambda: node.metric("adyton_requests_inflight") == 5, 10, "admission")
    node.until(lambda: node.metric("adyton_requests_inflight") == 0, 10, "letting go")


def test_client_gone_mid_stream(node: RunningNode, client: httpx.Client) -> None:
    """Its row is freed at once, and the receipt covers what was sent until then."""
    body = json.dumps(chat("Count to a thousand.", stream=True, max_tokens=1500)).encode()
    with node.socket() as connection:
        connection.sendall(post_raw(CHAT_PATH, node.key(), body))
        received = b""
        while b'content":"' not in received.partition(b'"role"')[2]:
            received += connection.recv(4096)
        assert node.metric('adyton_engine_rows{state="running"}') >= 1
    head = received.partition(b"\r\n\r\n")[0].decode()
    receipt_id = next(
        line.split(": ")[1] for line in head.split("\r\n") if line.startswith("x-receipt-id")
    )
    node.until(
        lambda: node.metric('adyton_engine_rows{state="running"}') == 0, 10, "freeing the row"
    )
    path = f"/v1/aci/receipts/{receipt_id}"
    node.until(lambda: client.get(path).status_code == 200, 10, "the receipt")
    events = receipt_events(client.get(path).json())
    assert events["stream.truncated"]["reason"] == "client_disconnected"
    assert events["request.received"]["body_hash"] == sha256(body)
    assert events["response.returned"]["body_hash"] != sha256(b"")


def test_client_gone_before_a_plain_answer(node: RunningNode) -> None:
    before = node.metric('adyton_receipts_total{outcome="client_disconnected"}')
    body = json.dumps(chat("Count to a thousand.", max_tokens=1500)).encode()
    with node.socket() as connection:
        connection.sendall(post_raw(CHAT_PATH, node.key(), body))
        node.until(lambda: node.metric('adyton_engine_rows{state="running"}') >= 1)
    node.until(
        lambda: node.metric('adyton_receipts_total{outcome="client_disconnected"}') == before + 1
    )
    node.until(lambda: node.metric('adyton_engine_rows{state="running"}') == 0)


def test_sixty_four_clients_on_eight_rows(node: RunningNode) -> None:
    start = threading.Barrier(64)

    def one(number: int) -> tuple[int, int, str]:
        with node.client() as client:
            start.wait()
            body = chat(f"Say the number {number}.", stream=number % 2 == 0, max_tokens=6)
            answer = client.post(CHAT_PATH, json=body)
            complete = answer.status_code == 200 and (
                number % 2 == 1 or events_of(answer.content)[-1] == "[DONE]"
            )
            receipt = client.get(f"/v1/aci/receipts/{answer.headers.get('x-receipt-id')}")
            returned = receipt_events(receipt.json())["response.returned"]["body_hash"]
            assert returned == sha256(answer.content)
            return number, answer.status_code, "complete" if complete else "cut"

    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(one, range(64)))
    assert [(status, end) for _, status, end in results] == [(200, "complete")] * 64


def test_pipelined_requests_are_answered_in_order(node: RunningNode) -> None:
    with node.socket() as connection:
        one = post_raw(CHAT_PATH, node.key(), json.dumps(chat(max_tokens=2)).encode())
        two = post_raw("/nowhere", node.key(), b"{}")
        connection.sendall(one + two)
        connection.settimeout(20)
        raw = b""
        while raw.count(b"HTTP/1.1 ") < 2 or not raw.endswith(b"}"):
            raw += connection.recv(4096)
    assert raw.index(b"HTTP/1.1 200") < raw.index(b"HTTP/1.1 404")


def test_idle_connections_do_not_keep_others_out(node: RunningNode, client: httpx.Client) -> None:
    idle = [socket.create_connection(node.address) for _ in range(100)]
    try:
        started = time.monotonic()
        assert client.get("/healthz").status_code == 200
        assert time.monotonic() - started < 30
    finally:
        for connection in idle:
            connection.close()
