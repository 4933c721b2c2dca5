"""Storage that a transaction names in advance costs it less to touch: EIP-2930, EIP-2929.

The RPC node says what a call would touch, and prices the call with and without naming it. A
list is a matter of gas alone: a contract cannot see it, so a wrong one costs gas and changes
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestation.onchain.faults import RpcError, RpcMalformed, RpcUnreachable
from attestation.onchain.rpc import Rpc, octets, quantity

MAX_ADDRESSES: Final = 64
MAX_KEYS: Final = 512
_WORTH_NAMING: Final = 24
"""The called contract is warm without being named: naming it costs 2,400 gas, and each of its
keys saves 100."""
_METHOD: Final = "eth_createAccessList"
_ESTIMATE: Final = "eth_estimateGas"
_SILENT: Final = (RpcError, RpcMalformed, RpcUnreachable)


class AccessLists:
    """What one RPC node says of them. A node that cannot make any is asked no more."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc, self._able = rpc, True

    def cheaper(self, call: Mapping[str, Any], gas: int) -> tuple[dict[str, Any], int]:
        """`call` and the gas it needs, with an access list where that makes it less than `gas`.

        Never raises for what the node cannot do, or does badly: then nothing is changed.
        """
        entries = self._made(call) if self._able and "to" in call else []
        if not entries:
            return dict(call), gas
        listed = {**call, "accessList": entries}
        try:
            needed = quantity(self._rpc.request(_ESTIMATE, listed), _ESTIMATE)
        except _SILENT:
            return dict(call), gas
        return (listed, needed) if needed < gas else (dict(call), gas)

    def _made(self, call: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            answer = self._rpc.request(_METHOD, dict(call), "latest")
            found = _entries(answer)
        except _SILENT:
            self._able = False
            return []
        to = str(call["to"]).lower()
        return [e for e in found if e["address"] != to or len(e["storageKeys"]) > _WORTH_NAMING]


def _entries(answer: Any) -> list[dict[str, Any]]:
    """A list as the execution API has it; empty for a call that failed. Raises RpcMalformed."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("accessList"), list):
        raise RpcMalformed(_METHOD, "no access list")
    if answer.get("error"):
        return []
    entries = [_entry(e) for e in answer["accessList"][: MAX_ADDRESSES + 1]]
    if len(entries) > MAX_ADDRESSES or sum(len(e["storageKeys"]) for e in entries) > MAX_KEYS:
        raise RpcMalformed(_METHOD, "the list is too long")
    return entries


def _entry(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("storageKeys"), list):
        raise RpcMalformed(_METHOD, "an entry has no keys")
    keys = entry["storageKeys"][: MAX_KEYS + 1]
    return {
        "address": "0x" + octets(entry.get("address"), _METHOD, 20).hex(),
        "storageKeys": ["0x" + octets(key, _METHOD, 32).hex() for key in keys],
    }
