"""Where the gas of a transaction went: the price list of Ethereum applied to its trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chain import Chain


@dataclass(frozen=True)
class Spent:
    """Gas by purpose. `other` is execution: reading, copying, comparing.

    `listed` is what naming storage in advance costs, which `storage` is then the cheaper for.
    `floor` is what the calldata alone demands (EIP-7623); a total never lies below it.
    """

    total: int
    calldata: int
    listed: int
    p256: int
    hashes: int
    ecrecover: int
    storage: int
    code: int
    logs: int
    other: int
    floor: int


def spent(chain: Chain, receipt: dict[str, Any]) -> Spent:
    """Prices: EIP-2028 and 7623 (calldata), 2929 and 2930 (storage), 7951 (P-256), yellow paper."""
    tx = chain.rpc("eth_getTransactionByHash", receipt["transactionHash"])
    data = bytes.fromhex(tx["input"][2:])
    tokens = data.count(0) + 4 * (len(data) - data.count(0))
    quiet = {"disableMemory": True, "disableStorage": True}
    trace = chain.rpc("debug_traceTransaction", receipt["transactionHash"], quiet)
    costs = dict.fromkeys(("p256", "hashes", "ecrecover", "storage", "code", "logs"), 0)
    for purpose, cost in _charges(trace["structLogs"]):
        costs[purpose] += cost
    accesses = tx.get("accessList") or []
    listed = sum(2_400 + 1_900 * len(entry["storageKeys"]) for entry in accesses)
    rest = receipt["gas"] - 21_000 - 4 * tokens - listed - sum(costs.values())
    floor = 21_000 + 10 * tokens
    return Spent(receipt["gas"], 4 * tokens, listed, **costs, other=max(rest, 0), floor=floor)


def _charges(steps: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    opened: dict[int, str] = {}
    for step in steps:
        op = step["op"]
        if op in ("SLOAD", "SSTORE"):
            yield "storage", step["gasCost"]
        elif op.startswith("LOG"):
            yield "logs", step["gasCost"]
        elif op in ("CREATE", "CREATE2"):
            opened[step["depth"] + 1] = op
            yield "code", 32_000
        elif op.endswith("CALL"):
            opened[step["depth"] + 1] = op
            yield from _precompile([int(word, 16) for word in step["stack"]])
        elif op == "RETURN" and opened.get(step["depth"], "").startswith("CREATE"):
            yield "code", 200 * int(step["stack"][-2], 16)


def _precompile(stack: list[int]) -> Iterator[tuple[str, int]]:
    """Of a STATICCALL: gas, address, offset and size of the input are on top."""
    address, size = stack[-2], stack[-4]
    if address == 0x100:
        yield "p256", 6_900
    elif address == 1:
        yield "ecrecover", 3_000
    elif address == 2:
        yield "hashes", 60 + 12 * ((size + 31) // 32)
