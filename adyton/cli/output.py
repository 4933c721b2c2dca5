"""What a person sees, and what a script reads. Text from a node is made harmless first."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from attestation.verify import VerifiedReport


def plain(text: str) -> str:
    """`text` without control characters, so that a node cannot drive the terminal."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=True) + "\n")
    sys.stdout.flush()


def tcb_line(report: VerifiedReport) -> str:
    """The vendor's verdict on the platform's firmware, as people read it."""
    status = report.tcb_status or "no verdict by the vendor"
    advisories = ", ".join(report.facts().get("advisory_ids", ()))
    return f"{status}; advisories: {advisories}" if advisories else status


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class Steps:
    """Prints checks one below the other, each with its mark; silent when `quiet`.

    Colours and marks degrade by themselves where the output is no terminal or cannot
    show them.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        fancy = _can_print("✓✗")
        self._good, self._bad = ("✓", "✗") if fancy else ("ok", "NO")
        self._started = time.monotonic()
        self.records: list[dict[str, Any]] = []

    @property
    def passed(self) -> int:
        return sum(1 for r in self.records if r["ok"])

    @property
    def failed(self) -> int:
        return len(self.records) - self.passed

    def title(self, text: str) -> None:
        """A heading."""
        if not self.quiet:
            click.echo()
            click.secho(plain(text), bold=True)

    def note(self, text: str, *, warn: bool = False) -> None:
        """A line that is no check."""
        if not self.quiet:
            click.secho(f"    {plain(text)}", fg="yellow" if warn else None, dim=not warn)

    @contextmanager
    def waiting(self, text: str) -> Generator[None]:
        """Show that something takes its time, where there is a terminal to show it on."""
        if self.quiet or not sys.stdout.isatty():
            yield
            return
        from rich.console import Console

        with Console().status(text):
            yield

    def ok(self, name: str, detail: str = "", *, took_s: float | None = None) -> None:
        """A check that held."""
        self._record(name, True, detail, took_s)

    def fail(self, name: str, detail: str = "", *, took_s: float | None = None) -> None:
        """A check that did not."""
        self._record(name, False, detail, took_s)

    def _record(self, name: str, good: bool, detail: str, took_s: float | None) -> None:
        record: dict[str, Any] = {"check": name, "ok": good, "detail": detail}
        if took_s is not None:
            record["ms"] = round(took_s * 1000, 1)
        self.records.append(record)
        if self.quiet:
            return
        mark = click.style(
            self._good if good else self._bad, fg="green" if good else "red", bold=True
        )
        line = f"  {mark} {plain(name)}"
        if took_s is not None:
            line += click.style(f"  [{_duration(took_s)}]", dim=True)
        click.echo(line)
        for part in plain(detail).splitlines():
            click.secho(f"      {part}", dim=good, fg=None if good else "red")


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


SIMULATED_BANNER = (
    "SIMULATED: this node has no TEE. Its evidence is made by a program anyone can run;\n"
    "it proves nothing about who can read a prompt."
)


def print_simulated(*, err: bool = False) -> None:
    """Say it so that nobody can miss it."""
    for line in SIMULATED_BANNER.splitlines():
        click.secho(f"  !! {line}", fg="yellow", bold=True, err=err)
