"""Reference values of NVIDIA firmware: a TCG RIM in a SWID tag, as XML.

The XML is read by a parser with neither entities nor DTD nor network, within bounds of
size, depth and number. Reading proves nothing: `attestation.verify.nvidia_rim` hands this
module only the element that a signature covers. Spec: TCG Reference Integrity Manifest
Information Model 1.01; ISO/IEC 19770-2:2015; NVIDIA's profile of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from attestation.errors import CollateralError

Element = Any
"""An lxml element; lxml ships no types, and is imported only when a file is read."""

MAX_RIM: Final = 4 << 20
_MAX_DEPTH: Final = 16
_MAX_ELEMENTS: Final = 4096
_MAX_INDEX: Final = 255
_MAX_ALTERNATIVES: Final = 256

SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_SHA384: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}"
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{96}")
_NUMBER: Final = re.compile(r"[0-9]{1,4}")
_ACTIVE: Final = {"True": True, "False": False}


@dataclass(frozen=True, slots=True)
class RimMeasurement:
    """What one measurement may be: any of `values` (48 bytes each), where it is active.

    `index` counts from 0, one less than in the device's answer.
    """

    index: int
    name: str
    active: bool
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rim:
    """One file of reference values: for which product and version, and the values.

    `product` is the chip (`GH100`), `edition` is `GPU` or `SWITCH`, `version` that of the
    driver (`550.144.03`) or of the VBIOS (`96.00.5E.00.01`).
    """

    tag_id: str
    product: str
    edition: str
    version: str
    measurements: Mapping[int, RimMeasurement]

    @classmethod
    def of(cls, root: Element) -> Self:
        """The reference values in this SoftwareIdentity. Raises CollateralError."""
        if root.tag != f"{SWID}SoftwareIdentity":
            raise CollateralError("rim: not a SoftwareIdentity")
        meta = _only(root, "Meta")
        return cls(
            tag_id=_attribute(root, "tagId"),
            product=_attribute(meta, "product"),
            edition=_attribute(meta, "edition"),
            version=_attribute(meta, "colloquialVersion"),
            measurements=_measurements(_only(root, "Payload")),
        )


def parse_xml(data: bytes) -> Element:
    """The root element of `data`. Raises CollateralError, also where lxml is not installed."""
    etree = _lxml()
    if len(data) > MAX_RIM:
        raise CollateralError(f"rim: longer than {MAX_RIM} bytes")
    # A byte order mark or a declaration of another encoding gives the same bytes another
    # meaning; NVIDIA's files have neither, and a DTD is what entities would come from.
    if b"\0" in data or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise CollateralError("rim: has a DTD or is not in an 8-bit encoding")
    try:
        root = etree.fromstring(data, strict_parser())
    except (etree.XMLSyntaxError, ValueError) as e:
        raise CollateralError(f"rim: not XML ({str(e)[:200]})") from None
    _check_bounds(root)
    return root


def strict_parser() -> Any:
    """A parser that follows nothing: no entities, no DTD, no network, no huge trees."""
    return _lxml().XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        no_network=True,
        huge_tree=False,
        recover=False,
    )


def read_rim(data: bytes) -> Rim:
    """The reference values that `data` states, signed or not. Raises CollateralError."""
    return Rim.of(parse_xml(data))


def _lxml() -> Any:
    try:
        from lxml import etree  # type: ignore[import-untyped]
    except ImportError:
        raise CollateralError("rim: reading one needs lxml: install adyton[gpu]") from None
    return etree


def _check_bounds(root: Element) -> None:
    level, count = [root], 0
    for _ in range(_MAX_DEPTH):
        count += len(level)
        if count > _MAX_ELEMENTS:
            raise CollateralError(f"rim: more than {_MAX_ELEMENTS} elements")
        level = [child for element in level for child in element]
        if not level:
            return
    raise CollateralError(f"rim: nested deeper than {_MAX_DEPTH}")


def _only(parent: Element, name: str) -> Element:
    found = parent.findall(f"{SWID}{name}")
    if len(found) != 1:
        raise CollateralError(f"rim: {len(found)} elements {name}, expected one")
    return found[0]


def _attribute(element: Element, name: str) -> str:
    value: str | None = element.get(name)
    if not value:
        raise CollateralError(f"rim: an element lacks {name}")
    return value


def _number(element: Element, name: str, ceiling: int) -> int:
    text = _attribute(element, name)
    value = int(text) if _NUMBER.fullmatch(text) else ceiling + 1
    if value > ceiling:
        raise CollateralError(f"rim: {name} {text[:16]!r} is not a number up to {ceiling}")
    return value


def _values(resource: Element) -> tuple[bytes, ...]:
    count = _number(resource, "alternatives", _MAX_ALTERNATIVES)
    texts = [_attribute(resource, f"{_SHA384}Hash{i}") for i in range(count)]
    if not texts or not all(_DIGEST.fullmatch(t) for t in texts):
        raise CollateralError("rim: a value is not a SHA-384 digest")
    return tuple(bytes.fromhex(t) for t in texts)


def _measurements(payload: Element) -> Mapping[int, RimMeasurement]:
    out: dict[int, RimMeasurement] = {}
    for resource in payload.findall(f"{SWID}Resource"):
        if resource.get("type") != "Measurement":
            continue
        active = _ACTIVE.get(_attribute(resource, "active"))
        if active is None:
            raise CollateralError("rim: active is neither True nor False")
        index = _number(resource, "index", _MAX_INDEX)
        if index in out:
            raise CollateralError(f"rim: measurement {index} stands twice")
        name = _attribute(resource, "name")
        out[index] = RimMeasurement(index, name, active, _values(resource))
    return MappingProxyType(out)
