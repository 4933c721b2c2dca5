"""One endorsement by itself: what it is, its exact bytes, and who signed them.

Caches and bundles hold items, because parts are shared: one root CRL serves every
platform, one quoting-enclave identity every platform of a kind.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from attestation.collateral.model import Collateral
from attestation.errors import CollateralError

TEES: Final = ("sgx", "tdx")
CAS: Final = ("platform", "processor")
UPDATES: Final = ("standard", "early")
_FMSPC: Final = re.compile(r"[0-9a-f]{12}")
_SUBJECT: Final = re.compile(r"[a-z0-9-]{1,160}(/[a-z0-9-]{1,160}){0,3}")
_MAX_TEXT: Final = 2 << 20


class Kind(StrEnum):
    """What an item is; the values stand in file names and bundles."""

    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"
    PCK_CRL = "pck-crl"
    ROOT_CRL = "root-crl"
    SNP_VCEK = "snp-vcek"
    SNP_CHAIN = "snp-chain"
    SNP_CRL = "snp-crl"


@dataclass(frozen=True, slots=True)
class Key:
    """Names an item: its kind, and which one of the kind, e.g. `tdx/00ad70000000/standard`."""

    kind: Kind
    subject: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.subject}"

    @property
    def parts(self) -> list[str]:
        return self.subject.split("/")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key `str` wrote. Raises CollateralError."""
        kind, _, subject = text.partition("/")
        if kind not in frozenset(Kind) or not _SUBJECT.fullmatch(subject):
            raise CollateralError("item.key: names nothing known")
        return cls(Kind(kind), subject)


@dataclass(frozen=True, slots=True)
class Platform:
    """What collateral for a DCAP quote depends on. `fmspc` is 12 lower-case hex digits.

    `update` is Intel's channel: `early` has new TCB levels when they are announced,
    `standard` when platforms are expected to have them.
    """

    tee: str
    fmspc: str
    ca: str
    update: str = "standard"

    def __post_init__(self) -> None:
        if self.tee not in TEES:
            raise CollateralError(f"tee: {self.tee!r} is not one of {', '.join(TEES)}")
        if not _FMSPC.fullmatch(self.fmspc):
            raise CollateralError("fmspc: must be 12 lower-case hex digits")
        if self.ca not in CAS:
            raise CollateralError(f"ca: {self.ca!r} is not one of {', '.join(CAS)}")
        if self.update not in UPDATES:
            raise CollateralError(f"update: {self.update!r} is not one of {', '.join(UPDATES)}")

    @property
    def keys(self) -> tuple[Key, Key, Key, Key]:
        """TCB info, QE identity, PCK CRL and root CRL, in this order."""
        return (
            Key(Kind.TCB_INFO, f"{self.tee}/{self.fmspc}/{self.update}"),
            Key(Kind.QE_IDENTITY, f"{self.tee}/{self.update}"),
            Key(Kind.PCK_CRL, self.ca),
            Key(Kind.ROOT_CRL, "intel"),
        )


@dataclass(frozen=True, slots=True)
class Item:
    """`content` is what was signed, exactly. Unchecked: `check_item` says what it is worth.

    For Intel's JSON documents `signature` is raw r || s; CRLs and certificates carry their
    own. `issuer_chain` is PEM, signer first, empty where a root signed it itself.
    """

    key: Key
    content: bytes
    signature: bytes
    issuer_chain: str

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read the JSON form. Raises CollateralError naming the member."""
        if not isinstance(obj, Mapping):
            raise CollateralError("item: must be a JSON object")
        texts = {name: _text(obj, name) for name in ("key", "content", "signature", "issuer_chain")}
        return cls(
            key=Key.parse(texts["key"]),
            content=_base64(texts, "content"),
            signature=_base64(texts, "signature"),
            issuer_chain=texts["issuer_chain"],
        )

    def to_json(self) -> dict[str, str]:
        """The JSON form; bytes are base64."""
        return {
            "key": str(self.key),
            "content": base64.b64encode(self.content).decode(),
            "signature": base64.b64encode(self.signature).decode(),
            "issuer_chain": self.issuer_chain,
        }


def _text(obj: Mapping[str, Any], name: str) -> str:
    value = obj.get(name)
    if not isinstance(value, str):
        raise CollateralError(f"item.{name}: must be a string")
    if len(value) > _MAX_TEXT:
        raise CollateralError(f"item.{name}: longer than {_MAX_TEXT}")
    return value


def _base64(texts: Mapping[str, str], name: str) -> bytes:
    try:
        return base64.b64decode(texts[name], validate=True)
    except ValueError:
        raise CollateralError(f"item.{name}: not base64") from None


# --- the four items of a DCAP collateral ---------------------------------------------------


def join_items(items: Sequence[Item]) -> Collateral:
    """TCB info, QE identity, PCK CRL and root CRL as one collateral, as stated."""
    tcb_info, qe_identity, pck_crl, root_crl = items
    return Collateral(
        pck_crl_issuer_chain=pck_crl.issuer_chain,
        root_ca_crl=root_crl.content,
        pck_crl=pck_crl.content,
        tcb_info_issuer_chain=tcb_info.issuer_chain,
        tcb_info=_decoded(tcb_info),
        tcb_info_signature=tcb_info.signature,
        qe_identity_issuer_chain=qe_identity.issuer_chain,
        qe_identity=_decoded(qe_identity),
        qe_identity_signature=qe_identity.signature,
    )


def _decoded(item: Item) -> str:
    try:
        return item.content.decode()
    except UnicodeDecodeError:
        raise CollateralError(f"{item.key.kind}: not UTF-8") from None


def split_collateral(collateral: Collateral, platform: Platform) -> tuple[Item, Item, Item, Item]:
    """The four items of one collateral, named as `platform` asks for them. Unchecked."""
    tcb_info, qe_identity, pck_crl, root_crl = platform.keys
    c = collateral
    return (
        Item(tcb_info, c.tcb_info.encode(), c.tcb_info_signature, c.tcb_info_issuer_chain),
        Item(
            qe_identity, c.qe_identity.encode(), c.qe_identity_signature, c.qe_identity_issuer_chain
        ),
        Item(pck_crl, c.pck_crl, b"", c.pck_crl_issuer_chain),
        Item(root_crl, c.root_ca_crl, b"", ""),
    )
