"""Whether AMD's endorsements are what they claim: certificates and CRLs of the KDS.

A VCEK stands with its issuer, and is checked as verification checks it; the CA of VLEKs
stands alone, since their certificates come from the cloud and not from AMD's service.
Spec: AMD 57230, VCEK Certificate and KDS Interface Specification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import load_der_x509_certificate

from attestation.collateral.check import Checked, check_windows, crl_number, issued_by
from attestation.collateral.item import Item, Kind
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, VerificationError
from attestation.evidence.snp_fields import TcbParts
from attestation.verify.snp_chain import verify_chain
from attestation.verify.snp_vek import CHIP_ID_BYTES
from attestation.x509 import Certificate, read_certificate, read_chain, read_crl


def check_snp_item(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    """`item` of AMD's as one that may be used at `now`. Raises CollateralError."""
    match item.key.kind:
        case Kind.SNP_VCEK:
            return _check_vcek(item, roots, now)
        case Kind.SNP_CHAIN:
            return _check_ca(item, roots, now)
        case _:
            return _check_crl(item, roots, now)


def levels_text(tcb: TcbParts) -> str:
    """Firmware levels as the keys of items name them, `fmc` first where there is one."""
    return "-".join(str(level) for level in astuple(tcb) if level is not None)


def _check_vcek(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    name = str(item.key.kind)
    chain = [c.der for c in read_chain(f"{name} issuer chain", item.issuer_chain.encode())]
    try:
        verified = verify_chain(SnpEndorsements(item.content, tuple(chain)), tuple(roots))
    except VerificationError as e:
        raise CollateralError(f"{name}: {e}") from None
    product, hwid, levels = item.key.parts
    vek = verified.vek
    asked = bytes.fromhex(hwid).ljust(CHIP_ID_BYTES, b"\0")
    if vek.product.lower() != product or vek.hwid != asked:
        raise CollateralError(f"{name}: is for another chip")
    if levels_text(vek.tcb) != levels:
        raise CollateralError(f"{name}: is for levels {levels_text(vek.tcb)}, asked for {levels}")
    start, end = check_windows(verified.windows, now)
    anchor = next(r for r in roots if hashlib.sha256(r).hexdigest() == verified.root_sha256)
    return Checked(item, (0, 0), start, end, anchor)


def _check_ca(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    name = str(item.key.kind)
    ca = read_certificate(name, item.content)
    for der in roots:
        root = read_certificate("root", der)
        if ca.is_ca and _named(root, item) and issued_by(ca, root):
            start, end = check_windows([ca.window, root.window], now)
            return Checked(item, (0, 0), start, end, der, signer=ca)
    raise CollateralError(f"{name}: not a CA that a trusted root issued")


def _check_crl(item: Item, roots: Sequence[bytes], now: int) -> Checked:
    name = str(item.key.kind)
    crl = read_crl(name, item.content)
    for der in roots:
        root = read_certificate("root", der)
        key = load_der_x509_certificate(der).public_key()
        if root.subject != crl.issuer or not isinstance(key, rsa.RSAPublicKey):
            continue
        if _named(root, item) and crl.parsed.is_signature_valid(key):
            start, end = check_windows([crl.window, root.window], now)
            version = (crl_number(name, crl), crl.window.not_before)
            return Checked(item, version, start, end, der, crl=crl)
    raise CollateralError(f"{name}: not signed by a trusted root of {item.key.parts[-1]}")


def _named(root: Certificate, item: Item) -> bool:
    """True when `root` is that of the product the item is of: AMD has one root for each."""
    return item.key.parts[-1] in root.subject.rfc4514_string().lower()
