"""A TPM and an Azure paravisor of our own for tests: fixed keys, every field open to change."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import snp_pki
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from nitro_pki import NOW, Issue

from attestation.evidence.azure import AzureBundle
from attestation.evidence.hcl import SNP_VM_REPORT, HclReport
from attestation.evidence.tpm import (
    ALG_ECDSA,
    ALG_RSAPSS,
    ALG_RSASSA,
    ALG_SHA256,
    HASH_NAMES,
    ClockInfo,
    PcrSelection,
    QuoteInfo,
    TpmQuote,
    TpmSignature,
)
from attestation.evidence.tpm_public import (
    ALG_ECC,
    ALG_RSA,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    TpmPublic,
)
from attestation.verify.tpm_key import BoundKey, certified_key

NONCE: Final = hashlib.sha256(b"a nonce").digest()
PCRS: Final = {i: hashlib.sha256(b"%d" % i).digest() for i in (*range(8), 14)}
CA: Final = Issue("tpm-ca", "tpm-ca")
AK: Final = Issue("ak", "tpm-ca", ca=False, usage=frozenset({"digital_signature"}))
ATTESTATION_KEY: Final = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_ECC = {"secp256r1": 3, "secp384r1": 4, "secp521r1": 5, "brainpoolP256r1": 0x30}
_SHA: dict[int, hashes.HashAlgorithm] = {
    0x0004: hashes.SHA1(),
    0x000B: hashes.SHA256(),
    0x000C: hashes.SHA384(),
    0x000D: hashes.SHA512(),
}


@lru_cache
def ak(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return snp_pki.ec_key("a TPM's attestation key", curve)


@lru_cache
def rsa_ak() -> rsa.RSAPrivateKey:
    """RSA-2048: each prime is a seed's hash plus the offset at which a search found a prime."""
    p, q = (
        (int.from_bytes(hashlib.shake_256(f"adyton test tpm {part}".encode()).digest(128)))
        | 3 << 1022
        | 1
        for part in "pq"
    )
    p, q = p + 54, q + 1458
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(65537, p * q)
    )
    return numbers.private_key()


def select(indices: Any, size: int = 3) -> bytes:
    return sum(1 << i for i in indices).to_bytes(size, "little")


def quoted(
    pcrs: Mapping[int, bytes] = PCRS,
    *,
    bank: int = ALG_SHA256,
    digest_alg: int = ALG_SHA256,
    extra_data: bytes = NONCE,
    **changes: Any,
) -> TpmQuote:
    """A quote over `pcrs`; `changes` replace fields, of its QuoteInfo too."""
    digest = hashlib.new(HASH_NAMES[digest_alg], b"".join(pcrs[i] for i in sorted(pcrs))).digest()
    attested = QuoteInfo(
        pcr_select=changes.pop("pcr_select", (PcrSelection(bank, select(pcrs)),)),
        pcr_digest=changes.pop("pcr_digest", digest),
    )
    fields: dict[str, Any] = {
        "qualified_signer": b"\0\x0b" + bytes(32),
        "extra_data": extra_data,
        "clock_info": ClockInfo(123456, 7, 2, safe=True),
        "firmware_version": 0x2020031200120003,
        "attested": attested,
        "signed": b"",
    }
    return TpmQuote(**(fields | changes))


def signed(
    data: bytes, key: Key | None = None, hash_alg: int = ALG_SHA256, *, pss: bool = False
) -> TpmSignature:
    """The TPM's signature of these bytes."""
    key, algorithm = key or ak(), _SHA[hash_alg]
    if isinstance(key, rsa.RSAPrivateKey):
        scheme = padding.PSS(padding.MGF1(algorithm), 32) if pss else padding.PKCS1v15()
        parts: tuple[bytes, ...] = (key.sign(data, scheme, algorithm),)
        return TpmSignature(ALG_RSAPSS if pss else ALG_RSASSA, hash_alg, parts)
    size = (key.key_size + 7) // 8
    der = key.sign(data, ec.ECDSA(algorithm, deterministic_signing=True))
    return TpmSignature(
        ALG_ECDSA, hash_alg, tuple(n.to_bytes(size) for n in decode_dss_signature(der))
    )


@lru_cache
def chain() -> tuple[bytes, ...]:
    """A certificate for `ak()` and the CA that issued it."""
    return replace(AK, public=ak().public_key()).der(), CA.der()


def bound(**more: Any) -> BoundKey:
    return certified_key(chain(), [CA.der()], NOW, **more)


def public_area(key: Key | None = None, attributes: int = ATTESTATION_KEY, **odd: Any) -> TpmPublic:
    """The TPMT_PUBLIC of a restricted signing key with its scheme fixed, as tools make AKs."""
    public = (key or ak()).public_key()
    fields: dict[str, Any] = {
        "name_alg": ALG_SHA256,
        "object_attributes": attributes,
        "auth_policy": b"",
        "symmetric": bytes.fromhex("0010"),
        "key_bits": 0,
        "exponent": 0,
        "curve_id": 0,
        "kdf": b"",
    }
    if isinstance(public, rsa.RSAPublicKey):
        n = public.public_numbers().n
        fields |= {"type": ALG_RSA, "scheme": bytes.fromhex("0014000b")}
        fields |= {"key_bits": public.key_size, "unique": (n.to_bytes(public.key_size // 8),)}
    else:
        numbers, size = public.public_numbers(), (public.key_size + 7) // 8
        fields |= {"type": ALG_ECC, "scheme": bytes.fromhex("0018000b"), "kdf": b"\0\x10"}
        fields |= {"curve_id": _ECC[public.curve.name]}
        fields |= {"unique": (numbers.x.to_bytes(size), numbers.y.to_bytes(size))}
    return TpmPublic(**(fields | odd))


# Azure.

AZURE_PCRS: Final = {i: hashlib.sha256(b"azure %d" % i).digest() for i in range(24)}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(kid: str = "HCLAkPub", key: rsa.RSAPrivateKey | None = None) -> dict[str, Any]:
    numbers = (key or rsa_ak()).public_key().public_numbers()
    n = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)
    return {
        "kid": kid,
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": base64url(numbers.e.to_bytes(3)),
        "n": base64url(n),
    }


def claims(keys: Any = None) -> bytes:
    document = {
        "keys": [jwk(), jwk("HCLEkPub")] if keys is None else keys,
        "vm-configuration": {"secure-boot": True, "tpm-enabled": True},
        "user-data": "00" * 64,
    }
    return json.dumps(document).encode()


@lru_cache
def hcl(runtime_claims: bytes | None = None, hash_type: int = 1, **odd: Any) -> HclReport:
    """An HCL report around an SNP report over its claims. `odd` goes to `snp_pki.report`."""
    report = HclReport(
        version=2,
        status=0,
        report_type=SNP_VM_REPORT,
        hash_type=hash_type,
        hardware_report=b"",
        runtime_claims=claims() if runtime_claims is None else runtime_claims,
        padding=164,
    )
    hardware = snp_pki.report(**{"report_data": report.report_data, **odd})
    return replace(report, hardware_report=hardware)


@lru_cache
def bundle(report: HclReport | None = None, nonce: bytes = NONCE) -> AzureBundle:
    quote = quoted(AZURE_PCRS, extra_data=nonce).write()
    return AzureBundle(
        version=1,
        hcl_report=(report or hcl()).write(),
        message=quote,
        signature=signed(quote, rsa_ak()).parts[0],
        pcrs=tuple(AZURE_PCRS.values()),
        vcek=snp_pki.endorsements().vek,
        td_quote=None,
    )


def bundle_json(of: AzureBundle | None = None, version: int = 1) -> dict[str, Any]:
    """The JSON a machine hands out, in the form of this version."""
    b = of or bundle()
    assert b.vcek is not None
    if version == 0:
        pem = base64.encodebytes(b.vcek).decode()
        return {
            "quote": {
                "message": list(b.message),
                "signature": list(b.signature),
                "pcrs": [list(pcr) for pcr in b.pcrs],
            },
            "report": list(b.hcl_report),
            "vcek": f"-----BEGIN CERTIFICATE-----\n{pem}-----END CERTIFICATE-----\n",
        }
    return {
        "version": version,
        "tpm_quote": {
            "message": b.message.hex(),
            "signature": b.signature.hex(),
            "pcrs": [pcr.hex() for pcr in b.pcrs],
        },
        "hcl_report": base64url(b.hcl_report),
        "vcek": base64url(b.vcek),
    }
