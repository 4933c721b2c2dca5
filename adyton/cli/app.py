"""The command table, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import click

from adyton.cli.failures import EXIT_USAGE, failure_of
from adyton.cli.output import plain, print_json

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("adyton.cli.node", "Run a node (needs adyton[node])."),
    "keys": ("adyton.cli.node", "Create, list and revoke a node's API keys."),
    "verify": ("adyton.cli.verify", "Verify a node, step by step."),
    "verify-quote": ("adyton.cli.quote", "Verify an SGX or TDX quote offline."),
    "explain": ("adyton.cli.explain", "Show any evidence as a tree with what each field means."),
    "chat": ("adyton.cli.chat", "Talk to a verified node."),
    "collateral": ("adyton.cli.collateral", "Fetch collateral, bundle it, look into it."),
    "receipt": ("adyton.cli.receipt", "Fetch receipts and verify them offline."),
    "manifest": ("adyton.cli.manifest", "Render, lint, measure and sign Gramine manifests."),
    "chain": ("adyton.cli.chain", "Let contracts check quotes and receipts."),
    "demo": ("adyton.cli.demo", "Start a simulated node and try everything against it."),
}
"""Command -> (module, one-line help). The module holds it under its name, - as _."""


class LazyGroup(click.Group):
    """A group whose commands are imported when one of them is called, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"adyton {version('adyton')}")
        ctx.exit(0)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 ok, 2 usage, 3 malformed, 4 not authentic, 5 refused by policy, "
        "6 collateral or network, 1 anything else."
    ),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version.",
)
def cli() -> None:
    """Confidential AI that anyone can check.

    Start a node, verify one, talk to it over a channel that ends in the attested
    machine, and keep signed receipts that verify offline.
    """


def _report_failure(error: BaseException, *, as_json: bool) -> int:
    """Tell the person or the script what went wrong; returns the exit code."""
    failure = failure_of(error)
    if as_json:
        print_json({"verdict": "reject", **failure.to_json()})
        return failure.exit_code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    click.echo(f"adyton: {failure.headline}: {plain(failure.reason)}", err=True)
    for hint in failure.hints:
        click.echo(f"  {plain(hint)}", err=True)
    return failure.exit_code


def run(argv: list[str]) -> int:
    """Run `argv`; every exception ends here, with its exit code."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    as_json = "--json" in own
    try:
        result: Any = cli.main(args=argv, prog_name="adyton", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader of a pipe has left; what it did not read it did not want.
        sys.stderr.close()
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("adyton: interrupted", err=True)
        return 1
    except Exception as e:
        return _report_failure(e, as_json=as_json)
    return result if isinstance(result, int) else 0
