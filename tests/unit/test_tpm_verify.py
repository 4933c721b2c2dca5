"""TPM quotes: only a bound key counts, over exactly these registers and this nonce."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import nitro_pki
import pytest
import snp_pki
import tpm_device
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from nitro_pki import NOW
from tpm_device import AK, CA, NONCE, PCRS, bound, public_area, quoted, rsa_ak, signed

from attestation.errors import Finding, MalformedEvidence, PolicyError, VerificationError
from attestation.evidence.tpm import (
    ALG_ECDSA,
    ALG_RSASSA,
    ALG_SHA1,
    ALG_SHA256,
    ALG_SHA384,
    ALG_SHA512,
    PcrSelection,
    TpmQuote,
    TpmSignature,
)
from attestation.policy import Policy, evaluate, load_policy
from attestation.verify.tpm import TpmReport, verify_tpm
from attestation.verify.tpm_key import ENDLESS, BoundKey, certified_key, enrolled_key

ROOTS = [CA.der()]


def verify(
    quote: TpmQuote | None = None,
    pcrs: Mapping[int, bytes] = PCRS,
    *,
    key: BoundKey | None = None,
    by: tpm_device.Key | None = None,
    now: int = NOW,
    nonce: bytes | None = NONCE,
    hash_alg: int = ALG_SHA256,
) -> TpmReport:
    raw = (quote or quoted()).write()
    signature = signed(raw, by, hash_alg).write()
    return verify_tpm(raw, signature, pcrs, key or bound(), now, nonce=nonce)


def step(*args: Any, **more: Any) -> str:
    with pytest.raises(VerificationError) as e:
        verify(*args, **more)
    return e.value.step


def key_step(chain: tuple[bytes, ...], **more: Any) -> str:
    with pytest.raises(VerificationError) as e:
        certified_key(chain, ROOTS, NOW, **more)
    return e.value.step


def issued(public: Any = None, **changes: Any) -> tuple[bytes, ...]:
    issue = replace(AK, public=public or tpm_device.ak().public_key(), **changes)
    return issue.der(), CA.der()


def enrolled(key: tpm_device.Key | None = None) -> BoundKey:
    public = public_area(key)
    return enrolled_key(public.write(), {public.name})


# The quote.


def test_a_genuine_quote_is_accepted() -> None:
    report = verify()
    assert report.tee == "tpm"
    assert report.report_data == NONCE
    assert report.bank == "sha256"
    assert report.pcrs == PCRS
    assert (report.debug, report.simulated, report.tcb_status) == (False, False, None)
    assert (report.binding, report.hardware, report.nonce_checked) == ("certificate", None, True)
    assert report.root_sha256 == hashlib.sha256(CA.der()).hexdigest()
    assert report.endorsements_not_after == CA.not_after
    assert report.measurements["pcr14"] == PCRS[14].hex()
    facts = report.facts()
    assert facts["pcr_digest"] == report.quote.attested.pcr_digest.hex()
    assert (facts["reset_count"], facts["restart_count"]) == (7, 2)
    assert facts["hardware"] is None


def test_report_is_made_by_verification_only() -> None:
    with pytest.raises(TypeError):
        replace(verify(), seal=object())


def test_workload_is_named_by_registers_and_their_values_together() -> None:
    report = verify()
    info = report.quote.attested.write()
    assert report.measurement == hashlib.sha256(info).hexdigest()


def test_resettable_registers_cannot_play_the_boot_registers() -> None:
    """16 and 23 can be reset and extended to any boot's values: their digest is the same."""
    boot, fake = {0: PCRS[0], 1: PCRS[1]}, {16: PCRS[0], 23: PCRS[1]}
    genuine, forged = verify(quoted(boot), boot), verify(quoted(fake), fake)
    assert genuine.quote.attested.pcr_digest == forged.quote.attested.pcr_digest
    assert genuine.measurement != forged.measurement


@pytest.mark.parametrize(
    ("key", "hash_alg"),
    [
        (tpm_device.ak(), ALG_SHA256),
        (tpm_device.ak(ec.SECP384R1), ALG_SHA384),
        (tpm_device.ak(ec.SECP521R1), ALG_SHA512),
        (rsa_ak(), ALG_SHA256),
    ],
    ids=["p256", "p384", "p521", "rsa"],
)
def test_keys_and_hashes_of_every_size(key: tpm_device.Key, hash_alg: int) -> None:
    quote = quoted(digest_alg=hash_alg)
    assert verify(quote, key=enrolled(key), by=key, hash_alg=hash_alg).binding == "enrolled"


def test_pss_signatures_are_accepted() -> None:
    raw = quoted().write()
    signature = signed(raw, rsa_ak(), pss=True)
    assert verify_tpm(raw, signature, PCRS, enrolled(rsa_ak()), NOW).nonce_checked is False
    relabelled = replace(signature, sig_alg=ALG_RSASSA)
    with pytest.raises(VerificationError) as e:
        verify_tpm(raw, relabelled, PCRS, enrolled(rsa_ak()), NOW)
    assert e.value.step == "signature"


def test_quote_of_another_key_is_refused() -> None:
    assert step(by=snp_pki.ec_key("another", ec.SECP256R1)) == "signature"
    assert step(key=enrolled(rsa_ak()), by=snp_pki.rsa_key("ark")) == "signature"


def test_sha1_signatures_are_refused() -> None:
    assert step(hash_alg=ALG_SHA1) == "signature_algorithm"


@pytest.mark.parametrize(
    ("key", "by"), [(None, rsa_ak()), (enrolled(rsa_ak()), tpm_device.ak())], ids=["ec", "rsa"]
)
def test_signature_of_another_scheme_than_the_keys_is_refused(
    key: BoundKey | None, by: tpm_device.Key
) -> None:
    assert step(key=key, by=by) == "signature_algorithm"


@pytest.mark.parametrize("part", [b"", b"\0" * 32, b"\xff" * 66])
def test_signatures_out_of_range_are_refused(part: bytes) -> None:
    raw = quoted().write()
    with pytest.raises(VerificationError) as e:
        verify_tpm(raw, TpmSignature(ALG_ECDSA, ALG_SHA256, (part, part)), PCRS, bound(), NOW)
    assert e.value.step == "signature"
    with pytest.raises(VerificationError) as e:
        forged = TpmSignature(ALG_RSASSA, ALG_SHA256, (part,))
        verify_tpm(raw, forged, PCRS, enrolled(rsa_ak()), NOW)
    assert e.value.step == "signature"


@pytest.mark.parametrize("nonce", [b"", NONCE[:-1], NONCE + b"\0", bytes(32)])
def test_quote_over_another_nonce_is_refused(nonce: bytes) -> None:
    assert step(nonce=nonce) == "nonce"


def test_an_empty_nonce_proves_no_freshness() -> None:
    assert not verify(quoted(extra_data=b""), nonce=b"").nonce_checked


@pytest.mark.parametrize(
    "selection",
    [
        (),
        (PcrSelection(ALG_SHA256, b"\xff\x40\0"),) * 2,
        (PcrSelection(ALG_SHA256, bytes(3)),),
        (PcrSelection(ALG_SHA256, b"\xff\x40\0\1"),),
        (PcrSelection(ALG_SHA1, b"\xff\x40\0"),),
        (PcrSelection(0x0027, b"\xff\x40\0"),),
    ],
    ids=["no-bank", "two-banks", "nothing-selected", "beyond-23", "sha1", "unknown-bank"],
)
def test_one_known_bank_with_some_registers_is_quoted(
    selection: tuple[PcrSelection, ...],
) -> None:
    assert step(quoted(pcr_select=selection)) == "pcr_selection"


@pytest.mark.parametrize(
    "pcrs",
    [
        {i: v for i, v in PCRS.items() if i != 4},
        PCRS | {9: bytes(32)},
        {},
        PCRS | {0: PCRS[0] + b"\0"},
        PCRS | {0: PCRS[0][:20]},
    ],
    ids=["missing", "unquoted", "none", "long", "of-another-bank"],
)
def test_registers_given_are_exactly_those_quoted(pcrs: dict[int, bytes]) -> None:
    assert step(pcrs=pcrs) == "pcrs"


def test_values_cannot_be_cut_differently() -> None:
    """The digest is over a plain concatenation, so sizes must be the bank's."""
    shifted = PCRS | {0: PCRS[0] + PCRS[1][:1], 1: PCRS[1][1:]}
    assert step(pcrs=shifted) == "pcrs"


def test_other_register_values_are_refused() -> None:
    assert step(pcrs=PCRS | {4: bytes(32)}) == "pcr_digest"
    swapped = PCRS | {0: PCRS[1], 1: PCRS[0]}
    assert step(pcrs=swapped) == "pcr_digest"
    assert step(quoted(pcr_digest=b"")) == "pcr_digest"


def test_banks_have_registers_of_their_own_size() -> None:
    pcrs = {i: hashlib.sha384(b"%d" % i).digest() for i in range(3)}
    report = verify(quoted(pcrs, bank=ALG_SHA384), pcrs)
    assert (report.bank, len(report.measurements["pcr0"])) == ("sha384", 96)


# What vouches for the key.


def test_keys_are_bound_by_verification_only() -> None:
    with pytest.raises(TypeError):
        BoundKey(
            key=rsa_ak().public_key(),
            binding="hardware",
            root_sha256="",
            not_before=0,
            not_after=0,
            seal=object(),
        )


@pytest.mark.parametrize(
    ("now", "expected"), [(NOW + 3601, "expired"), (NOW - 3601, "not_yet_valid")]
)
def test_a_key_is_good_while_what_vouches_for_it_is(now: int, expected: str) -> None:
    assert step(now=now) == expected


def test_certificate_under_another_root_vouches_for_nothing() -> None:
    with pytest.raises(VerificationError) as e:
        certified_key(tpm_device.chain(), [nitro_pki.root()], NOW)
    assert e.value.step == "root"


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": "root"},
        {"ca": True},
        {"usage": frozenset({"key_encipherment"})},
        {"extensions": ((x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), False),)},
    ],
    ids=["forged", "ca", "endorsement-key", "web-server"],
)
def test_certificates_of_the_wrong_make_vouch_for_nothing(changes: dict[str, Any]) -> None:
    assert key_step(issued(**changes)) == "chain"


@pytest.mark.parametrize("unused", [1, 4, 7, 255])
def test_certificates_have_one_encoding(unused: int) -> None:
    leaf, ca = tpm_device.chain()
    signature = x509.load_der_x509_certificate(leaf).signature
    at = len(leaf) - len(signature) - 1
    assert key_step((leaf[:at] + bytes([unused]) + leaf[at + 1 :], ca)) == "chain"


def test_certificate_for_attestation_keys_vouches() -> None:
    purpose = x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH, x509.ObjectIdentifier("2.23.133.8.3")])
    key = certified_key(issued(extensions=((purpose, False),)), ROOTS, NOW)
    assert verify(key=key).binding == "certificate"


@pytest.mark.parametrize("part", ["tpm-ca", "ak"])
def test_certificates_must_be_valid_now(part: str) -> None:
    expired = {"not_after": NOW - 1}
    ca = replace(CA, **expired) if part == "tpm-ca" else CA
    ak = replace(AK, public=tpm_device.ak().public_key(), **(expired if part == "ak" else {}))
    with pytest.raises(VerificationError) as e:
        certified_key((ak.der(), ca.der()), [ca.der()], NOW)
    assert e.value.step == "expired"


def test_short_and_exotic_keys_are_refused() -> None:
    short = rsa.RSAPublicNumbers(65537, 3 * 5 * 2**1000 + 7).public_key()
    assert key_step(issued(short)) == "key"
    with pytest.raises(VerificationError, match="too short") as e:
        area = public_area(rsa_ak(), unique=((3 * 2**1000 + 7).to_bytes(128),))
        enrolled_key(area.write(), {area.name})
    assert e.value.step == "key"
    with pytest.raises(VerificationError, match="not an RSA key"):
        area = public_area(rsa_ak(), exponent=1)
        enrolled_key(area.write(), {area.name})
    exotic = ec.derive_private_key(7, ec.BrainpoolP256R1())
    with pytest.raises(VerificationError, match="not accepted"):
        enrolled(exotic)
    with pytest.raises(VerificationError, match="not a point"):
        area = public_area(unique=(bytes(32), bytes(32)))
        enrolled_key(area.write(), {area.name})


def test_certified_keys_are_rsa_or_on_a_nist_curve() -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    public = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    assert key_step(issued(public)) == "key"
    from attestation.verify.tpm_key import check_key

    for key in (public, ec.derive_private_key(7, ec.BrainpoolP256R1()).public_key()):
        with pytest.raises(VerificationError, match="NIST"):
            check_key(key)


def test_public_area_beside_a_certificate_must_be_of_the_same_restricted_key() -> None:
    assert bound(public=public_area().write()) == bound()
    assert key_step(tpm_device.chain(), public=public_area(rsa_ak()).write()) == "key"
    unrestricted = public_area(attributes=tpm_device.ATTESTATION_KEY & ~(1 << 16))
    assert key_step(tpm_device.chain(), public=unrestricted.write()) == "key_attributes"
    with pytest.raises(MalformedEvidence):
        bound(public=b"")


def test_an_enrolled_key_needs_no_certificate() -> None:
    key = enrolled()
    report = verify(key=key, now=2**33)
    assert report.binding == "enrolled"
    assert report.root_sha256 == hashlib.sha256(public_area().write()).hexdigest()
    assert report.endorsements_not_after == ENDLESS


def test_key_that_nobody_enrolled_is_refused() -> None:
    public = public_area()
    for names in ((), {public_area(rsa_ak()).name}, [public.name[2:]]):
        with pytest.raises(VerificationError) as e:
            enrolled_key(public.write(), names)
        assert e.value.step == "root"


def test_attributes_cannot_be_changed_under_an_enrolled_name() -> None:
    """The name covers them: a key that is not restricted would sign forged attestations."""
    name = public_area().name
    loose = public_area(attributes=tpm_device.ATTESTATION_KEY & ~(1 << 16))
    with pytest.raises(VerificationError) as e:
        enrolled_key(loose.write(), {name, loose.name})
    assert e.value.step == "key_attributes"
    other = public_area(attributes=tpm_device.ATTESTATION_KEY | 1 << 6)
    with pytest.raises(VerificationError) as e:
        enrolled_key(other.write(), {name})
    assert e.value.step == "root"


def test_default_exponent_is_written_as_zero() -> None:
    assert (
        enrolled_key((area := public_area(rsa_ak(), exponent=65537)).write(), {area.name}).key
        == enrolled(rsa_ak()).key
    )


# Policy.


def wanting(report: TpmReport, **document: Any) -> Policy:
    pinned = {"tpm": [{"pcr_composite": report.measurement}]}
    return load_policy({"version": 1, "name": "test", "measurements": pinned, **document})


def findings(report: TpmReport, policy: Policy, now: int = NOW) -> dict[str, Finding]:
    with pytest.raises(PolicyError) as e:
        evaluate(report, policy, report_data=NONCE, now=now)
    return {f.field: f for f in e.value.findings}


@pytest.mark.parametrize("binding", ["certificate", "enrolled"])
def test_a_tpm_without_hardware_behind_it_is_wanted_only_where_a_policy_says(
    binding: str,
) -> None:
    report = verify(key=bound() if binding == "certificate" else enrolled())
    found = findings(report, wanting(report))
    assert list(found) == ["tpm.binding"]
    assert (found["tpm.binding"].expected, found["tpm.binding"].actual) == (
        "one of hardware",
        binding,
    )
    policy = wanting(report, tpm={"bindings": [binding]})
    appraisal = evaluate(report, policy, report_data=NONCE, now=NOW)
    assert appraisal.claims["tee_attested"].status == "unknown"
    assert appraisal.claims["serving_software_known_good"].status == "asserted"


def test_registers_may_be_pinned_one_by_one() -> None:
    report = verify()
    tpm = {"bindings": ["certificate"]}
    pinned = {"tpm": [{"pcr4": PCRS[4].hex(), "pcr7": PCRS[7].hex()}]}
    evaluate(report, wanting(report, tpm=tpm, measurements=pinned), report_data=NONCE, now=NOW)
    other = {"tpm": [{"pcr4": "ab" * 32, "pcr9": PCRS[7].hex()}]}
    found = findings(report, wanting(report, tpm=tpm, measurements=other))
    assert found["measurements.tpm.pcr4"].actual == PCRS[4].hex()
    assert found["measurements.tpm.pcr9"].actual == "not stated"


def test_a_verdict_does_not_outlive_what_vouches_for_the_key() -> None:
    report = verify()
    policy = wanting(report, tpm={"bindings": ["certificate"]})
    assert list(findings(report, policy, NOW + 3601)) == ["tpm.key_window"]


def test_extra_data_is_the_report_data_unpadded() -> None:
    report = verify()
    policy = wanting(report, tpm={"bindings": ["certificate"]})
    with pytest.raises(PolicyError) as e:
        evaluate(report, policy, report_data=NONCE.ljust(64, b"\0"), now=NOW)
    assert [f.field for f in e.value.findings] == ["report_data"]


def test_genuine_asks_only_for_authenticity() -> None:
    evaluate(verify(nonce=None), load_policy("genuine"), report_data=None, now=NOW)
