"""The contracts as they are deployed, with collateral in store and a node to register.

`World.simulated(kind)` needs nothing but the tree. `World.real(vector)` holds Intel-signed data
and an actual quote; that quote's report data was not made for our registry, so there the
registry's comparisons of report data are turned round (`!=` becomes `==`): every step is
computed as ever and at the same price, and a quote that *was* made for it would be refused.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import attested
import chain as chains
import collateral_chain
from chain import Chain, Contract

from attestation.canonical import jcs
from attestation.collateral import Collateral
from attestation.keyset import KeyEntry, Keyset
from attestation.onchain.policy import measurement_id, report_body, report_data_of
from attestation.onchain.qe import QeIdentity
from attestation.onchain.quote import Proof, compact_quote, prove
from attestation.onchain.receipt import address_of, key_entry
from attestation.onchain.registration import KeysetHints, registration_nonce
from attestation.onchain.tcb import TcbInfo
from attestation.statement import report_data
from attestation.x509 import read_certificate, read_chain

VECTORS: Final = Path(os.environ.get("ADYTON_VECTORS", chains.ROOT.parent / "shared" / "vectors"))
KEY: Final = b"\x11" * 32
SIGNER: Final = address_of(KEY)
ANY_STATUS: Final = 0x3F
MONTH: Final = 30 * 86400
COMPARISON: Final = "if (actual != expected) revert ReportDataMismatch(expected, actual);"
PADDING: Final = "if (padding != 0) revert ReportDataPadding(padding);"


def keyset(not_after: int) -> Keyset:
    """What a node of ours publishes: one key of each role."""
    receipt = KeyEntry("receipt-1", "ed25519", "07" * 32)
    entries = (receipt, key_entry(SIGNER, "evm-1"))
    return attested.keyset(receipt_signing_keys=entries, not_after=not_after)


def worthwhile(accesses: list[dict[str, Any]], to: str) -> list[dict[str, Any]]:
    """The entries that save something: an address costs 2,400 and a slot 1,900 in the list
    (EIP-2930), each touch then 100 instead of 2,600 and 2,100. The target is warm anyway."""
    return [a for a in accesses if int(a["address"], 16) not in (int(to, 16), *range(0x101))]


@dataclass(frozen=True)
class Part:
    """A piece of collateral and the call that submits it."""

    name: str
    function: str
    arguments: tuple[Any, ...]


def parts(collateral: Collateral, root_der: bytes) -> Iterator[Part]:
    """All of it, in an order in which each finds what it rests on."""
    root = collateral_chain.key_of(read_certificate("root", root_der))
    ca = read_chain("pck_crl_issuer_chain", collateral.pck_crl_issuer_chain.encode())[0]
    signer = read_chain("tcb_info_issuer_chain", collateral.tcb_info_issuer_chain.encode())[0]
    info, identity = TcbInfo.parse(collateral.tcb_info), QeIdentity.parse(collateral.qe_identity)
    key = collateral_chain.key_of(signer)
    yield Part("root_certificate", "addCertificate", (root_der,))
    yield Part("root_crl", "updateCrl", (collateral.root_ca_crl, *root))
    yield Part("pck_ca_certificate", "addCertificate", (ca.der,))
    yield Part("pck_crl", "updateCrl", (collateral.pck_crl, *collateral_chain.key_of(ca)))
    yield Part("tcb_signing_certificate", "addCertificate", (signer.der,))
    for name, function, compact, signature in (
        ("tcb_info", "updateTcbInfo", info.write(), collateral.tcb_info_signature),
        ("qe_identity", "updateQeIdentity", identity.write(), collateral.qe_identity_signature),
    ):
        halves = (int.from_bytes(h, "big") for h in (signature[:32], signature[32:]))
        yield Part(name, function, (compact, *halves, *key))


def compiled(name: str, edit: Callable[[Path], None]) -> dict[str, Any]:
    """Contract `name` of a copy of the sources, after `edit` has changed what is in its folder."""
    node = os.environ.get("ADYTON_NODE", "node")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "contracts"
        shutil.copytree(chains.CONTRACTS / "src", copy / "src")
        for file in ("foundry.toml", "package.json"):
            shutil.copy(chains.CONTRACTS / file, copy / file)
        (copy / "node_modules").symlink_to(chains.CONTRACTS / "node_modules")
        edit(copy / "src")
        compiler = [node, str(chains.CONTRACTS / "tools" / "compile.mjs")]
        where = ["--project", str(copy), "--out", folder, f"src/{name}.sol"]
        subprocess.run([*compiler, *where], check=True, cwd=copy)
        made: dict[str, Any] = json.loads((Path(folder) / f"{name}.json").read_text())
    return made


@cache
def turned_round(*turned: str) -> dict[str, Any]:
    """The node registry as compiled after these comparisons in it are turned round."""

    def turn(sources: Path) -> None:
        source = sources / "NodeRegistry.sol"
        text = source.read_text()
        for comparison in turned:
            assert text.count(comparison) == 1, f"the registry no longer says: {comparison}"
            text = text.replace(comparison, comparison.replace("!=", "=="))
        source.write_text(text)

    return compiled("NodeRegistry", turn)


@dataclass
class World:
    """A chain at `now` with the contracts; `receipts` are what each submission left behind."""

    chain: Chain
    now: int
    quotes: Contract
    registry: Contract
    policy: Contract
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: Keyset = field(init=False)

    def __post_init__(self) -> None:
        self.keys = keyset(self.now + MONTH)

    @classmethod
    @contextmanager
    def at(cls, now: int, root_der: bytes, foreign: bytes | None = None) -> Iterator[World]:
        """Contracts that trust this root. `foreign` is the report data of a quote not made here."""
        with Chain(timestamp=now, traced=foreign is not None) as chain:
            chain.rpc("anvil_setBlockTimestampInterval", 12)
            quotes = collateral_chain.deploy(chain, root_der)
            made = chains.artefact("NodeRegistry")
            if foreign is not None:
                made = turned_round(COMPARISON, *([PADDING] if any(foreign[32:]) else []))
            registry = chain.create(made, quotes.address)
            rules = (0, ANY_STATUS, 1)
            policy = chain.deploy("MeasurementPolicy", chain.account, registry.address, *rules)
            chain.rpc("anvil_mine", "0x3")
            yield cls(chain, now, quotes, registry, policy)

    @classmethod
    @contextmanager
    def simulated(cls, kind: str, foreign: bytes | None = None) -> Iterator[tuple[World, Proof]]:
        """The simulator's collateral in store, and a quote of `kind` made for this registry.

        `foreign` report data makes the same quote every time: a block's hash is never the same.
        """
        platform, tee = attested.platform(), attested.tee_of(kind)
        with cls.at(attested.NOW, platform.root_der, foreign) as world:
            data = foreign or report_data(world.keys.digest, world.nonce())
            quote = attested.quote(kind, report_data=data)
            yield world, world.prepare(quote, platform.collateral(tee), platform.root_der)

    @classmethod
    @contextmanager
    def real(cls, vector: str) -> Iterator[tuple[World, Proof]]:
        """Intel's collateral in store, and the real quote of this vector."""
        v = next(
            v for v in json.loads((VECTORS / "manifest.json").read_text()) if v["id"] == vector
        )
        read = {m: (VECTORS / v[m]).read_bytes() for m in ("quote", "collateral", "root")}
        collateral = Collateral.from_json(json.loads(read["collateral"]))
        foreign = report_data_of(report_body(compact_quote(read["quote"])))
        with cls.at(v["verification_time"], read["root"], foreign) as world:
            yield world, world.prepare(read["quote"], collateral, read["root"])

    def prepare(self, quote: bytes, collateral: Collateral, root_der: bytes) -> Proof:
        """All that this quote needs is in store, and the policy allows what it measures."""
        self.push(collateral, root_der)
        proof = prove(quote, collateral)
        self.chain.send(self.policy, "allow", measurement_id(report_body(proof.quote)))
        return proof

    def push(self, collateral: Collateral, root_der: bytes) -> None:
        for part in parts(collateral, root_der):
            self.receipts[part.name] = self.chain.send(self.quotes, part.function, *part.arguments)

    @property
    def bound(self) -> int:
        """The block that registrations are bound to: the youngest whose hash a contract can ask."""
        return 3

    def nonce(self) -> str:
        block = self.chain.rpc("eth_getBlockByNumber", hex(self.bound), False)
        chain_id = int(self.chain.rpc("eth_chainId"), 16)
        hashed = bytes.fromhex(block["hash"][2:])
        return registration_nonce(chain_id, self.registry.address, self.bound, hashed)

    def registration(self, proof: Proof, how: str = "remembered") -> tuple[Any, ...]:
        """What `register` takes. The leaf is sent and remembered, sent in `passing`, or `known`."""
        text = jcs(self.keys.document)
        platform = {
            "remembered": proof.platform,
            "passing": proof.passing_platform,
            "known": proof.registered_platform,
        }[how]
        hints = KeysetHints.find(text).packed
        return proof.quote, platform, text, hints, self.bound, self.policy.address

    def register(
        self, proof: Proof, *, how: str = "remembered", listed: bool = False
    ) -> dict[str, Any]:
        """`listed` sends an access list with the transaction, as our client does."""
        data = self.registry.data("register", *self.registration(proof, how))
        call = {"from": self.chain.account, "to": self.registry.address, "data": data}
        if listed:
            touched = self.chain.rpc("eth_createAccessList", call, "latest")
            call["accessList"] = worthwhile(touched["accessList"], self.registry.address)
        return self.chain._sent(call)
