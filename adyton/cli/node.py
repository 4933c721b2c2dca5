"""`adyton serve` and `adyton keys`: this process becomes the gateway's own command.

The client installs without the node; what the node takes as arguments is the node's
business, so they go through unread, `--help` included.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Final, NoReturn

import click

from adyton.cli.failures import NotDone

NEEDED: Final = ("gateway", "fastapi", "uvicorn", "sqlalchemy", "onnxruntime", "grpc")

_PASS_THROUGH: Final = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


def missing() -> list[str]:
    """Packages of the node that are not installed; nothing is imported to find out."""
    return [name for name in NEEDED if find_spec(name) is None]


def become_gateway(command: str, arguments: tuple[str, ...]) -> NoReturn:
    """Replace this process by `python -m gateway COMMAND`. Raises NotDone when not installed.

    `-P`, because a file named gateway.py in the current folder must not run instead.
    """
    if absent := missing():
        raise NotDone(
            f"the node is not installed ({', '.join(absent)} missing): pip install 'adyton[node]'"
        )
    sys.stdout.flush()
    os.execv(  # noqa: S606 - no shell: our own interpreter, the caller's own arguments
        sys.executable, [sys.executable, "-P", "-m", "gateway", command, *arguments]
    )


@click.command(
    name="serve",
    context_settings=_PASS_THROUGH,
    add_help_option=False,
    short_help="Run a node (needs adyton[node]).",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> None:
    """Run a node: `adyton serve --tee auto|gramine|tsm|dstack|simulator [options]`.

    All arguments go to the gateway; `adyton serve --help` lists them.
    """
    become_gateway("serve", arguments)


@click.command(
    name="keys",
    context_settings=_PASS_THROUGH,
    add_help_option=False,
    short_help="Create, list and revoke a node's API keys.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def keys(arguments: tuple[str, ...]) -> None:
    """Manage a node's API keys: `adyton keys create NAME|list|revoke --state-dir DIR`.

    All arguments go to the gateway; `adyton keys --help` lists them.
    """
    become_gateway("keys", arguments)
