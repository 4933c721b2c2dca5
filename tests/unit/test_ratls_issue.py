"""What a node puts into its own certificate, and when it must not have one."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from attested import NOW
from cryptography.hazmat.primitives.serialization import Encoding
from ratls_peers import DAY, Issuing, appraise, ec_key, issued, legacy, spki_of

from attestation.issuers.base import IssuerError
from attestation.ratls import Claims, RaTlsCertificate
from enclave.errors import EnclaveError
from enclave.keys import NodeKeys, load_or_create
from enclave.ratls import issue_certificate
from enclave.tls import subject_names
from gateway.identity import KeyRing
from gateway.settings import Settings

SPKI = spki_of(ec_key(1))


class Failing(Issuing):
    """A machine whose device gives no evidence any more."""

    def issue(self, report_data: bytes) -> Any:
        raise IssuerError("the device is gone")


def load(state: Path, issuer: Any, **changes: Any) -> NodeKeys:
    arguments = {"hostnames": (), "lifetime_s": 10 * DAY, "now": NOW, "attest": True}
    return load_or_create(state, issuer, **{**arguments, **changes})


def test_each_extension_gets_a_quote_over_its_own_report_data() -> None:
    issuer: Any = Issuing("sgx")
    issue_certificate(
        issuer,
        ec_key(1),
        names=subject_names(()),
        now=NOW,
        not_after=NOW + DAY,
        simulated=True,
        custody="sealed",
    )
    claims = Claims.build(SPKI, custody="sealed")
    assert issuer.asked == [claims.report_data, hashlib.sha256(SPKI).digest() + bytes(32)]


@pytest.mark.parametrize("tee", ["tdx", "sev-snp"])
def test_nothing_but_sgx_gets_gramines_extension(tee: str) -> None:
    certificate = issued(tee).certificate
    assert RaTlsCertificate.read(certificate.public_bytes(Encoding.DER)).legacy_quote is None


def test_evidence_that_certificates_have_no_form_for_is_an_error() -> None:
    class Odd(Issuing):
        tee_type = "tpm"

    odd: Any = Odd()
    with pytest.raises(EnclaveError, match="no form for tpm"):
        issue_certificate(odd, ec_key(1), names=(), now=NOW, not_after=NOW + DAY, simulated=True)
    assert odd.asked == []


def test_a_quote_that_gramine_could_not_hold_is_our_own_bound_too() -> None:
    """Its buffers end at 8192 bytes for either extension."""
    certificate = RaTlsCertificate.read(issued("sgx").certificate.public_bytes(Encoding.DER))
    assert certificate.evidence is not None
    assert max(len(certificate.evidence.write()), len(legacy(ec_key(1))[1])) <= 8192


def test_nodes_keys_state_their_custody_in_the_evidence(tmp_path: Path) -> None:
    keys = load(tmp_path, Issuing())
    peer = appraise(keys.certificate.public_bytes(Encoding.DER))
    assert peer.spki_sha256 == keys.keyset.tls_public_keys[0].spki_sha256
    evidence = peer.certificate.evidence
    assert evidence is not None and evidence.claims.custody == keys.custody == "sealed"
    assert keys.tls_identity.certificate is keys.certificate


def test_a_restart_keeps_the_key_and_gets_fresh_evidence(tmp_path: Path) -> None:
    """The machine may be another after a reboot: its microcode, its place, its time."""
    first = load(tmp_path, Issuing())
    again_issuer = Issuing(now=NOW + DAY)
    again = load(tmp_path, again_issuer, now=NOW + DAY)
    assert again.keyset.digest == first.keyset.digest
    assert again.certificate != first.certificate
    assert len(again_issuer.asked) == 1


def test_without_evidence_there_are_no_new_keys(tmp_path: Path) -> None:
    with pytest.raises(IssuerError, match="device is gone"):
        load(tmp_path, Failing())
    assert [p.name for p in (tmp_path / "keysets").iterdir()] == []
    first = load(tmp_path, Issuing())
    with pytest.raises(IssuerError, match="device is gone"):
        load(tmp_path, Failing(), renew=True)
    assert load(tmp_path, Issuing()).keyset.digest == first.keyset.digest


def test_the_gateways_own_certificate_carries_evidence(tmp_path: Path) -> None:
    settings = Settings(tee="simulator", state_dir=tmp_path)
    issuer: Any = Issuing()
    ring = KeyRing(settings, issuer, clock=lambda: NOW)
    der = ssl.PEM_cert_to_DER_cert(ring.certificate_file.read_text())
    peer = appraise(der)
    assert peer.spki_sha256 == ring.current.keys.keyset.tls_public_keys[0].spki_sha256


def test_a_gateway_whose_machine_gives_no_evidence_does_not_start(tmp_path: Path) -> None:
    failing: Any = Failing()
    with pytest.raises(IssuerError):
        KeyRing(Settings(tee="simulator", state_dir=tmp_path), failing, clock=lambda: NOW)


async def test_renewed_keys_get_evidence_and_old_ones_stay_when_there_is_none(
    tmp_path: Path,
) -> None:
    issuer: Any = Issuing()
    ring = KeyRing(Settings(tee="simulator", state_dir=tmp_path), issuer, clock=lambda: NOW)
    first = ring.current.digest
    await ring.renew()
    renewed = ring.current
    assert renewed.digest != first
    assert appraise(renewed.keys.certificate.public_bytes(Encoding.DER)).spki_sha256
    issuer.issue = Failing().issue
    with pytest.raises(IssuerError):
        await ring.renew()
    assert ring.current is renewed
