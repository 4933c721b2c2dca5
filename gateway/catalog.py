"""Which models a node serves, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from enclave.models import default_chat_model, default_embedding_model
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.supervisor import ModelSpec
from gateway.errors import StartError
from gateway.settings import ModelChoice, Settings

CHAT_ID: Final = "smollm2-135m-instruct"
EMBEDDING_ID: Final = "all-minilm-l6-v2"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


def specs(settings: Settings) -> list[ModelSpec]:
    """What to load: the operator's choice, else the default models. Raises StartError."""
    chosen = list(_chosen(settings))
    ids = [spec.id for spec in chosen]
    if duplicate := next((id for id in ids if ids.count(id) > 1), None):
        raise StartError(f"two models are called {duplicate}; name one with ID=PATH")
    return chosen


def _chosen(settings: Settings) -> Iterator[ModelSpec]:
    for choice in settings.chat_models:
        yield _spec(choice, pb.MODEL_KIND_CHAT)
    if not settings.chat_models:
        yield ModelSpec(CHAT_ID, pb.MODEL_KIND_CHAT, default_chat_model())
    for choice in settings.embedding_models:
        yield _spec(choice, pb.MODEL_KIND_EMBEDDING)
    if not settings.embedding_models:
        yield ModelSpec(EMBEDDING_ID, pb.MODEL_KIND_EMBEDDING, default_embedding_model())


def _spec(choice: ModelChoice, kind: pb.ModelKind) -> ModelSpec:
    path = choice.path.absolute()
    id = choice.id or path.name.removesuffix(".gguf").lower()
    if not _NAME.fullmatch(id):
        raise StartError(f"{id[:128]!r} is no model name; give one with ID=PATH")
    if not path.exists():
        raise StartError(f"there is no model at {path}")
    return ModelSpec(id, kind, path)
