"""`adyton explain`: any evidence as a tree, with what each field means. It trusts nothing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import click

from adyton.cli.meanings import meaning
from adyton.cli.options import json_option
from adyton.cli.output import plain, print_json
from adyton.cli.quote import read_quote
from attestation.errors import AttestationError
from attestation.evidence.kind import EvidenceKind, kind_of
from attestation.wire import Field, recorded

_SHOWN_BYTES: Final = 48
_SHOWN_TEXT: Final = 400
_MAX_DEPTH: Final = 12
_MAX_CHILDREN: Final = 200


@dataclass(slots=True)
class Leaf:
    """One line of the tree. `offset` and `size` are None where the format has no places."""

    name: str
    value: str = ""
    meaning: str = ""
    offset: int | None = None
    size: int | None = None
    children: list[Leaf] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self.name}
        for key in ("value", "meaning", "offset", "size"):
            if getattr(self, key) not in ("", None):
                out[key] = getattr(self, key)
        if self.children:
            out["children"] = [c.to_json() for c in self.children]
        return out


def _hex(data: bytes, *, full: bool) -> str:
    if full or len(data) <= _SHOWN_BYTES:
        return data.hex()
    return f"{data[:_SHOWN_BYTES].hex()}… ({len(data)} bytes)"


def _text(value: str, *, full: bool) -> str:
    return value if full or len(value) <= _SHOWN_TEXT else f"{value[:_SHOWN_TEXT]}…"


def _shown(f: Field, *, full: bool) -> str:
    if f.integer is not None:
        return f"{f.data.hex()} = {f.integer}"
    if f.data and not any(f.data):
        return f"{len(f.data)} zero bytes"
    return _hex(f.data, full=full)


def _innermost(read: Sequence[Field]) -> Iterator[Field]:
    """Every field once, without those that were taken whole to be read again in parts."""
    # A header that two readers look at was still read from one place.
    once = list({(f.name, f.offset): f for f in read}.values())
    for i, f in enumerate(once):
        after = once[i + 1] if i + 1 < len(once) else None
        if after is None or after.offset != f.offset or len(after.data) >= len(f.data):
            yield f


def from_fields(read: Sequence[Field], *, full: bool) -> list[Leaf]:
    """The tree of what cursors read, nested by the dots in the names."""
    top = Leaf("")
    for f in _innermost(read):
        *path, last = f.name.split(".")
        place = top
        for name in path:
            if not place.children or place.children[-1].name != name:
                place.children.append(Leaf(name))
            place = place.children[-1]
        told = meaning(f.name, f.data)
        place.children.append(Leaf(last, _shown(f, full=full), told, f.offset, len(f.data)))
    return top.children


def from_value(path: str, value: Any, *, full: bool, depth: int = 0) -> Leaf:
    """The tree of a parsed value: dataclasses, mappings and sequences become branches."""
    name = path.rpartition(".")[2]
    parts = _parts(value) if depth < _MAX_DEPTH else None
    if parts is None:
        data = bytes(value) if isinstance(value, bytes | bytearray) else b""
        text = _hex(data, full=full) if isinstance(value, bytes | bytearray) else str(value)
        return Leaf(name, _text(text, full=full), meaning(path, data))
    shown = parts if full else parts[:_MAX_CHILDREN]
    leaf = Leaf(name, meaning=meaning(path, b""))
    leaf.children = [from_value(f"{path}.{n}", v, full=full, depth=depth + 1) for n, v in shown]
    if len(shown) < len(parts):
        leaf.children.append(Leaf("…", f"{len(parts) - len(shown)} more; --full shows them"))
    return leaf


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    if is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in fields(value) if f.repr]
    if isinstance(value, Mapping):
        return [(str(k).replace(".", "_"), v) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{i}]", v) for i, v in enumerate(value)]
    return None


# --- readers ------------------------------------------------------------------------------


def _quote(data: bytes) -> Any:
    from attestation.evidence import parse_quote

    return parse_quote(data)


def _snp(data: bytes) -> Any:
    from attestation.evidence.snp import AttestationReport

    return AttestationReport.read(data)


def _nitro(data: bytes) -> Any:
    from attestation.evidence.nitro import NitroDocument

    return NitroDocument.read(data)


def _tpm(data: bytes) -> Any:
    from attestation.evidence.tpm import TpmQuote

    return TpmQuote.read(data)


def _nvidia(data: bytes) -> Any:
    from attestation.evidence.nvidia import NvidiaEvidence

    return NvidiaEvidence.read(data)


def _rim(data: bytes) -> Any:
    from attestation.evidence.rim import read_rim

    return read_rim(data)


def _eat(data: bytes) -> Any:
    """The claims of every token, read without their signatures."""
    from attestation.evidence.nras import DetachedEat, Jwt

    if data.lstrip().startswith(b"eyJ"):
        tokens = {"token": Jwt.read("token", data.decode("ascii", "replace").strip())}
    else:
        eat = DetachedEat.read(data)
        tokens = {"overall": eat.overall, **eat.devices}
    return {n: {"header": t.header, "claims": t.claims} for n, t in tokens.items()}


def _event_log(data: bytes) -> Any:
    from attestation.evidence.eventlog_json import parse_event_log

    return parse_event_log(data)


def _ratls(data: bytes) -> Any:
    from attestation.ratls import RaTlsCertificate, certificate_der

    certificate = RaTlsCertificate.read(certificate_der(data))
    return {
        "spki_sha256": certificate.spki_sha256,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "server_name": certificate.server_name,
        "evidence": certificate.evidence,
        "legacy_quote": certificate.legacy_quote,
        "has_endorsements": certificate.endorsements is not None,
    }


def _hcl(data: bytes) -> Any:
    from attestation.evidence.hcl import HclReport

    return HclReport.read(data)


def _json(data: bytes) -> Any:
    from attestation.canonical import loads_strict

    return loads_strict(data, "evidence")


READERS: Final[dict[EvidenceKind, Callable[[bytes], Any]]] = {
    EvidenceKind.SGX: _quote,
    EvidenceKind.TDX: _quote,
    EvidenceKind.SEV_SNP: _snp,
    EvidenceKind.NITRO: _nitro,
    EvidenceKind.TPM: _tpm,
    EvidenceKind.NVIDIA: _nvidia,
    EvidenceKind.NVIDIA_RIM: _rim,
    EvidenceKind.NVIDIA_EAT: _eat,
    EvidenceKind.EVENT_LOG: _event_log,
    EvidenceKind.RATLS: _ratls,
    EvidenceKind.HCL: _hcl,
    EvidenceKind.JSON: _json,
}
"""How each kind is read. What cursors see on the way is shown, else the value itself."""

_BY_PARTS: Final = frozenset({EvidenceKind.RATLS, EvidenceKind.EVENT_LOG, EvidenceKind.HCL})
"""Shown as values: what their cursors see is the inside of parts, or thousands of events."""


@dataclass(slots=True)
class Explained:
    """What could be told of some bytes; `problem` is why there is no more."""

    kind: EvidenceKind | None
    size: int
    tree: list[Leaf]
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "size": self.size,
            "problem": self.problem,
            "fields": [leaf.to_json() for leaf in self.tree],
        }


def explain_bytes(
    data: bytes, kind: EvidenceKind | None = None, *, full: bool = False
) -> Explained:
    """Everything that can be shown of `data`, as `kind` or as what it looks like.

    Never raises on any bytes: what cannot be read is told in `problem`, beside every field
    that came before it.
    """
    kind = kind or kind_of(data)
    if kind is None:
        start = Leaf("first bytes", _hex(data, full=full), size=len(data))
        return Explained(None, len(data), [start], "this is no kind of evidence known here")
    value, problem = None, None
    with recorded() as read:
        try:
            value = READERS[kind](data)
        except AttestationError as e:
            problem = str(e)
        except RecursionError:
            problem = "nested too deeply"
    tree = [] if kind in _BY_PARTS and value is not None else from_fields(read, full=full)
    if not tree and value is not None:
        tree = from_value(str(kind), value, full=full).children
    return Explained(kind, len(data), tree, problem)


# --- for people ---------------------------------------------------------------------------


def _lines(leaves: Sequence[Leaf], depth: int = 0) -> Iterator[str]:
    for leaf in leaves:
        indent = "  " * depth
        place = "" if leaf.offset is None else click.style(f" @{leaf.offset}+{leaf.size}", dim=True)
        value = f"  {plain(leaf.value)}" if leaf.value else ""
        yield f"{indent}{click.style(plain(leaf.name), bold=True)}{place}{value}"
        if leaf.meaning:
            yield click.style(f"{indent}    {plain(leaf.meaning)}", dim=True)
        yield from _lines(leaf.children, depth + 1)


def _print(explained: Explained) -> None:
    kind = explained.kind or "unknown"
    out = io.StringIO()
    out.write(f"{kind}, {explained.size} bytes\n")
    for line in _lines(explained.tree):
        out.write(line + "\n")
    with contextlib.suppress(BrokenPipeError):
        click.echo(out.getvalue(), nl=False)
    if explained.problem:
        click.secho(f"not readable: {plain(explained.problem)}", fg="red")
    click.secho(
        "Shown, not verified: `adyton verify-quote` says whether it is authentic.", dim=True
    )


@click.command(name="explain")
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True, path_type=Path))
@click.option(
    "--evidence-type",
    type=click.Choice([k.value for k in EvidenceKind]),
    help="Read it as this kind, whatever it looks like.",
)
@click.option("--full", is_flag=True, help="Show long values and lists whole.")
@json_option
def explain(*, file: Path, evidence_type: str | None, full: bool, as_json: bool) -> int:
    """Show any evidence as a tree, with what each field means.

    FILE is evidence of any kind, binary or hex, or - for stdin. Nothing is verified.
    """
    kind = None if evidence_type is None else EvidenceKind(evidence_type)
    explained = explain_bytes(read_quote(str(file)), kind, full=full)
    if as_json:
        print_json(explained.to_json())
    else:
        _print(explained)
    return 0 if explained.problem is None else 3
