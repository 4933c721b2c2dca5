"""A simulated AMD: ARK and ASK, and what they sign: VCEK certificates and the CRL.

Names, extensions and signatures have the shape of AMD's, so that verifiers walk the paths
they walk for hardware; every subject says that it is simulated. AMD's authorities sign with
RSA-4096 and PSS, which salts each signature: the same bytes from a seed would need an RSA
of our own. So both are made once, at random, and kept whole in one file beside the seed,
and the root certificate keeps its bytes for as long as that file is kept. Spec: AMD 57230,
Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface, chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from attestation.evidence.snp import TcbVersion
from attestation.issuers.base import IssuerError
from attestation.issuers.simulator import der
from attestation.issuers.simulator.files import keep

PRODUCT: Final = "Genoa"
STEPPING: Final = "Genoa-B1"
CERTIFICATES_FROM: Final = 1_735_689_600  # 2025-01-01T00:00:00Z
CERTIFICATES_UNTIL: Final = 2_366_841_600  # 2045-01-01T00:00:00Z
_OID: Final = "1.3.6.1.4.1.3704.1"
_RSA_BITS: Final = 4096
_CRL_URL: Final = "https://simulator.invalid/vcek/v1/Genoa/crl"
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)
_MAX_FILE_BYTES: Final = 1 << 16


def _name(common_name: str) -> x509.Name:
    """A distinguished name in AMD's layout whose organisation is nobody's."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Nowhere"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Adyton Simulator (SIMULATED)"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _at(unix: int) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    common_name: str, issuer: str, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(_at(CERTIFICATES_FROM))
        .not_valid_after(_at(CERTIFICATES_UNTIL))
    )


def _authority(
    common_name: str,
    issuer: str,
    key: rsa.RSAPrivateKey,
    signer: rsa.RSAPrivateKey,
    path_length: int | None,
) -> x509.Certificate:
    url = x509.UniformResourceIdentifier(_CRL_URL)
    return (
        _builder(common_name, issuer, key.public_key(), x509.random_serial_number())
        .add_extension(_ca_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(
            x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)]),
            critical=False,
        )
        .sign(signer, hashes.SHA384(), rsa_padding=_PSS)
    )


@dataclass(frozen=True, slots=True, repr=False)
class AmdAuthority:
    """ARK and ASK of one simulated AMD, with their private keys: never printed."""

    ark_key: rsa.RSAPrivateKey
    ark: x509.Certificate
    ask_key: rsa.RSAPrivateKey
    ask: x509.Certificate

    @classmethod
    def generate(cls) -> Self:
        """Two new authorities; takes about a second, both at once."""
        with ThreadPoolExecutor(2) as pool:  # OpenSSL works outside the interpreter's lock
            ark_key, ask_key = pool.map(
                lambda _: rsa.generate_private_key(65537, _RSA_BITS), range(2)
            )
        return cls.of(ark_key, ask_key)

    @classmethod
    def of(cls, ark_key: rsa.RSAPrivateKey, ask_key: rsa.RSAPrivateKey) -> Self:
        """The authorities that have these keys, newly certified."""
        ark_name, ask_name = f"ARK-{PRODUCT}", f"SEV-{PRODUCT}"
        return cls(
            ark_key,
            _authority(ark_name, ark_name, ark_key, ark_key, None),
            ask_key,
            _authority(ask_name, ark_name, ask_key, ark_key, 0),
        )

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The authority kept at `path`, made at first use (mode 0600). Raises IssuerError."""
        content = keep("simulator authority", path, lambda: cls.generate().to_pem())
        return cls.from_pem(content, str(path))

    @classmethod
    def from_pem(cls, pem: bytes, source: str = "authority") -> Self:
        """What `to_pem` wrote. Raises IssuerError naming `source` on anything else."""
        if len(pem) > _MAX_FILE_BYTES:
            raise IssuerError(f"simulator authority {source}: longer than {_MAX_FILE_BYTES} bytes")
        try:
            certificates = x509.load_pem_x509_certificates(pem)
            # OpenSSL would test the primes again, for a second at every start; the file is
            # as much our own as the seed beside it, and the certificates say which keys.
            keys = [
                load_pem_private_key(part, None, unsafe_skip_rsa_key_validation=True)
                for part in _private_keys(pem)
            ]
        except ValueError:
            raise IssuerError(f"simulator authority {source}: cannot be read") from None
        pairs = [
            (key, certificate)
            for key, certificate in zip(keys, certificates, strict=False)
            if isinstance(key, rsa.RSAPrivateKey) and key.public_key() == certificate.public_key()
        ]
        if len(pairs) != 2 or len(certificates) != 2 or len(keys) != 2:
            raise IssuerError(f"simulator authority {source}: is not two keys with certificates")
        return cls(*pairs[0], *pairs[1])

    def to_pem(self) -> bytes:
        """Both private keys and both certificates, ARK first. Secret."""
        parts = []
        for key, certificate in ((self.ark_key, self.ark), (self.ask_key, self.ask)):
            parts.append(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            parts.append(certificate.public_bytes(Encoding.PEM))
        return b"".join(parts)

    @property
    def chain(self) -> tuple[bytes, bytes]:
        """ASK and ARK (DER), in the order AMD's service has them."""
        return self.ask.public_bytes(Encoding.DER), self.root_der

    @property
    def root_der(self) -> bytes:
        return self.ark.public_bytes(Encoding.DER)

    def vcek(
        self, key: ec.EllipticCurvePublicKey, tcb: TcbVersion, chip_id: bytes, serial: int
    ) -> bytes:
        """The certificate (DER) of a chip's key at one TCB, signed by the ASK."""
        builder = _builder("SEV-VCEK", f"SEV-{PRODUCT}", key, serial)
        for extension in _vcek_extensions(tcb, chip_id):
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self.ask_key, hashes.SHA384(), rsa_padding=_PSS)
        return certificate.public_bytes(Encoding.DER)

    def crl(
        self, this_update: int, next_update: int, revoked: Sequence[x509.Certificate] = ()
    ) -> bytes:
        """The ARK's revocation list (DER) over that window."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ark.subject)
            .last_update(_at(this_update))
            .next_update(_at(next_update))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ark_key.public_key()),
                critical=False,
            )
            .add_extension(x509.CRLNumber(this_update), critical=False)
        )
        for certificate in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(_at(this_update))
                .build()
            )
        signed = builder.sign(self.ark_key, hashes.SHA384(), rsa_padding=_PSS)
        return signed.public_bytes(Encoding.DER)


def _private_keys(pem: bytes) -> list[bytes]:
    end = b"-----END PRIVATE KEY-----"
    parts = pem.split(end)[:-1]
    return [b"-----BEGIN PRIVATE" + p.rpartition(b"-----BEGIN PRIVATE")[2] + end for p in parts]


def _vcek_extensions(tcb: TcbVersion, chip_id: bytes) -> list[x509.UnrecognizedExtension]:
    """Table 8 of the specification: structure version, product, security patch levels, HWID."""
    parts = tcb.parts(PRODUCT)
    levels = (parts.bootloader, parts.tee, parts.snp, 0, 0, 0, 0, parts.microcode)
    values = [
        ("1", der.integer(0)),
        ("2", der.ia5(STEPPING)),
        *((f"3.{i}", der.integer(level)) for i, level in enumerate(levels, 1)),
        ("4", chip_id),
    ]
    return [
        x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_OID}.{arc}"), value)
        for arc, value in values
    ]
