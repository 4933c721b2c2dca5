"""A chain on this machine, for as long as the demonstration lasts: anvil, found or named."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adyton.cli.failures import NotDone

if TYPE_CHECKING:
    from attestation.onchain.account import Account
    from attestation.onchain.rpc import Rpc

VARIABLE: Final = "ADYTON_ANVIL"
CHAIN_ID: Final = 31337
START_TIMEOUT_S: Final = 20.0
_MODULES: Final = Path(__file__).parents[2] / "contracts" / "node_modules" / "@foundry-rs"


@dataclass(frozen=True)
class LocalChain:
    """A running anvil of the osaka hardfork, and an account on it that can pay."""

    url: str
    rpc: Rpc
    account: Account

    def mine(self) -> None:
        """A new block, so that contracts know the hash of the last and its time is now."""
        self.rpc.request("evm_mine")


def find_anvil() -> Path:
    """The anvil binary: $ADYTON_ANVIL, the one npm put into contracts/, or one on PATH.

    Raises NotDone saying how to get it.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        if not os.access(named, os.X_OK):
            raise NotDone(f"${VARIABLE} is {named!r}, which is no program")
        return Path(named)
    for found in sorted(_MODULES.glob("anvil-*/bin/anvil*")):
        if os.access(found, os.X_OK):
            return found
    on_path = shutil.which("anvil")
    if on_path is None:
        raise NotDone(
            "there is no anvil to run a local chain with: `make demo` installs it, or name one "
            f"in ${VARIABLE}; `--no-chain` leaves the chain out"
        )
    return Path(on_path)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait(rpc: Rpc, process: subprocess.Popen[bytes], log: Path) -> None:
    from attestation.onchain.faults import RpcUnreachable

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if rpc.chain_id:
                return
        except RpcUnreachable:
            if process.poll() is not None:
                raise NotDone(f"anvil ended while starting: {log.read_text()[-500:]}") from None
            if time.monotonic() > deadline:
                raise NotDone(f"anvil did not answer in {START_TIMEOUT_S:.0f} s") from None


def _rich_account(rpc: Rpc) -> Account:
    """An account of this run only, with play money."""
    from attestation.onchain.account import Account

    account = Account(secrets.token_bytes(32))
    rpc.request("anvil_setBalance", account.address, hex(10**21))
    return account


@contextmanager
def running_anvil(folder: Path) -> Generator[LocalChain]:
    """A chain on a free loopback port, gone when the block ends."""
    from attestation.onchain.rpc import Rpc

    port, log = _free_port(), folder / "anvil.log"
    command = [
        *(str(find_anvil()), "--silent", "--hardfork", "osaka"),
        *("--host", "127.0.0.1", "--port", str(port), "--chain-id", str(CHAIN_ID)),
    ]
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603 - found above or named by the user
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            with Rpc(url, chain_id=CHAIN_ID) as rpc:
                _wait(rpc, process, log)
                yield LocalChain(url, rpc, _rich_account(rpc))
        finally:
            process.terminate()
