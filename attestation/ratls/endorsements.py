"""DCAP collateral in a certificate: the optional endorsements extension.

Nothing binds it to the certificate and nothing needs to: every part is signed by Intel and
checked as such. Spec: CCC-Attestation, "SGX / TDX Endorsement Data Format"; the order of
the parts is Open Enclave's `oe_sgx_endorsements_fields_t`, their text what Intel's PCS
answers.
"""

from __future__ import annotations

import re
from typing import Any, Final

from attestation.collateral.model import Collateral
from attestation.errors import MalformedEvidence
from attestation.ratls import cbor
from attestation.ratls.extension import QUOTE_TAG

ENDORSEMENTS_OID: Final = "2.23.133.5.4.2"
_WHERE: Final = "ratls.endorsements"
_VERSION_3_1: Final = 0x0001_0003
_VERSIONS: Final = (3, _VERSION_3_1)
"""Collateral of PCS version 3, CRLs as hex text (3.0) or raw DER (3.1): major, then minor << 16."""

_SIGNED: Final = r'\{"%s":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}'
_TCB_INFO: Final = re.compile(_SIGNED % "tcbInfo", re.DOTALL)
_QE_IDENTITY: Final = re.compile(_SIGNED % "enclaveIdentity", re.DOTALL)
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")


def write_endorsements(collateral: Collateral) -> bytes:
    """The extension's value, version 3.1, without a creation time."""
    parts = [
        _signed("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
        _terminated(collateral.tcb_info_issuer_chain),
        collateral.pck_crl,
        collateral.root_ca_crl,
        _terminated(collateral.pck_crl_issuer_chain),
        _signed("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
        _terminated(collateral.qe_identity_issuer_chain),
    ]
    return cbor.encode(_WHERE, cbor.tag(QUOTE_TAG, [_VERSION_3_1, *parts]))


def _terminated(text: str) -> bytes:
    return text.encode() + b"\0"


def _signed(name: str, text: str, signature: bytes) -> bytes:
    return _terminated(f'{{"{name}":{text},"signature":"{signature.hex()}"}}')


def read_endorsements(data: bytes) -> Collateral:
    """The collateral in the extension's value. Raises MalformedEvidence.

    A version in four bytes is taken too, though it is not the shortest form: RATS-TLS
    writes and wants it so.
    """
    number, items = cbor.tagged(_WHERE, cbor.decode(_WHERE, data))
    if number != QUOTE_TAG or len(items) not in (8, 9):
        raise MalformedEvidence(_WHERE, "not 8 or 9 parts of DCAP collateral")
    version, parts = items[0], items[1:]
    if type(version) is not int or version not in _VERSIONS:
        raise MalformedEvidence(f"{_WHERE}.version", "not 3.0 or 3.1")
    if any(type(part) is not bytes for part in parts):
        raise MalformedEvidence(_WHERE, "a part is not a byte string")
    if data not in _encodings(version, parts):
        raise MalformedEvidence(_WHERE, "not in the shortest encoding, or bytes left over")
    tcb_info, tcb_signature = _split(_TCB_INFO, "tcb_info", parts[0])
    qe_identity, qe_signature = _split(_QE_IDENTITY, "qe_identity", parts[5])
    return Collateral(
        pck_crl_issuer_chain=_text("pck_crl_issuer_chain", parts[4]),
        root_ca_crl=_crl("root_ca_crl", version, parts[3]),
        pck_crl=_crl("pck_crl", version, parts[2]),
        tcb_info_issuer_chain=_text("tcb_info_issuer_chain", parts[1]),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_signature,
        qe_identity_issuer_chain=_text("qe_identity_issuer_chain", parts[6]),
        qe_identity=qe_identity,
        qe_identity_signature=qe_signature,
    )


def _encodings(version: int, parts: list[Any]) -> tuple[bytes, bytes]:
    head = cbor.encode(_WHERE, cbor.tag(QUOTE_TAG, []))[:-1] + bytes([0x81 + len(parts)])
    body = b"".join(cbor.encode(_WHERE, part) for part in parts)
    shortest = cbor.encode(_WHERE, version)
    return head + shortest + body, head + b"\x1a" + version.to_bytes(4, "big") + body


def _text(name: str, data: bytes) -> str:
    try:
        return data.removesuffix(b"\0").decode("utf-8")
    except UnicodeDecodeError as e:
        raise MalformedEvidence(f"{_WHERE}.{name}", "not UTF-8", e.start) from None


def _split(pattern: re.Pattern[str], name: str, data: bytes) -> tuple[str, bytes]:
    """The exact text that was signed, and the signature."""
    found = pattern.fullmatch(_text(name, data))
    if found is None:
        raise MalformedEvidence(f"{_WHERE}.{name}", "not a signed document of Intel's PCS")
    return found[1], bytes.fromhex(found[2])


def _crl(name: str, version: int, data: bytes) -> bytes:
    if version == _VERSION_3_1:
        return data
    text = _text(name, data)
    if not _HEX.fullmatch(text):
        raise MalformedEvidence(f"{_WHERE}.{name}", "not hex")
    return bytes.fromhex(text)
