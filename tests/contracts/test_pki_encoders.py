"""What a contract would refuse for its form is refused before anybody pays for asking."""

from __future__ import annotations

import pki_inputs as inputs
import pytest
from pki_inputs import CA, PLATFORM, ROOT, Holder, certificate, crl, leaf
from test_crls import ODD
from test_pki import CERTIFICATES, HARMLESS, OF_CAS, OF_OTHERS
from test_platforms import EXTENSIONS, LEAVES

from attestation.onchain import pki
from attestation.onchain.abi import keccak
from attestation.onchain.errors import NotProvable

TIMELY = {
    "CertificateExpired",
    "CertificateNotYetValid",
    "CrlExpired",
    "CrlFromFuture",
}
"""What only the time decides: left to the contracts."""
ROOT_DER, CA_DER = PLATFORM.root.der, PLATFORM.pck_ca.der


@pytest.mark.parametrize("ca", [True, False])
def test_every_odd_certificate_is_refused_first(ca: bool) -> None:
    for name, (fields, error) in (CERTIFICATES | (OF_CAS if ca else OF_OTHERS)).items():
        der = certificate(ROOT, Holder.new("new"), ca=ca, **fields)
        if error in TIMELY:
            pki.certificate_arguments(der, ROOT_DER)
        else:
            with pytest.raises(NotProvable):
                pytest.fail(f"{name}: {pki.certificate_arguments(der, ROOT_DER)!r}")


@pytest.mark.parametrize("name", HARMLESS)
def test_certificate_that_differs_harmlessly(name: str) -> None:
    der = certificate(ROOT, Holder.new("new"), ca=True, **HARMLESS[name])
    assert pki.certificate_arguments(der, ROOT_DER) == (der,)


def test_certificates_of_the_simulator() -> None:
    for party in (PLATFORM.root, PLATFORM.pck_ca, PLATFORM.tcb_signing):
        assert pki.certificate_arguments(party.der, ROOT_DER) == (party.der,)
    for party in (PLATFORM.pck_ca, PLATFORM.tcb_signing, PLATFORM.pck):
        with pytest.raises(NotProvable):
            pki.certificate_arguments(PLATFORM.pck.der, party.der)


@pytest.mark.parametrize("name", ODD)
def test_every_odd_crl_is_refused_first(name: str) -> None:
    fields, error = ODD[name]
    der = crl(CA, **fields)
    if error in TIMELY:
        assert pki.crl_arguments(der, CA_DER) == (der, *CA.xy)
    else:
        with pytest.raises(NotProvable):
            pki.crl_arguments(der, CA_DER)


def test_crl_of_a_key_that_is_no_cas_or_too_long() -> None:
    with pytest.raises(NotProvable, match="not a CA"):
        pki.crl_arguments(crl(inputs.TCB), PLATFORM.tcb_signing.der)
    longest = crl(CA, list(range(1, 3072)))
    assert pki.crl_arguments(longest, CA_DER)[0] == longest
    with pytest.raises(NotProvable, match="3072 revoked"):
        pki.crl_arguments(crl(CA, list(range(1, 3073))), CA_DER)


@pytest.mark.parametrize("encode", [pki.platform_certificate, pki.platform_known])
def test_every_odd_leaf_is_refused_first(encode: object) -> None:
    assert callable(encode)
    for name, (fields, error) in LEAVES.items():
        der = leaf(**fields)
        if error in TIMELY:
            encode(CA_DER, der)
        else:
            with pytest.raises(NotProvable):
                pytest.fail(f"{name}: {encode(CA_DER, der)!r}")
    for name, (value, _) in EXTENSIONS.items():
        with pytest.raises(NotProvable):
            pytest.fail(f"{name}: {encode(CA_DER, leaf(value))!r}")


def test_ids() -> None:
    known = pki.platform_known(CA_DER, PLATFORM.pck.der)
    issuer, serial = pki.issuer_id(*CA.xy), PLATFORM.pck.certificate.serial_number
    assert known[:53] == b"\x01" + issuer + serial.to_bytes(20, "big")
    assert len(known) == 143
    assert pki.leaf_id(issuer, serial) == keccak(issuer + bytes(12) + known[33:53])
    assert pki.revocation_tag(serial) == keccak(bytes(12) + known[33:53])[:8]
