"""What a quote is judged by, packed as `contracts/src/collateral/Sources.sol` says.

Written apart from the encoders and the store, so that quote verification is tested without
either, and each against the layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attested
from chain import Chain, Contract, artefact

from attestation.collateral import Collateral
from attestation.evidence import parse_quote
from attestation.issuers.simulator import SimulatedPlatform
from attestation.issuers.simulator.pki import derive_key, sign_raw
from attestation.onchain.pki import PckLeaf

STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
EXPIRY: Final = 1 << 40


def _svns(components: list[Mapping[str, int]]) -> bytes:
    return bytes(c["svn"] for c in components)


def _status(level: Mapping[str, Any]) -> bytes:
    return bytes([STATUSES.index(level["tcbStatus"])])


def _module(identity: Mapping[str, Any]) -> bytes:
    levels = [bytes([v["tcb"]["isvsvn"]]) + _status(v) for v in identity["tcbLevels"]]
    return bytes([int(identity["id"].removeprefix("TDX_"), 16), len(levels)]) + b"".join(levels)


def _level(level: Mapping[str, Any]) -> bytes:
    tcb = level["tcb"]
    svns = _svns(tcb["sgxtcbcomponents"]) + _svns(tcb.get("tdxtcbcomponents", []))
    pcesvn: int = tcb["pcesvn"]
    return svns + pcesvn.to_bytes(2, "big") + _status(level)


def packed_tcb_info(info: Mapping[str, Any]) -> bytes:
    modules = info.get("tdxModuleIdentities", [])
    head = bytes.fromhex(info["pceId"]) + bytes([len(modules), len(info["tcbLevels"])])
    return head + b"".join(map(_module, modules)) + b"".join(map(_level, info["tcbLevels"]))


def packed_qe_identity(identity: Mapping[str, Any]) -> bytes:
    names = ("mrsigner", "attributes", "attributesMask", "miscselect", "miscselectMask")
    head = b"".join(bytes.fromhex(identity[n]) for n in names)
    levels = [v["tcb"]["isvsvn"].to_bytes(2, "big") + _status(v) for v in identity["tcbLevels"]]
    product: int = identity["isvprodid"]
    return head + product.to_bytes(2, "big") + bytes([len(levels)]) + b"".join(levels)


def platform_fields(leaf: PckLeaf, expiry: int = EXPIRY) -> tuple[Any, ...]:
    """`Platforms.Platform`, as a call takes it."""
    return (
        leaf.certificate.x,
        leaf.certificate.y,
        leaf.tcb.fmspc,
        leaf.tcb.pceid,
        leaf.tcb.pcesvn,
        leaf.tcb.cpusvn,
        expiry,
    )


class Given:
    """A harness, and what it answers when verification asks."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.contract: Contract = chain.deploy("QuoteHarness", "0x" + "00" * 18 + "0100")
        self.abi: list[dict[str, Any]] = artefact("QuoteHarness")["abi"]

    def set(self, tee: str, leaf: PckLeaf, collateral: Collateral, fmspc: bytes = b"") -> None:
        """The documents of `collateral`, whose signatures nobody looks at here."""
        info, identity = json.loads(collateral.tcb_info), json.loads(collateral.qe_identity)
        self.platform(leaf)
        self.info(tee, packed_tcb_info(info), fmspc or leaf.tcb.fmspc)
        self.identity(tee, packed_qe_identity(identity))

    def platform(self, leaf: PckLeaf, expiry: int = EXPIRY) -> None:
        self.chain.send(self.contract, "setPlatform", platform_fields(leaf, expiry))

    def info(
        self, tee: str, packed: bytes, fmspc: bytes, expiry: int = EXPIRY, number: int = 17
    ) -> None:
        document = (packed, expiry, number)
        self.chain.send(self.contract, "setTcbInfo", fmspc, tee == "tdx", document)

    def identity(self, tee: str, packed: bytes, expiry: int = EXPIRY, number: int = 17) -> None:
        document = (packed, expiry, number)
        self.chain.send(self.contract, "setQeIdentity", tee == "tdx", document)

    def verify(self, compact: bytes) -> tuple[int, int, int]:
        """Expiry, statuses and evaluation number; raises `chain.Refused`."""
        expiry, statuses, number = self.chain.call(self.contract, "verifyQuote", compact, b"")
        return expiry, statuses, number

    def gas(self, compact: bytes, tee: str) -> int:
        """What verification itself costs: without the answers, which others fetch."""
        whole = self.chain.call(self.contract, "gasOf", compact, b"")
        return int(whole - self.chain.call(self.contract, "readSources", tee == "tdx"))


Patches = Mapping[int, bytes]


def patched(data: bytes, patches: Patches) -> bytes:
    out = bytearray(data)
    for at, value in patches.items():
        out[at : at + len(value)] = value
    return bytes(out)


def resigned(
    kind: str, *, signed: Patches | None = None, qe: Patches | None = None, **odd: Any
) -> bytes:
    """A compact quote changed at these offsets of its signed part and of its QE report, and
    signed again by the keys that may: what a platform gone bad could make."""
    platform: SimulatedPlatform = attested.platform(**odd)
    quote = parse_quote(attested.quote(kind, platform))
    section = quote.signature
    head, report = patched(quote.signed, signed or {}), patched(section.qe_report_raw, qe or {})
    key = derive_key(attested.SEED, f"{attested.tee_of(kind)} attestation")
    parts = (head, sign_raw(key, head), section.attestation_key, report)
    return b"".join((*parts, sign_raw(platform.pck.key, report), section.qe_auth_data))
