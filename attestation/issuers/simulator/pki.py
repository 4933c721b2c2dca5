"""Certificates and revocation lists of a simulated Intel: root, PCK CA, TCB signing, PCK.

Names, extensions and lifetimes have the shape of Intel's SGX PKI, so that verifiers walk
the paths they walk for hardware; every subject says that it is simulated. Keys and serial
numbers come from the seed by HKDF and signatures are deterministic (RFC 6979), so one
seed always makes the same bytes. Spec: Intel SGX PCK Certificate and CRL Profile 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.issuers.simulator import der

_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_CRL_URL: Final = "https://simulator.invalid/sgx/certification/v4"
_SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
_SGX_TYPE_SCALABLE_WITH_INTEGRITY: Final = 2


def derive(seed: bytes, role: str, length: int = 32) -> bytes:
    """`length` bytes that only this seed gives for this role (HKDF-SHA256)."""
    info = b"adyton simulator v1 " + role.encode("ascii")
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(seed)


def derive_key(seed: bytes, role: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of this role; 384 bits reduced, so the bias is below 2^-128."""
    scalar = int.from_bytes(derive(seed, f"key {role}", 48), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA P-256/SHA-256 as the 64 bytes r || s that quotes and collateral carry."""
    signature = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = utils.decode_dss_signature(signature)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def public_raw(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public point as the 64 bytes x || y that quotes carry."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


@dataclass(frozen=True, slots=True)
class PckFacts:
    """What the PCK certificate's SGX extension says about the platform.

    Sizes: ppid 16, cpu_svn 16, pceid 2, fmspc 6, platform_instance_id 16 bytes. The three
    configuration flags are absent from the certificate where they are None.
    """

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pceid: bytes
    fmspc: bytes
    platform_instance_id: bytes
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None

    def extension(self) -> x509.UnrecognizedExtension:
        """The extension under OID 1.2.840.113741.1.13.1."""

        def entry(arcs: str, value: bytes) -> bytes:
            return der.sequence(der.oid(f"{_SGX_EXTENSION}.{arcs}"), value)

        svns = [entry(f"2.{i}", der.integer(svn)) for i, svn in enumerate(self.cpu_svn, 1)]
        flags = [
            entry(f"7.{i}", der.boolean(flag))
            for i, flag in enumerate((self.dynamic_platform, self.cached_keys, self.smt_enabled), 1)
            if flag is not None
        ]
        value = der.sequence(
            entry("1", der.octets(self.ppid)),
            entry(
                "2",
                der.sequence(
                    *svns,
                    entry("2.17", der.integer(self.pce_svn)),
                    entry("2.18", der.octets(self.cpu_svn)),
                ),
            ),
            entry("3", der.octets(self.pceid)),
            entry("4", der.octets(self.fmspc)),
            entry("5", der.enumerated(_SGX_TYPE_SCALABLE_WITH_INTEGRITY)),
            entry("6", der.octets(self.platform_instance_id)),
            *([entry("7", der.sequence(*flags))] if flags else []),
        )
        return x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX_EXTENSION), value)


@dataclass(frozen=True, slots=True)
class Party:
    """One certificate with its private key and its place under the root."""

    role: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def name(common_name: str) -> x509.Name:
    """A distinguished name in Intel's layout whose organisation is nobody's."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Adyton Simulator (SIMULATED)"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


def _at(unix: int) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class Authority:
    """Issues the certificates and CRLs of one simulated hierarchy."""

    seed: bytes
    not_before: int
    not_after: int

    def issue(
        self,
        role: str,
        common_name: str,
        issuer: Party | None,
        *,
        path_length: int | None = None,
        ca: bool = True,
        crl: str = "rootcacrl.der",
        extension: x509.UnrecognizedExtension | None = None,
    ) -> Party:
        """The certificate of `role`, signed by `issuer`, or by itself where that is None."""
        key = derive_key(self.seed, role)
        signer = key if issuer is None else issuer.key
        subject = name(common_name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(self.serial(role))
            .not_valid_before(_at(self.not_before))
            .not_valid_after(_at(self.not_after))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .add_extension(_distribution_point(crl), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(_key_usage(ca=ca), critical=True)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        return Party(role, key, builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True))

    def serial(self, role: str) -> int:
        """A positive 159-bit serial number of this role."""
        return int.from_bytes(derive(self.seed, f"serial {role}", 20), "big") >> 1

    def revoke(
        self, issuer: Party, revoked: Sequence[Party], this_update: int, next_update: int
    ) -> bytes:
        """`issuer`'s CRL (DER) over that window, listing the parties of `revoked`."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.certificate.subject)
            .last_update(_at(this_update))
            .next_update(_at(next_update))
            .add_extension(x509.CRLNumber(this_update), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
                critical=False,
            )
        )
        for party in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(party.certificate.serial_number)
                .revocation_date(_at(this_update))
                .build()
            )
        crl = builder.sign(issuer.key, hashes.SHA256(), ecdsa_deterministic=True)
        return crl.public_bytes(Encoding.DER)


def _distribution_point(crl: str) -> x509.CRLDistributionPoints:
    url = x509.UniformResourceIdentifier(f"{_CRL_URL}/{crl}")
    return x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)])
