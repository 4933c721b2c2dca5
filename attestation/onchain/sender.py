"""Transactions that are mined once, whatever the network does to the messages about them.

A transaction is signed once, under one nonce, and from then on only the same bytes are
broadcast: a chain mines a nonce once, so no retry can send twice. The signed bytes live in
memory alone. A crash between signing and broadcasting forgets them, and a crash after
broadcasting leaves a transaction that may be mined; whoever runs again then sends another.
That is harmless here, because what we send may be repeated: collateral and registrations
are the same after the second time as after the first, a proposed measurement too, and a
deployment that was not written to a file is used by nobody. Operations for which this is not
so need a journal before they may use this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestation.onchain.abi import checksummed
from attestation.onchain.access import AccessLists
from attestation.onchain.account import Account
from attestation.onchain.faults import (
    ChainError,
    FeeTooHigh,
    GasTooHigh,
    MinedInVain,
    NonceTaken,
    RpcError,
    RpcMalformed,
    RpcUnreachable,
    SendUncertain,
)
from attestation.onchain.rpc import Block, Rpc, octets, quantity, reverts_named

GWEI: Final = 10**9
MAX_GAS: Final = 1 << 24
"""What one transaction may use: EIP-7825."""
GAS_MARGIN: Final = 5
"""A limit is the estimate and a fifth of it: the state may change before it is mined."""
DEFAULT_MAX_FEE: Final = 100 * GWEI
_DEFAULT_TIP: Final = GWEI
_KNOWN: Final = ("already known", "alreadyknown", "known transaction", "already imported")
_TAKEN: Final = ("nonce too low", "nonce_too_low", "oldnonce", "replacement ")
_TAKEN_LOOKS: Final = 4
"""How often our transaction must be unknown before its nonce counts as another's: behind one
URL may stand several nodes, and the one that is asked may lag behind the one that answered."""
_NO_METHOD: Final = -32601


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei for each gas, at most, and what of it goes to whoever makes the block. EIP-1559."""

    max_fee: int
    tip: int


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that is in the chain and did what it should."""

    tx_hash: str
    block_number: int
    block_hash: bytes
    gas_used: int
    contract: str | None


@dataclass(frozen=True, slots=True)
class _Signed:
    raw: bytes
    tx_hash: str
    nonce: int
    call: Mapping[str, Any]


class Sender:
    """Sends with one account over one RPC node, one transaction at a time.

    `max_fee` (wei for each gas) is never exceeded; a transaction counts as mined under
    `confirmations` blocks, its own included. The first transaction takes the place of the
    pending one that `replace` names, if any; each takes the place of one that this sender gave
    up waiting for and that is still pending, so that one of the two is paid for at most.
    """

    def __init__(
        self,
        rpc: Rpc,
        account: Account,
        *,
        max_fee: int = DEFAULT_MAX_FEE,
        confirmations: int = 1,
        timeout_s: float = 300.0,
        poll_s: float = 1.0,
        replace: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if confirmations < 1:
            raise ValueError("a transaction is confirmed by one block at least")
        self.rpc, self.account = rpc, account
        self._max_fee, self._confirmations = max_fee, confirmations
        self._timeout_s, self._poll_s = timeout_s, poll_s
        self._replace = replace
        self._hanging: str | None = None
        self._sleep, self._clock = sleep, clock
        self._lists = AccessLists(rpc)

    @property
    def address(self) -> str:
        return self.account.address

    def send(self, to: str | None, data: bytes, *, value: int = 0) -> Mined:
        """The transaction is mined and succeeded; `to` None deploys `data`. `value` is in wei.

        Raises ContractRefused before anything is paid where it would revert; GasTooHigh,
        FeeTooHigh, NonceTaken, SendUncertain, RpcError.
        """
        with self.account.sole_use():
            call, gas = self._priced(self._call(to, data, value))
            signed = self._sign(call, gas, *self._place())
            self._hanging = signed.tx_hash
            mined = self._settled(signed)
            self._hanging = None
            return mined

    # --- before signing ---------------------------------------------------------------------

    def _call(self, to: str | None, data: bytes, value: int) -> dict[str, str]:
        call = {"from": self.address, "data": "0x" + data.hex(), "value": hex(value)}
        return call if to is None else {**call, "to": to}

    def _priced(self, call: Mapping[str, str]) -> tuple[Mapping[str, Any], int]:
        """The call in its cheapest form, and its gas limit: the estimate and a margin, within
        what the protocol allows."""
        method = "eth_estimateGas"
        with reverts_named():
            needed = quantity(self.rpc.request(method, dict(call)), method)
        cheapest, needed = self._lists.cheaper(call, needed)
        if needed > MAX_GAS:
            raise GasTooHigh(f"{needed} gas are needed; a transaction may use {MAX_GAS}")
        return cheapest, min(needed + needed // GAS_MARGIN, MAX_GAS)

    def _place(self) -> tuple[int, Fees]:
        """Nonce and fees of the next transaction.

        One that was left hanging gives up its nonce: what is tried again and again while fees
        are high would else be mined, and paid for, as often as it was tried.
        """
        if self._replace is not None:
            place = self._outbid(self._replace)
            self._replace = None
            return place
        if self._hanging is not None:
            try:
                return self._outbid(self._hanging)
            except NonceTaken:
                self._hanging = None  # mined by now, or known no more
        return self._next_nonce(), self.fees()

    def _next_nonce(self) -> int:
        return self._count("pending")

    def _count(self, tag: str) -> int:
        method = "eth_getTransactionCount"
        return quantity(self.rpc.request(method, self.address, tag), method)

    def fees(self) -> Fees:
        """What to offer now: twice the base fee and a tip, cut to what is allowed.

        Raises FeeTooHigh when not even the present base fee and the tip are allowed.
        """
        block = self.rpc.block()
        tip = min(self._tip(), self._max_fee)
        base = self._base_fee(block)
        if base + tip > self._max_fee:
            raise FeeTooHigh(
                f"gas costs {(base + tip) / GWEI:.3f} gwei now, "
                f"and {self._max_fee / GWEI:.3f} are allowed"
            )
        return Fees(min(2 * base + tip, self._max_fee), tip)

    @staticmethod
    def _base_fee(block: Block) -> int:
        if block.base_fee is None:
            raise ChainError("the chain has no base fee (EIP-1559)")
        return block.base_fee

    def _tip(self) -> int:
        method = "eth_maxPriorityFeePerGas"
        try:
            return quantity(self.rpc.request(method), method)
        except RpcError as e:
            if e.code != _NO_METHOD:
                raise
            return _DEFAULT_TIP

    def _outbid(self, tx_hash: str) -> tuple[int, Fees]:
        """Nonce of our pending transaction, and fees an eighth above its own.

        Nodes replace a transaction only for a tenth more. Raises NonceTaken when it is mined
        or unknown, FeeTooHigh.
        """
        method = "eth_getTransactionByHash"
        found = self.rpc.request(method, tx_hash)
        if not isinstance(found, Mapping) or found.get("blockNumber") is not None:
            raise NonceTaken(f"{tx_hash} is not pending: nothing to replace")
        sender = octets(found.get("from"), method, 20)
        if sender != bytes.fromhex(self.address[2:]):
            raise ChainError(f"{tx_hash} is not a transaction of {self.address}")
        now = self.fees()
        old_fee = quantity(found.get("maxFeePerGas"), method)
        old_tip = quantity(found.get("maxPriorityFeePerGas"), method)
        fees = Fees(max(now.max_fee, _raised(old_fee)), max(now.tip, _raised(old_tip)))
        if fees.max_fee > self._max_fee:
            raise FeeTooHigh(f"replacing it takes {fees.max_fee / GWEI:.3f} gwei for each gas")
        return quantity(found.get("nonce"), method), fees

    def _sign(self, call: Mapping[str, Any], gas: int, nonce: int, fees: Fees) -> _Signed:
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": self.rpc.chain_id,
            "nonce": nonce,
            "gas": gas,
            "maxFeePerGas": fees.max_fee,
            "maxPriorityFeePerGas": fees.tip,
            "value": int(call["value"], 16),
            "data": call["data"],
        }
        if "to" in call:
            transaction["to"] = checksummed(call["to"])
        if "accessList" in call:
            transaction["accessList"] = call["accessList"]
        raw, tx_hash = self.account.sign(transaction)
        return _Signed(raw, tx_hash, nonce, call)

    # --- after signing: only these bytes ------------------------------------------------------

    def _settled(self, signed: _Signed) -> Mined:
        """Broadcast until mined deep enough. A block that is dropped starts the wait again."""
        deadline = self._clock() + self._timeout_s
        why, taken = "not mined yet", 0
        while True:
            try:
                mined = self._look(signed)
                if mined is not None:
                    return mined
                taken = 0
            except RpcUnreachable as e:
                why = str(e)
            except NonceTaken:
                taken += 1
                if taken == _TAKEN_LOOKS:
                    raise
            if self._clock() >= deadline:
                raise SendUncertain(signed.tx_hash, signed.nonce, why)
            self._sleep(self._poll_s)

    def _look(self, signed: _Signed) -> Mined | None:
        """The mined transaction, or None while that has to be waited for."""
        receipt = self._receipt(signed)
        if receipt is None:
            self._broadcast(signed)
            receipt = self._receipt(signed)
        if receipt is None:
            return None
        mined = _mined(receipt)
        if self.rpc.block().number < mined.block_number + self._confirmations - 1:
            return None
        if self._confirmations > 1 and not self._still_there(mined):
            return None
        if quantity(receipt.get("status"), "receipt") != 1:
            self._explain(signed, mined)
        return mined

    def _receipt(self, signed: _Signed) -> Mapping[str, Any] | None:
        method = "eth_getTransactionReceipt"
        found = self.rpc.request(method, signed.tx_hash)
        if found is None:
            return None
        if not isinstance(found, Mapping) or found.get("transactionHash") != signed.tx_hash:
            raise RpcMalformed(method, "not the receipt of the transaction asked for")
        return found if found.get("blockNumber") is not None else None

    def _still_there(self, mined: Mined) -> bool:
        return self.rpc.block(mined.block_number).hash == mined.block_hash

    def _broadcast(self, signed: _Signed) -> None:
        """The node has the signed bytes. Raises NonceTaken when it never will."""
        method = "eth_sendRawTransaction"
        try:
            answered = self.rpc.request(method, "0x" + signed.raw.hex())
        except RpcError as e:
            message = e.message.lower()
            if any(word in message for word in _KNOWN):
                return
            if any(word in message for word in _TAKEN):
                self._check_taken(signed, e)
                return
            raise
        if answered != signed.tx_hash:
            raise RpcMalformed(method, f"answered {str(answered)[:70]!r}, not {signed.tx_hash}")

    def _check_taken(self, signed: _Signed, error: RpcError) -> None:
        """Return when it is our own transaction that has the nonce; raise NonceTaken else."""
        known = self.rpc.request("eth_getTransactionByHash", signed.tx_hash)
        if known is None and self._receipt(signed) is None:
            raise NonceTaken(
                f"nonce {signed.nonce} of {self.address} belongs to another transaction "
                f"({error.message[:100]}); {signed.tx_hash} was not mined"
            )

    def _explain(self, signed: _Signed, mined: Mined) -> None:
        """Raise why a mined transaction failed: ContractRefused where the chain repeats it."""
        with reverts_named():
            self.rpc.request("eth_call", dict(signed.call), hex(mined.block_number - 1))
            self.rpc.request("eth_call", dict(signed.call), hex(mined.block_number))
        raise MinedInVain(f"{signed.tx_hash} was mined in block {mined.block_number}, but failed")


def _raised(fee: int) -> int:
    return fee + fee // 8 + 1


def _mined(receipt: Mapping[str, Any]) -> Mined:
    what = "eth_getTransactionReceipt"
    contract = receipt.get("contractAddress")
    return Mined(
        tx_hash=str(receipt["transactionHash"]),
        block_number=quantity(receipt.get("blockNumber"), what),
        block_hash=octets(receipt.get("blockHash"), what, 32),
        gas_used=quantity(receipt.get("gasUsed"), what),
        contract=None if contract is None else "0x" + octets(contract, what, 20).hex(),
    )
