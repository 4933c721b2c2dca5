"""Whether an item is what it claims: signed under a trusted root, current, and as asked for.

Pure, like verification, and done before anything is cached, after everything is read back,
and before anything is handed out. Verification repeats it on the whole; doing it here
keeps forged, stale and swapped documents out of caches and bundles, and says which
document is at fault. Spec: Intel PCS API v4 (TCB info v3, enclave identity v2); RFC 5280.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from attestation.canonical import loads_strict
from attestation.collateral.item import Item, Kind, join_items
from attestation.collateral.model import Collateral
from attestation.errors import CollateralError, MalformedEvidence
from attestation.x509 import Certificate, Crl, Window, read_certificate, read_chain, read_crl

_TCB_INFO_VERSION: Final = 3
_QE_IDENTITY_VERSION: Final = 2
_QE_IDS: Final = {"sgx": "QE", "tdx": "TD_QE"}
_SIGNATURE_BYTES: Final = 64
_MAX_CHAIN: Final = 2


@dataclass(frozen=True, slots=True)
class Checked:
    """An item whose every signature held at the time it was checked.

    `version` is (evaluation or CRL number, time of issue): it never falls for one key under
    one `anchor` (the root, DER). `not_before` and `not_after` bound the document and all
    certificates above it. `crl` is set for CRLs, `signer` where somebody but the root signed.
    """

    item: Item
    version: tuple[int, int]
    not_before: int
    not_after: int
    anchor: bytes
    signer: Certificate | None = None
    crl: Crl | None = None

    @property
    def anchor_sha256(self) -> str:
        return hashlib.sha256(self.anchor).hexdigest()


def check_item(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    """`item` as one that may be used at `now` (Unix seconds) under one of `roots` (DER).

    Raises CollateralError naming the document and what is wrong with it.
    """
    match item.key.kind:
        case Kind.TCB_INFO | Kind.QE_IDENTITY:
            return _check_document(item, roots, now)
        case Kind.PCK_CRL:
            return _check_pck_crl(item, roots, now)
        case Kind.ROOT_CRL:
            return _check_root_crl(item, roots, now)
        case _:
            from attestation.collateral.check_snp import check_snp_item

            return check_snp_item(item, roots, now)


# --- time and signatures ---------------------------------------------------------------


def check_windows(windows: Sequence[Window], now: int) -> tuple[int, int]:
    """When all of them may be used together; they may at `now`. Raises CollateralError."""
    for w in windows:
        if now < w.not_before:
            raise CollateralError(f"{w.name}: not valid before {iso(w.not_before)}")
        if now > w.not_after:
            raise CollateralError(f"{w.name}: expired at {iso(w.not_after)}")
    return max(w.not_before for w in windows), min(w.not_after for w in windows)


def iso(unix: int) -> str:
    """A time as people read it, UTC."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{unix} s"


def issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """True when `issuer`, a CA of that name, signed `certificate`."""
    if not issuer.is_ca or certificate.issuer != issuer.subject:
        return False
    try:
        parsed = x509.load_der_x509_certificate(certificate.der)
        parsed.verify_directly_issued_by(x509.load_der_x509_certificate(issuer.der))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _roots(roots: Sequence[bytes]) -> list[Certificate]:
    return [read_certificate("root", der) for der in roots]


def _signer(
    item: Item, name: str, roots: Sequence[bytes]
) -> tuple[Certificate, Certificate, list[Window]]:
    """Who signed the item, the trusted root right above them, and both windows."""
    chain = read_chain(f"{name} issuer chain", item.issuer_chain.encode())
    if len(chain) > _MAX_CHAIN:
        raise CollateralError(f"{name} issuer chain: {len(chain)} certificates, expected 2")
    signer = chain[0]
    if any(c.der not in roots for c in chain[1:]):
        ends = hashlib.sha256(chain[-1].der).hexdigest()
        raise CollateralError(f"{name} issuer chain: ends in {ends}, which is not trusted")
    for root in _roots(roots):
        if issued_by(signer, root):
            return signer, root, [signer.window, root.window]
    raise CollateralError(f"{name} issuer chain: its head is not signed by a trusted root")


def _check_signature(name: str, key: ec.EllipticCurvePublicKey | None, item: Item) -> None:
    if key is None or not isinstance(key.curve, ec.SECP256R1):
        raise CollateralError(f"{name}: its signer has no P-256 key")
    if len(item.signature) != _SIGNATURE_BYTES:
        raise CollateralError(f"{name} signature: {len(item.signature)} bytes, expected 64")
    half = _SIGNATURE_BYTES // 2
    r, s = (int.from_bytes(part, "big") for part in (item.signature[:half], item.signature[half:]))
    try:
        encoded = utils.encode_dss_signature(r, s)
        key.verify(encoded, item.content, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise CollateralError(f"{name} signature: does not hold") from None


# --- Intel's JSON documents ------------------------------------------------------------


def _member(name: str, document: dict[str, Any], member: str, kind: type) -> Any:
    value = document.get(member)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CollateralError(f"{name}.{member}: must be of type {kind.__name__}")
    return value


def _time(name: str, document: dict[str, Any], member: str) -> int:
    try:
        moment = datetime.fromisoformat(_member(name, document, member, str))
        if moment.tzinfo is None:
            raise CollateralError(f"{name}.{member}: no time zone")
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise CollateralError(f"{name}.{member}: not an RFC 3339 time") from None


def read_document(item: Item) -> tuple[dict[str, Any], Window, int]:
    """The JSON of a TCB info or QE identity, its window and its evaluation number.

    It proves nothing. Raises CollateralError naming the member that cannot be read.
    """
    name = str(item.key.kind)
    try:
        document = loads_strict(item.content, name)
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None
    if not isinstance(document, dict):
        raise CollateralError(f"{name}: must be a JSON object")
    window = Window(name, _time(name, document, "issueDate"), _time(name, document, "nextUpdate"))
    return document, window, _member(name, document, "tcbEvaluationDataNumber", int)


def _expect(name: str, document: dict[str, Any], member: str, expected: object) -> None:
    actual = document.get(member)
    if isinstance(expected, str) and isinstance(actual, str):
        actual = actual.lower() if member == "fmspc" else actual
    if actual != expected or isinstance(actual, bool):
        raise CollateralError(f"{name}.{member}: asked for {expected}, got {str(actual)[:64]!r}")


def _check_document(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    name, tee = str(item.key.kind), item.key.parts[0]
    signer, root, windows = _signer(item, name, roots)
    if signer.is_ca:
        raise CollateralError(f"{name} issuer chain: its head is a CA, not a TCB signer")
    _check_signature(name, signer.key, item)
    document, window, number = read_document(item)
    if item.key.kind is Kind.TCB_INFO:
        _expect(name, document, "id", tee.upper())
        _expect(name, document, "version", _TCB_INFO_VERSION)
        _expect(name, document, "fmspc", item.key.parts[1])
        _expect(name, document, "tcbType", 0)
    else:
        _expect(name, document, "id", _QE_IDS.get(tee))
        _expect(name, document, "version", _QE_IDENTITY_VERSION)
    start, end = check_windows([window, *windows], now)
    return Checked(item, (number, window.not_before), start, end, root.der, signer=signer)


# --- CRLs ----------------------------------------------------------------------------------


def crl_number(name: str, crl: Crl) -> int:
    """The CRL's number, 0 where it has none. Raises CollateralError."""
    try:
        return crl.parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
    except Exception as e:
        # ValueError, DuplicateExtension and others with no common root, as in attestation.x509.
        raise CollateralError(f"{name}: its extensions cannot be read ({e})") from None


def _check_pck_crl(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    name = str(item.key.kind)
    signer, root, windows = _signer(item, name, roots)
    if ca_of(signer.subject) != item.key.subject:
        raise CollateralError(f"{name}: is not of the {item.key.subject} CA")
    crl = read_crl(name, item.content)
    if not signer.is_ca or not crl.is_signed_by(signer):
        raise CollateralError(f"{name}: not signed by the head of its issuer chain")
    start, end = check_windows([crl.window, *windows], now)
    version = (crl_number(name, crl), crl.window.not_before)
    return Checked(item, version, start, end, root.der, signer=signer, crl=crl)


def _check_root_crl(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    name = str(item.key.kind)
    crl = read_crl(name, item.content)
    root = next((r for r in _roots(roots) if crl.is_signed_by(r)), None)
    if root is None:
        raise CollateralError(f"{name}: not signed by a trusted root")
    start, end = check_windows([crl.window, root.window], now)
    return Checked(
        item, (crl_number(name, crl), crl.window.not_before), start, end, root.der, crl=crl
    )


def ca_of(name: x509.Name) -> str | None:
    """Which PCK CA has this name, as Intel's verifiers tell it; None for neither."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = "".join(str(n.value) for n in common).lower()
    found = [ca for ca in ("platform", "processor") if ca in text]
    return found[0] if len(found) == 1 else None


# --- the four together -----------------------------------------------------------------------


def join_checked(parts: Sequence[Checked]) -> Collateral:
    """TCB info, QE identity, PCK CRL and root CRL as one collateral, once they fit together.

    Raises CollateralError when they end in different roots, or one revokes another's signer.
    """
    root_crl = parts[3].crl
    if len({p.anchor for p in parts}) != 1:
        raise CollateralError("collateral: its parts end in different roots")
    for part in parts:
        if root_crl is not None and part.signer and root_crl.revokes(part.signer):
            raise CollateralError(f"{part.item.key.kind}: its signer is revoked by the root")
    return join_items([p.item for p in parts])
