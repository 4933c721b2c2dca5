"""What happens to answers and their receipts when something dies."""

from __future__ import annotations

import json
import os
import resource
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from aci_check import check_receipt
from running import (
    CHAT,
    EMBEDDER,
    RunningNode,
    chat,
    events_of,
    post_raw,
    receipt_events,
    running,
    sha256,
    start,
)

from enclave.models import default_embedding_model

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
LONG = chat("Count to a thousand.", stream=True, max_tokens=1800)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node to be mistreated."""
    with running(tmp_path_factory.mktemp("own") / "state", "--drain-timeout", "1") as node:
        yield node


def keyset_of(client: httpx.Client) -> dict[str, object]:
    report = client.get("/v1/aci/attestation").json()
    return dict(report["attestation"]["workload_keyset"])


class Streaming:
    """A long stream that has begun: its id is known and some of its text has arrived."""

    def __init__(self, node: RunningNode) -> None:
        self.client = node.client()
        request = self.client.build_request("POST", PATH, json=LONG)
        self.answer = self.client.send(request, stream=True)
        assert self.answer.status_code == 200
        self.request_body = request.content
        self.receipt_id = self.answer.headers["x-receipt-id"]
        self._raw = self.answer.iter_raw()
        self.received = b""
        while self.received.count(b"data: ") < 4:
            self.received += next(self._raw)

    def rest(self) -> bytes:
        """Everything received until the stream ended, however it did."""
        try:
            for chunk in self._raw:
                self.received += chunk
        except httpx.TransportError:
            self.received += b""
        self.client.close()
        return self.received


def test_kill_9_of_the_worker_mid_stream(own: RunningNode) -> None:
    """The stream ends in an error, the receipt says so, and the node serves again."""
    stream = Streaming(own)
    worker = own.worker()
    worker.kill()
    raw = stream.rest()
    last = events_of(raw)[-1]
    assert last["error"]["code"] == "engine_unavailable" and b"[DONE]" not in raw
    with own.client() as client:
        receipt = client.get(f"/v1/aci/receipts/{stream.receipt_id}").json()
        events = check_receipt(
            receipt, keyset_of(client), request=stream.request_body, response=raw
        )
        assert events["stream.truncated"]["reason"] == "engine_failed"
        assert client.get("/healthz").status_code == 200
        own.until(lambda: client.get("/readyz").status_code == 200, 60, "the worker's return")
        assert own.worker().pid != worker.pid
        assert client.post(PATH, json=chat()).status_code == 200
        assert own.metric("adyton_worker_restarts") >= 1


def test_a_dead_worker_gives_503_until_it_is_back(own: RunningNode) -> None:
    with own.client() as client:
        own.until(lambda: client.get("/readyz").status_code == 200, 60)
        own.worker().kill()
        own.until(lambda: client.get("/readyz").status_code == 503, 10, "noticing")
        answer = client.post(PATH, json=chat())
        assert answer.status_code in {200, 503}
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "engine_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
            found = client.get(f"/v1/aci/receipts/{answer.headers['x-receipt-id']}").json()
            events = receipt_events(found)
            assert events["response.returned"]["body_hash"] == sha256(answer.content)
        own.until(lambda: client.get("/readyz").status_code == 200, 60)


def test_kill_9_of_the_node_mid_stream(tmp_path: Path) -> None:
    """Receipts a client was told about survive: finished ones whole, cut ones signed as cut."""
    state = tmp_path / "state"
    with running(state) as first:
        key = first.key()
        with first.client() as client:
            keyset = keyset_of(client)
            done = client.post(PATH, json=chat())
        stream = Streaming(first)
        worker = first.worker()
        first.kill()
        stream.rest()
        gone, _ = psutil.wait_procs([worker], timeout=10)
        assert gone, "the worker outlived its node"
    with running(state) as second:
        assert second.facts["keyset_digest"] == first.facts["keyset_digest"]
        assert second.facts["root_sha256"] == first.facts["root_sha256"]
        with second.client(key) as client:
            kept = client.get(f"/v1/aci/receipts/{done.headers['x-receipt-id']}").json()
            check_receipt(kept, keyset, request=done.request.content, response=done.content)
            cut = client.get(f"/v1/aci/receipts/{stream.receipt_id}")
            assert cut.status_code == 200
            events = check_receipt(
                cut.json(), keyset_of(client), request=stream.request_body, response=None
            )
            assert list(events) == ["request.received", "stream.truncated"]
            assert events["stream.truncated"]["reason"] == "node_restarted"
            assert cut.json()["model"] == CHAT and cut.json()["chat_id"].startswith("chatcmpl-")
        with second.client(second.key("stranger")) as stranger:
            assert stranger.get(f"/v1/aci/receipts/{stream.receipt_id}").status_code == 404
        assert second.stop() == 0


def test_a_full_disk_gives_no_unreceipted_answer(own: RunningNode) -> None:
    """No new file grows past its size, as when the disk is full; then there is room again."""
    with own.client() as client:
        own.until(lambda: client.get("/readyz").status_code == 200, 60)
        whole = client.post(PATH, json=chat())
        assert whole.status_code == 200
        stream = Streaming(own)
        room = own.state_dir / "node.db-wal"
        limit = (room.stat().st_size, resource.RLIM_INFINITY)
        resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, limit)
        try:
            answer = client.post(PATH, json=chat())
            streamed = client.post(PATH, json=chat(stream=True))
            embedded = client.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x"})
            wrong = client.post(PATH, json={})
            raw = stream.rest()
        finally:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, unlimited)
        for refused in (answer, streamed, embedded, wrong):
            assert refused.status_code == 503, refused.text
            assert refused.json()["error"]["code"] == "storage_unavailable"
            assert "x-receipt-id" not in refused.headers
        assert b"[DONE]" not in raw
        assert events_of(raw)[-1]["error"]["code"] == "storage_unavailable"
        path = f"/v1/aci/receipts/{stream.receipt_id}"
        own.until(lambda: client.get(path).status_code == 200, 20, "the deferred receipt")
        events = receipt_events(client.get(path).json())
        assert events["stream.truncated"]["reason"] == "storage_failed"
        assert events["response.returned"]["body_hash"] == sha256(raw)
        assert client.post(PATH, json=chat()).status_code == 200


def test_new_keys_on_sighup_and_old_receipts_still_verify(own: RunningNode) -> None:
    with own.client() as client:
        own.until(lambda: client.get("/readyz").status_code == 200, 60)
        old = keyset_of(client)
        answer = client.post(PATH, json=chat())
        before = answer.headers["x-aci-keyset-digest"]
        os.kill(own.process.pid, 1)
        own.until(
            lambda: client.get("/healthz").headers["x-aci-keyset-digest"] != before, 10, "rotation"
        )
        now = client.get("/healthz").headers["x-aci-keyset-digest"]
        receipt = client.get(f"/v1/aci/receipts/{answer.headers['x-receipt-id']}").json()
        check_receipt(receipt, old, request=answer.request.content, response=answer.content)
        kept = own.state_dir / "keysets" / (before.removeprefix("sha256:") + ".json")
        assert json.loads(kept.read_bytes()) == old
    with own.socket() as connection, own.client() as client:
        certificate = connection.getpeercert(binary_form=True)
        published = Path(own.facts["tls_cert"]).read_text()
        assert certificate == ssl.PEM_cert_to_DER_cert(published)
        fresh = client.post(PATH, json=chat())
        receipt = client.get(f"/v1/aci/receipts/{fresh.headers['x-receipt-id']}").json()
        check_receipt(
            receipt, keyset_of(client), request=fresh.request.content, response=fresh.content
        )
        assert receipt["workload_keyset_digest"] == now != before


def test_a_slow_reader_holds_up_nobody(own: RunningNode) -> None:
    with own.socket() as connection, own.client() as client:
        own.until(lambda: client.get("/readyz").status_code == 200, 60)
        connection.sendall(post_raw(PATH, own.key(), json.dumps(LONG).encode()))
        started = time.monotonic()
        assert client.post(PATH, json=chat()).status_code == 200
        assert time.monotonic() - started < 30


def test_sigterm_mid_stream_drains_cuts_and_receipts(own: RunningNode) -> None:
    """Last: it stops the module's node."""
    with own.client() as client:
        own.until(lambda: client.get("/readyz").status_code == 200, 60)
        keyset = keyset_of(client)
    stream = Streaming(own)
    assert own.stop() == 0
    raw = stream.rest()
    ended = events_of(raw)[-1]
    if ended != "[DONE]":
        assert ended["error"]["code"] == "shutting_down"
    key = own.key()
    with running(own.state_dir) as again, again.client(key) as client:
        receipt = client.get(f"/v1/aci/receipts/{stream.receipt_id}").json()
        events = check_receipt(receipt, keyset, request=stream.request_body, response=raw)
        cut = events.get("stream.truncated", {}).get("reason")
        assert cut == (None if ended == "[DONE]" else "shutdown")
        assert again.stop() == 0


def test_a_node_whose_disk_is_full_from_the_start_says_so(tmp_path: Path) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "simulator.seed").write_bytes(bytes(32))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway", "serve", "--tee", "simulator", "--port", "0"),
            *("--state-dir", str(state)),
        ],
        capture_output=True,
        text=True,
        preexec_fn=no_room,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_model_changed_behind_a_running_node_is_not_served(tmp_path: Path) -> None:
    """The digest of the first load is the one every later load must have."""
    folder = tmp_path / "embedder"
    shutil.copytree(default_embedding_model(), folder)
    node = start(tmp_path / "state", "--embedding-model", f"mine={folder}")
    try:
        with node.client() as client:
            assert "mine" in node.facts["models"]
            vocabulary = folder / "tokenizer.json"
            vocabulary.write_bytes(vocabulary.read_bytes() + b" ")
            node.worker().kill()
            node.until(lambda: client.get("/readyz").status_code == 503, 10)
            for _ in range(8):
                time.sleep(1)
                assert client.get("/readyz").status_code == 503
            answer = client.post(PATH, json=chat())
            assert answer.status_code == 503 and "x-receipt-id" in answer.headers
    finally:
        node.kill()
