"""`adyton chain`: contracts that check quotes and receipts, and what keeps them going."""

from __future__ import annotations

import click

from adyton.cli.chain_collateral import collateral
from adyton.cli.chain_deploy import deploy
from adyton.cli.chain_nodes import register
from adyton.cli.chain_policy import allow, disallow
from adyton.cli.chain_receipt import verify_receipt
from adyton.cli.chain_seat import seat
from adyton.cli.chain_status import status


@click.group(name="chain")
def chain() -> None:
    """Let contracts on an EVM chain check quotes and receipts (needs adyton[onchain]).

    `deploy` puts the contracts there. `collateral`, `register` and `seat` may be run by anyone,
    since contracts believe only signatures; `allow` and `disallow` by the policy's owner.

    A contract's refusal exits with 3 where what it was given is malformed, 4 where it is not
    authentic, 5 where it is not what the policy wants, 6 where collateral on the chain is
    missing or too old.
    """


for command in (deploy, collateral, allow, disallow, register, seat, verify_receipt, status):
    chain.add_command(command)
