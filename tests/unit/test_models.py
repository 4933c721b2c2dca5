"""A model's digest covers the bytes that were used, and a pin is checked before anything else."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from engine_models import write_tiny

from enclave import models
from enclave.engine import load_chat_engine
from enclave.errors import ModelError
from enclave.models import ModelFolder, check_pin, model_digest


def test_digest_is_sha256_over_canonical_json() -> None:
    files = {"b.bin": "22" * 32, "a.json": "11" * 32}
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":")).encode()
    assert model_digest(files) == f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def test_pin_that_does_not_match() -> None:
    check_pin("sha256:aa", None)
    check_pin("sha256:aa", "sha256:aa")
    with pytest.raises(ModelError, match="is pinned"):
        check_pin("sha256:aa", "sha256:ab")


def test_pinned_model_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.gguf", architecture="unsupported")
    with pytest.raises(ModelError, match="is pinned"):
        load_chat_engine(
            path, id="m", pinned_digest="sha256:" + "0" * 64, context=32, deliver=lambda _: None
        )


def test_engine_reports_the_digest_of_its_file(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.gguf")
    expected = model_digest({"m.gguf": hashlib.sha256(path.read_bytes()).hexdigest()})
    engine = load_chat_engine(
        path, id="m", pinned_digest=expected, rows=1, context=32, threads=1, deliver=lambda _: None
    )
    engine.close()
    assert engine.info.model_digest == expected


def test_folder_remembers_what_it_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "unused").write_bytes(b"two")
    folder = ModelFolder(tmp_path)
    assert folder.read("a") == b"one"
    assert folder.digest() == model_digest({"a": hashlib.sha256(b"one").hexdigest()})
    with pytest.raises(ModelError, match="cannot read"):
        folder.read("absent")


def test_default_models_are_found_without_importing_their_packages() -> None:
    assert models.default_chat_model().suffix == ".gguf"
    assert (models.default_embedding_model() / "model.safetensors").exists()
    assert models.CHAT_PACKAGE not in sys.modules
    assert models.EMBEDDING_PACKAGE not in sys.modules


def test_default_model_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "CHAT_PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="is not installed"):
        models.default_chat_model()
