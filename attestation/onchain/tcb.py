"""TCB infos as the contracts take them: compact, and from there the signed text again.

Spec: Intel PCS API v4, "Get TCB Info", TCB info version 3; the compact form is in the
NatSpec of contracts/src/lib/TcbInfoText.sol, what is stored in `TcbInfoSource`.
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
    nth,
    round_trip,
)
from attestation.wire import BigEndianCursor

_NAME: Final = "tcb_info"
_COMPONENTS: Final = 16
_TDX, _LOWER = 1, 2
_SIGNER: Final = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
"""The one signer of TDX modules there is; the contracts store none, so take no other."""

Label = tuple[str | None, str | None]
"""Category and type of a component, each where it is stated."""


@dataclass(frozen=True, slots=True)
class Module:
    """A version of the TDX module and its levels, best first: isvsvn and standing."""

    version: int
    levels: tuple[tuple[int, Standing], ...]

    @classmethod
    def of(cls, module: Member) -> Self:
        name = module["id"].text()
        if len(name) != 6 or not name.startswith("TDX_"):
            raise module["id"].unprovable("not TDX_ and two hex digits")
        version = Member(module["id"].path, name[4:]).hexadecimal(1)[0]
        for member, value in _SIGNER.items():
            module[member].is_exactly(value)
        levels = module["tcbLevels"].items(255)
        return cls(
            version,
            tuple((level["tcb"]["isvsvn"].number(1), Standing.of(level)) for level in levels),
        )

    def members(self) -> dict[str, Any]:
        levels = [{"tcb": {"isvsvn": svn}, **standing.members()} for svn, standing in self.levels]
        return {"id": f"TDX_{self.version:02X}", **_SIGNER, "tcbLevels": levels}

    def write(self, strings: Strings) -> bytes:
        levels = (bytes([svn]) + standing.write(strings) for svn, standing in self.levels)
        return bytes([self.version, len(self.levels)]) + b"".join(levels)

    @classmethod
    def read(cls, c: BigEndianCursor, strings: ReadStrings) -> Self:
        version, count = c.u8("version"), c.u8("levels")
        return cls(
            version, tuple((c.u8("isvsvn"), Standing.read(c, strings)) for _ in range(count))
        )

    def packed(self) -> bytes:
        levels = b"".join(bytes([svn, standing.status]) for svn, standing in self.levels)
        return bytes([self.version, len(self.levels)]) + levels


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a platform; `tdx` is empty in a TCB info for SGX."""

    sgx: bytes
    tdx: bytes
    pcesvn: int
    standing: Standing

    @classmethod
    def of(cls, level: Member, tdx: bool) -> Self:
        def svns(tee: str) -> bytes:
            components = level["tcb"][f"{tee}tcbcomponents"].items(_COMPONENTS, _COMPONENTS)
            return bytes(c["svn"].number(1) for c in components)

        pcesvn = level["tcb"]["pcesvn"].number(2)
        return cls(svns("sgx"), svns("tdx") if tdx else b"", pcesvn, Standing.of(level))

    def members(self, labels: tuple[Label, ...]) -> dict[str, Any]:
        components = [_component(*c) for c in zip(self.sgx + self.tdx, labels, strict=True)]
        tcb: dict[str, Any] = {"sgxtcbcomponents": components[:_COMPONENTS], "pcesvn": self.pcesvn}
        if self.tdx:
            tcb["tdxtcbcomponents"] = components[_COMPONENTS:]
        return {"tcb": tcb, **self.standing.members()}

    def write(self, strings: Strings) -> bytes:
        return self._svns() + self.standing.write(strings)

    @classmethod
    def read(cls, c: BigEndianCursor, tdx: bool, strings: ReadStrings) -> Self:
        sgx, more = c.take("sgx", _COMPONENTS), c.take("tdx", _COMPONENTS if tdx else 0)
        return cls(sgx, more, c.u16("pcesvn"), Standing.read(c, strings))

    def packed(self) -> bytes:
        return self._svns() + bytes([self.standing.status])

    def _svns(self) -> bytes:
        return self.sgx + self.tdx + self.pcesvn.to_bytes(2, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo:
    """A TCB info that the contracts can rebuild the text of.

    `labels` are those of the SGX components, then of the TDX components, the same in all
    levels. `modules` is empty in a TCB info for SGX.
    """

    tdx: bool
    lower: bool
    issue_date: int
    next_update: int
    fmspc: bytes
    evaluation_number: int
    pceid: bytes
    labels: tuple[Label, ...]
    modules: tuple[Module, ...]
    levels: tuple[Level, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The exact text Intel signed. Raises NotProvable, MalformedEvidence if no JSON."""
        return round_trip(_NAME, text, cls._of)

    @classmethod
    def _of(cls, document: Member) -> Self:
        document["version"].is_exactly(3)
        tee = document["id"].text()
        if tee not in ("SGX", "TDX"):
            raise document["id"].unprovable("neither SGX nor TDX")
        document["tcbType"].is_exactly(0)
        tdx = tee == "TDX"
        levels = document["tcbLevels"].items(255)
        return cls(
            tdx=tdx,
            lower=lower_case(document["fmspc"], document["pceId"]),
            issue_date=document["issueDate"].date(),
            next_update=document["nextUpdate"].date(),
            fmspc=document["fmspc"].hexadecimal(6),
            evaluation_number=document["tcbEvaluationDataNumber"].number(2),
            pceid=document["pceId"].hexadecimal(2),
            labels=_labels(levels[0], tdx),
            modules=_modules(document) if tdx else (),
            levels=tuple(Level.of(level, tdx) for level in levels),
        )

    def text(self) -> str:
        """The text that is signed."""
        head: dict[str, Any] = {
            "id": "TDX" if self.tdx else "SGX",
            "version": 3,
            "issueDate": dated(self.issue_date),
            "nextUpdate": dated(self.next_update),
            "fmspc": cased(self.fmspc, self.lower),
            "pceId": cased(self.pceid, self.lower),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation_number,
        }
        if self.tdx:
            head["tdxModule"] = _SIGNER
            head["tdxModuleIdentities"] = [module.members() for module in self.modules]
        return json_text({**head, "tcbLevels": [lv.members(self.labels) for lv in self.levels]})

    def write(self) -> bytes:
        """The compact form. Raises NotProvable where there are too many strings."""
        strings = Strings()
        # Advisories first: indices of labels are the strings' and one more.
        modules = b"".join(module.write(strings) for module in self.modules)
        levels = b"".join(level.write(strings) for level in self.levels)
        labels = self._write_labels(strings)
        head = b"".join(
            (
                bytes([self.tdx * _TDX | self.lower * _LOWER]),
                self.issue_date.to_bytes(4, "big"),
                self.next_update.to_bytes(4, "big"),
                self.fmspc,
                self.evaluation_number.to_bytes(2, "big"),
                self._counts(),
            )
        )
        return head + strings.write() + labels + modules + levels

    def _counts(self) -> bytes:
        return self.pceid + bytes([len(self.modules), len(self.levels)])

    def _write_labels(self, strings: Strings) -> bytes:
        named = dict.fromkeys(label for label in self.labels if any(label))
        kinds = {label: 1 + i for i, label in enumerate(named)}
        words = (0 if word is None else 1 + strings.index(word) for kind in kinds for word in kind)
        return bytes([len(kinds), *words, *(kinds.get(label, 0) for label in self.labels)])

    @classmethod
    def read(cls, compact: bytes) -> Self:
        """Of a compact form. Raises MalformedEvidence."""
        c = BigEndianCursor("compact_tcb_info", compact)
        form = c.u8("form")
        if form > _TDX | _LOWER:
            raise c.error("form", f"{form} is unknown")
        tdx = bool(form & _TDX)
        issue_date, next_update = c.u32("issue_date"), c.u32("next_update")
        fmspc, evaluation_number = c.take("fmspc", 6), c.u16("evaluation_number")
        pceid, modules, levels = c.take("pceid", 2), c.u8("modules"), c.u8("levels")
        strings = ReadStrings(c)
        info = cls(
            tdx=tdx,
            lower=bool(form & _LOWER),
            issue_date=issue_date,
            next_update=next_update,
            fmspc=fmspc,
            evaluation_number=evaluation_number,
            pceid=pceid,
            labels=_read_labels(c, strings, 2 * _COMPONENTS if tdx else _COMPONENTS),
            modules=tuple(Module.read(c, strings) for _ in range(modules)),
            levels=tuple(Level.read(c, tdx, strings) for _ in range(levels)),
        )
        if bool(modules) != tdx or not levels or not all(m.levels for m in info.modules):
            raise c.error("levels", "a list is empty, or modules stand where none may")
        c.finish()
        return info

    def packed(self) -> bytes:
        """What the contracts store of it: `packed` of `TcbInfoSource`."""
        modules = b"".join(module.packed() for module in self.modules)
        return self._counts() + modules + b"".join(level.packed() for level in self.levels)


def _component(svn: int, label: Label) -> dict[str, Any]:
    named = zip(("category", "type"), label, strict=True)
    return {"svn": svn, **{name: word for name, word in named if word is not None}}


def _labels(level: Member, tdx: bool) -> tuple[Label, ...]:
    """The labels of the first level's components; a level with others is not written as read."""

    def word(component: Member, name: str) -> str | None:
        return component[name].word() if name in component else None

    tees = ("sgx", "tdx") if tdx else ("sgx",)
    lists = [level["tcb"][f"{tee}tcbcomponents"].items(_COMPONENTS, _COMPONENTS) for tee in tees]
    return tuple((word(c, "category"), word(c, "type")) for listed in lists for c in listed)


def _modules(document: Member) -> tuple[Module, ...]:
    for member, value in _SIGNER.items():
        document["tdxModule"][member].is_exactly(value)
    return tuple(Module.of(module) for module in document["tdxModuleIdentities"].items(255))


def _read_labels(c: BigEndianCursor, strings: ReadStrings, components: int) -> tuple[Label, ...]:
    def word() -> str | None:
        index = c.u8("label")
        return nth(c, "label", strings.words, index - 1) if index else None

    kinds: list[Label] = [(None, None)]
    kinds += [(word(), word()) for _ in range(c.u8("labels"))]
    return tuple(nth(c, "component", kinds, c.u8("component")) for _ in range(components))
