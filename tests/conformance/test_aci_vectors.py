"""The published ACI constants, byte for byte: tests/vectors/aci."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.canonical import digest, jcs, loads_strict, sha256_hex
from attestation.errors import VerificationError
from attestation.keyset import KeyEntry, Keyset, TlsKey
from attestation.receipts import (
    receipt_payload,
    request_forwarded,
    request_received,
    response_returned,
    sign_receipt,
    verify_receipt,
)
from attestation.statement import report_data, statement

VECTORS = Path(__file__).parents[1] / "vectors" / "aci"


def raw(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def expected(case: str) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(raw(f"{case}/expected.json"))
    return out


def keyset() -> Keyset:
    return Keyset.from_json(loads_strict(raw("keyset/keyset.jcs")))


def test_keyset_digest() -> None:
    assert jcs(keyset().document) == raw("keyset/keyset.jcs")
    assert keyset().digest == expected("keyset")["workload_keyset_digest"]


def test_keyset_built_here_has_the_same_digest() -> None:
    e2ee = KeyEntry(
        "e2ee-1",
        "x25519-aes-256-gcm-hkdf-sha256",
        "5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22",
    )
    built = Keyset.build(
        subject="dstack-app://example-app",
        not_after=1_800_000_000,
        receipt_signing_keys=(KeyEntry("receipt-1", "ed25519", expected("receipt")["public_key"]),),
        e2ee_public_keys=(e2ee,),
        tls_public_keys=(TlsKey("c0" * 32, "api.example.com"),),
    )
    assert built.digest == expected("keyset")["workload_keyset_digest"]


def test_keyset_digest_does_not_depend_on_the_served_encoding() -> None:
    pretty = json.dumps(json.loads(raw("keyset/keyset.jcs")), indent=4, sort_keys=False)
    assert Keyset.from_json(loads_strict(pretty)).digest == keyset().digest


@pytest.mark.parametrize("form", ["with_nonce", "null_nonce"])
def test_statement_and_report_data(form: str) -> None:
    want = expected("statement")
    nonce = want["nonce"] if form == "with_nonce" else None
    assert statement(want["keyset_digest"], nonce) == raw(f"statement/{form}.txt")
    slot = report_data(want["keyset_digest"], nonce)
    assert slot[:32].hex() == want["report_data"][form]
    assert slot[32:] == bytes(32)


def test_report_data_slot() -> None:
    want = expected("statement")
    slot = report_data(want["keyset_digest"], want["nonce"])
    assert slot.hex() == want["report_data_slot"]["with_nonce"]


def test_session_id() -> None:
    document = loads_strict(raw("session/session.jcs"))
    assert jcs(document) == raw("session/session.jcs")
    assert sha256_hex(jcs(document)) == expected("session")["session_id"]
    _, _, data = document["evidence"]["data"].partition("base64,")
    evidence = base64.b64decode(data, validate=True)
    assert evidence == expected("session")["evidence_text"].encode()
    assert digest(evidence) == expected("session")["evidence_digest"]


def test_receipt_signed_here_is_the_published_one() -> None:
    want = expected("receipt")
    request, response = raw("receipt/request.body"), raw("receipt/response.body")
    assert digest(request) == want["request_body_hash"]
    assert digest(response) == want["response_body_hash"]
    payload = receipt_payload(
        receipt_id="rcpt-0001",
        chat_id="chatcmpl-123",
        model="demo-model",
        keyset_digest=keyset().digest,
        endpoint="/v1/chat/completions",
        method="POST",
        served_at=1_750_000_000,
        events=[
            request_received(sha256_hex(request)),
            request_forwarded(sha256_hex(request)),
            {
                "type": "upstream.verified",
                "result": "verified",
                "required": True,
                "model_id": "demo-model",
                "session_id": expected("session")["session_id"],
            },
            response_returned(sha256_hex(response)),
        ],
    )
    unsigned = {**payload, "key_id": want["key_id"]}
    assert jcs(unsigned) == raw("receipt/signing_input.jcs")
    assert sha256_hex(jcs(unsigned)) == want["signing_input_sha256"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(want["seed"]))
    document = sign_receipt(payload, want["key_id"], key)
    assert document["signature"] == want["signature"]
    assert jcs(document) == raw("receipt/receipt.json")


def test_published_receipt_verifies_offline() -> None:
    receipt = verify_receipt(
        loads_strict(raw("receipt/receipt.json")),
        keyset(),
        request_body=raw("receipt/request.body"),
        response_body=raw("receipt/response.body"),
    )
    assert receipt.receipt_id == "rcpt-0001"
    upstream = receipt.event("upstream.verified")
    assert upstream is not None
    assert upstream["session_id"] == expected("session")["session_id"]


def test_published_receipt_does_not_fit_other_bytes() -> None:
    document = loads_strict(raw("receipt/receipt.json"))
    with pytest.raises(VerificationError, match=r"response\.returned"):
        verify_receipt(document, keyset(), response_body=raw("receipt/request.body"))
