"""A receipt is believed only for the bytes, keys and events it was signed over."""

from __future__ import annotations

import hashlib
from typing import Any

import attested
import pytest
from attested import NOW, SIGNING_KEY
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import MalformedEvidence, VerificationError
from attestation.keyset import KeyEntry
from attestation.receipts import (
    Receipt,
    model_loaded,
    receipt_payload,
    request_forwarded,
    request_received,
    response_returned,
    sign_receipt,
    stream_truncated,
    verify_receipt,
)
from attestation.receipts.receipt import _SMALL_ORDER

REQUEST, RESPONSE = b'{"model":"m"}', b"data: {}\n\ndata: [DONE]\n\n"
KEYSET = attested.keyset()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


EVENTS: list[dict[str, Any]] = [
    request_received(sha256(REQUEST)),
    request_forwarded(sha256(REQUEST)),
    model_loaded("sha256:" + "ab" * 32),
    response_returned(sha256(RESPONSE)),
]


def payload(**changes: Any) -> dict[str, Any]:
    return receipt_payload(
        **{
            "receipt_id": "rcpt-1",
            "chat_id": "chatcmpl-1",
            "model": "m",
            "keyset_digest": KEYSET.digest,
            "endpoint": "/v1/chat/completions",
            "method": "POST",
            "served_at": NOW,
            "events": EVENTS,
            **changes,
        }
    )


def signed(**changes: Any) -> dict[str, Any]:
    return sign_receipt(payload(**changes), "receipt-1", SIGNING_KEY)


def resigned(**members: Any) -> dict[str, Any]:
    return sign_receipt({**payload(), **members}, "receipt-1", SIGNING_KEY)


def refused(step: str, document: Any, **bodies: Any) -> None:
    with pytest.raises(VerificationError) as e:
        verify_receipt(document, KEYSET, **bodies)
    assert e.value.step == step


def test_receipt_of_these_bytes_is_accepted() -> None:
    receipt = verify_receipt(signed(), KEYSET, request_body=REQUEST, response_body=RESPONSE)
    assert isinstance(receipt, Receipt)
    assert (receipt.receipt_id, receipt.chat_id, receipt.model) == ("rcpt-1", "chatcmpl-1", "m")
    assert (receipt.endpoint, receipt.method) == ("/v1/chat/completions", "POST")
    assert (receipt.served_at, receipt.key_id) == (NOW, "receipt-1")
    assert receipt.keyset_digest == KEYSET.digest
    assert receipt.checked_request
    assert receipt.checked_response
    assert receipt.model_digest == "sha256:" + "ab" * 32
    assert receipt.truncated is None
    assert receipt.event("upstream.verified") is None


def test_bodies_that_were_not_given_are_not_said_to_be_checked() -> None:
    receipt = verify_receipt(signed(), KEYSET)
    assert not receipt.checked_request
    assert not receipt.checked_response


def test_null_chat_and_model_are_allowed() -> None:
    receipt = verify_receipt(signed(chat_id=None, model=None), KEYSET)
    assert receipt.chat_id is receipt.model is None


@pytest.mark.parametrize("bit", [0, 100, len(REQUEST) * 8 - 1])
def test_one_flipped_bit_in_the_request_is_refused(bit: int) -> None:
    refused("request.received", signed(), request_body=attested.flip(REQUEST, bit))


@pytest.mark.parametrize("bit", [0, 100, len(RESPONSE) * 8 - 1])
def test_one_flipped_bit_in_the_response_is_refused(bit: int) -> None:
    refused("response.returned", signed(), response_body=attested.flip(RESPONSE, bit))


def test_reserialised_json_is_not_the_wire_bytes() -> None:
    refused("request.received", signed(), request_body=b'{ "model": "m" }')


@pytest.mark.parametrize(
    "member",
    ["receipt_id", "chat_id", "model", "endpoint", "method", "workload_keyset_digest"],
)
def test_every_member_is_covered_by_the_signature(member: str) -> None:
    refused("signature", {**signed(), member: "changed"})


def test_members_added_after_signing_are_refused() -> None:
    refused("signature", {**signed(), "extra": 1})


def test_events_reordered_after_signing_are_refused() -> None:
    document = signed()
    log = document["event_log"]
    refused("signature", {**document, "event_log": [log[0], log[2], log[1], log[3]]})


@pytest.mark.parametrize("signature", ["", "00" * 64, "AB" * 64, "zz" * 64, "ab" * 63])
def test_other_signatures_are_refused(signature: str) -> None:
    refused("signature", {**signed(), "signature": signature})


def test_uppercase_spelling_of_the_right_signature_is_refused() -> None:
    document = signed()
    refused("signature", {**document, "signature": document["signature"].upper()})


def test_receipt_signed_by_a_key_outside_the_keyset_is_refused() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    refused("signature", sign_receipt(payload(), "receipt-1", stranger))
    refused("key_id", sign_receipt(payload(), "receipt-2", stranger))


def test_key_of_an_unknown_algorithm_signs_nothing_we_accept() -> None:
    entries = (
        *KEYSET.receipt_signing_keys,
        KeyEntry("evm-1", "eip712-secp256k1", "ab" * 20),
    )
    keys = attested.keyset(receipt_signing_keys=entries)
    document = sign_receipt(payload(keyset_digest=keys.digest), "evm-1", SIGNING_KEY)
    with pytest.raises(VerificationError) as e:
        verify_receipt(document, keys)
    assert e.value.step == "signature"
    other = sign_receipt(payload(keyset_digest=keys.digest), "receipt-1", SIGNING_KEY)
    assert verify_receipt(other, keys), "its presence must not disturb the others"


@pytest.mark.parametrize("public_key", ["", "ab", "zz" * 32, "AB" * 32])
def test_key_that_is_no_key_verifies_nothing(public_key: str) -> None:
    keys = attested.keyset(receipt_signing_keys=(KeyEntry("receipt-1", "ed25519", public_key),))
    document = sign_receipt(payload(keyset_digest=keys.digest), "receipt-1", SIGNING_KEY)
    with pytest.raises(VerificationError) as e:
        verify_receipt(document, keys)
    assert e.value.step == "signature"


@pytest.mark.parametrize("sign", [0x00, 0x80])
@pytest.mark.parametrize("y", sorted(_SMALL_ORDER))
def test_key_of_small_order_does_not_let_everybody_sign(y: bytes, sign: int) -> None:
    public = y[:-1] + bytes([y[-1] | sign])
    entry = KeyEntry("receipt-1", "ed25519", public.hex())
    keys = attested.keyset(receipt_signing_keys=(entry,))
    document = {**payload(keyset_digest=keys.digest), "key_id": "receipt-1"}
    for forged in ("00" * 64, "01" + "00" * 63, public.hex() + "00" * 32):
        with pytest.raises(VerificationError, match="anybody"):
            verify_receipt({**document, "signature": forged}, keys)


@pytest.mark.parametrize("version", ["aci/2", "", None, 1])
def test_other_protocol_versions_are_refused(version: Any) -> None:
    refused("api_version", resigned(api_version=version))


def test_receipt_of_another_keyset_is_refused() -> None:
    refused("workload_keyset_digest", signed(keyset_digest="sha256:" + "00" * 32))


def test_receipt_served_after_the_keyset_expired_is_refused() -> None:
    assert verify_receipt(signed(served_at=KEYSET.not_after), KEYSET)
    refused("served_at", signed(served_at=KEYSET.not_after + 1))


# --- the event log ------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [[], EVENTS[1:], [EVENTS[1], EVENTS[0], EVENTS[3]]])
def test_first_event_must_be_the_request(events: list[dict[str, Any]]) -> None:
    refused("request.received", signed(events=events))


@pytest.mark.parametrize("twice", [EVENTS[0], EVENTS[1], EVENTS[3], stream_truncated("x")])
def test_an_event_that_decides_must_not_appear_twice(twice: dict[str, Any]) -> None:
    second = {**twice, "body_hash": "sha256:" + "00" * 32}
    events = [*EVENTS, twice] if twice not in EVENTS else list(EVENTS)
    refused(twice["type"], signed(events=[*events, second]))


def test_stream_that_ends_without_a_response_hash_is_refused() -> None:
    refused("response.returned", signed(events=EVENTS[:3]))
    refused("response.returned", signed(events=[*EVENTS[:3], stream_truncated("client_gone")]))


def test_cut_stream_states_its_reason_and_the_bytes_that_left() -> None:
    document = signed(events=[*EVENTS, stream_truncated("client_disconnected")])
    receipt = verify_receipt(document, KEYSET, response_body=RESPONSE)
    assert receipt.truncated == "client_disconnected"
    assert receipt.checked_response


def test_node_that_died_mid_stream_leaves_a_receipt_without_a_response_hash() -> None:
    document = signed(events=[*EVENTS[:3], stream_truncated("node_restarted")])
    assert verify_receipt(document, KEYSET, request_body=REQUEST).truncated == "node_restarted"
    refused("response.returned", document, response_body=RESPONSE)


def test_truncation_without_a_reason_is_still_a_truncation() -> None:
    document = signed(events=[*EVENTS, {"type": "stream.truncated"}])
    assert verify_receipt(document, KEYSET).truncated == ""


@pytest.mark.parametrize("body_hash", [None, 7, sha256(REQUEST), "sha256:" + "\ud7ff" * 64])
def test_event_without_a_body_hash_proves_nothing(body_hash: Any) -> None:
    first = {"type": "request.received", "body_hash": body_hash}
    refused("request.received", signed(events=[first, *EVENTS[1:]]), request_body=REQUEST)


def test_unknown_events_are_ignored() -> None:
    events = [*EVENTS, {"type": "routing.decided", "to": "x"}]
    assert verify_receipt(signed(events=events), KEYSET)


# --- not a receipt --------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [None, [], "receipt", 1])
def test_receipt_must_be_an_object(document: Any) -> None:
    with pytest.raises(MalformedEvidence, match="receipt: must"):
        verify_receipt(document, KEYSET)


@pytest.mark.parametrize("member", ["key_id", "signature"])
def test_unsigned_document_is_no_receipt(member: str) -> None:
    document = signed()
    del document[member]
    with pytest.raises(MalformedEvidence, match=member):
        verify_receipt(document, KEYSET)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("served_at", "now"),
        ("served_at", True),
        ("served_at", None),
        ("receipt_id", None),
        ("receipt_id", 1),
        ("chat_id", 1),
        ("model", []),
        ("endpoint", None),
        ("method", 1),
        ("event_log", None),
        ("event_log", {}),
        ("event_log", ["x"]),
        ("event_log", [{"type": 1}]),
        ("event_log", [{}]),
        ("event_log", [{"type": "x"}] * 1025),
    ],
)
def test_signed_members_of_the_wrong_type_are_named(member: str, value: Any) -> None:
    with pytest.raises(MalformedEvidence) as e:
        verify_receipt(resigned(**{member: value}), KEYSET)
    assert e.value.field.startswith(f"receipt.{member}")


@pytest.mark.parametrize("value", [float("nan"), 2**60, "\ud800"])
def test_document_without_a_canonical_form_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedEvidence, match="canonical"):
        verify_receipt({**signed(), "extra": value}, KEYSET)


# --- making them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [request_received, request_forwarded, response_returned])
@pytest.mark.parametrize("value", ["", "AB" * 32, "sha256:" + "ab" * 32])
def test_body_events_take_a_bare_digest(make: Any, value: str) -> None:
    with pytest.raises(MalformedEvidence, match="body_hash"):
        make(value)


def test_model_event_takes_prefixed_digests() -> None:
    digest = "sha256:" + "cd" * 32
    assert model_loaded(digest, digest)["adapter_digest"] == digest
    for wrong in ("cd" * 32, "", "sha256:xyz"):
        with pytest.raises(MalformedEvidence, match="model_digest"):
            model_loaded(wrong)
        with pytest.raises(MalformedEvidence, match="adapter_digest"):
            model_loaded(digest, wrong)


def test_model_digest_is_unknown_where_no_model_ran() -> None:
    refusal = [EVENTS[0], EVENTS[3]]
    assert verify_receipt(signed(events=refusal), KEYSET).model_digest is None


def test_signing_again_replaces_the_signature() -> None:
    assert sign_receipt(signed(), "receipt-1", SIGNING_KEY) == signed()
