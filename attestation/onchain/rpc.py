"""JSON-RPC to a chain's node, which is not trusted: bounded in size and time, and retried.

Everything sent here may be repeated: it reads, or it broadcasts bytes that were signed once
(attestation.onchain.sender). Spec: JSON-RPC 2.0; Ethereum execution API.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from attestation.canonical import jcs, loads_strict
from attestation.errors import MalformedEvidence
from attestation.onchain import artifacts
from attestation.onchain.faults import (
    ChainError,
    NoContract,
    RpcError,
    RpcMalformed,
    RpcUnreachable,
    WrongChain,
)

MAX_ANSWER_BYTES: Final = 8 << 20
ATTEMPTS: Final = 5
TIMEOUT_S: Final = 30.0
_FIRST_DELAY_S: Final = 0.25
_LONGEST_DELAY_S: Final = 8.0
_BUSY: Final = frozenset({-32005, -32016})
"""Error codes with which RPC providers say "too many requests" in an HTTP 200."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_QUANTITY: Final = re.compile(r"0x(?:0|[1-9a-f][0-9a-f]{0,63})")
_DATA: Final = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_REVERT: Final = re.compile(r"(?:Reverted )?(0x(?:[0-9a-fA-F]{2})*)")


@dataclass(frozen=True, slots=True)
class Block:
    """A block's number, hash (32 bytes), time (Unix seconds) and base fee (wei, or None)."""

    number: int
    hash: bytes
    time: int
    base_fee: int | None


def quantity(value: Any, method: str) -> int:
    """An integer of the execution API. Raises RpcMalformed."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise RpcMalformed(method, "a number is not 0x and hex digits")
    return int(value, 16)


def octets(value: Any, method: str, size: int | None = None) -> bytes:
    """Bytes of the execution API, of this size where one is given. Raises RpcMalformed."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise RpcMalformed(method, "data is not 0x and pairs of hex digits")
    data = bytes.fromhex(value[2:])
    if size is not None and len(data) != size:
        raise RpcMalformed(method, f"{len(data)} bytes, expected {size}")
    return data


class Rpc:
    """One RPC node. Its URL may hold a provider's key, so only its host is ever shown.

    `chain_id` is the chain it must serve; without one, it is the one it says it serves.
    """

    def __init__(
        self,
        url: str,
        *,
        chain_id: int | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ChainError("the RPC URL must be http:// or https:// with a host")
        self.shown = f"{parts.scheme}://{parts.hostname}"
        self._url, self._expected, self._sleep = url, chain_id, sleep
        self._timeout_s = timeout_s
        self._actual: int | None = None
        self._id = 0
        self._http = httpx.Client(
            transport=transport,
            timeout=timeout_s,
            headers={"accept-encoding": "identity", "content-type": "application/json"},
            follow_redirects=False,
            trust_env=parts.hostname not in _LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- what is asked -----------------------------------------------------------------

    @property
    def chain_id(self) -> int:
        """The chain it serves, asked once. Raises WrongChain when another was expected."""
        if self._actual is None:
            actual = quantity(self.request("eth_chainId"), "eth_chainId")
            if self._expected is not None and actual != self._expected:
                raise WrongChain(self._expected, actual)
            self._actual = actual
        return self._actual

    def block(self, which: int | str = "latest") -> Block:
        """A block by number or tag. Raises RpcMalformed when there is none."""
        method = "eth_getBlockByNumber"
        tag = hex(which) if isinstance(which, int) else which
        found = self.request(method, tag, False)
        if not isinstance(found, Mapping):
            raise RpcMalformed(method, f"there is no block {which}")
        fee = found.get("baseFeePerGas")
        return Block(
            number=quantity(found.get("number"), method),
            hash=octets(found.get("hash"), method, 32),
            time=quantity(found.get("timestamp"), method),
            base_fee=None if fee is None else quantity(fee, method),
        )

    def has_code(self, address: str) -> bool:
        return octets(self.request("eth_getCode", address, "latest"), "eth_getCode") != b""

    def call(
        self,
        to: str,
        data: bytes,
        *,
        sender: str | None = None,
        block: int | str = "latest",
    ) -> bytes:
        """What a call would return. Raises ContractRefused when it would revert."""
        transaction = {"to": to, "data": "0x" + data.hex()}
        if sender is not None:
            transaction["from"] = sender
        tag = hex(block) if isinstance(block, int) else block
        with reverts_named():
            return octets(self.request("eth_call", transaction, tag), "eth_call")

    def read(self, contract: str, to: str, function: str, *arguments: Any) -> Any:
        """What a view function of `contract` (its name) at `to` returns, decoded.

        Raises NoContract when nothing is deployed there, ContractRefused when it reverts.
        """
        interface = artifacts.artifact(contract).interface
        data = self.call(to, interface.call(function, *arguments))
        if not data and not self.has_code(to):
            raise NoContract(f"{to} on chain {self.chain_id}: no {contract} is deployed there")
        return interface.result(function, data)

    def events(
        self, contract: str, at: str, event: str, first: int, last: int
    ) -> Iterator[dict[str, Any]]:
        """Every such event of `contract` (its name) at `at` in these blocks, oldest first.

        Providers limit how many blocks one question may span: a span that is refused is
        asked in halves. Raises RpcError when not even a single block is answered.
        """
        interface = artifacts.artifact(contract).interface
        topic = "0x" + interface.topic(event).hex()
        spans = [(first, last)]
        while spans:
            start, end = spans.pop()
            try:
                found = self._logs(at, topic, start, end)
            except RpcError:
                if end <= start:
                    raise
                middle = (start + end) // 2
                spans += [(middle + 1, end), (start, middle)]
                continue
            for topics, data in found:
                yield interface.event(event, topics, data)

    def _logs(self, at: str, topic: str, first: int, last: int) -> list[tuple[list[bytes], bytes]]:
        method = "eth_getLogs"
        asked = {
            "address": at,
            "topics": [topic],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        found = self.request(method, asked)
        if not isinstance(found, list) or not all(isinstance(i, Mapping) for i in found):
            raise RpcMalformed(method, "not a list of logs")
        return [_log(log, at, topic) for log in found]

    # --- how it is asked ----------------------------------------------------------------

    def request(self, method: str, *params: Any) -> Any:
        """The result of one method, retried while the node is silent or busy.

        Raises RpcUnreachable, RpcMalformed, RpcError.
        """
        delay = _FIRST_DELAY_S
        for attempt in range(ATTEMPTS):
            try:
                return self._once(method, params)
            except (_Again, RpcError) as e:
                if isinstance(e, RpcError) and e.code not in _BUSY:
                    raise
                if attempt == ATTEMPTS - 1:
                    raise RpcUnreachable(f"{self.shown}: {method}: {e}") from None
                wait = e.after_s if isinstance(e, _Again) and e.after_s is not None else delay
                self._sleep(min(wait, _LONGEST_DELAY_S))
                delay = min(delay * 2, _LONGEST_DELAY_S)
        raise AssertionError("unreachable")

    def _once(self, method: str, params: tuple[Any, ...]) -> Any:
        self._id += 1
        asked = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": list(params)}
        try:
            status, after, body = self._post(method, jcs(asked))
        except (httpx.TransportError, httpx.InvalidURL) as e:
            raise _Again(type(e).__name__) from None
        if status == 429 or status >= 500:
            raise _Again(f"HTTP {status}", after)
        return self._result(method, status, body)

    def _post(self, method: str, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, Retry-After in seconds and body, read up to the limit and the deadline."""
        deadline = time.monotonic() + self._timeout_s
        received = bytearray()
        with self._http.stream("POST", self._url, content=body) as response:
            for chunk in response.iter_raw():
                received += chunk
                if len(received) > MAX_ANSWER_BYTES:
                    raise RpcMalformed(method, f"the answer is over {MAX_ANSWER_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise _Again("the answer was not complete in time")
            after = response.headers.get("retry-after", "")
        return response.status_code, float(after) if after.isdecimal() else None, bytes(received)

    def _result(self, method: str, status: int, body: bytes) -> Any:
        try:
            answer = loads_strict(body, "answer")
        except MalformedEvidence:
            raise RpcMalformed(method, f"HTTP {status} without a JSON document") from None
        if not isinstance(answer, Mapping) or answer.get("jsonrpc") != "2.0":
            raise RpcMalformed(method, f"HTTP {status} without a JSON-RPC answer")
        error = answer.get("error")
        if error is not None:
            raise _error(method, error)
        if answer.get("id") != self._id or "result" not in answer:
            raise RpcMalformed(method, "the answer is not to this request")
        return answer["result"]


def _log(log: Mapping[str, Any], at: str, topic: str) -> tuple[list[bytes], bytes]:
    method = "eth_getLogs"
    topics = log.get("topics")
    if str(log.get("address")).lower() != at.lower() or not isinstance(topics, list):
        raise RpcMalformed(method, "a log of another contract")
    if topics[:1] != [topic]:
        raise RpcMalformed(method, "a log of another event")
    return [octets(t, method, 32) for t in topics], octets(log.get("data"), method)


class _Again(Exception):  # noqa: N818 - never leaves this module
    """Worth another attempt, after so many seconds where the server said so."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


def _error(method: str, error: Any) -> RpcError | RpcMalformed:
    if not isinstance(error, Mapping):
        return RpcMalformed(method, "the error is no object")
    code, message = error.get("code"), error.get("message")
    if isinstance(code, bool) or not isinstance(code, int) or not isinstance(message, str):
        return RpcMalformed(method, "the error has no code or message")
    return RpcError(method, code, message, error.get("data"))


def revert_data(error: RpcError) -> bytes | None:
    """The data of a revert, in any of the forms nodes put it; None for another error."""
    data = error.data
    if isinstance(data, Mapping):
        data = data.get("data", data.get("result"))
    found = _REVERT.fullmatch(data) if isinstance(data, str) else None
    if found is not None:
        return bytes.fromhex(found[1][2:])
    return b"" if error.code == 3 or "revert" in error.message.lower() else None


@contextmanager
def reverts_named() -> Iterator[None]:
    """A revert in the block becomes ContractRefused; other errors stay what they are."""
    try:
        yield
    except RpcError as e:
        data = revert_data(e)
        if data is None:
            raise
        raise artifacts.errors().refusal(data) from e
