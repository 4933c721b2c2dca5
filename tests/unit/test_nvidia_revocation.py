"""Revocation by OCSP and CRL, offline: forged, stale, partial and foreign answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import nvidia_pki as pki
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import CollateralError, VerificationError
from attestation.verify.nvidia_path import verify_path
from attestation.verify.nvidia_revocation import Revocation, check_revocation

REVOKED, UNKNOWN = ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
HOLD = x509.ReasonFlags.certificate_hold
BROM, FAMILY, ROOT = pki.authorities()


@lru_cache
def device_path() -> Any:
    chain = pki.gpu_chain()
    return verify_path("chain", [p.der for p in chain.parties], [chain.root])


def check(*documents: bytes, now: int = pki.NOW) -> Revocation:
    return check_revocation(device_path(), documents, now)


def refused(step: str, call: Callable[[], Any]) -> None:
    with pytest.raises(VerificationError) as e:
        call()
    assert e.value.step == step, e.value


def test_nothing_given_says_nothing() -> None:
    assert check() == Revocation(frozenset(), frozenset(), ())


def test_good_answers_cover_what_they_name() -> None:
    found = check(*pki.device_revocation())
    assert found.good == {1, 2}
    assert not found.held
    assert {(w.not_before, w.not_after) for w in found.windows} == {(pki.START, pki.END)}


@pytest.mark.parametrize(
    "algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
)
def test_certificates_may_be_named_by_any_usual_digest(algorithm: Any) -> None:
    assert check(pki.ocsp_response(BROM, FAMILY, algorithm=algorithm)).good == {1}


def test_the_issuer_may_answer_for_itself() -> None:
    assert check(pki.ocsp_response(BROM, FAMILY, by=FAMILY)).good == {1}


def test_an_answer_found_by_an_odd_digest_is_passed_over() -> None:
    assert not check(pki.ocsp_response(BROM, FAMILY, algorithm=hashes.SHA224())).good


@pytest.mark.parametrize("reason", [None, x509.ReasonFlags.key_compromise])
def test_a_revoked_device_is_refused(reason: Any) -> None:
    refused(
        "revoked", lambda: check(pki.ocsp_response(BROM, FAMILY, status=REVOKED, reason=reason))
    )
    refused("revoked", lambda: check(pki.crl(ROOT, {FAMILY: reason})))


def test_one_good_answer_does_not_outweigh_a_revocation() -> None:
    good, bad = (
        pki.ocsp_response(BROM, FAMILY),
        pki.ocsp_response(BROM, FAMILY, status=REVOKED, reason=HOLD),
    )
    assert check(good, bad).held == {1}
    worse = pki.ocsp_response(BROM, FAMILY, status=REVOKED)
    refused("revoked", lambda: check(good, bad, worse))


def test_a_certificate_on_hold_is_reported() -> None:
    held = pki.ocsp_response(BROM, FAMILY, status=REVOKED, reason=HOLD)
    assert check(held, pki.crl(ROOT, {FAMILY: HOLD})).held == {1, 2}


def test_a_certificate_the_responder_does_not_know_is_refused() -> None:
    refused("revocation", lambda: check(pki.ocsp_response(BROM, FAMILY, status=UNKNOWN)))


def test_an_answer_without_an_end_is_refused() -> None:
    answer = pki.ocsp_response(BROM, FAMILY, window=(pki.START, None))
    refused("revocation", lambda: check(answer))


@pytest.mark.parametrize(
    ("window", "step"),
    [((pki.NOW + 1, pki.END), "not_yet_valid"), ((pki.START, pki.NOW - 1), "expired")],
)
def test_old_and_future_answers_are_refused(window: tuple[int, int], step: str) -> None:
    refused(step, lambda: check(pki.ocsp_response(BROM, FAMILY, window=window)))
    refused(step, lambda: check(pki.crl(ROOT, window=window)))


def test_a_responder_whose_own_certificate_is_over_is_refused() -> None:
    old = pki.responder(FAMILY, window=(pki.START, pki.NOW - 1))
    refused("expired", lambda: check(pki.ocsp_response(BROM, FAMILY, by=old)))


def responders() -> dict[str, pki.Party]:
    return {
        "nobody": pki.issue("nobody", None, ca=None, usage=("sign",)),
        "a responder of the root": pki.responder(ROOT),
        "without the purpose": pki.issue("no purpose", FAMILY, ca=None, usage=("sign",)),
        "the device's own authority": BROM,
    }


@pytest.mark.parametrize("who", responders())
def test_an_answer_by_who_may_not_answer_is_refused(who: str) -> None:
    answer = pki.ocsp_response(BROM, FAMILY, by=responders()[who])
    refused("revocation", lambda: check(answer))


def test_an_answer_with_a_flipped_signature_is_refused() -> None:
    der = pki.ocsp_response(BROM, FAMILY)
    signature = ocsp.load_der_ocsp_response(der).signature
    flipped = signature[:-1] + bytes([signature[-1] ^ 1])
    refused("revocation", lambda: check(der.replace(signature, flipped)))


def test_an_answer_signed_with_a_short_digest_or_by_rsa_is_refused() -> None:
    answer = pki.ocsp_response(BROM, FAMILY, signed_with=hashes.SHA224())
    refused("revocation", lambda: check(answer))
    from cryptography.hazmat.primitives.asymmetric import rsa

    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(FAMILY.certificate.subject)
        .subject_name(pki.name("rsa"))
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(pki.at(pki.START))
        .not_valid_after(pki.at(pki.END))
        .sign(FAMILY.key, hashes.SHA384())
    )
    refused(
        "revocation",
        lambda: check(pki.ocsp_response(BROM, FAMILY, by=pki.Party(own, certificate))),  # type: ignore[arg-type]
    )


def test_documents_about_others_are_passed_over() -> None:
    stranger = pki.issue("stranger", None)
    theirs = pki.issue("theirs", stranger)
    assert check(pki.ocsp_response(theirs, stranger), pki.crl(stranger)) == check()
    # The same number under another issuer is another certificate.
    namesake = pki.issue("GH100 A01 GSP BROM", stranger)
    assert check(pki.ocsp_response(namesake, stranger, status=REVOKED)) == check()


def test_a_crl_of_another_key_is_refused() -> None:
    refused("revocation", lambda: check(pki.crl(ROOT, by=FAMILY)))


def test_a_crl_of_who_signs_no_crls_is_refused() -> None:
    """The leaf's issuer may sign certificates only."""
    refused("revocation", lambda: check(pki.crl(BROM)))


def test_a_partial_crl_is_no_proof_of_absence() -> None:
    partial = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
    refused("revocation", lambda: check(pki.crl(ROOT, critical=partial)))
    refused("revocation", lambda: check(pki.crl(ROOT, critical=x509.DeltaCRLIndicator(1))))


def unsuccessful() -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(
        ocsp.OCSPResponseStatus.TRY_LATER
    ).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "document",
    [b"", b"\x30", b"\x31\x03\x0a\x01\x00", b"\x30\x03\x0a\x01\x00", b"\x30\x81\x03\x0a\x01\x00"],
)
def test_what_is_neither_is_collateral_that_cannot_be_read(document: bytes) -> None:
    with pytest.raises(CollateralError, match=r"revocation\[0\]"):
        check(document)


def test_a_responder_that_is_busy_says_nothing() -> None:
    with pytest.raises(CollateralError, match="OCSP"):
        check(unsuccessful())


def test_sizes_and_numbers_are_bounded() -> None:
    with pytest.raises(CollateralError, match="longer than"):
        check(bytes(2 << 20))
    with pytest.raises(CollateralError, match="more than 64 documents"):
        check(*[b""] * 65)


def test_a_crl_without_end_or_with_damage_is_unreadable() -> None:
    der = pki.crl(ROOT)
    with pytest.raises(CollateralError):
        check(der[:-1])


def test_a_response_with_too_many_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from attestation.verify import nvidia_revocation

    monkeypatch.setattr(nvidia_revocation, "_MAX_ANSWERS", 0)
    with pytest.raises(CollateralError, match="more than 0 answers"):
        check(pki.ocsp_response(BROM, FAMILY))


def test_responders_named_by_key_are_found_too() -> None:
    delegate = pki.responder(FAMILY)
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=BROM.certificate,
            issuer=FAMILY.certificate,
            algorithm=hashes.SHA384(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=pki.at(pki.START),
            next_update=pki.at(pki.END),
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, delegate.certificate)
        .certificates([delegate.certificate])
    )
    answer = builder.sign(delegate.key, hashes.SHA384()).public_bytes(Encoding.DER)
    assert check(answer).good == {1}
    assert isinstance(delegate.key.curve, ec.SECP384R1)
