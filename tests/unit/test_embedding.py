"""MiniLM embeddings equal sentence-transformers', and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_models import vectors

from enclave.engine import load_embedder
from enclave.engine.api import Embedder, ModelKind
from enclave.errors import InvalidRequest, ModelError
from enclave.models import default_embedding_model


@cache
def packaged() -> Embedder:
    return load_embedder(default_embedding_model(), id="minilm", threads=2)


def test_vectors_equal_sentence_transformers() -> None:
    cases = vectors("minilm.json")
    got, tokens = packaged().embed([c["text"] for c in cases])
    expected = np.array([c["vector"] for c in cases])
    assert np.abs(got - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert tokens == sum(packaged().count([c["text"] for c in cases]))


def test_batch_mates_do_not_change_a_vector() -> None:
    texts = [c["text"] for c in vectors("minilm.json")]
    together, _ = packaged().embed([*texts, *texts[::-1]])
    alone = np.concatenate([packaged().embed([t])[0] for t in texts])
    assert np.abs(together[: len(texts)] - alone).max() < 1e-5
    assert np.abs(together[len(texts) :] - alone[::-1]).max() < 1e-5


def test_many_texts_keep_their_order() -> None:
    texts = [f"sentence number {i} " + "and more words " * (i % 40) for i in range(120)]
    got, _ = packaged().embed(texts)
    one, _ = packaged().embed([texts[77]])
    assert np.abs(got[77] - one[0]).max() < 1e-5


def test_info() -> None:
    info = packaged().info
    assert (info.kind, info.embedding_size, info.context_length) == (ModelKind.EMBEDDING, 384, 256)
    assert info.model_digest.startswith("sha256:")


def test_too_long_input_is_refused_not_cut() -> None:
    longest = "word " * 254
    assert packaged().count([longest]) == [256]
    packaged().embed([longest])
    with pytest.raises(InvalidRequest) as caught:
        packaged().embed(["short", "word " * 255])
    assert caught.value.param == "input"
    assert caught.value.code == "context_length_exceeded"
    assert "input[1]" in caught.value.message and "word" not in caught.value.message


@pytest.mark.parametrize("bad", [[], [""], ["ok", ""], ["x"] * 2049, ["a\ud800"], [5]])
def test_bad_input(bad: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        packaged().embed(bad)
    assert caught.value.param == "input"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = default_embedding_model()
    for name in ("config.json", "sentence_bert_config.json", "modules.json", "tokenizer.json"):
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "1_Pooling").mkdir()
    shutil.copy(source / "1_Pooling" / "config.json", tmp_path / "1_Pooling" / "config.json")
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "roberta"}, "model_type"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act"),
        ("config.json", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("config.json", {"num_hidden_layers": "six"}, "lacks a number"),
        ("config.json", {"num_hidden_layers": 7}, "lacks tensor encoder.layer.6"),
        ("config.json", {"hidden_size": 385}, "expected"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "mean pooling"),
    ],
)
def test_configuration_this_engine_would_compute_wrongly(
    folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    edit(folder / file, **changes)
    with pytest.raises(ModelError, match=message):
        load_embedder(folder, id="m")


@pytest.mark.parametrize("name", ["config.json", "modules.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"7", b"\xff\xfe"])
def test_broken_files(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError):
        load_embedder(folder, id="m")


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}"])
def test_broken_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError):
        load_embedder(folder, id="m")


def test_missing_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"cannot read model file tokenizer\.json"):
        load_embedder(folder, id="m")


def test_pin(folder: Path) -> None:
    digest = packaged().info.model_digest
    assert load_embedder(folder, id="m", pinned_digest=digest).info.model_digest == digest
    edit(folder / "config.json", extra="changed")
    with pytest.raises(ModelError, match="is pinned"):
        load_embedder(folder, id="m", pinned_digest=digest)
