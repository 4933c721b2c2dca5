"""Writes docs/cli.md from the commands themselves: `python -m adyton.cli.helpdoc`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from adyton.cli.app import cli
from adyton.cli.failures import EXIT_CODES

WIDTH: Final = 90

_HEAD: Final = """\
# The `adyton` command

<!-- Written by `python -m adyton.cli.helpdoc`; a test compares the two. -->

Every command takes `--json` and then prints one JSON object on stdout, for a refusal
too: `{"verdict": "reject", "error": <class>, "reason": <text>, ...}`. For people,
results go to stdout and errors to stderr.

## Exit codes

| code | meaning | raised as |
| --- | --- | --- |
| 0 | ok | |
"""

_MEANINGS: Final = {
    1: "anything else",
    2: "usage",
    3: "malformed",
    4: "not authentic",
    5: "refused by policy",
    6: "collateral or network",
}


def exit_table() -> str:
    """The rows for codes above 0, from the one table the CLI uses."""
    rows = []
    for code in (2, 3, 4, 5, 6, 1):
        names = ", ".join(f"`{kind.__name__}`" for kind, c, _ in EXIT_CODES if c == code)
        rows.append(f"| {code} | {_MEANINGS[code]} | {names} |\n")
    return "".join(rows)


def sections(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    """Help of `command` and, below it, of its subcommands."""
    context = click.Context(
        command,
        info_name=path.rpartition(" ")[2],
        parent=parent,
        terminal_width=WIDTH,
        **command.context_settings,
    )
    yield f"\n## `{path}`\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            if sub is not None:
                yield from sections(sub, f"{path} {name}", context)


def render() -> str:
    """The whole page."""
    return _HEAD + exit_table() + "".join(sections(cli, "adyton", None))


if __name__ == "__main__":
    click.echo(render(), nl=False)
