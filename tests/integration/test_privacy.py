"""A prompt, its answer and its key leave no trace in anything the node writes."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from running import EMBEDDER, RunningNode, chat, events_of, running

pytestmark = pytest.mark.slow

CANARY = "xylophone-7319-quagmire"


def written_by(node: RunningNode, since: float) -> dict[str, bytes]:
    """Every byte the node may have written: its state, its log, and new temporary files."""
    files = [node.log, *node.state_dir.rglob("*")]
    files += [p for p in Path("/tmp").glob("adyton*") if p.stat().st_mtime >= since]
    return {str(p): p.read_bytes() for p in files if p.is_file()}


def test_nothing_a_client_said_or_heard_is_written(tmp_path: Path) -> None:
    since = time.time()
    asked = f"Repeat this word: {CANARY}"
    with running(tmp_path / "state") as node:
        with node.client() as client:
            plain = client.post("/v1/chat/completions", json=chat(asked, max_tokens=24))
            answer = plain.json()["choices"][0]["message"]["content"]
            streamed = client.post(
                "/v1/chat/completions", json=chat(asked, max_tokens=24, stream=True)
            )
            assert events_of(streamed.content)[-1] == "[DONE]"
            client.post("/v1/embeddings", json={"model": EMBEDDER, "input": asked})
            for wrong in (
                chat(asked, temperature=CANARY),
                chat(asked, logit_bias={CANARY: 1}),
                {"model": CANARY * 20, "messages": asked},
                {CANARY: asked},
                chat(asked * 2000),
            ):
                assert client.post("/v1/chat/completions", json=wrong).status_code == 400
            client.post(
                "/v1/chat/completions",
                content=b'{"broken": "' + CANARY.encode(),
                headers={"content-type": "application/json"},
            )
            client.get(f"/{CANARY}?q={CANARY}")
            client.get(f"/v1/aci/attestation?nonce={CANARY}")
            client.get(f"/v1/aci/receipts/{CANARY}")
            with client.stream(
                "POST", "/v1/chat/completions", json=chat(asked, stream=True, max_tokens=1800)
            ) as cut:
                next(cut.iter_raw())
                node.worker().kill()
            metrics = client.get("/metrics").content
        while_running = written_by(node, since)
        assert node.stop() == 0
        afterwards = written_by(node, since)
    needles = {
        CANARY.encode(),
        answer.strip().encode(),
        json.dumps(answer).strip('"').encode(),
        base64.b64encode(asked.encode()).rstrip(b"=")[:-2],
        node.key().encode(),
        b"Bearer",
    }
    assert len(answer.strip()) > 12, "too short an answer to search for"
    everything = {**while_running, **afterwards, "metrics": metrics}
    assert any(name.endswith("node.db-wal") for name in while_running)
    found = [
        (name, needle)
        for name, content in everything.items()
        for needle in needles
        if needle in content
    ]
    assert found == []
