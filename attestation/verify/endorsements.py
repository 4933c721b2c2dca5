"""Collateral, read once: what the checks that dcap-qvl lacks need to know of it.

Reading proves nothing about the collateral. Signatures are checked per verification; this
module only finds what is stated, so that every validity window can be enforced and every
refusal can name its reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import dcap_qvl

from attestation.canonical import loads_strict
from attestation.collateral.model import Collateral
from attestation.errors import CollateralError, MalformedEvidence
from attestation.x509 import Certificate, Crl, Window, read_chain, read_crl


@dataclass(frozen=True, slots=True)
class Endorsements:
    """One collateral as stated.

    `issued` is when the older of TCB info and QE identity was issued. `certificates` are
    those of all its chains; `anchors` (DER) what follows the head of each, which can only
    be the root. `pck_crl_signed` says whether the head of the CRL's chain signed it.
    """

    collateral: dcap_qvl.QuoteCollateralV3
    fmspc: str
    pce_id: str
    issued: int
    windows: tuple[Window, ...]
    certificates: tuple[Certificate, ...]
    anchors: frozenset[bytes]
    pck_crl_signed: bool
    pck_chain: bytes | None
    pck_crl: Crl
    root_crl: Crl


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
    pck_crl = read_crl("pck_crl", collateral.pck_crl)
    root_crl = read_crl("root_ca_crl", collateral.root_ca_crl)
    chains = [
        read_chain(name, getattr(collateral, name).encode())
        for name in ("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain")
    ]
    certificates = tuple(c for chain in chains for c in chain)
    return Endorsements(
        collateral=native,
        fmspc=_text("tcb_info", tcb_info, "fmspc").lower(),
        pce_id=_text("tcb_info", tcb_info, "pceId").lower(),
        issued=min(tcb_window.not_before, qe_window.not_before),
        windows=(
            tcb_window,
            qe_window,
            pck_crl.window,
            root_crl.window,
            *(c.window for c in certificates),
        ),
        certificates=certificates,
        anchors=frozenset(c.der for chain in chains for c in chain[1:]),
        pck_crl_signed=pck_crl.is_signed_by(chains[-1][0]),
        pck_chain=None if pck_chain is None else pck_chain.encode(),
        pck_crl=pck_crl,
        root_crl=root_crl,
    )
