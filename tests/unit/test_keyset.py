"""A keyset is refused where two readers could disagree about whose keys it lists."""

from __future__ import annotations

from typing import Any

import pytest

from attestation.canonical import jcs
from attestation.errors import MalformedEvidence
from attestation.keyset import KeyEntry, Keyset, TlsKey

KEY = {"key_id": "receipt-1", "algo": "ed25519", "public_key": "ab" * 32}
DOCUMENT: dict[str, Any] = {
    "subject": "spiffe://example/node",
    "not_after": 1_800_000_000,
    "receipt_signing_keys": [KEY],
    "e2ee_public_keys": [{"key_id": "e2ee-1", "algo": "x25519", "public_key": "cd" * 32}],
    "tls_public_keys": [{"spki_sha256": "c0" * 32, "domain": "api.example.com"}],
}


def test_members_are_read_and_built_alike() -> None:
    read = Keyset.from_json(DOCUMENT)
    built = Keyset.build(
        subject="spiffe://example/node",
        not_after=1_800_000_000,
        receipt_signing_keys=(KeyEntry("receipt-1", "ed25519", "ab" * 32),),
        e2ee_public_keys=(KeyEntry("e2ee-1", "x25519", "cd" * 32),),
        tls_public_keys=(TlsKey("c0" * 32, "api.example.com"),),
    )
    assert read == built
    assert read.digest == built.digest
    assert read.receipt_key("receipt-1") == KeyEntry("receipt-1", "ed25519", "ab" * 32)
    assert read.receipt_key("e2ee-1") is None, "an E2EE key must not sign receipts"


def test_digest_covers_members_nobody_knows() -> None:
    plain, extended = Keyset.from_json(DOCUMENT), Keyset.from_json({**DOCUMENT, "new": 1})
    assert plain == extended
    assert plain.digest != extended.digest


def test_keyset_without_tls_keys_is_allowed() -> None:
    document = {k: v for k, v in DOCUMENT.items() if k != "tls_public_keys"}
    assert Keyset.from_json(document).tls_public_keys == ()
    assert b"tls_public_keys" not in jcs(document)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"subject": 7}, "subject"),
        ({"not_after": "soon"}, "not_after"),
        ({"not_after": True}, "not_after"),
        ({"not_after": 1.5}, "not_after"),
        ({"not_after": None}, "not_after"),
        ({"receipt_signing_keys": {}}, "receipt_signing_keys"),
        ({"receipt_signing_keys": ["key"]}, "receipt_signing_keys[0]"),
        ({"receipt_signing_keys": [{**KEY, "public_key": 1}]}, "receipt_signing_keys[0]"),
        ({"receipt_signing_keys": [KEY, {**KEY, "algo": "other"}]}, "receipt_signing_keys"),
        ({"e2ee_public_keys": None}, "e2ee_public_keys"),
        ({"tls_public_keys": "pin"}, "tls_public_keys"),
        ({"tls_public_keys": [{"spki_sha256": "C0" * 32}]}, "spki_sha256"),
        ({"tls_public_keys": [{"spki_sha256": "c0"}]}, "spki_sha256"),
        ({"tls_public_keys": [{"spki_sha256": "c0" * 32, "domain": 1}]}, "domain"),
    ],
)
def test_wrong_members_are_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedEvidence) as e:
        Keyset.from_json({**DOCUMENT, **change})
    assert e.value.field.startswith("workload_keyset.")
    assert field in e.value.field


@pytest.mark.parametrize("spelling", ["ab" * 32, "AB" * 32])
def test_one_key_in_two_roles_is_refused(spelling: str) -> None:
    doubled = {**DOCUMENT["e2ee_public_keys"][0], "public_key": spelling}
    with pytest.raises(MalformedEvidence, match="two roles"):
        Keyset.from_json({**DOCUMENT, "e2ee_public_keys": [doubled]})


@pytest.mark.parametrize("document", [None, [], "keyset", 1])
def test_keyset_must_be_an_object(document: object) -> None:
    with pytest.raises(MalformedEvidence, match="must be an object"):
        Keyset.from_json(document)


def test_a_domain_restricts_its_pin_to_that_hostname() -> None:
    scoped, free = TlsKey("c0" * 32, "API.example.com"), TlsKey("c0" * 32)
    assert scoped.covers("api.example.com.")
    assert not scoped.covers("evil.example.com")
    assert not scoped.covers("api.example.com.evil.net")
    assert free.covers("anything.example")
