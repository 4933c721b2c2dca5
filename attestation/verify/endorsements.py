"""Collateral, read once: what the checks that dcap-qvl lacks need to know of it.

Reading proves nothing about the collateral. Signatures are checked per verification; this
module only finds what is stated, so that every validity window can be enforced and every
refusal can name its reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.canonical import loads_strict
from attestation.collateral.model import Collateral
from attestation.errors import CollateralError, MalformedEvidence

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[^-]{1,16384}-----END CERTIFICATE-----"
)
_MAX_CHAIN: Final = 8


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the collateral and when it may be used, both ends included."""

    name: str
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Endorsements:
    """One collateral as stated.

    `issued` is when the older of TCB info and QE identity was issued, `certificates` are
    those of all its chains, `anchors` the self-issued ends of them (DER). `pck_crl_signed`
    says whether the head of the CRL's issuer chain signed it.
    """

    collateral: dcap_qvl.QuoteCollateralV3
    fmspc: str
    pce_id: str
    issued: int
    windows: tuple[Window, ...]
    certificates: tuple[x509.Certificate, ...]
    anchors: frozenset[bytes]
    pck_crl_signed: bool
    pck_certificate_chain: bytes | None
    pck_crl: x509.CertificateRevocationList
    root_crl: x509.CertificateRevocationList


def read_chain(name: str, pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM chain in order. Raises CollateralError naming the chain."""
    blocks = _CERTIFICATE.findall(pem)
    if not 0 < len(blocks) <= _MAX_CHAIN:
        raise CollateralError(f"{name}: {len(blocks)} certificates, expected 1 to {_MAX_CHAIN}")
    try:
        return tuple(x509.load_pem_x509_certificate(block) for block in blocks)
    except ValueError as e:
        raise CollateralError(f"{name}: not a certificate chain ({e})") from None


def certificate_window(name: str, certificate: x509.Certificate) -> Window:
    """When `certificate` may be used."""
    return Window(
        name,
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


def _crl(name: str, der: bytes) -> tuple[x509.CertificateRevocationList, Window]:
    try:
        crl = x509.load_der_x509_crl(der)
        issued, update = crl.last_update_utc, crl.next_update_utc
    except ValueError as e:
        raise CollateralError(f"{name}: not a CRL ({e})") from None
    if update is None:
        raise CollateralError(f"{name}: has no next update")
    return crl, Window(name, int(issued.timestamp()), int(update.timestamp()))


def _text(name: str, document: dict[str, Any], member: str) -> str:
    value = document.get(member)
    if not isinstance(value, str):
        raise CollateralError(f"{name}.{member}: must be a string")
    return value


def _time(name: str, document: dict[str, Any], member: str) -> int:
    text = _text(name, document, member)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CollateralError(f"{name}.{member}: not an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise CollateralError(f"{name}.{member}: no time zone")
    return int(moment.astimezone(UTC).timestamp())


def _document(name: str, text: str) -> tuple[dict[str, Any], Window]:
    try:
        document = loads_strict(text, name)
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None
    if not isinstance(document, dict):
        raise CollateralError(f"{name}: must be a JSON object")
    window = Window(name, _time(name, document, "issueDate"), _time(name, document, "nextUpdate"))
    return document, window


def _is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    return (
        isinstance(key, ec.EllipticCurvePublicKey)
        and crl.issuer == issuer.subject
        and crl.is_signature_valid(key)
    )


def _to_dcap_qvl(collateral: Collateral) -> dcap_qvl.QuoteCollateralV3:
    try:
        return dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.to_json()))
    except ValueError as e:
        raise CollateralError(f"collateral: {e}") from None


@lru_cache(maxsize=32)
def read_endorsements(collateral: Collateral) -> Endorsements:
    """What `collateral` states. Raises CollateralError when a part cannot be read.

    Pure, so the last few results are kept: one collateral serves thousands of quotes.
    """
    native = _to_dcap_qvl(collateral)
    pck_chain = collateral.pck_certificate_chain
    tcb_info, tcb_window = _document("tcb_info", collateral.tcb_info)
    _, qe_window = _document("qe_identity", collateral.qe_identity)
    pck_crl, pck_crl_window = _crl("pck_crl", collateral.pck_crl)
    root_crl, root_crl_window = _crl("root_ca_crl", collateral.root_ca_crl)
    chains = {
        name: read_chain(name, getattr(collateral, name).encode())
        for name in ("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain")
    }
    return Endorsements(
        collateral=native,
        fmspc=_text("tcb_info", tcb_info, "fmspc").lower(),
        pce_id=_text("tcb_info", tcb_info, "pceId").lower(),
        issued=min(tcb_window.not_before, qe_window.not_before),
        windows=(
            tcb_window,
            qe_window,
            pck_crl_window,
            root_crl_window,
            *(certificate_window(name, c) for name, chain in chains.items() for c in chain),
        ),
        certificates=tuple(c for chain in chains.values() for c in chain),
        anchors=frozenset(
            chain[-1].public_bytes(Encoding.DER)
            for chain in chains.values()
            if chain[-1].issuer == chain[-1].subject
        ),
        pck_crl_signed=_is_signed_by(pck_crl, chains["pck_crl_issuer_chain"][0]),
        pck_certificate_chain=None if pck_chain is None else pck_chain.encode(),
        pck_crl=pck_crl,
        root_crl=root_crl,
    )
