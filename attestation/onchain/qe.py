"""Identities of Intel's quoting enclaves as the contracts take them: compact.

Spec: Intel PCS API v4, "Get Enclave Identity", version 2; the compact form is in the
NatSpec of contracts/src/lib/QeIdentityText.sol, what is stored in `QeIdentitySource`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.onchain.levels import (
    Member,
    ReadStrings,
    Standing,
    Strings,
    cased,
    dated,
    json_text,
    lower_case,
    round_trip,
)
from attestation.wire import BigEndianCursor

_NAME: Final = "qe_identity"
_TDX, _LOWER = 1, 2
_HEX: Final = ("miscselect", "miscselectMask", "attributes", "attributesMask", "mrsigner")


@dataclass(frozen=True, slots=True, kw_only=True)
class QeIdentity:
    """An identity that the contracts can rebuild the text of.

    Byte fields are in the order of their hex digits, as they stand in a report. `levels`
    are isvsvn and standing, best first.
    """

    tdx: bool
    lower: bool
    issue_date: int
    next_update: int
    evaluation_number: int
    miscselect: bytes
    miscselect_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isvprodid: int
    levels: tuple[tuple[int, Standing], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The exact text Intel signed. Raises NotProvable, MalformedEvidence if no JSON."""
        return round_trip(_NAME, text, cls._of)

    @classmethod
    def _of(cls, document: Member) -> Self:
        document["version"].is_exactly(2)
        enclave = document["id"].text()
        if enclave not in ("QE", "TD_QE"):
            raise document["id"].unprovable("neither QE nor TD_QE")
        levels = document["tcbLevels"].items(255)
        return cls(
            tdx=enclave == "TD_QE",
            lower=lower_case(*(document[name] for name in _HEX)),
            issue_date=document["issueDate"].date(),
            next_update=document["nextUpdate"].date(),
            evaluation_number=document["tcbEvaluationDataNumber"].number(2),
            miscselect=document["miscselect"].hexadecimal(4),
            miscselect_mask=document["miscselectMask"].hexadecimal(4),
            attributes=document["attributes"].hexadecimal(16),
            attributes_mask=document["attributesMask"].hexadecimal(16),
            mrsigner=document["mrsigner"].hexadecimal(32),
            isvprodid=document["isvprodid"].number(2),
            levels=tuple((lv["tcb"]["isvsvn"].number(2), Standing.of(lv)) for lv in levels),
        )

    def text(self) -> str:
        """The text that is signed."""
        levels = [{"tcb": {"isvsvn": svn}, **standing.members()} for svn, standing in self.levels]
        members: dict[str, Any] = {
            "id": "TD_QE" if self.tdx else "QE",
            "version": 2,
            "issueDate": dated(self.issue_date),
            "nextUpdate": dated(self.next_update),
            "tcbEvaluationDataNumber": self.evaluation_number,
            "miscselect": cased(self.miscselect, self.lower),
            "miscselectMask": cased(self.miscselect_mask, self.lower),
            "attributes": cased(self.attributes, self.lower),
            "attributesMask": cased(self.attributes_mask, self.lower),
            "mrsigner": cased(self.mrsigner, self.lower),
            "isvprodid": self.isvprodid,
            "tcbLevels": levels,
        }
        return json_text(members)

    def write(self) -> bytes:
        """The compact form. Raises NotProvable where there are too many strings."""
        strings = Strings()
        levels = b"".join(
            svn.to_bytes(2, "big") + standing.write(strings) for svn, standing in self.levels
        )
        head = b"".join(
            (
                bytes([self.tdx * _TDX | self.lower * _LOWER]),
                self.issue_date.to_bytes(4, "big"),
                self.next_update.to_bytes(4, "big"),
                self.evaluation_number.to_bytes(2, "big"),
                self._fixed(),
            )
        )
        return head + strings.write() + levels

    def _fixed(self) -> bytes:
        masked = self.mrsigner + self.attributes + self.attributes_mask
        select = self.miscselect + self.miscselect_mask
        return masked + select + self.isvprodid.to_bytes(2, "big") + bytes([len(self.levels)])

    @classmethod
    def read(cls, compact: bytes) -> Self:
        """Of a compact form. Raises MalformedEvidence."""
        c = BigEndianCursor("compact_qe_identity", compact)
        form = c.u8("form")
        if form > _TDX | _LOWER:
            raise c.error("form", f"{form} is unknown")
        issue_date, next_update = c.u32("issue_date"), c.u32("next_update")
        evaluation_number = c.u16("evaluation_number")
        mrsigner = c.take("mrsigner", 32)
        attributes, attributes_mask = c.take("attributes", 16), c.take("attributes_mask", 16)
        miscselect, miscselect_mask = c.take("miscselect", 4), c.take("miscselect_mask", 4)
        isvprodid, levels = c.u16("isvprodid"), c.u8("levels")
        if not levels:
            raise c.error("levels", "the list is empty")
        strings = ReadStrings(c)
        identity = cls(
            tdx=bool(form & _TDX),
            lower=bool(form & _LOWER),
            issue_date=issue_date,
            next_update=next_update,
            evaluation_number=evaluation_number,
            miscselect=miscselect,
            miscselect_mask=miscselect_mask,
            attributes=attributes,
            attributes_mask=attributes_mask,
            mrsigner=mrsigner,
            isvprodid=isvprodid,
            levels=tuple((c.u16("isvsvn"), Standing.read(c, strings)) for _ in range(levels)),
        )
        c.finish()
        return identity

    def packed(self) -> bytes:
        """What the contracts store of it: `packed` of `QeIdentitySource`."""
        levels = (svn.to_bytes(2, "big") + bytes([s.status]) for svn, s in self.levels)
        return self._fixed() + b"".join(levels)
