"""An ACI verifier written from the specification alone, with none of our own code.

It uses hashlib, json, cryptography and dcap_qvl. Under ACI's constraints (ASCII names,
integers) the JCS form is compact JSON with sorted names, which is all `jcs` does here.
Section numbers are those of the ACI specification.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import dcap_qvl
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_certificate


def jcs(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_hardware(evidence: dict[str, Any], root_der: bytes, now: int | None = None) -> Any:
    """dcap_qvl's report for the evidence, under this root. Raises ValueError."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(evidence["collateral"]))
    quote = bytes.fromhex(evidence["quote"])
    return dcap_qvl.verify_with_root_ca(
        quote, collateral, root_der, int(time.time()) if now is None else now
    )


def quoted_report_data(quote: bytes) -> bytes:
    """The last 64 bytes of the report body: TDX v4 and SGX v3 quotes, by Intel's layout."""
    version, tee = quote[0], int.from_bytes(quote[4:8], "little")
    assert (version, tee) in {(4, 0x81), (3, 0)}
    body = 584 if tee else 384
    return quote[48 + body - 64 : 48 + body]


def check_report(
    report: dict[str, Any], *, nonce: str | None, root_der: bytes, peer_certificate: bytes
) -> dict[str, Any]:
    """Section 9.1, checks 1, 2, 3 and 6; the established keyset."""
    assert report["api_version"] == "aci/1"
    attestation = report["attestation"]
    keyset = attestation["workload_keyset"]
    digest = "sha256:" + hashlib.sha256(jcs(keyset)).hexdigest()
    assert report["workload_keyset_digest"] == digest
    quoted = "null" if nonce is None else f'"{nonce}"'
    statement = (
        f'{{"keyset_digest":"{digest}","nonce":{quoted},"purpose":"aci.report_data.v1"}}'
    ).encode()
    expected = hashlib.sha256(statement).digest()
    assert attestation["report_data"] == expected.hex()
    quote = bytes.fromhex(attestation["evidence"]["quote"])
    assert quoted_report_data(quote) == expected + bytes(32)
    assert check_hardware(attestation["evidence"], root_der).status == "UpToDate"
    assert time.time() < keyset["not_after"]
    spki = load_der_x509_certificate(peer_certificate).public_key()
    der = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(der).hexdigest() in {k["spki_sha256"] for k in keyset["tls_public_keys"]}
    return keyset


def check_receipt(
    document: dict[str, Any], keyset: dict[str, Any], *, request: bytes, response: bytes | None
) -> dict[str, dict[str, Any]]:
    """Section 9.3, checks 1 to 4; the events by type."""
    unsigned = {k: v for k, v in document.items() if k != "signature"}
    entry = next(k for k in keyset["receipt_signing_keys"] if k["key_id"] == document["key_id"])
    assert entry["algo"] == "ed25519"
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry["public_key"])).verify(
        bytes.fromhex(document["signature"]), jcs(unsigned)
    )
    assert document["api_version"] == "aci/1"
    digest = "sha256:" + hashlib.sha256(jcs(keyset)).hexdigest()
    assert document["workload_keyset_digest"] == digest
    log = document["event_log"]
    assert log[0]["type"] == "request.received"
    events = {event["type"]: event for event in log}
    assert len(events) == len(log)
    hashed = "sha256:" + hashlib.sha256(request).hexdigest()
    assert events["request.received"]["body_hash"] == hashed
    if response is not None:
        hashed = "sha256:" + hashlib.sha256(response).hexdigest()
        assert events["response.returned"]["body_hash"] == hashed
    return events
