"""Contracts' functions and errors by name, from their ABI. Pure.

Spec: Solidity contract ABI specification; encoding and decoding are eth-abi's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attestation.onchain.faults import ContractRefused, NoContract

Item = Mapping[str, Any]

_BUILT_IN: Final[tuple[Item, ...]] = (
    {"type": "error", "name": "Error", "inputs": [{"type": "string"}]},
    {"type": "error", "name": "Panic", "inputs": [{"type": "uint256"}]},
)


def keccak(data: bytes) -> bytes:
    """Keccak-256: with the padding Ethereum kept from before FIPS 202, so not SHA3-256."""
    from Crypto.Hash import keccak as implementation

    return implementation.new(digest_bits=256, data=data).digest()


def _type(item: Item) -> str:
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    inner = ",".join(map(_type, item["components"]))
    return f"({inner}){item['type'][5:]}"


def types(items: Iterable[Item]) -> list[str]:
    """Canonical types of parameters, structs as tuples."""
    return [_type(item) for item in items]


def signature(item: Item) -> str:
    """`name(type,...)` of a function, event or error."""
    return f"{item['name']}({','.join(types(item['inputs']))})"


def selector(item: Item) -> bytes:
    """The four bytes a call of this function, or a revert with this error, starts with."""
    return keccak(signature(item).encode())[:4]


class ErrorTable:
    """Custom errors of any number of contracts, by selector."""

    def __init__(self, items: Iterable[Item]) -> None:
        errors = (i for i in (*_BUILT_IN, *items) if i["type"] == "error")
        self._items = {selector(i): i for i in errors}

    @property
    def names(self) -> frozenset[str]:
        return frozenset(i["name"] for i in self._items.values())

    def refusal(self, data: bytes) -> ContractRefused:
        """What revert data says; an unknown error is named by its selector."""
        from eth_abi.abi import decode
        from eth_abi.exceptions import DecodingError

        if not data:
            return ContractRefused("")
        item = self._items.get(data[:4])
        if item is None:
            return ContractRefused(f"0x{data[:4].hex()}", (data[4:],) if data[4:] else ())
        try:
            return ContractRefused(item["name"], decode(types(item["inputs"]), data[4:]))
        except (DecodingError, OverflowError, UnicodeDecodeError):
            return ContractRefused(item["name"], (data[4:],))


class Interface:
    """What can be asked of a contract, and its events. Names are unique: none is overloaded."""

    def __init__(self, name: str, abi: Sequence[Item]) -> None:
        self.name = name
        self._functions = {i["name"]: i for i in abi if i["type"] == "function"}
        self._constructor: Sequence[Item] = next(
            (i["inputs"] for i in abi if i["type"] == "constructor"), []
        )
        self._events = {i["name"]: i for i in abi if i["type"] == "event"}
        self.errors = ErrorTable(abi)

    def has(self, function: str) -> bool:
        return function in self._functions

    def topic(self, event: str) -> bytes:
        """What the first topic of this event's logs is."""
        return keccak(signature(self._events[event]).encode())

    def event(self, event: str, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """The members of an event of this kind; values of dynamic types cannot be indexed here.

        Raises NoContract when the log is not of that form.
        """
        inputs = self._events[event]["inputs"]
        indexed = [i for i in inputs if i["indexed"]]
        plain = [i for i in inputs if not i["indexed"]]
        if len(topics) != len(indexed) + 1:
            raise NoContract(f"a log is no {self.name}.{event}")
        found = zip(indexed, self._decode(event, indexed, b"".join(topics[1:])), strict=True)
        return {
            i["name"]: v
            for i, v in (*found, *zip(plain, self._decode(event, plain, data), strict=True))
        }

    def call(self, function: str, *arguments: Any) -> bytes:
        """Calldata of `function`. Raises TypeError when the arguments do not fit it."""
        item = self._function(function)
        return selector(item) + self._encode(function, item["inputs"], arguments)

    def construct(self, *arguments: Any) -> bytes:
        """What follows the bytecode in a deployment."""
        return self._encode("constructor", self._constructor, arguments)

    def result(self, function: str, data: bytes) -> Any:
        """What `function` returned: one value, a dict of a struct's members, or a tuple.

        Raises NoContract when `data` is not that: nothing, or something else, is deployed.
        """
        outputs = self._function(function)["outputs"]
        values = self._decode(function, outputs, data)
        named = tuple(_named(o, v) for o, v in zip(outputs, values, strict=True))
        return named[0] if len(named) == 1 else named

    def _function(self, name: str) -> Item:
        try:
            return self._functions[name]
        except KeyError:
            raise TypeError(f"{self.name} has no function {name}") from None

    def _decode(self, what: str, outputs: Sequence[Item], data: bytes) -> tuple[Any, ...]:
        from eth_abi.abi import decode
        from eth_abi.exceptions import DecodingError

        try:
            return tuple(decode(types(outputs), data))
        except (DecodingError, OverflowError, UnicodeDecodeError):
            raise NoContract(f"what answered to {self.name}.{what} is no {self.name}") from None

    def _encode(self, what: str, inputs: Sequence[Item], arguments: tuple[Any, ...]) -> bytes:
        from eth_abi.abi import encode
        from eth_abi.exceptions import EncodingError

        try:
            return encode(types(inputs), arguments)
        except (EncodingError, ValueError) as e:
            raise TypeError(f"{self.name}.{what}: {e}") from None


def _named(item: Item, value: Any) -> Any:
    if not item["type"].startswith("tuple"):
        return value
    if item["type"] != "tuple":
        return tuple(_named({**item, "type": item["type"][:-2]}, v) for v in value)
    parts = item["components"]
    return {p["name"]: _named(p, v) for p, v in zip(parts, value, strict=True)}


def checksummed(address: str | bytes) -> str:
    """The EIP-55 form of 20 bytes, or of 40 hex digits of any case."""
    digits = address.hex() if isinstance(address, bytes) else address.removeprefix("0x").lower()
    digest = keccak(digits.encode()).hex()
    return "0x" + "".join(
        c.upper() if int(d, 16) >= 8 else c for c, d in zip(digits, digest[:40], strict=True)
    )


def read_address(text: str) -> str:
    """The EIP-55 form of an address in hex. Raises ValueError, also for a wrong checksum."""
    digits = text.removeprefix("0x")
    if len(digits) != 40 or any(c not in "0123456789abcdefABCDEF" for c in digits):
        raise ValueError("must be an address: 0x and 40 hex digits")
    made = checksummed(digits)
    if digits not in (digits.lower(), digits.upper()) and made != "0x" + digits:
        raise ValueError("its checksum (EIP-55) does not hold: a digit is wrong")
    return made
