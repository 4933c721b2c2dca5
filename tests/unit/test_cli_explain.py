"""`adyton explain` shows whatever there is, and garbage is no reason to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attested
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adyton.cli.app import run
from adyton.cli.explain import Leaf, explain_bytes, from_value
from adyton.cli.meanings import meaning
from attestation.evidence.kind import EvidenceKind


def flat(leaves: list[Leaf], path: str = "") -> dict[str, Leaf]:
    out: dict[str, Leaf] = {}
    for leaf in leaves:
        name = f"{path}.{leaf.name}" if path else leaf.name
        out[name] = leaf
        out |= flat(leaf.children, name)
    return out


@pytest.mark.parametrize("kind", attested.KINDS)
def test_every_field_of_a_quote_is_shown_once_with_its_place(kind: str) -> None:
    data = attested.quote(kind)
    explained = explain_bytes(data)
    assert explained.problem is None and explained.kind == kind.partition("-")[0]
    shown = [leaf for leaf in flat(explained.tree).values() if leaf.size and not leaf.children]
    assert len({leaf.offset for leaf in shown}) == len(shown)
    assert min(leaf.offset for leaf in shown if leaf.offset is not None) == 0
    register = "mr_enclave" if kind.startswith("sgx") else "mr_td"
    assert "which" in flat(explained.tree)[f"quote.body.{register}"].meaning


def test_a_debug_bit_is_spelt_out() -> None:
    data = attested.flip(attested.quote("tdx-v4"), (48 + 120) * 8)
    told = flat(explain_bytes(data).tree)["quote.body.td_attributes"].meaning
    assert "DEBUG" in told
    assert "DEBUG" not in meaning("quote.body.td_attributes", bytes(8))


def test_a_cut_quote_shows_what_came_before_the_cut() -> None:
    explained = explain_bytes(attested.quote("tdx-v4")[:700])
    assert explained.problem is not None and "needs" in explained.problem
    assert "quote.body.mr_td" in flat(explained.tree)
    assert "quote.signature.attestation_key" not in flat(explained.tree)


def test_json_is_shown_as_it_is_nested() -> None:
    explained = explain_bytes(b'{"a": {"b": [1, "two"]}, "report_data": "00"}')
    tree = flat(explained.tree)
    assert tree["a.b.[1]"].value == "two" and tree["report_data"].meaning


def test_long_lists_and_values_are_shown_whole_only_on_request() -> None:
    data = json.dumps({"list": list(range(500)), "text": "x" * 5000}).encode()
    short, full = explain_bytes(data), explain_bytes(data, full=True)
    assert "more" in flat(short.tree)["list.…"].value
    assert len(flat(short.tree)["text"].value) < 500
    assert len(flat(full.tree)["list"].children) == 500
    assert len(flat(full.tree)["text"].value) == 5000


def test_nesting_without_end_is_cut() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    assert from_value("deep", deep, full=True)
    assert explain_bytes(b"[" * 100_000, EvidenceKind.JSON).problem is not None


@given(st.binary(max_size=2000), st.sampled_from([None, *EvidenceKind]))
def test_any_bytes_as_any_kind_never_raise(data: bytes, kind: EvidenceKind | None) -> None:
    json.dumps(explain_bytes(data, kind).to_json())


@given(st.data())
def test_damaged_quotes_never_raise(data: st.DataObject) -> None:
    quote = attested.quote(data.draw(st.sampled_from(attested.KINDS)))
    bit = data.draw(st.integers(0, len(quote) * 8 - 1))
    explain_bytes(attested.flip(quote, bit))


def test_the_command_prints_a_tree_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "quote.hex"
    file.write_text(attested.quote("tdx-v4").hex())
    assert run(["explain", str(file)]) == 0
    told = capsys.readouterr().out
    assert "mr_td" in told and "not verified" in told
    assert run(["explain", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "tdx" and document["problem"] is None
    assert document["fields"][0]["name"] == "quote"


def test_garbage_exits_with_malformed_and_shows_its_first_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "garbage"
    file.write_bytes(b"\x00\x01garbage\x1b[2J")
    assert run(["explain", str(file)]) == 3
    told = capsys.readouterr().out
    assert "0001676172" in told and "\x1b[2J" not in told
    assert run(["explain", str(file), "--evidence-type", "tdx", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["problem"]
