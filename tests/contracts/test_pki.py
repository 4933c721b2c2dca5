"""Certificates and CRLs on a chain: what Intel's PKI makes is taken, whatever differs is refused.

The simulator's PKI stands for Intel's, so that a fresh clone runs all of this; Intel's own
documents are in test_pki_vectors.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pki_inputs as inputs
import pytest
from chain import Chain, Contract
from pki_inputs import CA, CONSTRAINTS, DAY, NOW, ROOT, SKI, TCB, USAGE, Holder, certificate, crl

from attestation.issuers.simulator.platform import CERTIFICATES_UNTIL
from attestation.onchain import pki

CRITICAL = b"\x01\x01\xff"
UNKNOWN = bytes.fromhex("2b06010401")
NEW_CA = Holder.new("new CA")
NEW_TCB = Holder.new("new TCB signing")


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(timestamp=NOW) as started:
        yield started


@pytest.fixture(scope="module")
def filled(chain: Chain) -> Contract:
    return inputs.fill(chain, inputs.deploy(chain))


@pytest.fixture
def store(chain: Chain, filled: Contract) -> Iterator[Contract]:
    """A store with the simulator's PKI; what a test changes is taken back."""
    with chain.undone():
        yield filled


def test_the_whole_pki_is_stored_and_says_until_when(chain: Chain, store: Contract) -> None:
    root, ca, tcb = (pki.issuer_id(*holder.xy) for holder in (ROOT, CA, TCB))
    assert chain.call(store, "keyOf", root) == (1, CERTIFICATES_UNTIL, True)
    assert chain.call(store, "keyOf", ca) == (2, CERTIFICATES_UNTIL, True)
    assert chain.call(store, "keyOf", tcb) == (3, CERTIFICATES_UNTIL, True)
    assert chain.call(store, "keyOf", bytes(32)) == (0, 0, False)
    assert chain.call(store, "rootId") == root
    assert chain.call(store, "generation") == 0
    issued, until, revoked, current = chain.call(store, "crlOf", ca)
    assert issued < NOW < until and revoked == 0 and current
    assert chain.call(store, "crlOf", bytes(32)) == (0, 0, 0, False)
    assert chain.call(store, "requireTcbSigner", *TCB.xy) == until


# --- certificates -------------------------------------------------------------------

CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "version 1": ({"version": b""}, "VersionUnsupported"),
    "version 2": ({"version": bytes.fromhex("a003020101")}, "VersionUnsupported"),
    "serial negative": ({"serial": b"\x02\x01\x80"}, "DerIntegerMalformed"),
    "serial padded": ({"serial": b"\x02\x02\x00\x01"}, "DerIntegerMalformed"),
    "serial empty": ({"serial": b"\x02\x00"}, "DerIntegerMalformed"),
    "serial of 21 bytes": ({"serial": 1 << 160}, "DerIntegerMalformed"),
    "serial zero": ({"serial": 0}, "SerialMissing"),
    "serial no integer": ({"serial": b"\x04\x01\x01"}, "DerTagUnexpected"),
    "algorithm inside": ({"algorithm": inputs.ECDSA_SHA384}, "SignatureAlgorithmUnsupported"),
    "algorithm with parameters": (
        {"algorithm": bytes.fromhex("300c06082a8648ce3d0403020500")},
        "SignatureAlgorithmUnsupported",
    ),
    "algorithm outside": (
        {"outside": {"outer_algorithm": inputs.ECDSA_SHA384}},
        "SignatureAlgorithmUnsupported",
    ),
    "issuer of another name": ({"issuer_name": CA.name}, "IssuerNameMismatch"),
    "issuer's name encoded otherwise": (
        {"issuer_name": ROOT.name.replace(b"\x0c\x1c", b"\x13\x1c")},
        "IssuerNameMismatch",
    ),
    "expired": ({"not_after": NOW - DAY}, "CertificateExpired"),
    "expired in GeneralizedTime": (
        {"not_after": inputs.generalized("20200101000000Z")},
        "DateMalformed",
    ),
    "not yet valid": ({"not_before": NOW + DAY}, "CertificateNotYetValid"),
    "valid from 2050 on": (
        {"not_before": inputs.generalized("20500101000000Z")},
        "CertificateNotYetValid",
    ),
    "month 13": ({"not_after": inputs.tlv(0x17, b"301301000000Z")}, "DateMalformed"),
    "29 February 2027": ({"not_after": inputs.tlv(0x17, b"270229000000Z")}, "DateMalformed"),
    "hour 24": ({"not_after": inputs.tlv(0x17, b"300101240000Z")}, "DateMalformed"),
    "no seconds": ({"not_after": inputs.tlv(0x17, b"3001010000Z")}, "DateMalformed"),
    "local time": ({"not_after": inputs.tlv(0x17, b"300101000000+0100")}, "DateMalformed"),
    "a colon for a digit": ({"not_after": inputs.tlv(0x17, b"300101:00000Z")}, "DateMalformed"),
    "a third date": (
        {"not_after": inputs.utc(NOW + DAY) + inputs.utc(NOW + DAY)},
        "DerTrailing",
    ),
    "key on another curve": (
        {"spki": NEW_CA.spki.replace(bytes.fromhex("2a8648ce3d030107"), b"\x2a" * 8)},
        "PublicKeyUnsupported",
    ),
    "key compressed": (
        {"spki": NEW_CA.spki.replace(b"\x03\x42\x00\x04", b"\x03\x42\x00\x02")},
        "PublicKeyUnsupported",
    ),
    "no extensions": ({"parts": []}, "AuthorityKeyIdMissing"),
    "AKI missing": ({"without": inputs.AKI}, "AuthorityKeyIdMissing"),
    "AKI empty": ({"aki": inputs.aki(b"")}, "AuthorityKeyIdMissing"),
    "AKI without identifier": (
        {"aki": inputs.extension(inputs.AKI, b"\x30\x00")},
        "AuthorityKeyIdMissing",
    ),
    "AKI of 32 bytes": ({"aki": inputs.aki(bytes(32))}, "AuthorityKeyIdMissing"),
    "AKI of another key": ({"aki": inputs.aki(CA.key_id)}, "AuthorityKeyIdMismatch"),
    "SKI missing": ({"without": SKI}, "SubjectKeyIdMissing"),
    "SKI empty": ({"ski": inputs.ski(b"")}, "SubjectKeyIdMissing"),
    "key usage missing": ({"without": USAGE}, "KeyUsageMissing"),
    "key usage empty": ({"usage": inputs.extension(USAGE, b"\x03\x01\x00")}, "ExtensionMalformed"),
    "constraints missing": ({"without": CONSTRAINTS}, "BasicConstraintsMissing"),
    "constraints false in words": (
        {"constraints": inputs.extension(CONSTRAINTS, bytes.fromhex("3003010100"))},
        "ExtensionMalformed",
    ),
    "constraints negative": (
        {"constraints": inputs.extension(CONSTRAINTS, bytes.fromhex("30060101ff020180"))},
        "ExtensionMalformed",
    ),
    "unknown critical extension": (
        {"more": [inputs.extension(UNKNOWN, b"", CRITICAL)]},
        "CriticalExtensionUnknown",
    ),
    "critical name constraints": (
        {"more": [inputs.extension(bytes.fromhex("551d1e"), b"\x30\x00", CRITICAL)]},
        "CriticalExtensionUnknown",
    ),
    "critical flag of another form": (
        {"more": [inputs.extension(UNKNOWN, b"", b"\x01\x01\x01")]},
        "ExtensionMalformed",
    ),
    "critical flag false in words": (
        {"more": [inputs.extension(UNKNOWN, b"", b"\x01\x01\x00")]},
        "ExtensionMalformed",
    ),
    "extension twice": ({"more": [inputs.ski(CA.key_id)]}, "ExtensionRepeated"),
    "extension with bytes after its value": (
        {"more": [inputs.tlv(0x30, inputs.tlv(6, UNKNOWN), inputs.tlv(4), b"\0")]},
        "DerTrailing",
    ),
    "element after the extensions": ({"after_extensions": b"\x05\x00"}, "DerTrailing"),
    "signed by another key": ({"signer": CA.key}, "SignatureInvalid"),
    "signature with unused bits": ({"outside": {"unused_bits": 1}}, "SignatureMalformed"),
    "element after the signature": ({"outside": {"inside": b"\x05\x00"}}, "SignatureMalformed"),
}
OF_CAS: dict[str, tuple[dict[str, Any], str]] = {
    "may not sign certificates": (
        {"usage": inputs.extension(USAGE, b"\x03\x02\x01\x02", CRITICAL)},
        "KeyUsageUnsuitable",
    ),
    "may not sign CRLs": (
        {"usage": inputs.extension(USAGE, b"\x03\x02\x02\x04", CRITICAL)},
        "KeyUsageUnsuitable",
    ),
}
OF_OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "may sign certificates": (
        {"usage": inputs.extension(USAGE, b"\x03\x02\x02\x84", CRITICAL)},
        "KeyUsageUnsuitable",
    ),
    "may sign CRLs": (
        {"usage": inputs.extension(USAGE, b"\x03\x02\x01\x82", CRITICAL)},
        "KeyUsageUnsuitable",
    ),
    "may not sign": (
        {"usage": inputs.extension(USAGE, b"\x03\x02\x06\x40", CRITICAL)},
        "KeyUsageUnsuitable",
    ),
}


@pytest.mark.parametrize("odd", (CERTIFICATES | OF_CAS).items(), ids=lambda odd: str(odd[0]))
def test_odd_ca_certificate(
    chain: Chain, store: Contract, odd: tuple[str, tuple[dict[str, Any], str]]
) -> None:
    fields, error = odd[1]
    with chain.refused(error):
        chain.call(store, "addCertificate", certificate(ROOT, NEW_CA, ca=True, **fields))


@pytest.mark.parametrize("odd", (CERTIFICATES | OF_OTHERS).items(), ids=lambda odd: str(odd[0]))
def test_odd_tcb_signing_certificate(
    chain: Chain, store: Contract, odd: tuple[str, tuple[dict[str, Any], str]]
) -> None:
    fields, error = odd[1]
    with chain.refused(error):
        chain.call(store, "addCertificate", certificate(ROOT, NEW_TCB, **fields))


HARMLESS: dict[str, dict[str, Any]] = {
    "nothing odd": {},
    "unknown extension, not critical": {"more": [inputs.extension(UNKNOWN, b"\x05\x00")]},
    "identifier that starts with zero": {
        "more": [inputs.extension(b"\x00" + inputs.AKI, b"", b"")]
    },
    "the higher s": {"outside": {"high_s": True}},
    "for ever": {"not_after": inputs.generalized("99991231235959Z")},
    "since before 1970": {"not_before": inputs.tlv(0x17, b"500101000000Z")},
    "serial of 20 bytes": {"serial": (1 << 159) + 1},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_certificate_that_differs_harmlessly_is_taken(
    chain: Chain, store: Contract, name: str
) -> None:
    chain.send(store, "addCertificate", certificate(ROOT, NEW_CA, ca=True, **HARMLESS[name]))
    assert chain.call(store, "keyOf", pki.issuer_id(*NEW_CA.xy)) == (2, CERTIFICATES_UNTIL, True)


def test_bytes_before_inside_and_after_a_certificate(chain: Chain, store: Contract) -> None:
    good = certificate(ROOT, NEW_CA, ca=True)
    for bad, error in (
        (b"", "DerOverrun"),
        (b"\x30", "DerOverrun"),
        (good[:-1], "DerOverrun"),
        (good + b"\0", "DerTrailing"),
        (b"\x31" + good[1:], "DerTagUnexpected"),
        (b"\x30\x80" + good[4:], "DerLengthMalformed"),
        (b"\x30\x83\x00" + good[2:], "DerLengthMalformed"),
        (b"\x30\x84\x00\x00" + good[2:], "DerLengthMalformed"),
    ):
        with chain.refused(error):
            chain.call(store, "addCertificate", bad)


@pytest.mark.parametrize("ca", [True, False])
@pytest.mark.parametrize("last", range(4))
def test_last_extension_ends_where_the_certificate_says(
    chain: Chain, store: Contract, last: int, ca: bool
) -> None:
    """Each of the usual extensions, at the end and a byte short: what follows is the signature."""
    parts = inputs.extensions(ROOT, NEW_CA, ca=ca)
    parts.append(parts.pop(last))
    chain.call(store, "addCertificate", certificate(ROOT, NEW_CA, ca=ca, parts=parts))
    parts[-1] = parts[-1][:-1]
    with chain.refused("DerOverrun"):
        chain.call(store, "addCertificate", certificate(ROOT, NEW_CA, ca=ca, parts=parts))


def test_neighbouring_calldata_completes_no_certificate(chain: Chain, store: Contract) -> None:
    """The argument's length is cut; the bytes that are missing still follow it in the calldata."""
    good = certificate(ROOT, NEW_CA, ca=True)
    data = bytes.fromhex(store.data("addCertificate", good)[2:])
    assert data[36:68] == len(good).to_bytes(32, "big")
    cut = data[:36] + (len(good) - 1).to_bytes(32, "big") + data[68:]
    with chain.refused("DerOverrun"):
        chain.transact(store.address, "0x" + cut.hex())


def test_root_must_be_the_pinned_self_signed_ca(chain: Chain) -> None:
    store = inputs.deploy(chain)
    path_zero = inputs.extension(CONSTRAINTS, inputs.IS_CA, CRITICAL)
    for odd, error in (
        (certificate(ROOT, ROOT, ca=True), "RootNotCa"),
        (certificate(ROOT, ROOT, ca=True, constraints=path_zero), "RootNotCa"),
        (certificate(ROOT, ROOT), "RootNotCa"),
    ):
        with chain.refused(error):
            chain.call(store, "addCertificate", odd)
    any_depth = inputs.extension(CONSTRAINTS, bytes.fromhex("30030101ff"), CRITICAL)
    for fields, error in (
        ({"signer": CA.key}, "SignatureInvalid"),
        ({"issuer_name": CA.name}, "IssuerNameMismatch"),
        ({"aki": inputs.aki(CA.key_id)}, "AuthorityKeyIdMismatch"),
        ({"aki": inputs.aki(b""), "ski": inputs.ski(b"")}, "AuthorityKeyIdMissing"),
    ):
        odd = certificate(ROOT, ROOT, ca=True, constraints=any_depth, **fields)
        with chain.refused(error):
            chain.call(store, "addCertificate", odd)
    chain.call(store, "addCertificate", certificate(ROOT, ROOT, ca=True, constraints=any_depth))


def test_another_root_is_nobody(chain: Chain, store: Contract) -> None:
    other = Holder.new("other root")
    any_depth = inputs.extension(CONSTRAINTS, bytes.fromhex("30030101ff"), CRITICAL)
    with chain.refused("SignatureInvalid"):
        chain.call(
            store, "addCertificate", certificate(other, other, ca=True, constraints=any_depth)
        )


def test_order_of_submission(chain: Chain) -> None:
    """Without the root's name and CRL nothing can be said of what it signed."""
    store = inputs.deploy(chain)
    ca = certificate(ROOT, NEW_CA, ca=True)
    with chain.refused("KeyUnknown"):
        chain.call(store, "addCertificate", ca)
    with chain.refused("KeyUnknown"):
        chain.call(store, "updateCrl", crl(ROOT), *ROOT.xy)
    chain.send(store, "addCertificate", inputs.PLATFORM.root.der)
    with chain.refused("CrlMissing"):
        chain.call(store, "addCertificate", ca)
    with chain.refused("CrlMissing"):
        chain.call(store, "requireTcbSigner", *TCB.xy)
    chain.send(store, "updateCrl", crl(ROOT), *ROOT.xy)
    chain.send(store, "addCertificate", ca)


# --- roles and ends -----------------------------------------------------------------


def test_tcb_signing_key_is_no_pck_ca_and_the_reverse(chain: Chain, store: Contract) -> None:
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "updateCrl", crl(TCB), *TCB.xy)
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "requirePlatform", inputs.fresh(TCB, inputs.leaf(issuer=TCB)))
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "requireTcbSigner", *CA.xy)
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "requireTcbSigner", *ROOT.xy)
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "requirePlatform", inputs.fresh(ROOT, inputs.leaf(issuer=ROOT)))
    with chain.refused("KeyUnknown"):
        chain.call(store, "requireTcbSigner", *NEW_TCB.xy)


def test_key_keeps_its_role_while_it_counts(chain: Chain, store: Contract) -> None:
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "addCertificate", certificate(ROOT, CA))
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "addCertificate", certificate(ROOT, TCB, ca=True))


def test_older_certificate_of_a_renewed_key_shortens_nothing(chain: Chain, store: Contract) -> None:
    with chain.refused("KeySuperseded"):
        chain.call(store, "addCertificate", certificate(ROOT, TCB, not_after=NOW + DAY))


def test_nothing_outlives_its_certificate(chain: Chain, store: Contract) -> None:
    end = NOW + 10 * DAY
    chain.send(store, "addCertificate", certificate(ROOT, NEW_TCB, not_after=end))
    chain.send(store, "addCertificate", certificate(ROOT, NEW_CA, ca=True, not_after=end))
    assert chain.call(store, "requireTcbSigner", *NEW_TCB.xy) == end
    chain.at(end)
    chain.call(store, "requireTcbSigner", *NEW_TCB.xy)
    chain.at(end + 1)
    assert chain.call(store, "keyOf", pki.issuer_id(*NEW_TCB.xy)) == (3, end, False)
    with chain.refused("KeyExpired"):
        chain.call(store, "requireTcbSigner", *NEW_TCB.xy)
    with chain.refused("KeyExpired"):
        chain.call(store, "updateCrl", crl(NEW_CA), *NEW_CA.xy)
    with chain.refused("CertificateExpired"):
        chain.call(store, "addCertificate", certificate(ROOT, NEW_TCB, not_after=end))


def test_nothing_outlives_the_root(chain: Chain) -> None:
    store, end = inputs.deploy(chain), NOW + 20 * DAY
    any_depth = inputs.extension(CONSTRAINTS, bytes.fromhex("30030101ff"), CRITICAL)
    root = certificate(ROOT, ROOT, ca=True, constraints=any_depth, not_after=end)
    with chain.undone():
        chain.send(store, "addCertificate", root)
        chain.send(store, "updateCrl", crl(ROOT), *ROOT.xy)
        chain.send(store, "addCertificate", inputs.PLATFORM.tcb_signing.der)
        assert chain.call(store, "requireTcbSigner", *TCB.xy) == end
        assert chain.call(store, "crlOf", pki.issuer_id(*ROOT.xy))[1] == end
        chain.at(end + 1)
        with chain.refused("CrlExpired"):
            chain.call(store, "requireTcbSigner", *TCB.xy)
        for function, document in (
            ("addCertificate", (inputs.PLATFORM.pck_ca.der,)),
            ("updateCrl", (crl(ROOT), *ROOT.xy)),
        ):
            with chain.refused("KeyExpired"):
                chain.call(store, function, *document)


def test_missing_precompile_is_not_a_yes() -> None:
    with Chain(timestamp=NOW, hardfork="prague") as old, old.refused("P256VerifierMissing"):
        inputs.deploy(old)


def test_account_without_code_verifies_nothing(chain: Chain) -> None:
    with chain.refused("P256VerifierMissing"):
        chain.deploy("PkiHarness", *ROOT.xy, "0x" + "12" * 20)


def test_software_verifier_where_the_precompile_is_missing() -> None:
    with Chain(timestamp=NOW, hardfork="prague") as old:
        software = old.deploy("SoftwareP256")
        store = old.deploy("PkiHarness", *ROOT.xy, software.address)
        old.send(store, "addCertificate", inputs.PLATFORM.root.der)
        old.send(store, "updateCrl", crl(ROOT, outside={"high_s": True}), *ROOT.xy)
        bad = certificate(ROOT, NEW_CA, ca=True, signer=CA.key)
        with old.refused("SignatureInvalid"):
            old.call(store, "addCertificate", bad)
        old.send(store, "addCertificate", certificate(ROOT, NEW_CA, ca=True))
