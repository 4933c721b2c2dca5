"""Collateral of many platforms in one file, to verify quotes where there is no network.

A bundle is a set of items. Nobody signs it as a whole: every item in it is signed by its
vendor, and is checked when the bundle is made and again when a quote is verified with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.canonical import loads_strict
from attestation.collateral.check import Checked, check_item
from attestation.collateral.item import Item, Key, Platform, join_items
from attestation.collateral.model import Collateral
from attestation.collateral.platform import platform_of
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, MalformedEvidence
from attestation.x509 import read_chain

FORMAT: Final = "adyton-collateral-bundle/1"
MAX_BUNDLE_BYTES: Final = 32 << 20
MAX_ITEMS: Final = 2048


@dataclass(frozen=True, slots=True)
class Bundle:
    """Items by what they are; `at` is when they were put together, for people (Unix seconds)."""

    items: Mapping[Key, Item]
    at: int | None = None

    @classmethod
    def of(cls, items: Iterable[Item], at: int | None = None) -> Self:
        """A bundle of these. Raises CollateralError when two different ones have one key."""
        found: dict[Key, Item] = {}
        for item in items:
            if found.setdefault(item.key, item) != item:
                raise CollateralError(f"bundle: {item.key} is in it twice")
        if len(found) > MAX_ITEMS:
            raise CollateralError(f"bundle: more than {MAX_ITEMS} items")
        return cls(found, at)

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read the JSON form. Raises CollateralError naming the member."""
        if not isinstance(obj, Mapping) or obj.get("format") != FORMAT:
            raise CollateralError(f"bundle.format: must be {FORMAT}")
        items, at = obj.get("items"), obj.get("at")
        if not isinstance(items, list) or len(items) > MAX_ITEMS:
            raise CollateralError(f"bundle.items: must be a list of at most {MAX_ITEMS}")
        if at is not None and type(at) is not int:
            raise CollateralError("bundle.at: must be an integer")
        read = [Item.from_json(item) for item in items]
        if len({item.key for item in read}) != len(read):
            raise CollateralError("bundle.items: one is there twice")
        return cls.of(read, at)

    def to_json(self) -> dict[str, Any]:
        """The JSON form; the same items make the same document."""
        items = [self.items[key].to_json() for key in sorted(self.items, key=str)]
        return {"format": FORMAT, "at": self.at, "items": items}

    def check(self, roots: Sequence[bytes], now: int) -> tuple[Checked, ...]:
        """Every item, as one that may be used at `now`. Raises CollateralError."""
        return tuple(check_item(item, roots, now) for item in self.items.values())

    def collateral(self, platform: Platform) -> Collateral:
        """What the bundle has for `platform`, unchecked. Raises CollateralError naming the gap."""
        missing = [str(key) for key in platform.keys if key not in self.items]
        if missing:
            raise CollateralError(f"bundle: has no {', '.join(missing)}")
        return join_items([self.items[key] for key in platform.keys])

    def collateral_for(self, quote: bytes) -> Collateral:
        """What the bundle has for this quote, of whichever of Intel's channels it has.

        Raises MalformedEvidence when it is no quote, CollateralError naming the gap.
        """
        platform = platform_of(quote)
        early = platform_of(quote, "early")
        has_early = all(key in self.items for key in early.keys)
        has_standard = all(key in self.items for key in platform.keys)
        return self.collateral(early if has_early and not has_standard else platform)

    def endorsements_for(self, report: bytes, vlek: bytes | None = None) -> SnpEndorsements:
        """What the bundle has for this SEV-SNP report; `vlek` (DER) where one signed it.

        Raises MalformedEvidence when it is no report, CollateralError naming the gap.
        """
        from attestation.collateral.kds import chips_of

        missing = ""
        for chip in chips_of(report):
            key = chip.vcek if chip.signer == "vcek" else chip.chain
            if key not in self.items or chip.crl not in self.items:
                missing = f"{key} with {chip.crl}"
                continue
            item, crl = self.items[key], self.items[chip.crl].content
            if chip.signer == "vcek":
                chain = read_chain("snp-chain", item.issuer_chain.encode())
                return SnpEndorsements(item.content, tuple(c.der for c in chain), crl)
            if vlek is None:
                raise CollateralError("vlek: the cloud hands out its certificate, AMD does not")
            return SnpEndorsements(vlek, (item.content,), crl)
        raise CollateralError(f"bundle: has no {missing}")


def _document(data: bytes) -> Any:
    if len(data) > MAX_BUNDLE_BYTES:
        raise CollateralError(f"collateral: longer than {MAX_BUNDLE_BYTES} bytes")
    try:
        return loads_strict(data, "collateral")
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None


def _is_bundle(document: Any) -> bool:
    return isinstance(document, Mapping) and "format" in document


def read_collateral_file(data: bytes) -> Bundle | Collateral:
    """A bundle, or the JSON of one QuoteCollateralV3. Raises CollateralError."""
    document = _document(data)
    return Bundle.from_json(document) if _is_bundle(document) else Collateral.from_json(document)


def collateral_for(data: bytes, quote: bytes) -> Collateral:
    """The collateral for `quote` in a file's bytes: a bundle, or one QuoteCollateralV3.

    Raises CollateralError; MalformedEvidence when a bundle is given and `quote` is no quote.
    """
    found = read_collateral_file(data)
    return found if isinstance(found, Collateral) else found.collateral_for(quote)


def endorsements_for(data: bytes, report: bytes) -> SnpEndorsements:
    """The endorsements for this SEV-SNP report in a file's bytes: a bundle, or their own JSON.

    Raises CollateralError; MalformedEvidence when a bundle is given and `report` is none.
    """
    document = _document(data)
    if _is_bundle(document):
        return Bundle.from_json(document).endorsements_for(report)
    return SnpEndorsements.from_json(document)
