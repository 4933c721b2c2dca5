"""Every way in which a certificate may fail to be an attested peer's, by its name."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from attested import NOW, platform
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from ratls_peers import (
    DAY,
    OTHER_SEED,
    OTHER_STATE,
    STATE,
    appraise,
    appraised,
    collateral_for,
    der_of,
    ec_key,
    evidence_for,
    forge,
    interoperable,
    issued,
    legacy,
    quote_over,
    spki_of,
    wanting,
)

from attestation.errors import (
    CollateralError,
    MalformedEvidence,
    PolicyError,
    VerificationError,
)
from attestation.issuers.simulator.der import sequence
from attestation.policy import load_policy
from attestation.ratls import AttestedPeer, Claims, RaTlsCertificate, certificate_der
from attestation.ratls.endorsements import ENDORSEMENTS_OID, write_endorsements
from attestation.ratls.extension import EVIDENCE_OID, LEGACY_OID, QUOTE_TAG, SNP_TAG, TaggedEvidence

KEY = ec_key(1)
SPKI = spki_of(KEY)
GOOD = interoperable(KEY)


def refused(der: bytes, step: str, tee: str = "tdx", **changes: Any) -> None:
    with pytest.raises(VerificationError) as caught:
        appraise(der, tee, **changes)
    assert caught.value.step == step


def malformed(der: bytes, field: str = "certificate") -> None:
    with pytest.raises(MalformedEvidence) as caught:
        appraise(der)
    assert caught.value.field.startswith(field)


# --- accepted --------------------------------------------------------------------------


@pytest.mark.parametrize("tee", ["tdx", "sgx", "sev-snp"])
def test_a_certificate_a_node_issues_itself_is_accepted(tee: str) -> None:
    identity = issued(tee)
    peer = appraised(identity, tee)
    assert peer.spki_sha256 == hashlib.sha256(SPKI).hexdigest()
    assert peer.appraisal.report.tee == tee
    assert peer.appraisal.claims["tee_attested"].status == "asserted"
    assert peer.not_after == NOW + DAY
    assert peer.certificate.server_name == "localhost"


def test_only_sgx_has_the_legacy_extension_and_it_has_a_quote_of_its_own() -> None:
    tdx, sgx = (RaTlsCertificate.read(der_of(issued(t))) for t in ("tdx", "sgx"))
    assert tdx.legacy_quote is None
    assert sgx.evidence is not None and sgx.legacy_quote != sgx.evidence.evidence
    assert len(sgx.der) < 14_000  # one initial TCP window holds the whole handshake


def test_a_certificate_with_the_legacy_extension_alone_is_accepted() -> None:
    """As Gramine before 1.8 issued them: no claims, so nothing is said about custody."""
    der = forge([legacy(KEY)])
    peer = appraise(der, "sgx", policy=wanting(key_custody="any"))
    assert peer.nonce is None
    with pytest.raises(PolicyError, match="key_custody"):
        appraise(der, "sgx")


@pytest.mark.parametrize(
    "key",
    [
        ec_key(4),
        ec.derive_private_key(0x5EED, ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.from_private_bytes(b"\x05" * 32),
    ],
    ids=["p256", "p384", "ed25519"],
)
def test_other_keys_than_ours_may_be_bound(key: Any) -> None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        der = _signed_without_hash(key)
    else:
        der = forge([interoperable(key)], key=key)
    assert appraise(der).spki_sha256 == hashlib.sha256(spki_of(key)).hexdigest()


def _signed_without_hash(key: ed25519.Ed25519PrivateKey) -> bytes:
    template = x509.load_der_x509_certificate(forge([]))
    builder = x509.CertificateBuilder(
        issuer_name=template.subject,
        subject_name=template.subject,
        public_key=key.public_key(),
        serial_number=9,
        not_valid_before=template.not_valid_before_utc,
        not_valid_after=template.not_valid_after_utc,
    )
    oid, value, _ = interoperable(key)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
    return builder.add_extension(unknown, critical=False).sign(key, None).public_bytes(Encoding.DER)


def test_endorsements_in_the_certificate_do_where_the_caller_has_none() -> None:
    der = forge([GOOD, (ENDORSEMENTS_OID, write_endorsements(collateral_for("tdx")), False)])
    assert appraise(der, collateral=None).spki_sha256


def test_the_callers_collateral_comes_before_the_certificates() -> None:
    stale = replace(collateral_for("tdx"), tcb_info_signature=bytes(64))
    der = forge([GOOD, (ENDORSEMENTS_OID, write_endorsements(stale), False)])
    assert appraise(der).spki_sha256
    refused(der, "tcb_info", collateral=None)


def test_a_pem_certificate_is_the_same_certificate() -> None:
    identity = issued()
    pem = identity.certificate.public_bytes(Encoding.PEM)
    assert certificate_der(pem) == certificate_der(der_of(identity)) == der_of(identity)


def test_an_appraisal_ends_with_the_first_thing_it_rests_on() -> None:
    der = der_of(issued(not_after=NOW + 10_000 * DAY))
    peer = appraise(der)
    assert peer.not_after == peer.appraisal.report.endorsements_not_after < NOW + 10_000 * DAY


def test_nobody_else_makes_an_attested_peer() -> None:
    peer = appraised(issued())
    with pytest.raises(TypeError, match="appraise_certificate only"):
        AttestedPeer(
            certificate=peer.certificate,
            appraisal=peer.appraisal,
            not_after=peer.not_after,
            nonce=None,
            seal=object(),
        )


# --- the key and its evidence -------------------------------------------------------------


def test_a_certificate_without_evidence_is_refused() -> None:
    refused(forge([]), "evidence")


def test_evidence_copied_from_another_keys_certificate_is_refused() -> None:
    """The attack RA-TLS exists to stop: a genuine quote under somebody else's key."""
    refused(forge([GOOD], key=ec_key(2)), "pubkey_hash")
    refused(forge([legacy(KEY)], key=ec_key(2)), "report_data", "sgx")


def test_claims_of_this_key_around_a_quote_over_others_are_refused() -> None:
    quote = quote_over(Claims.build(spki_of(ec_key(2))).report_data)
    refused(forge([(EVIDENCE_OID, evidence_for(SPKI, quote=quote), False)]), "report_data")


def test_the_legacy_binding_in_the_interoperable_extension_is_refused() -> None:
    quote = quote_over(hashlib.sha256(SPKI).digest() + bytes(32))
    refused(forge([(EVIDENCE_OID, evidence_for(SPKI, quote=quote), False)]), "report_data")


@pytest.mark.parametrize("position", [32, 63])
def test_report_data_whose_second_half_is_not_zero_is_refused(position: int) -> None:
    """Gramine compares the first 32 bytes only."""
    for tee, oid in (("tdx", EVIDENCE_OID), ("sgx", LEGACY_OID)):
        good = Claims.build(SPKI, custody="sealed").report_data
        if oid == LEGACY_OID:
            good = hashlib.sha256(SPKI).digest() + bytes(32)
        bad = bytearray(good)
        bad[position] = 1
        quote = quote_over(bytes(bad), tee)
        value = quote if oid == LEGACY_OID else evidence_for(SPKI, tee, quote=quote)
        refused(forge([(oid, value, False)]), "report_data", tee)


def test_a_policy_cannot_switch_the_binding_off() -> None:
    lax = load_policy(
        {
            "version": 1,
            "name": "lax",
            "measurements": "any",
            "inspection_only": True,
            "key_custody": "any",
            "dangerous_allow_unbound_report_data": True,
        }
    )
    unbound = (EVIDENCE_OID, evidence_for(SPKI, quote=quote_over(bytes(64))), False)
    refused(forge([unbound]), "report_data", policy=lax)


@pytest.mark.parametrize("good_one", ["interoperable", "legacy"])
def test_both_extensions_must_hold_when_both_are_there(good_one: str) -> None:
    """A verifier that reads only one of them must not be told something else."""
    ours, theirs = interoperable(KEY, "sgx"), legacy(KEY)
    other = quote_over(hashlib.sha256(spki_of(ec_key(2))).digest() + bytes(32), "sgx")
    if good_one == "interoperable":
        theirs = (LEGACY_OID, other, False)
    else:
        ours = (EVIDENCE_OID, evidence_for(SPKI, "sgx", quote=other), False)
    refused(forge([ours, theirs]), "report_data", "sgx")


def test_two_extensions_that_attest_different_workloads_are_refused() -> None:
    legacy_data = hashlib.sha256(SPKI).digest() + bytes(32)
    other = (LEGACY_OID, quote_over(legacy_data, "sgx", state=OTHER_STATE), False)
    any_workload = wanting(measurements="any", inspection_only=True)
    refused(forge([interoperable(KEY, "sgx"), other]), "evidence", "sgx", policy=any_workload)


def test_the_legacy_extension_holds_sgx_quotes_only() -> None:
    refused(forge([legacy(KEY, "tdx")]), "evidence")


def test_a_forged_quote_in_the_legacy_extension_is_not_excused_by_the_other() -> None:
    broken = bytearray(legacy(KEY)[1])
    broken[100] ^= 1
    refused(
        forge([interoperable(KEY, "sgx"), (LEGACY_OID, bytes(broken), False)]),
        "isv_signature",
        "sgx",
    )


def test_a_nonce_the_caller_chose_must_be_the_one_in_the_claims() -> None:
    fresh = appraised(issued(nonce=b"\x11" * 32), nonce=b"\x11" * 32)
    assert fresh.nonce == b"\x11" * 32
    refused(der_of(issued(nonce=b"\x11" * 32)), "nonce", nonce=b"\x22" * 32)
    refused(der_of(issued()), "nonce", nonce=b"\x22" * 32)
    refused(forge([legacy(KEY)]), "nonce", "sgx", nonce=b"\x22" * 32)


def test_a_nonce_put_into_the_claims_afterwards_is_refused() -> None:
    claims = Claims.build(SPKI, nonce=b"\x22" * 32, custody="sealed")
    quote = quote_over(Claims.build(SPKI, custody="sealed").report_data)
    value = evidence_for(SPKI, claims=claims, quote=quote)
    refused(forge([(EVIDENCE_OID, value, False)]), "report_data", nonce=b"\x22" * 32)


@pytest.mark.parametrize(("tee", "tag"), [("sgx", SNP_TAG), ("sev-snp", QUOTE_TAG)])
def test_evidence_under_the_tag_of_another_kind_is_refused(tee: str, tag: int) -> None:
    claims = Claims.build(SPKI, custody="sealed")
    value = TaggedEvidence(tag, quote_over(claims.report_data, tee), claims).write()
    refused(forge([(EVIDENCE_OID, value, False)]), "evidence", tee)


def test_evidence_is_not_judged_by_the_other_vendors_endorsements() -> None:
    for der, other in (
        (forge([legacy(KEY)]), "sev-snp"),
        (der_of(issued("tdx")), "sev-snp"),
        (der_of(issued("sev-snp")), "tdx"),
    ):
        with pytest.raises(CollateralError, match="needs"):
            appraise(der, other)


def test_an_snp_report_over_another_key_is_refused() -> None:
    claims = Claims.build(SPKI, custody="sealed")
    report = quote_over(Claims.build(spki_of(ec_key(2))).report_data, "sev-snp")
    value = TaggedEvidence(SNP_TAG, report, claims).write()
    refused(forge([(EVIDENCE_OID, value, False)]), "report_data", "sev-snp")


# --- the evidence itself ------------------------------------------------------------------


def test_a_workload_nobody_wants_is_refused_by_policy() -> None:
    with pytest.raises(PolicyError, match="mr_td"):
        appraised(issued(state=OTHER_STATE))


def test_evidence_under_a_foreign_root_is_refused() -> None:
    foreign = issued(seed=OTHER_SEED)
    refused(der_of(foreign), "root", collateral=collateral_for("tdx", OTHER_SEED))


def test_evidence_whose_collateral_has_expired_is_refused() -> None:
    der = der_of(issued(not_after=NOW + 400 * DAY))
    refused(der, "expired", now=NOW + 300 * DAY)


def test_a_revoked_platform_is_refused() -> None:
    revoking = platform(pck_revoked=True).collateral("tdx")
    refused(der_of(issued()), "revoked", collateral=revoking)


def test_evidence_without_any_collateral_cannot_be_judged() -> None:
    with pytest.raises(CollateralError, match="no endorsements"):
        appraise(der_of(issued()), collateral=None)


def test_a_policy_gets_the_custody_it_wants_or_refuses() -> None:
    with pytest.raises(PolicyError, match="key_custody"):
        appraised(issued(custody="released"))
    with pytest.raises(PolicyError, match="key_custody"):
        appraised(issued(custody=None))
    assert appraised(issued(custody=None), policy=wanting(key_custody="any")).spki_sha256


def test_a_policy_that_wants_a_source_is_not_satisfied_by_a_certificate() -> None:
    for wanted in ({"required": True}, {"repo_url": "https://example.org/x"}):
        with pytest.raises(PolicyError, match="source_provenance"):
            appraised(issued(), policy=wanting(source_provenance=wanted))


# --- the certificate --------------------------------------------------------------------


def test_a_certificate_is_good_from_its_first_to_its_last_second() -> None:
    der = der_of(issued())
    for now in (NOW - 3600, NOW + DAY):
        assert appraise(der, now=now).spki_sha256
    refused(der, "not_yet_valid", now=NOW - 3601)
    refused(der, "expired", now=NOW + DAY + 1)


def test_a_certificate_signed_by_another_key_is_refused() -> None:
    refused(forge([GOOD], signer=ec_key(2)), "self_signature")


def test_a_certificate_that_names_another_issuer_is_refused() -> None:
    refused(forge([GOOD], issuer_name="somebody else"), "self_signature")


def test_a_certificate_that_may_sign_others_is_refused() -> None:
    """Trusted as its own root, it would let its key vouch for keys no evidence binds."""
    refused(forge([GOOD], ca=True), "not_leaf")
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    more = ("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    usage = x509.KeyUsage(**{n: n == "key_cert_sign" for n in (*names, *more)})
    refused(forge([GOOD], usage=usage), "not_leaf")


def test_a_critical_extension_nobody_knows_is_refused() -> None:
    refused(forge([GOOD, ("1.2.3.4", b"\x05\x00", True)]), "critical_extension")


def test_critical_evidence_is_refused_as_other_verifiers_refuse_it() -> None:
    refused(forge([(*GOOD[:2], True)]), "critical_extension")


def test_an_extension_nobody_knows_is_ignored_when_it_is_not_critical() -> None:
    assert appraise(forge([GOOD, ("1.2.3.4", b"\x05\x00", False)])).spki_sha256


@pytest.mark.parametrize("oid", [EVIDENCE_OID, ENDORSEMENTS_OID])
def test_garbage_in_an_extension_we_read_is_malformed(oid: str) -> None:
    malformed(forge([(oid, b"\x05\x00", False)]), "ratls")


def test_a_truncated_extension_is_malformed() -> None:
    malformed(forge([(EVIDENCE_OID, GOOD[1][:-1], False)]), "ratls")


def test_an_oversized_legacy_extension_is_malformed() -> None:
    malformed(forge([GOOD, (LEGACY_OID, bytes((32 << 10) + 1), False)]), "ratls.legacy")


def test_duplicate_extensions_are_malformed() -> None:
    """Written by renaming one of two unknown ones: no builder would write them."""
    twin = "2.23.133.5.4.8"
    der = forge([GOOD, (twin, GOOD[1], False)])
    tbs = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    renamed = tbs.replace(bytes.fromhex("0606678105050408"), bytes.fromhex("0606678105050409"))
    malformed(_resigned(renamed))


def _resigned(tbs: bytes, algorithm: bytes | None = None) -> bytes:
    """A certificate of this to-be-signed part, signed by its key; P-256 and SHA-256."""
    algorithm = algorithm or bytes.fromhex("300a06082a8648ce3d040302")
    signature = KEY.sign(tbs, ec.ECDSA(hashes.SHA256()))
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
    return sequence(tbs, algorithm, bits)


def test_resigning_alone_changes_nothing() -> None:
    tbs = x509.load_der_x509_certificate(forge([GOOD])).tbs_certificate_bytes
    assert appraise(_resigned(tbs)).spki_sha256


def test_a_null_behind_the_signature_algorithm_is_malformed() -> None:
    """RFC 5758 3.2; what older Mbed TLS, and Gramine with it, wrote."""
    exact, null = (
        bytes.fromhex("300a06082a8648ce3d040302"),
        bytes.fromhex("300c06082a8648ce3d0403020500"),
    )
    tbs = x509.load_der_x509_certificate(forge([GOOD])).tbs_certificate_bytes
    body = tbs[4:].replace(exact, null, 1)
    malformed(_resigned(sequence(body), null))


def test_a_certificate_of_version_1_is_malformed() -> None:
    tbs = x509.load_der_x509_certificate(forge([GOOD])).tbs_certificate_bytes
    whole, version = tbs[4:], bytes.fromhex("a003020102")
    extensions = whole.index(b"\xa3", whole.index(spki_of(KEY)) + len(SPKI))
    malformed(_resigned(sequence(whole[:extensions].removeprefix(version))))


def test_a_serial_number_that_is_not_positive_is_malformed() -> None:
    """RFC 5280 4.1.2.2; readers disagree about them."""
    tbs = x509.load_der_x509_certificate(forge([GOOD])).tbs_certificate_bytes
    serial = bytes.fromhex("a003020102020107")
    with pytest.warns(CryptographyDeprecationWarning):
        malformed(_resigned(sequence(tbs[4:].replace(serial, serial[:-1] + b"\x87", 1))))


def test_a_compressed_key_is_malformed() -> None:
    """Its hash is not the one that others compute over the usual encoding."""
    spki = SPKI
    point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed = sequence(spki[2:23], b"\x03" + bytes([len(point) + 1]) + b"\0" + point)
    claims = Claims.build(compressed, custody="sealed")
    value = evidence_for(compressed, claims=claims)
    tbs = x509.load_der_x509_certificate(
        forge([(EVIDENCE_OID, value, False)])
    ).tbs_certificate_bytes
    assert spki in tbs
    malformed(_resigned(sequence(tbs[4:].replace(spki, compressed))))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d: d + b"\0", id="trailing-byte"),
        pytest.param(lambda d: d * 2, id="doubled"),
        pytest.param(lambda d: d * 100, id="a-hundred-concatenated"),
        pytest.param(lambda d: d[:-1], id="cut"),
        pytest.param(lambda d: b"", id="empty"),
        pytest.param(lambda d: b"\x30\x80" + d[4:] + b"\0\0", id="indefinite-length"),
        pytest.param(lambda d: b"\x30\x83\0" + d[2:], id="length-with-a-leading-zero"),
        pytest.param(lambda d: b"\x30\x84" * 20_000, id="nested"),
        pytest.param(lambda d: d + bytes(64 << 10), id="oversized"),
    ],
)
def test_unusual_der_is_malformed(damage: Any) -> None:
    malformed(damage(forge([GOOD])))


@pytest.mark.parametrize(
    "key",
    [
        ec.derive_private_key(0x5EED, ec.SECP521R1()),
        ec.derive_private_key(0x5EED, ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
    ],
    ids=["p521", "secp256k1", "rsa-1024"],
)
def test_a_key_of_another_kind_is_refused(key: Any) -> None:
    refused(forge([interoperable(key)], key=key), "key")


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(lambda p: p * 2, id="two"),
        pytest.param(lambda p: p * 100, id="a-chain-of-100"),
        pytest.param(lambda p: b"text\n" + p, id="text-before"),
        pytest.param(lambda p: p + b"text", id="text-behind"),
        pytest.param(lambda p: p.replace(b"MI", b"M-", 1), id="not-base64"),
        pytest.param(lambda p: p.replace(b"\n-----END", b"A\n-----END"), id="odd-length"),
        pytest.param(lambda p: p.partition(b"-----END")[0], id="without-an-end"),
    ],
)
def test_anything_but_one_pem_certificate_is_malformed(pem: Any) -> None:
    text = pem(issued().certificate.public_bytes(Encoding.PEM))
    with pytest.raises(MalformedEvidence):
        appraise(certificate_der(text))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((x509.DNSName("*.example.org"), x509.DNSName("node.example.org")), "node.example.org"),
        ((x509.DNSName("*.example.org"),), None),
        ((x509.UniformResourceIdentifier("urn:x"),), None),
    ],
)
def test_the_name_to_expect_is_the_first_that_is_one(
    names: tuple[x509.GeneralName, ...], expected: str | None
) -> None:
    assert RaTlsCertificate.read(forge([GOOD], names=names)).server_name == expected


def test_without_alternative_names_the_name_is_the_common_one() -> None:
    """As in Gramine's certificates."""
    assert RaTlsCertificate.read(forge([GOOD], names=())).server_name == "forged"


def test_measured_state_is_what_the_policy_names() -> None:
    peer = appraised(issued())
    assert peer.appraisal.report.measurement == STATE.mr_td.hex()
