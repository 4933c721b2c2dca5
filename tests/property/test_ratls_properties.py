"""Whatever the bytes: read as written, refused when changed, and no key without evidence."""

from __future__ import annotations

import cbor2
import pytest
from attested import flip
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ratls_peers import (
    appraise,
    collateral_for,
    der_of,
    ec_key,
    evidence_for,
    forge,
    issued,
    legacy,
    quote_over,
    spki_of,
)

from attestation.errors import AttestationError, MalformedEvidence
from attestation.ratls import Claims, Introduction, RaTlsCertificate, TaggedEvidence
from attestation.ratls.endorsements import read_endorsements, write_endorsements
from attestation.ratls.extension import EVIDENCE_OID, LEGACY_OID, legacy_report_data

SPKI = spki_of(ec_key(1))
IDENTITIES = {tee: der_of(issued(tee)) for tee in ("tdx", "sgx")}
EVIDENCE = evidence_for(SPKI)
ENDORSEMENTS = write_endorsements(collateral_for("tdx"))
tees = st.sampled_from(sorted(IDENTITIES))
keys = st.integers(1, 2**200).map(lambda n: ec.derive_private_key(n, ec.SECP256R1()))
simple = st.none() | st.booleans() | st.integers() | st.binary(max_size=40) | st.text(max_size=12)
items = st.recursive(
    simple, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


@given(spki=st.binary(max_size=200), nonce=st.none() | st.binary(max_size=256))
def test_claims_and_evidence_read_back_as_written(spki: bytes, nonce: bytes | None) -> None:
    claims = Claims.build(spki, nonce=nonce, custody="sealed")
    assert Claims.read(claims.raw) == claims
    claims.pubkey_hash.check(spki)
    evidence = TaggedEvidence(60000, spki * 20, claims)
    assert TaggedEvidence.read(evidence.write()) == evidence


@given(st.data())
def test_every_cut_is_malformed(data: st.DataObject) -> None:
    for whole, read in (
        (EVIDENCE, TaggedEvidence.read),
        (ENDORSEMENTS, read_endorsements),
        (IDENTITIES["sgx"], RaTlsCertificate.read),
        (Introduction(IDENTITIES["tdx"]).write(), Introduction.read),
    ):
        size = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(MalformedEvidence):
            read(whole[:size])


@given(tee=tees, data=st.data())
@settings(max_examples=150)
def test_any_flipped_bit_of_the_certificate_is_refused(tee: str, data: st.DataObject) -> None:
    """Its own signature covers all of it but itself; ECDSA refuses every change there."""
    der = IDENTITIES[tee]
    bit = data.draw(st.integers(0, len(der) * 8 - 1))
    with pytest.raises(AttestationError):
        appraise(flip(der, bit), tee)


@given(data=st.data())
@settings(max_examples=150)
def test_any_flipped_bit_of_evidence_is_refused_however_the_certificate_is_signed(
    data: st.DataObject,
) -> None:
    """The key's holder signs the certificate: only the evidence is not his to change."""
    quote_at = EVIDENCE.index(TaggedEvidence.read(EVIDENCE).evidence)
    signed = 48 + 584
    bit = data.draw(st.integers(0, (quote_at + signed) * 8 - 1))
    with pytest.raises(AttestationError):
        appraise(forge([(EVIDENCE_OID, flip(EVIDENCE, bit), False)]))


@given(key=keys, other=keys, data=st.data())
def test_no_key_is_trusted_that_the_evidence_does_not_bind(
    key: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePrivateKey, data: st.DataObject
) -> None:
    """All genuine parts an attacker can collect of `other`, in every place of his own."""
    stolen, mine = spki_of(other), spki_of(key)
    assume(stolen != mine)
    claims = Claims.build(data.draw(st.sampled_from([stolen, mine])), custody="sealed")
    genuine = data.draw(
        st.sampled_from([Claims.build(stolen, custody="sealed").report_data, bytes(64)])
        | st.just(legacy_report_data(stolen))
        | st.binary(min_size=64, max_size=64)
    )
    tee = data.draw(tees)
    value = evidence_for(mine, claims=claims, quote=quote_over(genuine, tee))
    places = [(EVIDENCE_OID, value, False), (LEGACY_OID, quote_over(genuine, tee), False)]
    chosen = data.draw(st.sampled_from([places[:1], places[1:], places]))
    with pytest.raises(AttestationError):
        appraise(forge(chosen, key=key), tee)


@given(number=st.integers(2, 2**64))
@settings(max_examples=10)
def test_every_key_with_evidence_of_its_own_is_accepted(number: int) -> None:
    key = ec.derive_private_key(number, ec.SECP256R1())
    both = [(EVIDENCE_OID, evidence_for(spki_of(key), "sgx"), False), legacy(key)]
    assert appraise(forge(both, key=key), "sgx").certificate.spki == spki_of(key)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for read in (TaggedEvidence.read, Claims.read, read_endorsements, Introduction.read):
        with pytest.raises(AttestationError):
            read(data)
    with pytest.raises(AttestationError):
        appraise(data)


@given(items, st.integers(0, 2**64 - 1) | st.sampled_from([60000, 0x1A7504, 0, 1, 2, 28, 29]))
def test_arbitrary_cbor_raises_only_our_errors(value: object, tag: int) -> None:
    encoded = cbor2.dumps(value)
    tagged = cbor2.dumps(cbor2.CBORTag(tag, value))
    for data in (encoded, tagged, cbor2.dumps(cbor2.CBORTag(60000, [b"", encoded]))):
        for read in (TaggedEvidence.read, Claims.read, read_endorsements):
            with pytest.raises(AttestationError):
                read(data)
