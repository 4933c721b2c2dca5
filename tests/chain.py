"""A local chain for tests: anvil over JSON-RPC, contracts from their compiled artefacts.

with Chain(timestamp=1_750_000_000) as chain:
    store = chain.deploy("CollateralStore", x, y)
    chain.send(store, "addCertificate", der)          # a receipt; gasUsed is an int
    chain.call(store, "certificateOf", key)           # decoded values
    with chain.refused("CertificateExpired"): chain.send(...)

Contracts come from ADYTON_ARTEFACTS where it is set; else those that can be deployed are the
ones the package carries, and harnesses what `contracts/tools/compile.mjs` made of them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

import httpx
from eth_abi.abi import decode, encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

ROOT = Path(__file__).parent.parent
CONTRACTS = ROOT / "contracts"
CARRIED = ROOT / "attestation" / "onchain" / "artifacts"
COMPILED = CONTRACTS / "out" / "artifacts"
ARTEFACTS: tuple[Path, ...] = (CARRIED, COMPILED)
if "ADYTON_ARTEFACTS" in os.environ:
    ARTEFACTS = (Path(os.environ["ADYTON_ARTEFACTS"]),)
ANVIL = CONTRACTS / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
GAS = 16_000_000  # a transaction's gas is capped at 2**24 from osaka on (EIP-7825)


class Refused(AssertionError):
    """A call reverted; `name` is its custom error and `args_` what the error carries."""

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        super().__init__(f"{name}{args}")
        self.name, self.args_ = name, args


@cache
def artefact(name: str) -> dict[str, Any]:
    found = next((f for folder in ARTEFACTS if (f := folder / f"{name}.json").is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no compiled {name} in {', '.join(map(str, ARTEFACTS))}")
    loaded: dict[str, Any] = json.loads(found.read_text())
    return loaded


def anvil() -> str | None:
    """The anvil to run: the one that npm installed, or else the one on PATH."""
    return str(ANVIL) if ANVIL.is_file() else shutil.which("anvil")


def _type(item: dict[str, Any]) -> str:
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    members = ",".join(map(_type, item["components"]))
    return f"({members}){item['type'][5:]}"


def _types(items: list[dict[str, Any]]) -> list[str]:
    return [_type(item) for item in items]


def selector(item: dict[str, Any]) -> bytes:
    return keccak(text=f"{item['name']}({','.join(_types(item['inputs']))})")[:4]


@cache
def errors() -> dict[bytes, dict[str, Any]]:
    found = {}
    names = {path.stem for folder in ARTEFACTS for path in folder.glob("*.json")}
    for name in names:
        for item in artefact(name)["abi"]:
            if item["type"] == "error":
                found[selector(item)] = item
    return found


def refusal(data: bytes) -> Refused:
    """The custom error in revert data; an unknown one is named by its bytes."""
    item = errors().get(data[:4])
    if item is None:
        return Refused(f"0x{data.hex()}", ())
    return Refused(item["name"], decode(_types(item["inputs"]), data[4:]))


class Contract:
    """A deployed contract: an address and the ABI to speak to it with."""

    def __init__(self, address: str, abi: list[dict[str, Any]]) -> None:
        self.address = to_checksum_address(address)
        self.deploy_gas = 0
        self.functions = {i["name"]: i for i in abi if i["type"] == "function"}
        self.events = {
            "0x" + keccak(text=f"{i['name']}({','.join(_types(i['inputs']))})").hex(): i
            for i in abi
            if i["type"] == "event"
        }

    def data(self, name: str, *args: Any) -> str:
        item = self.functions[name]
        return "0x" + (selector(item) + encode(_types(item["inputs"]), args)).hex()

    def result(self, name: str, data: str) -> Any:
        values = decode(_types(self.functions[name]["outputs"]), bytes.fromhex(data[2:]))
        return values[0] if len(values) == 1 else values


class Chain:
    """An anvil process of the osaka hardfork. Use as a context manager."""

    def __init__(
        self, timestamp: int | None = None, hardfork: str = "osaka", *, traced: bool = False
    ) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        binary = anvil()
        if binary is None:
            raise FileNotFoundError("anvil is not installed: make contracts-tools")
        args = [binary, "--port", str(port), "--hardfork", hardfork, "--silent"]
        if "ADYTON_SOLC_QUICK" in os.environ:  # code that is larger than what is deployed
            args.append("--disable-code-size-limit")
        if traced:
            args.append("--steps-tracing")
        if timestamp is not None:
            args += ["--timestamp", str(timestamp)]
        self._process = subprocess.Popen(args, stdout=subprocess.DEVNULL)
        self._http = httpx.Client(timeout=60)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.account = self.rpc("eth_accounts")[0]
                return
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait()

    def rpc(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._http.post(self.url, json=body).json()
        if "error" in answer:
            data = answer["error"].get("data")
            if isinstance(data, str):
                raise refusal(bytes.fromhex(data[2:]))
            raise RuntimeError(answer["error"])
        return answer["result"]

    def deploy(self, name: str, *args: Any) -> Contract:
        return self.create(artefact(name), *args)

    def create(self, made: dict[str, Any], *args: Any) -> Contract:
        """A contract from an artefact at hand; `deploy_gas` is what its creation used."""
        inputs: list[dict[str, Any]] = next(
            (i["inputs"] for i in made["abi"] if i["type"] == "constructor"), []
        )
        data = "0x" + made["bytecode"] + encode(_types(inputs), args).hex()
        contract = Contract(self._sent({"data": data})["contractAddress"], made["abi"])
        contract.deploy_gas = self._last["gas"]
        return contract

    def call(self, contract: Contract, name: str, *args: Any, sender: str | None = None) -> Any:
        tx = {"to": contract.address, "data": contract.data(name, *args), "gas": hex(GAS)}
        tx["from"] = sender or self.account
        return contract.result(name, self.rpc("eth_call", tx, "latest"))

    def send(
        self,
        contract: Contract,
        name: str,
        *args: Any,
        sender: str | None = None,
        value: int = 0,
    ) -> dict[str, Any]:
        data = contract.data(name, *args)
        return self.transact(contract.address, data, sender=sender, value=value)

    def transact(
        self, to: str, data: str, *, sender: str | None = None, value: int = 0
    ) -> dict[str, Any]:
        """The receipt of a mined transaction; `gas` is what it used, as an int. `value` in wei."""
        tx = {"to": to, "data": data, "value": hex(value)}
        return self._sent({**tx, **({"from": sender} if sender else {})})

    def _sent(self, tx: dict[str, Any]) -> dict[str, Any]:
        tx = {"from": self.account, "gas": hex(GAS), **tx}
        self.rpc("eth_call", tx, "latest")  # raises the custom error before anything is mined
        receipt = self._mined(self.rpc("eth_sendTransaction", tx))
        if receipt["status"] != "0x1":
            raise Refused("reverted when mined, not when called", ())
        self._last = {**receipt, "gas": int(receipt["gasUsed"], 16)}
        return self._last

    def _mined(self, transaction: str) -> dict[str, Any]:
        """Its receipt: anvil may answer with a transaction's hash a moment before it is mined."""
        deadline = time.monotonic() + 20
        while (receipt := self.rpc("eth_getTransactionReceipt", transaction)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{transaction} is not mined")
            time.sleep(0.002)
        found: dict[str, Any] = receipt
        return found

    @contextmanager
    def refused(self, name: str) -> Iterator[None]:
        """The block must revert with this custom error and no other."""
        try:
            yield
        except Refused as error:
            assert error.name == name, f"refused with {error}, not {name}"
        else:
            raise AssertionError(f"accepted, though {name} was due")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whatever the block does to the chain is taken back after it."""
        mark = self.rpc("evm_snapshot")
        try:
            yield
        finally:
            self.rpc("evm_revert", mark)

    def at(self, timestamp: int) -> None:
        """Mine a block at this time."""
        self.rpc("evm_setNextBlockTimestamp", timestamp)
        self.rpc("evm_mine")

    @property
    def block(self) -> dict[str, Any]:
        latest: dict[str, Any] = self.rpc("eth_getBlockByNumber", "latest", False)
        return latest
