"""The node behaves as its OpenAPI document says, whatever is generated from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from running import CHAT, EMBEDDER, RunningNode
from schemathesis import Case, GenerationMode

pytestmark = pytest.mark.slow

EXAMPLES = 20
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
OPERATIONS = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/v1/aci/attestation"),
    ("GET", "/v1/aci/receipts/{id}"),
    ("GET", "/v1/aci/receipts/{id}/evm"),
    ("GET", "/v1/aci/sessions"),
    ("GET", "/v1/aci/sessions/{id}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
]
RULED = {
    "/v1/aci/attestation",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
}
"""Operations with a schema that generated requests can break."""


@pytest.fixture(scope="module")
def description(node: RunningNode) -> dict[str, Any]:
    with node.client("") as client:
        return dict(client.get("/openapi.json").json())


def test_every_operation_is_described(description: dict[str, Any]) -> None:
    described = {
        (method.upper(), path) for path, item in description["paths"].items() for method in item
    }
    assert described == set(OPERATIONS)
    for path, item in description["paths"].items():
        for operation in item.values():
            assert "422" not in operation["responses"], path


def aimed(case: Case) -> Case:
    """Mostly at a model that exists, and short, so that generated requests get somewhere."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = EMBEDDER if "embed" in case.path else CHAT
        if "embed" not in case.path:
            case.body["max_tokens"] = 2
    return case


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
    + [(*operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation[1] in RULED],
)
def test_generated_requests(
    node: RunningNode,
    description: dict[str, Any],
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(description)))
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    headers = {"authorization": f"Bearer {node.key()}"}
    operation = schema[path][method]

    @seed(20)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Case) -> None:
        aimed(case).call_and_validate(
            base_url=node.url, headers=headers, verify=node.facts["tls_cert"], checks=checks
        )

    run()
