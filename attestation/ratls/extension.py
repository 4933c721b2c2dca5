"""The certificate extensions that carry evidence, byte for byte.

Interoperable RA-TLS (OID 2.23.133.5.4.9): a tagged CBOR array of evidence and claims, the
claims naming the hash of the certificate's key, the evidence carrying the hash of the
claims. Gramine's legacy extension: the bare SGX quote, which carries the hash of the key.
Spec: CCC-Attestation, "Interoperable RA-TLS X.509 Cert and Evidence Formats" and "SGX /
TDX Evidence Tags and Formats"; Gramine, tools/sgx/ra-tls. docs/spec/ratls.md.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from attestation.errors import MalformedEvidence, VerificationError
from attestation.issuers.base import SEV_SNP
from attestation.ratls import cbor

EVIDENCE_OID: Final = "2.23.133.5.4.9"
LEGACY_OID: Final = "0.6.9.42.840.113741.1337.6"
"""What DER readers make of Gramine's 1.2.840.113741.1337.6, encoded twice."""

QUOTE_TAG: Final = 60000
SNP_TAG: Final = 0x1A7504
"""An SEV-SNP report; not registered with IANA, the number RATS-TLS uses."""

TAG_OF_TEE: Final[Mapping[str, int]] = MappingProxyType(
    {"sgx": QUOTE_TAG, "tdx": QUOTE_TAG, SEV_SNP: SNP_TAG}
)
"""What evidence of each issuer's `tee_type` is tagged with."""

PUBKEY_HASH: Final = "pubkey-hash"
NONCE: Final = "nonce"
KEY_CUSTODY: Final = "adyton-key-custody"
SHA256_ID: Final = 1
_HASHES: Final[Mapping[int, str]] = MappingProxyType({1: "sha256", 7: "sha384", 8: "sha512"})
_MAX_EVIDENCE: Final = 32 << 10
_MAX_CLAIMS_BYTES: Final = 4 << 10
_MAX_CLAIMS: Final = 16
_MAX_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class PubkeyHash:
    """CoSWID's hash entry: an IANA named-information hash id and the hash of the SPKI DER."""

    algorithm: int
    value: bytes

    @classmethod
    def of(cls, spki: bytes) -> Self:
        """The SHA-256 entry of a SubjectPublicKeyInfo (DER)."""
        return cls(SHA256_ID, hashlib.sha256(spki).digest())

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises MalformedEvidence, also for a hash algorithm that RA-TLS does not name."""
        where = f"ratls.claims.{PUBKEY_HASH}"
        value = cbor.decode_exact(where, data)
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise MalformedEvidence(where, "not an array of two")
        algorithm, digest = value
        if type(algorithm) is not int or algorithm not in _HASHES:
            raise MalformedEvidence(where, "unknown hash algorithm")
        size = hashlib.new(_HASHES[algorithm]).digest_size
        if type(digest) is not bytes or len(digest) != size:
            raise MalformedEvidence(where, f"the hash is not {size} bytes")
        return cls(algorithm, digest)

    def write(self) -> bytes:
        return cbor.encode(PUBKEY_HASH, [self.algorithm, self.value])

    def check(self, spki: bytes) -> None:
        """It is the hash of this key. Raises VerificationError."""
        actual = hashlib.new(_HASHES[self.algorithm], spki).digest()
        if not hmac.compare_digest(actual, self.value):
            raise VerificationError("pubkey_hash", "the evidence is for another key")


@dataclass(frozen=True, slots=True)
class Claims:
    """What evidence says beside itself. `raw` is what its report data is the hash of.

    `others` are claims with names of their own, to be ignored unless they are known.
    """

    raw: bytes
    pubkey_hash: PubkeyHash
    nonce: bytes | None
    others: Mapping[str, bytes]

    @classmethod
    def build(cls, spki: bytes, *, nonce: bytes | None = None, custody: str | None = None) -> Self:
        """Claims about this key (SubjectPublicKeyInfo, DER). Raises MalformedEvidence."""
        claims = {PUBKEY_HASH: PubkeyHash.of(spki).write()}
        if nonce is not None:
            claims[NONCE] = nonce
        if custody is not None:
            claims[KEY_CUSTODY] = custody.encode("ascii")
        return cls.read(cbor.encode("ratls.claims", claims))

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Raises MalformedEvidence; claims that name no key are refused."""
        where = "ratls.claims"
        if len(raw) > _MAX_CLAIMS_BYTES:
            raise MalformedEvidence(where, f"longer than {_MAX_CLAIMS_BYTES} bytes")
        claims = cbor.decode_exact(where, raw)
        if not isinstance(claims, Mapping) or len(claims) > _MAX_CLAIMS:
            raise MalformedEvidence(where, f"not a map of at most {_MAX_CLAIMS}")
        for name, value in claims.items():
            if type(name) is not str or not 0 < len(name) <= _MAX_NAME:
                raise MalformedEvidence(where, "a claim's name is no short text")
            if type(value) is not bytes:
                raise MalformedEvidence(where, f"{name!r} is not a byte string")
        if PUBKEY_HASH not in claims:
            raise MalformedEvidence(f"{where}.{PUBKEY_HASH}", "missing")
        others = {k: v for k, v in claims.items() if k not in (PUBKEY_HASH, NONCE)}
        return cls(
            raw=raw,
            pubkey_hash=PubkeyHash.read(claims[PUBKEY_HASH]),
            nonce=claims.get(NONCE),
            others=MappingProxyType(others),
        )

    @property
    def report_data(self) -> bytes:
        """The 64 bytes the evidence must carry: SHA-256 of `raw`, then 32 zero bytes."""
        return hashlib.sha256(self.raw).digest() + bytes(32)

    @property
    def custody(self) -> str | None:
        """How the workload says it keeps its keys, if it does."""
        value = self.others.get(KEY_CUSTODY)
        return None if value is None else value.decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class TaggedEvidence:
    """The interoperable extension's value: evidence of the kind `tag` names, and claims."""

    tag: int
    evidence: bytes
    claims: Claims

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises MalformedEvidence."""
        where = "ratls.evidence"
        number, items = cbor.tagged(where, cbor.decode_exact(where, data))
        if number not in TAG_OF_TEE.values():
            raise MalformedEvidence(where, f"tag {number} is no evidence we know")
        if len(items) != 2 or any(type(item) is not bytes for item in items):
            raise MalformedEvidence(where, "not an array of two byte strings")
        evidence, claims = items
        if len(evidence) > _MAX_EVIDENCE:
            raise MalformedEvidence(where, f"evidence longer than {_MAX_EVIDENCE} bytes")
        return cls(number, evidence, Claims.read(claims))

    def write(self) -> bytes:
        return cbor.encode("ratls.evidence", cbor.tag(self.tag, [self.evidence, self.claims.raw]))


def legacy_report_data(spki: bytes) -> bytes:
    """What a quote in Gramine's legacy extension carries: SHA-256 of the SPKI DER, then zeros."""
    return hashlib.sha256(spki).digest() + bytes(32)
