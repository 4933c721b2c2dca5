"""Options that the chain commands share: which chain, which contracts, whose key."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from adyton.cli.options import READABLE

if TYPE_CHECKING:
    from attestation.onchain.account import Account
    from attestation.onchain.deployment import Deployment
    from attestation.onchain.rpc import Rpc
    from attestation.onchain.sender import Sender

F = TypeVar("F", bound=Callable[..., Any])

NEEDED: Final = {
    "coincurve": "coincurve",
    "eth_abi": "eth-abi",
    "eth_account": "eth-account",
    "Crypto": "pycryptodome",
}
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")
PASSWORD_VARIABLE: Final = "ADYTON_KEY_PASSWORD"  # noqa: S105 - a name, not a password


def require_onchain() -> None:
    """Raise LibraryMissing unless everything that speaks to a chain is installed."""
    from adyton.errors import LibraryMissing

    absent = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if absent:
        raise LibraryMissing(
            f"speaking to a chain needs {', '.join(absent)}: pip install 'adyton[onchain]'"
        )


def rpc_option(f: F) -> F:
    """--rpc, as `rpc_url`."""
    return click.option(
        "--rpc",
        "rpc_url",
        required=True,
        metavar="URL",
        envvar="ADYTON_RPC",
        help="An RPC node of the chain. Its answers are believed: run it yourself, or trust it.",
    )(f)


def chain_options(f: F) -> F:
    """--rpc and --deployment."""
    f = click.option(
        "--deployment",
        "deployment_file",
        type=READABLE,
        required=True,
        envvar="ADYTON_DEPLOYMENT",
        help="Where the contracts are: the file `adyton chain deploy` wrote.",
    )(f)
    return rpc_option(f)


def _transaction_hash(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> str | None:
    if value is not None and not _HASH.fullmatch(value):
        raise click.BadParameter("must be a transaction's hash: 0x and 64 hex digits")
    return None if value is None else value.lower()


def key_options(f: F) -> F:
    """--key, --password-file, --max-fee, --confirmations and --replace."""
    f = click.option(
        "--replace",
        metavar="HASH",
        callback=_transaction_hash,
        help="Take the place of this pending transaction of the same account, for a higher fee.",
    )(f)
    f = click.option(
        "--confirmations",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        help="Blocks that must contain or follow a transaction.",
    )(f)
    f = click.option(
        "--max-fee",
        "max_fee_gwei",
        type=click.FloatRange(min=0, min_open=True),
        default=100.0,
        show_default=True,
        metavar="GWEI",
        help="Never pay more than this for each gas.",
    )(f)
    f = click.option(
        "--password-file",
        type=READABLE,
        help=f"The password of an encrypted key file; else ${PASSWORD_VARIABLE}, else asked for.",
    )(f)
    return click.option(
        "--key",
        "key_file",
        type=READABLE,
        envvar="ADYTON_KEY_FILE",
        help="Who pays: a file of 64 hex digits, or an encrypted keystore; readable by you only.",
    )(f)


@dataclass(frozen=True)
class KeyOptions:
    """What `key_options` collected."""

    key_file: Path | None
    password_file: Path | None
    max_fee_gwei: float
    confirmations: int
    replace: str | None

    def account(self) -> Account:
        from attestation.onchain.account import Account

        if self.key_file is None:
            raise click.UsageError("somebody has to pay for the transaction: name a --key")
        return Account.load(self.key_file, self._password)

    def _password(self) -> str:
        if self.password_file is not None:
            return self.password_file.read_text("utf-8").rstrip("\r\n")
        given = os.environ.get(PASSWORD_VARIABLE)
        if given is not None:
            return given
        return str(click.prompt("password of the key file", hide_input=True, err=True))

    def sender(self, rpc: Rpc) -> Sender:
        from attestation.onchain.sender import GWEI, Sender

        return Sender(
            rpc,
            self.account(),
            max_fee=int(self.max_fee_gwei * GWEI),
            confirmations=self.confirmations,
            replace=self.replace,
        )


@contextmanager
def connected(rpc_url: str, deployment_file: Path) -> Generator[tuple[Rpc, Deployment]]:
    """The RPC node, which serves the chain of the deployment, and the deployment."""
    require_onchain()
    from attestation.onchain.deployment import Deployment
    from attestation.onchain.rpc import Rpc

    deployment = Deployment.load(deployment_file)
    with Rpc(rpc_url, chain_id=deployment.chain_id) as rpc:
        _ = rpc.chain_id  # refuses another chain before anything else is asked
        yield rpc, deployment


def address(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """A click callback: an address in hex, checksummed."""
    if value is None:
        return None
    require_onchain()
    from attestation.onchain.abi import read_address

    try:
        return read_address(value)
    except ValueError as e:
        raise click.BadParameter(str(e)) from None
