"""Both ways with Gramine: its verifier finds what it needs in ours, and we accept its shape."""

from __future__ import annotations

import datetime
import hashlib

import cbor2
import pytest
from attested import NOW
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from ratls_peers import appraise, der_of, ec_key, interoperable, issued, legacy, spki_of, wanting

from attestation.errors import VerificationError
from attestation.ratls import RaTlsCertificate
from attestation.ratls.extension import EVIDENCE_OID, LEGACY_OID
from enclave.ratls_grpc import secure_channel

# The object identifiers as it searches for them: the standard one with its tag and length,
# the legacy one as the content octets that already hold a tag and a length.
STANDARD = bytes.fromhex("0606678105050409")
LEGACY = bytes.fromhex("06092a864886f84d8a3906")
REPORT_DATA_AT = 48 + 320


def found_by_gramine(der: bytes, oid: bytes) -> bytes:
    """The value its verifier takes for an extension's: the first occurrence of the OID, then
    an OCTET STRING with a two-byte length of 128 to 8192. Tag and length stand alone in DER
    only when the extension is not critical.
    """
    at = der.index(oid) + len(oid)
    assert der[at : at + 2] == b"\x04\x82"
    size = int.from_bytes(der[at + 2 : at + 4], "big")
    assert 128 <= size <= 8192
    return der[at + 4 : at + 4 + size]


def test_gramines_verifier_finds_both_extensions_in_an_sgx_nodes_certificate() -> None:
    identity = issued("sgx")
    der, spki = der_of(identity), spki_of(ec_key(1))
    tagged = cbor2.loads(found_by_gramine(der, STANDARD))
    quote, claims = tagged.value
    assert tagged.tag == 60000
    assert quote[REPORT_DATA_AT:][:32] == hashlib.sha256(claims).digest()
    algorithm, digest = cbor2.loads(cbor2.loads(claims)["pubkey-hash"])
    assert (algorithm, digest) == (1, hashlib.sha256(spki).digest())
    old = found_by_gramine(der, LEGACY)
    assert old[REPORT_DATA_AT:][:32] == hashlib.sha256(spki).digest()


def test_a_tdx_nodes_evidence_is_in_reach_of_the_same_search() -> None:
    assert cbor2.loads(found_by_gramine(der_of(issued("tdx")), STANDARD)).tag == 60000


def gramines(*, interop: bool = True, old: bool = True) -> bytes:
    """A certificate as Gramine 1.8 and later issue them (earlier: the old extension alone)."""
    key = ec.derive_private_key(0x5EED_6AA1, ec.SECP384R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "RATLS"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "GramineDevelopers"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2030, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    chosen = [legacy(key)] * old + [interoperable(key, "sgx")] * interop
    for oid, value, _ in chosen:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(unknown, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(("interop", "old"), [(True, True), (False, True), (True, False)])
def test_certificates_of_gramines_shape_are_accepted(interop: bool, old: bool) -> None:
    peer = appraise(gramines(interop=interop, old=old), "sgx", policy=wanting(key_custody="any"))
    assert peer.certificate.server_name == "RATLS"


async def test_a_gramine_peer_can_be_called_by_grpc_without_a_host_name() -> None:
    peer = appraise(gramines(), "sgx", policy=wanting(key_custody="any"))
    channel = secure_channel("127.0.0.1:1", issued(), peer, now=NOW)
    await channel.close()


def test_what_gramine_accepts_and_we_do_not() -> None:
    """Its search takes the first bytes that look like the OID; ours reads the certificate."""
    hidden = der_of(issued("sgx")).replace(LEGACY, LEGACY[:-1] + b"\x07")
    with pytest.raises(VerificationError) as caught:
        RaTlsCertificate.read(hidden)
    assert caught.value.step == "self_signature"
    assert {EVIDENCE_OID, LEGACY_OID} == {"2.23.133.5.4.9", "0.6.9.42.840.113741.1337.6"}
