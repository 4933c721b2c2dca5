"""The EVM receipt, its signature, and what binds it to a keyset and an ACI receipt."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_account import Account
from eth_account.messages import encode_typed_data
from evm_receipts import (
    KEY,
    MODEL,
    NOW,
    REQUEST,
    RESPONSE,
    SALT,
    SIGNER,
    STRANGER,
    evm_receipt,
    key_whose_s_is,
    word,
)

from attestation.errors import MalformedEvidence, VerificationError
from attestation.keyset import Keyset
from attestation.onchain.errors import NotProvable
from attestation.onchain.receipt import (
    ALGO,
    NO_SALT,
    ORDER,
    EvmReceipt,
    address_of,
    commitment,
    compact,
    domain_separator,
    keccak,
    key_entry,
    receipt_hash,
    recover,
    sign,
    verify_receipt,
)
from attestation.receipts import (
    model_loaded,
    receipt_payload,
    request_forwarded,
    request_received,
    response_returned,
    sign_receipt,
    stream_truncated,
)

NODE = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
KEYSET = Keyset.build(
    subject=None,
    not_after=NOW + 86_400,
    receipt_signing_keys=(key_entry(SIGNER),),
    tls_public_keys=(),
)


def document(
    events: list[dict[str, str]] | None = None, served_at: int = NOW + 900
) -> dict[str, Any]:
    sent, came = (hashlib.sha256(body).hexdigest() for body in (REQUEST, RESPONSE))
    log = [
        request_received(sent),
        request_forwarded(sent),
        model_loaded(f"sha256:{MODEL.hex()}"),
        response_returned(came),
    ]
    payload = receipt_payload(
        receipt_id="rcpt-" + "00" * 16,
        chat_id=None,
        model="m",
        keyset_digest=KEYSET.digest,
        endpoint="/v1/chat/completions",
        method="POST",
        served_at=served_at,
        events=log if events is None else events,
    )
    return sign_receipt(payload, "receipt-1", NODE)


def test_keccak_is_ethereums_and_not_sha3s() -> None:
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak(b"").hex() == empty


def test_wallets_hash_and_recover_the_same() -> None:
    receipt = evm_receipt()
    message = encode_typed_data(full_message=receipt.typed_data())
    assert (message.header, message.body) == (domain_separator(), receipt.struct_hash)
    wallet = Account.sign_message(message, KEY)
    assert bytes(wallet.signature) == sign(receipt, KEY)
    assert Account.recover_message(message, signature=sign(receipt, KEY)).lower() == SIGNER


def test_json_keeps_a_receipt() -> None:
    assert EvmReceipt.from_json(evm_receipt().to_json()) == evm_receipt()


@pytest.mark.parametrize(
    "damage",
    [
        lambda j: None,
        lambda j: [],
        lambda j: {k: v for k, v in j.items() if k != "context"},
        lambda j: {**j, "more": 1},
        lambda j: {**j, "context": "00" * 32},
        lambda j: {**j, "context": "0x" + "00" * 31},
        lambda j: {**j, "context": "0x" + "AA" * 32},
        lambda j: {**j, "context": 0},
        lambda j: {**j, "servedAt": "1"},
        lambda j: {**j, "servedAt": True},
        lambda j: {**j, "servedAt": -1},
        lambda j: {**j, "servedAt": 1 << 64},
        lambda j: {**j, "servedAt": 1.0},
    ],
)
def test_json_that_is_no_receipt_is_malformed(damage: Any) -> None:
    with pytest.raises(MalformedEvidence):
        EvmReceipt.from_json(damage(evm_receipt().to_json()))


@pytest.mark.parametrize("value", [b"", bytes(31), bytes(33), "00" * 16, None])
def test_a_word_of_another_length_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedEvidence, match="modelDigest"):
        evm_receipt(model_digest=value)


class TestSignature:
    def test_high_s_is_refused(self) -> None:
        digest, low = evm_receipt().digest, ORDER // 2
        key, r, parity = key_whose_s_is(digest, low)
        both = [r.to_bytes(32, "big") + s.to_bytes(32, "big") for s in (low, ORDER - low)]
        assert recover(evm_receipt(), both[0] + bytes([27 + parity])) == address_of(key)
        with pytest.raises(VerificationError, match="upper half"):
            recover(evm_receipt(), both[1] + bytes([28 - parity]))

    @pytest.mark.parametrize("v", [0, 1, 26, 29, 35, 255])
    def test_bad_v_is_refused(self, v: int) -> None:
        with pytest.raises(VerificationError, match="v must be"):
            recover(evm_receipt(), sign(evm_receipt(), KEY)[:64] + bytes([v]))

    @pytest.mark.parametrize(
        "r, s", [(0, 1), (1, 0), (ORDER, 1), (1, ORDER), (2**256 - 1, 1), (5, 1)]
    )
    def test_what_no_key_makes_is_refused(self, r: int, s: int) -> None:
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big") + b"\x1b"
        with pytest.raises(VerificationError, match="signature"):
            recover(evm_receipt(), raw)

    @pytest.mark.parametrize("length", [0, 64, 66])
    def test_another_length_is_refused(self, length: int) -> None:
        with pytest.raises(VerificationError, match="65 bytes"):
            recover(evm_receipt(), (sign(evm_receipt(), KEY) + b"\0")[:length])

    def test_two_words_hold_it(self) -> None:
        signature = sign(evm_receipt(), KEY)
        r, vs = compact(signature)
        assert r == signature[:32]
        s = int.from_bytes(vs, "big") & (1 << 255) - 1
        assert s.to_bytes(32, "big") == signature[32:64]
        assert vs[0] >> 7 == signature[64] - 27

    @pytest.mark.parametrize("key", [b"", bytes(32), b"\xff" * 32, b"\x01" * 31, b"\x01" * 33])
    def test_what_is_no_key_signs_nothing(self, key: bytes) -> None:
        with pytest.raises(NotProvable, match="private_key"):
            sign(evm_receipt(), key)

    @pytest.mark.parametrize("address", ["", SIGNER[2:], SIGNER + "0", "0x" + "g" * 40])
    def test_what_is_no_address_is_listed_nowhere(self, address: str) -> None:
        with pytest.raises(NotProvable, match="address"):
            key_entry(address)


class TestDocument:
    def test_says_what_the_aci_receipt_says(self) -> None:
        made = EvmReceipt.from_document(document(), salt=SALT, context=word("context"))
        assert made == evm_receipt(
            keyset_digest=bytes.fromhex(KEYSET.digest[7:]), receipt_hash=receipt_hash(document())
        )

    def test_both_signatures_cover_one_content(self) -> None:
        unsigned = {k: v for k, v in document().items() if k != "signature"}
        assert receipt_hash(document()) == receipt_hash(unsigned)
        assert receipt_hash(document()) != receipt_hash({**document(), "model": "other"})

    def test_adapter_is_named_and_no_model_is_zero(self) -> None:
        adapter = word("adapter")
        first, *_, last = document()["event_log"]
        model = model_loaded(f"sha256:{MODEL.hex()}", f"sha256:{adapter.hex()}")
        made = EvmReceipt.from_document(document([first, model, last]))
        assert (made.model_digest, made.adapter_digest) == (MODEL, adapter)
        made = EvmReceipt.from_document(document([first, last]))
        assert (made.model_digest, made.adapter_digest) == (bytes(32), bytes(32))

    @pytest.mark.parametrize(
        "change",
        [
            lambda log: [*log, stream_truncated("client left")],
            lambda log: log[1:],
            lambda log: log[:-1],
            lambda log: [*log, log[0]],
            lambda log: [*log, log[2]],
        ],
        ids=["cut short", "no request", "no response", "two requests", "two models"],
    )
    def test_what_the_words_cannot_say_has_no_receipt(self, change: Any) -> None:
        with pytest.raises(NotProvable):
            EvmReceipt.from_document(document(change(document()["event_log"])))

    @pytest.mark.parametrize(
        "change",
        [
            {"event_log": None},
            {"event_log": [1]},
            {"event_log": {}},
            {"workload_keyset_digest": "sha256:00"},
            {"workload_keyset_digest": None},
            {"served_at": None},
            {"served_at": -1},
        ],
    )
    def test_what_is_no_document_is_malformed(self, change: dict[str, Any]) -> None:
        with pytest.raises(MalformedEvidence):
            EvmReceipt.from_document({**document(), **change})

    def test_commitment_needs_two_words(self) -> None:
        assert commitment(NO_SALT, MODEL) == keccak(bytes(32) + MODEL)
        for salt, body in (b"", MODEL), (SALT, MODEL[:-1]):
            with pytest.raises(NotProvable, match="commitment"):
                commitment(salt, body)


class TestVerify:
    RECEIPT = EvmReceipt.from_document(document(), salt=SALT, context=word("context"))

    def test_holds(self) -> None:
        signature = sign(self.RECEIPT, KEY)
        found = verify_receipt(
            self.RECEIPT,
            signature,
            KEYSET,
            document=document(),
            salt=SALT,
            context=word("context"),
        )
        assert found == SIGNER == verify_receipt(self.RECEIPT, signature, KEYSET)

    @pytest.mark.parametrize(
        "change, options, step",
        [
            ({"keyset_digest": word("other")}, {}, "keyset_digest"),
            ({"served_at": KEYSET.not_after + 1}, {}, "served_at"),
            ({}, {"context": word("other")}, "context"),
            ({}, {"document": document(), "salt": NO_SALT}, "document"),
            ({"model_digest": word("other")}, {"document": document(), "salt": SALT}, "document"),
            (
                {},
                {"document": document(served_at=NOW + 901), "salt": SALT},
                "document",
            ),
        ],
    )
    def test_what_is_bound_to_something_else_is_refused(
        self, change: dict[str, Any], options: dict[str, Any], step: str
    ) -> None:
        receipt = replace(self.RECEIPT, **change)
        with pytest.raises(VerificationError) as refused:
            verify_receipt(receipt, sign(receipt, KEY), KEYSET, **options)
        assert refused.value.step == step

    def test_a_stranger_is_refused(self) -> None:
        with pytest.raises(VerificationError) as refused:
            verify_receipt(self.RECEIPT, sign(self.RECEIPT, STRANGER), KEYSET)
        assert refused.value.step == "key"

    def test_an_address_listed_for_another_algorithm_is_refused(self) -> None:
        entry = replace(key_entry(SIGNER), algo="ed25519")
        keyset = Keyset.build(
            subject=None,
            not_after=KEYSET.not_after,
            receipt_signing_keys=(entry,),
            tls_public_keys=(),
        )
        assert key_entry(SIGNER).algo == ALGO
        with pytest.raises(VerificationError) as refused:
            verify_receipt(self.RECEIPT, sign(self.RECEIPT, KEY), keyset)
        assert refused.value.step == "key"
