"""The workload keyset: a node's cryptographic identity. Spec: ACI section 3.1.

The digest is over the JCS form of the document as parsed, members we do not know
included: two readers of one document must compute one digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from attestation.canonical import digest, jcs
from attestation.errors import MalformedEvidence

ED25519: Final = "ed25519"
_HEX64: Final = re.compile(r"[0-9a-f]{64}")


def _member(obj: Mapping[str, Any], where: str, name: str, kind: type) -> Any:
    value = obj.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedEvidence(f"{where}.{name}", f"must be {kind.__name__}")
    return value


def _objects(obj: Mapping[str, Any], where: str, name: str) -> list[Mapping[str, Any]]:
    items = _member(obj, where, name, list)
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise MalformedEvidence(f"{where}.{name}[{i}]", "must be an object")
    return list(items)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A public key with the role of the list it stands in; `algo` decides its encoding."""

    key_id: str
    algo: str
    public_key: str

    @classmethod
    def from_json(cls, obj: Mapping[str, Any], where: str) -> Self:
        return cls(
            key_id=_member(obj, where, "key_id", str),
            algo=_member(obj, where, "algo", str),
            public_key=_member(obj, where, "public_key", str),
        )

    def to_json(self) -> dict[str, str]:
        return {"key_id": self.key_id, "algo": self.algo, "public_key": self.public_key}


@dataclass(frozen=True, slots=True)
class TlsKey:
    """SHA-256 of a certificate's SubjectPublicKeyInfo (64 hex), optionally for one hostname."""

    spki_sha256: str
    domain: str | None = None

    @classmethod
    def from_json(cls, obj: Mapping[str, Any], where: str) -> Self:
        spki = _member(obj, where, "spki_sha256", str)
        if not _HEX64.fullmatch(spki):
            raise MalformedEvidence(f"{where}.spki_sha256", "must be 64 lowercase hex characters")
        domain = obj.get("domain")
        if domain is not None and not isinstance(domain, str):
            raise MalformedEvidence(f"{where}.domain", "must be a string")
        return cls(spki, domain)

    def to_json(self) -> dict[str, str]:
        out = {"spki_sha256": self.spki_sha256}
        if self.domain is not None:
            out["domain"] = self.domain
        return out

    def covers(self, hostname: str) -> bool:
        """True when this entry may be pinned for `hostname`."""
        if self.domain is None:
            return True
        return self.domain.lower().rstrip(".") == hostname.lower().rstrip(".")


@dataclass(frozen=True, slots=True)
class Keyset:
    """The parsed keyset; `not_after` is Unix seconds. `document` is what the digest covers."""

    subject: str | None
    not_after: int
    receipt_signing_keys: tuple[KeyEntry, ...]
    e2ee_public_keys: tuple[KeyEntry, ...]
    tls_public_keys: tuple[TlsKey, ...]
    document: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def build(
        cls,
        *,
        subject: str | None,
        not_after: int,
        receipt_signing_keys: tuple[KeyEntry, ...],
        tls_public_keys: tuple[TlsKey, ...],
        e2ee_public_keys: tuple[KeyEntry, ...] = (),
    ) -> Self:
        """A keyset of these members and no others."""
        return cls.from_json(
            {
                "subject": subject,
                "not_after": not_after,
                "receipt_signing_keys": [k.to_json() for k in receipt_signing_keys],
                "e2ee_public_keys": [k.to_json() for k in e2ee_public_keys],
                "tls_public_keys": [k.to_json() for k in tls_public_keys],
            }
        )

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read a parsed JSON document. Raises MalformedEvidence naming the member at fault.

        A key that plays two roles is refused (one role per key).
        """
        where = "workload_keyset"
        if not isinstance(obj, Mapping):
            raise MalformedEvidence(where, "must be an object")
        subject = obj.get("subject")
        if subject is not None and not isinstance(subject, str):
            raise MalformedEvidence(f"{where}.subject", "must be a string or null")
        receipt = tuple(
            KeyEntry.from_json(k, f"{where}.receipt_signing_keys[{i}]")
            for i, k in enumerate(_objects(obj, where, "receipt_signing_keys"))
        )
        e2ee = tuple(
            KeyEntry.from_json(k, f"{where}.e2ee_public_keys[{i}]")
            for i, k in enumerate(_objects(obj, where, "e2ee_public_keys"))
        )
        tls_objects = _objects(obj, where, "tls_public_keys") if "tls_public_keys" in obj else []
        tls = tuple(
            TlsKey.from_json(k, f"{where}.tls_public_keys[{i}]") for i, k in enumerate(tls_objects)
        )
        ids = [k.key_id for k in receipt]
        if len(set(ids)) != len(ids):
            raise MalformedEvidence(f"{where}.receipt_signing_keys", "duplicate key_id")
        if {k.public_key.lower() for k in receipt} & {k.public_key.lower() for k in e2ee}:
            raise MalformedEvidence(where, "one key has two roles")
        return cls(
            subject=subject,
            not_after=_member(obj, where, "not_after", int),
            receipt_signing_keys=receipt,
            e2ee_public_keys=e2ee,
            tls_public_keys=tls,
            document=obj,
        )

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over the JCS form of the document."""
        return digest(jcs(self.document))

    def receipt_key(self, key_id: str) -> KeyEntry | None:
        """The receipt-signing key with this id, if it is listed."""
        return next((k for k in self.receipt_signing_keys if k.key_id == key_id), None)
