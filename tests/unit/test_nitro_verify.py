"""Nitro verification: each way a document can be wrong is refused by its own step."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import nitro_pki
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from nitro_pki import ENCLAVE, INSTANCE, NOW, REGION, ROOT, USER_DATA, Hypervisor, Issue

from attestation.errors import Finding, PolicyError, VerificationError
from attestation.evidence.nitro import NitroDocument
from attestation.policy import Policy, evaluate, load_policy
from attestation.roots import AWS_NITRO_ROOT_G1
from attestation.verify.nitro import NitroReport, verify_nitro

AWS_SHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
NONCE = b"chosen by the caller"


def verify(hypervisor: Hypervisor | None = None, now: int = NOW, **more: Any) -> NitroReport:
    document = nitro_pki.document() if hypervisor is None else hypervisor.document()
    return verify_nitro(document, [nitro_pki.root()], now, **more)


def step(hypervisor: Hypervisor | None = None, now: int = NOW, **more: Any) -> str:
    with pytest.raises(VerificationError) as e:
        verify(hypervisor, now, **more)
    return e.value.step


def chained(*chain: Issue) -> Hypervisor:
    return Hypervisor(chain=chain)


def test_the_root_is_the_one_aws_publishes() -> None:
    assert hashlib.sha256(AWS_NITRO_ROOT_G1).hexdigest() == AWS_SHA256
    root = x509.load_der_x509_certificate(AWS_NITRO_ROOT_G1)
    root.verify_directly_issued_by(root)


def test_a_genuine_document_is_accepted() -> None:
    report = verify(nonce=NONCE)
    assert report.tee == "nitro"
    assert report.report_data == USER_DATA
    assert report.measurement == (b"\1" * 48).hex()
    assert list(report.measurements) == ["pcr0", "pcr1", "pcr2", "pcr4"]
    assert (report.debug, report.simulated, report.tcb_status) == (False, False, None)
    assert report.root_sha256 == hashlib.sha256(nitro_pki.root()).hexdigest()
    assert report.endorsements_not_before == INSTANCE.not_before
    assert report.endorsements_not_after == INSTANCE.not_after
    assert report.nonce_checked
    assert report.facts() == {
        "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
        "timestamp_ms": NOW * 1000 + 578,
        "nonce": NONCE.hex(),
        "public_key": None,
    }


def test_what_the_enclave_left_out_is_empty_or_none() -> None:
    changes = {"user_data": None, "nonce": None, "public_key": b"a key"}
    report = verify(Hypervisor(changes=changes))
    assert report.report_data == b""
    assert report.facts()["nonce"] is None
    assert report.facts()["public_key"] == b"a key".hex()


def test_report_is_made_by_verification_only() -> None:
    report = verify()
    with pytest.raises(TypeError):
        replace(report, seal=object())


def test_document_of_another_root_is_refused() -> None:
    with pytest.raises(VerificationError) as e:
        verify_nitro(nitro_pki.document(), [AWS_NITRO_ROOT_G1], NOW)
    assert e.value.step == "root"
    with pytest.raises(VerificationError):
        verify_nitro(nitro_pki.document(), [], NOW)


def test_root_that_only_has_the_trusted_name_is_refused() -> None:
    other = replace(ROOT, not_after=ROOT.not_after + 1)
    assert step(chained(other, REGION, INSTANCE)) == "root"


def test_root_that_is_not_first_is_refused() -> None:
    assert step(chained(REGION, ROOT, INSTANCE)) == "root"


@pytest.mark.parametrize(
    "chain",
    [
        (ROOT, INSTANCE, REGION),
        (ROOT, REGION, REGION, INSTANCE),
        (ROOT, Issue("stranger", "root"), REGION, INSTANCE),
        (ROOT, INSTANCE),
        (ROOT, REGION, replace(INSTANCE, signer="root")),
        (ROOT, REGION, replace(INSTANCE, ca=False, path_length=None)),
        (ROOT, REGION, replace(INSTANCE, usage=frozenset({"digital_signature"}))),
        (ROOT, replace(REGION, path_length=0), INSTANCE),
    ],
    ids=[
        "order",
        "doubled",
        "unused",
        "gap",
        "forged",
        "issuer-not-a-ca",
        "issuer-may-not-sign",
        "path-too-long",
    ],
)
def test_broken_chains_are_refused(chain: tuple[Issue, ...]) -> None:
    assert step(chained(*chain)) == "chain"


@pytest.mark.parametrize(
    "leaf",
    [
        replace(ENCLAVE, signer="region"),
        replace(ENCLAVE, ca=True),
        replace(ENCLAVE, usage=frozenset({"key_encipherment"})),
        replace(ENCLAVE, usage=frozenset({"digital_signature", "key_cert_sign"})),
        replace(
            ENCLAVE,
            extensions=(
                (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True),
            ),
        ),
    ],
    ids=["forged", "ca", "not-for-signing", "may-sign-certificates", "unknown-critical"],
)
def test_signing_certificates_of_the_wrong_make_are_refused(leaf: Issue) -> None:
    assert step(Hypervisor(leaf=leaf)) == "chain"


def test_an_issuer_cannot_sign_documents_itself() -> None:
    hypervisor = Hypervisor(chain=(ROOT, REGION), leaf=INSTANCE, signer="instance")
    assert step(hypervisor) == "chain"


@pytest.mark.parametrize(
    "changes", [{"certificate": b"not a certificate"}, {"cabundle": [b"x", b"y"]}]
)
def test_unreadable_certificates_are_refused(changes: dict[str, Any]) -> None:
    assert step(Hypervisor(changes=changes)) == "chain"


def test_long_chains_are_refused_before_they_are_read() -> None:
    assert step(Hypervisor(changes={"cabundle": [b"x"] * 8})) == "chain"


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP521R1])
def test_keys_are_p384(curve: type[ec.EllipticCurve]) -> None:
    public = nitro_pki.key("enclave", curve).public_key()
    assert step(Hypervisor(leaf=replace(ENCLAVE, public=public))) == "chain"


def test_keys_are_elliptic_curve_keys() -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    public = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    with pytest.raises(VerificationError) as e:
        verify(Hypervisor(leaf=replace(ENCLAVE, public=public)))
    assert e.value.step == "chain"
    rsa = x509.load_der_x509_certificate(_rsa_root()).public_key()
    assert step(Hypervisor(leaf=replace(ENCLAVE, public=rsa))) == "chain"


def _rsa_root() -> bytes:
    from attestation.roots import AMD_ARKS

    return AMD_ARKS[0]


@pytest.mark.parametrize("issue", ["leaf", "instance", "root"])
@pytest.mark.parametrize(
    ("window", "expected"),
    [({"not_before": NOW + 1}, "not_yet_valid"), ({"not_after": NOW - 1}, "expired")],
)
def test_every_certificate_must_be_valid_now(
    issue: str, window: dict[str, int], expected: str
) -> None:
    root = replace(ROOT, **window) if issue == "root" else ROOT
    hypervisor = Hypervisor(
        chain=(root, REGION, replace(INSTANCE, **window) if issue == "instance" else INSTANCE),
        leaf=replace(ENCLAVE, **window) if issue == "leaf" else ENCLAVE,
    )
    with pytest.raises(VerificationError) as e:
        verify_nitro(hypervisor.document(), [root.der()], NOW)
    assert e.value.step == expected


@pytest.mark.parametrize("now", [0, -(2**70), NOW + 10**10, 2**70])
def test_clocks_off_by_years_are_refused_not_crashed_on(now: int) -> None:
    assert step(now=now) in {"expired", "not_yet_valid"}


@pytest.mark.parametrize(
    "made",
    [ENCLAVE.not_before - 1, NOW + 1, ENCLAVE.not_after + 1, NOW + 10**9],
    ids=["before-its-certificate", "after-now", "after-its-certificate", "far-future"],
)
def test_document_from_outside_its_time_is_refused(made: int) -> None:
    assert step(Hypervisor(changes={"timestamp": made * 1000})) == "timestamp"


def test_document_signed_by_another_key_is_refused() -> None:
    assert step(Hypervisor(signer="instance")) == "signature"


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(48) + b"\1" * 48])
def test_signatures_out_of_range_are_refused(signature: bytes) -> None:
    parts = cbor2.loads(nitro_pki.document())
    forged = cbor2.dumps([*parts[:3], signature])
    with pytest.raises(VerificationError) as e:
        verify_nitro(forged, [nitro_pki.root()], NOW)
    assert e.value.step == "signature"


@pytest.mark.parametrize("zero", [(0,), (1,), (2,), (0, 1, 2)])
def test_zero_image_registers_are_debug_mode(zero: tuple[int, ...]) -> None:
    pcrs = {i: bytes(48) if i in zero else b"\1" * 48 for i in range(16)}
    assert step(Hypervisor(pcrs=pcrs)) == "debug"


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_image_registers_cannot_be_left_out(missing: int) -> None:
    pcrs = {i: b"\1" * 48 for i in range(16) if i != missing}
    assert step(Hypervisor(pcrs=pcrs)) == "pcrs"


@pytest.mark.parametrize("nonce", [b"", NONCE[:-1], NONCE + b"\0", b"another"])
def test_document_over_another_nonce_is_refused(nonce: bytes) -> None:
    assert step(nonce=nonce) == "nonce"


def test_document_without_a_nonce_answers_none() -> None:
    hypervisor = Hypervisor(changes={"nonce": None})
    assert step(hypervisor, nonce=NONCE) == "nonce"
    assert step(hypervisor, nonce=b"") == "nonce"


def test_an_empty_nonce_proves_no_freshness() -> None:
    assert not verify(Hypervisor(changes={"nonce": b""}), nonce=b"").nonce_checked


def test_tagged_documents_verify_alike() -> None:
    tagged = b"\xd2" + nitro_pki.document()
    assert verify_nitro(tagged, [nitro_pki.root()], NOW).document.tagged


def test_signature_is_over_the_payload_as_it_stands() -> None:
    """The same map in another encoding is another payload."""
    document = NitroDocument.read(nitro_pki.document())
    other = replace(document, payload=b"\xbf" + document.payload[1:] + b"\xff")
    with pytest.raises(VerificationError) as e:
        verify_nitro(other.write(), [nitro_pki.root()], NOW)
    assert e.value.step == "signature"


# Policy.


def wanting(**document: Any) -> Policy:
    pcr0 = (b"\1" * 48).hex()
    return load_policy(
        {"version": 1, "name": "test", "measurements": {"nitro": [{"pcr0": pcr0}]}, **document}
    )


def findings(report: NitroReport, policy: Policy, now: int = NOW) -> dict[str, Finding]:
    with pytest.raises(PolicyError) as e:
        evaluate(report, policy, report_data=USER_DATA, now=now)
    return {f.field: f for f in e.value.findings}


def test_the_wanted_enclave_is_accepted() -> None:
    report = verify(nonce=NONCE)
    appraisal = evaluate(report, wanting(), report_data=USER_DATA, now=NOW)
    assert appraisal.report is report
    assert appraisal.claims["tcb_up_to_date"].status == "unknown"
    assert appraisal.extra["module_id"] == report.document.module_id


def test_nothing_pinned_refuses_and_shows_what_to_pin() -> None:
    found = findings(verify(nonce=NONCE), load_policy("strict"))
    assert found["measurements.nitro.pcr0"].actual == (b"\1" * 48).hex()


def test_another_image_is_refused() -> None:
    pinned = {"nitro": [{"pcr0": "ab" * 48, "pcr31": "cd" * 48}]}
    found = findings(verify(nonce=NONCE), wanting(measurements=pinned))
    assert found["measurements.nitro.pcr0"].expected == "ab" * 48
    assert found["measurements.nitro.pcr31"].actual == "not stated"


def test_old_documents_are_refused_after_five_minutes_unless_a_policy_says() -> None:
    report = verify(nonce=NONCE)
    evaluate(report, wanting(), report_data=USER_DATA, now=NOW + 300)
    assert findings(report, wanting(), NOW + 301)["nitro.age"].actual == "301 s"
    lenient = wanting(nitro={"max_age_s": 301})
    evaluate(report, lenient, report_data=USER_DATA, now=NOW + 301)


def test_a_verdict_does_not_outlive_the_certificates() -> None:
    lenient = wanting(nitro={"max_age_s": 10**6})
    found = findings(verify(nonce=NONCE), lenient, NOW + 3601)
    assert list(found) == ["nitro.certificates_window"]


def test_nonce_is_required_unless_a_policy_says() -> None:
    assert findings(verify(), wanting())["nitro.nonce"].actual == f"{NONCE.hex()}, unchecked"
    without = verify(Hypervisor(changes={"nonce": None}))
    assert findings(without, wanting())["nitro.nonce"].actual == "none"
    lenient = wanting(nitro={"require_nonce": False})
    evaluate(verify(), lenient, report_data=USER_DATA, now=NOW)


def test_modules_may_be_listed() -> None:
    report = verify(nonce=NONCE)
    listed = wanting(nitro={"module_ids": [report.document.module_id]})
    evaluate(report, listed, report_data=USER_DATA, now=NOW)
    found = findings(report, wanting(nitro={"module_ids": ["i-other"]}))
    assert found["nitro.module_id"].expected == "one of i-other"


def test_user_data_is_the_report_data() -> None:
    with pytest.raises(PolicyError) as e:
        evaluate(verify(nonce=NONCE), wanting(), report_data=bytes(64), now=NOW)
    assert [f.field for f in e.value.findings] == ["report_data"]


def test_genuine_asks_only_for_authenticity() -> None:
    appraisal = evaluate(verify(), load_policy("genuine"), report_data=None, now=NOW + 3600)
    assert appraisal.inspection_only
