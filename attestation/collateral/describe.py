"""What a file of collateral holds, for a person: each part, how old, how long, how good.

Nothing here decides anything. Every part is described as far as it can be read, and what is
wrong with one says so beside it instead of hiding the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from cryptography.x509.oid import NameOID

from attestation.canonical import loads_strict, sha256_hex
from attestation.collateral.bundle import MAX_BUNDLE_BYTES, Bundle
from attestation.collateral.cache import FORMAT as ITEM_FORMAT
from attestation.collateral.check import ca_of, check_item, check_windows, crl_number, read_document
from attestation.collateral.item import Item, Key, Kind, Platform, split_collateral
from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import AttestationError, CollateralError, MalformedEvidence
from attestation.x509 import read_certificate, read_chain, read_crl

_WHAT: Final = {
    Kind.TCB_INFO: "TCB info: which firmware levels are up to date",
    Kind.QE_IDENTITY: "quoting enclave identity",
    Kind.PCK_CRL: "revoked platform certificates",
    Kind.ROOT_CRL: "certificates the root has revoked",
    Kind.SNP_VCEK: "certificate of one chip's signing key",
    Kind.SNP_CHAIN: "the CA above signing keys",
    Kind.SNP_CRL: "certificates AMD's root has revoked",
}
_CRLS: Final = frozenset({Kind.PCK_CRL, Kind.ROOT_CRL, Kind.SNP_CRL})
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Part:
    """One document. `number` is its evaluation or CRL number, `revoked` how many a CRL lists.

    Times are Unix seconds, None where they cannot be read. `problem` is why it may not be
    used now under the given roots; None when it may.
    """

    key: str
    what: str
    number: int | None
    revoked: int | None
    not_before: int | None
    not_after: int | None
    sha256: str
    problem: str | None

    def days_left(self, now: int) -> float | None:
        """Days until it expires; negative afterwards."""
        return None if self.not_after is None else round((self.not_after - now) / _DAY_S, 1)

    def to_json(self, now: int) -> dict[str, Any]:
        return {**asdict(self), "days_left": self.days_left(now)}


@dataclass(frozen=True, slots=True)
class Description:
    """A file's form (`collateral`, `bundle`, `item` or `snp-endorsements`) and its parts."""

    form: str
    parts: tuple[Part, ...]

    @property
    def usable(self) -> bool:
        """True when every part may be used now."""
        return all(p.problem is None for p in self.parts)


def describe(data: bytes, roots: Sequence[bytes], now: int) -> Description:
    """What the file `data` holds. Raises CollateralError when it is no collateral at all."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise CollateralError(f"collateral: longer than {MAX_BUNDLE_BYTES} bytes")
    try:
        document = loads_strict(data, "collateral")
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None
    if not isinstance(document, Mapping):
        raise CollateralError("collateral: must be a JSON object")
    if document.get("format") == ITEM_FORMAT:
        return Description("item", (_part(Item.from_json(document.get("item")), roots, now),))
    if "format" in document:
        items = Bundle.from_json(document).items
        parts = (_part(items[key], roots, now) for key in sorted(items, key=str))
        return Description("bundle", tuple(parts))
    if "vek" in document:
        return Description(
            "snp-endorsements", _snp_parts(SnpEndorsements.from_json(document), roots, now)
        )
    collateral = Collateral.from_json(document)
    items_of = split_collateral(collateral, _platform(collateral))
    return Description("collateral", tuple(_part(item, roots, now) for item in items_of))


def _platform(collateral: Collateral) -> Platform:
    """Whose collateral it says it is; where it does not say, any: the check tells then."""
    tee, fmspc, ca = "sgx", "0" * 12, None
    try:
        document = loads_strict(collateral.tcb_info)
        tee, fmspc = str(document["id"]).lower(), str(document["fmspc"]).lower()
        head = read_chain("pck_crl", collateral.pck_crl_issuer_chain.encode())[0]
        ca = ca_of(head.subject)
        return Platform(tee, fmspc, ca or "platform")
    except (AttestationError, KeyError, TypeError):
        return Platform("sgx", "0" * 12, ca or "platform")


def _part(item: Item, roots: Sequence[bytes], now: int) -> Part:
    number = revoked = start = end = None
    name = str(item.key.kind)
    try:
        if item.key.kind in _CRLS:
            crl = read_crl(name, item.content)
            start, end = crl.window.not_before, crl.window.not_after
            number, revoked = crl_number(name, crl), len(crl.revoked)
        elif item.key.kind in (Kind.SNP_VCEK, Kind.SNP_CHAIN):
            window = read_certificate(name, item.content).window
            start, end = window.not_before, window.not_after
        else:
            _, window, number = read_document(item)
            start, end = window.not_before, window.not_after
    except CollateralError:
        pass  # the check below says what is wrong with it
    return Part(
        key=str(item.key),
        what=_WHAT[item.key.kind],
        number=number,
        revoked=revoked,
        not_before=start,
        not_after=end,
        sha256=sha256_hex(item.content),
        problem=_problem(item, roots, now),
    )


def _problem(item: Item, roots: Sequence[bytes], now: int) -> str | None:
    try:
        check_item(item, roots, now)
    except (AttestationError, ValueError) as e:
        return str(e)
    return None


def _snp_parts(endorsements: SnpEndorsements, roots: Sequence[bytes], now: int) -> tuple[Part, ...]:
    from attestation.verify.snp_chain import verify_chain

    problem = None
    try:
        check_windows(verify_chain(endorsements, tuple(roots)).windows, now)
    except AttestationError as e:
        problem = str(e)
    parts = [_certificate("vek", _WHAT[Kind.SNP_VCEK], endorsements.vek, problem)]
    parts += [_certificate("chain", "a CA above it", der, problem) for der in endorsements.chain]
    if endorsements.crl is not None:
        item = Item(Key(Kind.SNP_CRL, "vcek/-"), endorsements.crl, b"", "")
        found = _part(item, roots, now)
        parts.append(
            Part(
                "crl",
                found.what,
                found.number,
                found.revoked,
                found.not_before,
                found.not_after,
                found.sha256,
                problem,
            )
        )
    return tuple(parts)


def _certificate(key: str, what: str, der: bytes, problem: str | None) -> Part:
    start = end = None
    try:
        certificate = read_certificate(key, der)
        start, end = certificate.window.not_before, certificate.window.not_after
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        what = f"{what} ({', '.join(str(n.value) for n in names)})"
    except CollateralError as e:
        problem = problem or str(e)
    return Part(key, what, None, None, start, end, sha256_hex(der), problem)
