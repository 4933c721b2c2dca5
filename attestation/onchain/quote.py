"""Quotes as contracts take them: fixed fields without lengths and PEM, and whose they are. Pure.

A compact quote is the signed part of a quote byte for byte (header; for version 5 the body's
type and size; body), then 64 bytes each of signature and attestation key, the QE report (384),
its signature (64) and the QE authentication data (32). The contracts prove what `verify_quote`
proves, of a narrower input: what lies outside is refused here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from attestation.canonical import loads_strict
from attestation.collateral.model import Collateral
from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.evidence import SgxQuote, TdReport15, TdReport15Ex, TdxQuote, parse_quote
from attestation.evidence.header import ECDSA_P256, INTEL_QE_VENDOR_ID
from attestation.evidence.signature import PCK_CHAIN
from attestation.onchain.errors import NotProvable
from attestation.onchain.pki import PckLeaf
from attestation.x509 import read_chain

QE_AUTH_BYTES: Final = 32
_QE_IDS: Final = {"sgx": "QE", "tdx": "TD_QE"}
_Quote = SgxQuote | TdxQuote


def compact_quote(quote: bytes) -> bytes:
    """The bytes `verifyQuote` takes as `quote`.

    Raises MalformedEvidence when `quote` is none, NotProvable when its format is one that the
    contracts do not read.
    """
    return _compact(parse_quote(quote))


def _compact(quote: _Quote) -> bytes:
    section = quote.signature
    if isinstance(quote.body, TdReport15Ex):
        raise NotProvable("quote.body_type", "contracts read TD reports 1.0 and 1.5 only")
    if len(section.qe_auth_data) != QE_AUTH_BYTES:
        raise NotProvable(
            "quote.qe_auth_data",
            f"contracts take {QE_AUTH_BYTES} bytes, not {len(section.qe_auth_data)}",
        )
    if any(quote.trailing):
        raise NotProvable("quote.trailing", "bytes that nobody signed follow the quote")
    return b"".join(
        (
            quote.signed,
            section.signature,
            section.attestation_key,
            section.qe_report_raw,
            section.qe_report_signature,
            section.qe_auth_data,
        )
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """What `verifyQuote` takes: the compact quote, and the platform in one of three forms."""

    quote: bytes = field(repr=False)
    leaf: PckLeaf

    @property
    def platform(self) -> bytes:
        """The form any contract takes, and remembers: the CA's key and the leaf certificate."""
        return self.leaf.fresh()

    @property
    def passing_platform(self) -> bytes:
        """The same for one use alone: nothing is remembered, so that it costs a slot less."""
        return self.leaf.fresh(remember=False)

    @property
    def registered_platform(self) -> bytes:
        """The form, cheaper by a signature, for a leaf that the contract has seen before."""
        return self.leaf.known


def prove(quote: bytes, collateral: Collateral) -> Proof:
    """The proof that this quote holds under this collateral, which the contract must have.

    Of signatures only the leaf's is checked, and no clock is read: have `verify_quote` accept
    the quote first. Raises
    MalformedEvidence when `quote` is none, VerificationError where it shows by itself that
    nobody will accept it, NotProvable where `verify_quote` may accept and the contracts do not,
    CollateralError when the collateral cannot be read.
    """
    parsed = parse_quote(quote)
    compact = _compact(parsed)
    _require_genuine_form(parsed)
    leaf = _leaf(parsed, collateral)
    tee = "tdx" if isinstance(parsed, TdxQuote) else "sgx"
    _require_identity(_read("qe_identity", collateral.qe_identity), tee)
    _require_info(_read("tcb_info", collateral.tcb_info), tee, leaf)
    return Proof(compact, leaf)


def _require_genuine_form(quote: _Quote) -> None:
    header, body, qe = quote.header, quote.body, quote.signature.qe_report
    if header.qe_vendor_id != INTEL_QE_VENDOR_ID:
        raise VerificationError("header.qe_vendor_id", f"{header.qe_vendor_id.hex()} is not Intel")
    if header.attestation_key_type != ECDSA_P256:
        raise VerificationError(
            "header.attestation_key_type", f"{header.attestation_key_type} is not ECDSA-P256"
        )
    if body.debug or qe.debug:
        raise VerificationError("debug", "a debugger may read the workload or the QE")
    if isinstance(body, TdReport15) and any(body.mr_service_td):
        raise VerificationError("service_td", "a service TD is bound to this TD")
    if isinstance(quote, TdxQuote) and any(quote.body.mr_signer_seam + quote.body.seam_attributes):
        raise NotProvable("quote.seam", "the TDX module is not Intel's production module")
    if any(qe.report_data[32:]):
        raise NotProvable("quote.qe_report", "its report data goes on after the key's hash")


def _leaf(quote: _Quote, collateral: Collateral) -> PckLeaf:
    given = collateral.pck_certificate_chain
    pem = quote.signature.pck_chain if given is None else given.encode()
    if pem is None:
        kind = quote.signature.certification.kind
        raise NotProvable(
            "quote.certification_data_type", f"{kind} is not a PCK chain ({PCK_CHAIN})"
        )
    try:
        chain = read_chain("pck_chain", pem)
        issuer = read_chain("pck_crl_issuer_chain", collateral.pck_crl_issuer_chain.encode())[0]
    except CollateralError as e:
        raise VerificationError("pck_chain", str(e)) from None
    if chain[0].issuer != issuer.subject:
        raise NotProvable("collateral.pck_crl_issuer_chain", "is not of the PCK leaf's issuer")
    return PckLeaf.read(issuer.der, chain[0].der)


def _read(name: str, text: str) -> Mapping[str, Any]:
    try:
        document = loads_strict(text, name)
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None
    if not isinstance(document, Mapping):
        raise CollateralError(f"{name}: must be a JSON object")
    return document


def _require_identity(identity: Mapping[str, Any], tee: str) -> None:
    if identity.get("id") != _QE_IDS[tee]:
        raise NotProvable("qe_identity.id", f"must be {_QE_IDS[tee]}, not {identity.get('id')!r}")


def _require_info(info: Mapping[str, Any], tee: str, leaf: PckLeaf) -> None:
    if info.get("id") != tee.upper():
        raise NotProvable("tcb_info.id", f"must be {tee.upper()}, not {info.get('id')!r}")
    for name, value in (("fmspc", leaf.tcb.fmspc), ("pceId", leaf.tcb.pceid)):
        stated = info.get(name)
        if not isinstance(stated, str) or stated.lower() != value.hex():
            raise NotProvable(f"tcb_info.{name}", f"the PCK leaf has {value.hex()}, not {stated!r}")
    order = _order(info)
    if order != sorted(order, reverse=True):
        raise NotProvable("tcb_info.tcbLevels", "not best first: contracts take them as they stand")


def _order(info: Mapping[str, Any]) -> Sequence[tuple[list[int], int, list[int]]]:
    """What orders the levels of a TCB info: `verify_quote` sorts them first, contracts do not."""
    try:
        tcbs = [level["tcb"] for level in info["tcbLevels"]]
        order = [
            (
                [int(c["svn"]) for c in tcb["sgxtcbcomponents"]],
                int(tcb["pcesvn"]),
                [int(c["svn"]) for c in tcb.get("tdxtcbcomponents", ())],
            )
            for tcb in tcbs
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        order = []
    if not order:
        raise NotProvable("tcb_info.tcbLevels", "not those of TCB info version 3")
    return order
