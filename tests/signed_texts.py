"""Collateral texts for tests: signed by the simulated vendor, read here once more by other means,
and random ones. A store to submit them to trusts one key that the test names."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import attested
from chain import Chain, Contract
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st

from attestation.collateral import Collateral
from attestation.issuers.simulator import pki
from attestation.onchain.levels import STATUSES, Standing
from attestation.onchain.qe import QeIdentity
from attestation.onchain.tcb import Label, Level, Module, TcbInfo
from attestation.x509 import read_chain

PRECOMPILE: Final = "0x" + "00" * 18 + "0100"
MIN_EVALUATION: Final = 10
FOREVER: Final = 1 << 40
ROOT: Final = Path(__file__).parents[1]
VECTORS: Final = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
KEY: Final[ec.EllipticCurvePrivateKey] = attested.platform().tcb_signing.key
STRANGER: Final = ec.derive_private_key(7, ec.SECP256R1())


def point(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> tuple[int, int]:
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_numbers().x, public.public_numbers().y


def halves(signature: bytes) -> tuple[int, int]:
    return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")


@dataclass(frozen=True)
class Store:
    """Submits to TcbHarness; `reader` shows the texts it rebuilds."""

    chain: Chain
    contract: Contract
    reader: Contract

    @classmethod
    def deploy(cls, chain: Chain) -> Store:
        contract = chain.deploy("TcbHarness", PRECOMPILE, MIN_EVALUATION)
        store = cls(chain, contract, chain.deploy("TextHarness"))
        store.trust(*point(KEY))
        return store

    def trust(self, x: int, y: int, expiry: int = FOREVER) -> None:
        self.chain.send(self.contract, "trust", x, y, expiry)

    def arguments(
        self,
        document: TcbInfo | QeIdentity,
        *,
        compact: bytes | None = None,
        by: ec.EllipticCurvePrivateKey = KEY,
        key: ec.EllipticCurvePrivateKey = KEY,
        text: str | None = None,
    ) -> tuple[str, bytes, int, int, int, int]:
        """A submission of the document, or of other bytes with its signature."""
        setter = "updateTcbInfo" if isinstance(document, TcbInfo) else "updateQeIdentity"
        signature = pki.sign_raw(by, (document.text() if text is None else text).encode())
        sent = document.write() if compact is None else compact
        return setter, sent, *halves(signature), *point(key)

    def submit(self, document: TcbInfo | QeIdentity, **odd: Any) -> dict[str, Any]:
        return self.chain.send(self.contract, *self.arguments(document, **odd))

    def submit_signed(
        self, setter: str, compact: bytes, signature: bytes, key: tuple[int, int]
    ) -> dict[str, Any]:
        return self.chain.send(self.contract, setter, compact, *halves(signature), *key)

    def ask(self, name: str, *args: Any) -> Any:
        return self.chain.call(self.contract, name, *args)

    def rebuilt(self, document: TcbInfo | QeIdentity) -> tuple[str, bytes]:
        """Text and packed content as the contract makes them of the compact form."""
        name = "tcbInfoText" if isinstance(document, TcbInfo) else "qeIdentityText"
        text, packed = self.chain.call(self.reader, name, document.write())
        return text, packed


def tcb_info_bytes(text: str) -> bytes:
    """What is to be stored of a TCB info, read from the JSON by nothing of ours."""
    document = json.loads(text)
    modules = document.get("tdxModuleIdentities", [])
    out: bytes = bytes.fromhex(document["pceId"]) + bytes(
        [len(modules), len(document["tcbLevels"])]
    )
    for module in modules:
        out += bytes([int(module["id"][4:], 16), len(module["tcbLevels"])])
        for level in module["tcbLevels"]:
            out += bytes([level["tcb"]["isvsvn"], STATUSES.index(level["tcbStatus"])])
    for level in document["tcbLevels"]:
        for tee in ("sgx", "tdx"):
            out += bytes(c["svn"] for c in level["tcb"].get(f"{tee}tcbcomponents", []))
        out += level["tcb"]["pcesvn"].to_bytes(2, "big")
        out += bytes([STATUSES.index(level["tcbStatus"])])
    return out


def qe_identity_bytes(text: str) -> bytes:
    """What is to be stored of a QE identity, read from the JSON by nothing of ours."""
    document = json.loads(text)
    names = ("mrsigner", "attributes", "attributesMask", "miscselect", "miscselectMask")
    out: bytes = b"".join(bytes.fromhex(document[name]) for name in names)
    out += document["isvprodid"].to_bytes(2, "big") + bytes([len(document["tcbLevels"])])
    for level in document["tcbLevels"]:
        out += level["tcb"]["isvsvn"].to_bytes(2, "big")
        out += bytes([STATUSES.index(level["tcbStatus"])])
    return out


def real_collateral() -> dict[str, Collateral]:
    """Intel-signed collateral by file name; empty where the vectors are not."""
    folder = VECTORS / "collateral"
    return {
        path.stem: Collateral.from_json(json.loads(path.read_text()))
        for path in sorted(folder.glob("*.json"))
    }


def signer(pem: str) -> tuple[int, int]:
    key = read_chain("chain", pem.encode())[0].key
    assert key is not None
    return point(key)


# --- random documents ------------------------------------------------------------------

_WORDS = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'),
    min_size=2,
    max_size=28,
)
_DATES = st.integers(0, (1 << 32) - 1)
_DAYS = st.dates().map(lambda day: day.strftime("%Y%m%d").zfill(8))
_ADVISORIES = st.one_of(
    st.lists(_WORDS, max_size=5),
    # Lists that share an end, as Intel's do.
    st.integers(0, 6).map(lambda n: [f"INTEL-SA-{i:05}" for i in range(n, 7)]),
).map(tuple)
STANDINGS = st.builds(Standing, st.sampled_from(range(7)), _DAYS, _ADVISORIES)
U8, U16 = st.integers(0, 255), st.integers(0, 65535)
T = TypeVar("T")


def several(of: st.SearchStrategy[T], most: int = 4) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(of, min_size=1, max_size=most).map(tuple)


def _cased(draw: st.DrawFn, *fields: bytes) -> bool:
    """Case shows only where there are letters."""
    return any(c.isalpha() for field in fields for c in field.hex()) and draw(st.booleans())


@st.composite
def tcb_infos(draw: st.DrawFn) -> TcbInfo:
    tdx = draw(st.booleans())
    count = 32 if tdx else 16
    words = st.none() | _WORDS
    kinds: list[Label] = [(None, None), *draw(st.lists(st.tuples(words, words), max_size=8))]
    fmspc, pceid = draw(st.binary(min_size=6, max_size=6)), draw(st.binary(min_size=2, max_size=2))
    # Few different values, so that levels share some.
    svns = st.lists(st.sampled_from((0, 1, 9, 10, 99, 100, 255)), min_size=16, max_size=16)
    some = draw(st.lists(svns.map(bytes), min_size=1, max_size=2))
    level = st.builds(
        Level,
        st.sampled_from(some) | svns.map(bytes),
        st.sampled_from(some) if tdx else st.just(b""),
        U16,
        STANDINGS,
    )
    module = st.builds(Module, U8, several(st.tuples(U8, STANDINGS), 3))
    return TcbInfo(
        tdx=tdx,
        lower=_cased(draw, fmspc, pceid),
        issue_date=draw(_DATES),
        next_update=draw(_DATES),
        fmspc=fmspc,
        evaluation_number=draw(U16),
        pceid=pceid,
        labels=tuple(draw(st.lists(st.sampled_from(kinds), min_size=count, max_size=count))),
        modules=draw(several(module, 3)) if tdx else (),
        levels=draw(several(level)),
    )


@st.composite
def qe_identities(draw: st.DrawFn) -> QeIdentity:
    def field(size: int) -> bytes:
        return draw(st.binary(min_size=size, max_size=size))

    fields = {"miscselect": field(4), "attributes": field(16), "mrsigner": field(32)}
    masks = {"miscselect_mask": field(4), "attributes_mask": field(16)}
    return QeIdentity(
        tdx=draw(st.booleans()),
        lower=_cased(draw, *fields.values(), *masks.values()),
        issue_date=draw(_DATES),
        next_update=draw(_DATES),
        evaluation_number=draw(U16),
        isvprodid=draw(U16),
        levels=draw(several(st.tuples(U16, STANDINGS))),
        **fields,
        **masks,
    )
