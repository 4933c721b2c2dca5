"""What comes back from a chain instead of a result. Light to import: the CLI's table needs it."""

from __future__ import annotations

from typing import Any

from attestation.errors import AttestationError


class ChainError(AttestationError):
    """The chain could not be asked, or what it answered cannot be used."""


class RpcUnreachable(ChainError):  # noqa: N818 - reads as the fact it states
    """No answer from the RPC node, after every retry."""


class RpcMalformed(ChainError):  # noqa: N818 - reads as the fact it states
    """The answer is too long, or not what JSON-RPC and the method say it has to be."""

    def __init__(self, method: str, detail: str) -> None:
        super().__init__(f"{method}: {detail}")
        self.method, self.detail = method, detail


class RpcError(ChainError):
    """The RPC node answered with an error; `data` is what it carried, of any JSON type."""

    def __init__(self, method: str, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{method}: {message[:300]} (code {code})")
        self.method, self.code, self.message, self.data = method, code, message, data


class WrongChain(ChainError):  # noqa: N818 - reads as the fact it states
    """The RPC node serves another chain than the one asked for."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"the RPC node serves chain {actual}, not {expected}")
        self.expected, self.actual = expected, actual


class NoContract(ChainError):  # noqa: N818 - reads as the fact it states
    """There is no contract of the expected kind at an address."""


class FeeTooHigh(ChainError):  # noqa: N818 - reads as the fact it states
    """Gas costs more now than the caller allows to be paid."""


class GasTooHigh(ChainError):  # noqa: N818 - reads as the fact it states
    """The transaction needs more gas than one transaction may use (EIP-7825)."""


class NonceTaken(ChainError):  # noqa: N818 - reads as the fact it states
    """Another transaction of the same account has the nonce; this one will never be mined."""


class SendUncertain(ChainError):  # noqa: N818 - reads as the fact it states
    """A signed transaction may or may not have been mined by the end of the wait.

    `tx_hash` is what to look for; `replace` it if it hangs because of its fee.
    """

    def __init__(self, tx_hash: str, nonce: int, why: str) -> None:
        super().__init__(f"transaction {tx_hash} (nonce {nonce}) may still be mined: {why}")
        self.tx_hash, self.nonce = tx_hash, nonce


class MinedInVain(ChainError):  # noqa: N818 - reads as the fact it states
    """The transaction was mined, but failed for a reason that the chain does not repeat."""


class AccountError(AttestationError):
    """A key file cannot be used; the message never holds any of its content."""


class ContractRefused(AttestationError):  # noqa: N818 - reads as the fact it states
    """A contract reverted: `name` is its custom error, `arguments` what the error carries.

    Solidity's own are `Error(string)` and `Panic(uint256)`. `name` is empty where nothing
    was said, and the selector in hex where no known contract has such an error.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        shown = f"({', '.join(self.shown_arguments)})" if arguments else ""
        super().__init__(f"{name or 'reverted without a reason'}{shown}")

    @property
    def shown_arguments(self) -> list[str]:
        """The arguments for people: bytes as 0x hex, everything bounded in length."""
        return [_text(a) for a in self.arguments]


def _text(value: Any) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)[:300]
