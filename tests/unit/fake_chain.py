"""A chain small enough to fail on demand: JSON-RPC in memory, and a knob for each fault.

It decodes nothing but what a sender relies on: a transaction's hash, its nonce and how often
each was mined.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from eth_account import Account as Accounts
from eth_account.typed_transactions import TypedTransaction
from eth_utils import keccak
from hexbytes import HexBytes

from attestation.onchain.account import Account
from attestation.onchain.rpc import Rpc
from attestation.onchain.sender import Sender

KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
CHAIN = 31337
TARGET = "0x" + "c0" * 20


class RpcFault(Exception):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message, "data": data}


def _unread(response: httpx.Response) -> httpx.Response:
    """As from a socket: the body has still to be read."""
    if not response.is_stream_consumed:
        return response
    body = response.content
    return httpx.Response(response.status_code, headers=response.headers, content=iter([body]))


@dataclass
class FakeChain:
    """Mines what it is sent at once, unless `hold`; `blocks` maps number to hashes mined in it.

    `before(method)` runs first and may raise an httpx error or RpcFault, or return a
    response; `after(method)` likewise, once the request has had its effect. `access` is what
    the node answers when it is asked for an access list, and `saves` the gas that one saves; a
    node without `access` does not know the method.
    """

    chain_id: int = CHAIN
    hold: bool = False
    blocks: list[list[str]] = field(default_factory=lambda: [[]])
    fork: int = 0
    pool: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    broadcasts: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    estimate: int = 100_000
    access: Any = None
    saves: int = 0
    base_fee: int = 10**9
    status: int = 1
    reverts: Any = None
    logs: dict[int, dict[str, Any]] = field(default_factory=dict)
    max_span: int = 1 << 60
    before: Callable[[str], httpx.Response | None] = lambda _m: None
    after: Callable[[str], httpx.Response | None] = lambda _m: None

    # --- for tests ------------------------------------------------------------------------

    def rpc(self, **options: Any) -> Rpc:
        transport = httpx.MockTransport(lambda request: _unread(self._answer(request)))
        return Rpc("http://chain.test/v3/SECRET", transport=transport, sleep=self.wait, **options)

    def sender(self, **options: Any) -> Sender:
        now = iter(range(10_000))
        return Sender(
            self.rpc(), Account(KEY), sleep=self.wait, clock=lambda: float(next(now)), **options
        )

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def mine(self) -> None:
        self.blocks.append(list(self.pool))
        self.pool.clear()

    def reorganise(self) -> None:
        """The latest block never was; its transactions are forgotten."""
        self.blocks.pop()
        self.fork += 1

    def mined(self) -> list[str]:
        return [tx for block in self.blocks for tx in block]

    def block_hash(self, number: int) -> str:
        return "0x" + keccak(text=f"{number} {self.fork} {self.blocks[number]}").hex()

    # --- JSON-RPC -------------------------------------------------------------------------

    def _answer(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        method, params = asked["method"], asked["params"]
        self.asked.append(method)
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
        try:
            if (answer := self.before(method)) is not None:
                return answer
            body["result"] = getattr(self, method)(*params)
            if (answer := self.after(method)) is not None:
                return answer
        except RpcFault as e:
            body = {"jsonrpc": "2.0", "id": asked["id"], "error": e.body}
        return httpx.Response(200, json=body)

    def eth_chainId(self) -> str:
        return hex(self.chain_id)

    def eth_getBlockByNumber(self, which: str, _full: bool) -> dict[str, Any] | None:
        number = len(self.blocks) - 1 if which == "latest" else int(which, 16)
        if number >= len(self.blocks):
            return None
        return {
            "number": hex(number),
            "hash": self.block_hash(number),
            "timestamp": hex(1_780_000_000 + 12 * number),
            "baseFeePerGas": hex(self.base_fee),
        }

    def eth_maxPriorityFeePerGas(self) -> str:
        return hex(10**9)

    def eth_getCode(self, _address: str, _block: str) -> str:
        return "0x"

    def eth_call(self, _call: dict[str, str], _block: str) -> str:
        if self.reverts is not None:
            raise RpcFault(3, "execution reverted", self.reverts)
        return "0x"

    def eth_estimateGas(self, call: dict[str, Any]) -> str:
        if self.reverts is not None and self.status:
            raise RpcFault(3, "execution reverted", self.reverts)
        return hex(self.estimate - (self.saves if "accessList" in call else 0))

    def eth_createAccessList(self, _call: dict[str, str], _block: str) -> Any:
        if self.access is None:
            raise RpcFault(-32601, "the method eth_createAccessList does not exist")
        return self.access

    def eth_getLogs(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        first, last = int(asked["fromBlock"], 16), int(asked["toBlock"], 16)
        if last - first >= self.max_span:
            raise RpcFault(-32602, "block range is too wide")
        return [log for number, log in self.logs.items() if first <= number <= last]

    def eth_getTransactionCount(self, _address: str, tag: str) -> str:
        return hex(len(self.mined()) + (len(self.pool) if tag == "pending" else 0))

    def eth_sendRawTransaction(self, raw: str) -> str:
        self.broadcasts.append(raw)
        transaction = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        tx_hash = "0x" + keccak(hexstr=raw).hex()
        if tx_hash in self.pool:
            raise RpcFault(-32000, "already known")
        if transaction["nonce"] < len(self.mined()):
            raise RpcFault(-32000, "nonce too low: next nonce 1, tx nonce 0")
        rival = next((h for h in self.pool if self.seen[h]["nonce"] == transaction["nonce"]), None)
        if rival is not None:
            if transaction["maxFeePerGas"] * 10 < self.seen[rival]["maxFeePerGas"] * 11:
                raise RpcFault(-32000, "replacement transaction underpriced")
            del self.pool[rival]
        self.seen[tx_hash] = {
            "from": Accounts.recover_transaction(raw),
            **{k: v for k, v in transaction.items() if isinstance(v, int)},
            "accessList": transaction["accessList"],
        }
        self.pool[tx_hash] = self.seen[tx_hash]
        if not self.hold:
            self.mine()
        return tx_hash

    def eth_getTransactionByHash(self, tx_hash: str) -> dict[str, Any] | None:
        if tx_hash not in self.pool and tx_hash not in self.mined():
            return None
        known = self.seen[tx_hash]
        return {
            "hash": tx_hash,
            "from": known["from"].lower(),
            "nonce": hex(known["nonce"]),
            "maxFeePerGas": hex(known["maxFeePerGas"]),
            "maxPriorityFeePerGas": hex(known["maxPriorityFeePerGas"]),
            "blockNumber": None if tx_hash in self.pool else "0x1",
        }

    def eth_getTransactionReceipt(self, tx_hash: str) -> dict[str, Any] | None:
        number = next((i for i, b in enumerate(self.blocks) if tx_hash in b), None)
        if number is None:
            return None
        return {
            "transactionHash": tx_hash,
            "blockNumber": hex(number),
            "blockHash": self.block_hash(number),
            "gasUsed": hex(self.estimate),
            "status": hex(self.status),
            "contractAddress": None,
        }
