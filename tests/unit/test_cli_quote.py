"""`adyton verify-quote` over simulated quotes, good and bad."""

from __future__ import annotations

import io
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from fake_node import issuer

from adyton.cli import main

DATA = bytes(range(64))


class Case:
    """A quote with collateral and root on disk, and a way to judge it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], tee: str) -> None:
        made = issuer(tee)
        evidence = made.issue(DATA)
        assert evidence.collateral is not None
        self.capsys = capsys
        self.bytes = evidence.quote
        self.measurement = made.measurement
        self.quote = folder / "quote.bin"
        self.quote.write_bytes(evidence.quote)
        self.collateral = folder / "collateral.json"
        self.collateral.write_text(json.dumps(evidence.collateral.to_json()))
        self.root = folder / "root.der"
        self.root.write_bytes(made.root_der)

    def run(self, *extra: str, quote: str | None = None) -> tuple[int, dict[str, Any]]:
        self.capsys.readouterr()
        code = main(
            [
                "verify-quote",
                str(self.quote) if quote is None else quote,
                "--collateral",
                str(self.collateral),
                "--json",
                *extra,
            ]
        )
        out = self.capsys.readouterr().out
        assert out.count("\n") == 1
        return code, json.loads(out)

    def genuine(self, *extra: str, quote: str | None = None) -> tuple[int, dict[str, Any]]:
        return self.run("--root", str(self.root), "--policy", "genuine", *extra, quote=quote)


@pytest.fixture(params=["tdx", "sgx"])
def case(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Case:
    return Case(tmp_path, capsys, request.param)


def test_good_quote_is_accepted_with_its_facts(case: Case) -> None:
    code, document = case.genuine()
    assert code == 0
    assert (document["verdict"], document["reason"]) == ("accept", None)
    assert document["tcb_status"] == "UpToDate" and document["simulated"] is True
    assert document["measurement"] == case.measurement
    assert document["report_data"] == DATA.hex()
    assert document["inspection_only"] is True


def test_strict_accepts_the_pinned_and_bound_quote_only(case: Case) -> None:
    root = ("--root", str(case.root))
    pinned = (*root, "--measurement", case.measurement.upper())
    code, document = case.run(*pinned, "--report-data", DATA.hex())
    assert (code, document["verdict"], document["inspection_only"]) == (0, "accept", False)
    code, document = case.run(*pinned)
    assert (code, [f["field"] for f in document["findings"]]) == (5, ["report_data"])
    code, document = case.run(*root, "--report-data", "00" * 32)
    assert code == 5 and len(document["findings"]) == 2
    assert document["verdict"] == "reject" and document["tcb_status"] == "UpToDate"


def test_quote_may_be_hex_or_come_by_stdin(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "quote.hex"
    text.write_text("0x" + case.bytes.hex() + "\n")
    assert case.genuine(quote=str(text))[0] == 0
    text.write_text("\n".join(case.bytes.hex()[i : i + 64] for i in range(0, 20000, 64)))
    assert case.genuine(quote=str(text))[0] == 0

    class Stdin:
        buffer = io.BytesIO(case.bytes)

    monkeypatch.setattr("sys.stdin", Stdin)
    assert case.genuine(quote="-")[0] == 0


def test_root_may_be_pem(case: Case, tmp_path: Path) -> None:
    pem = tmp_path / "root.pem"
    pem.write_text(ssl.DER_cert_to_PEM_cert(case.root.read_bytes()))
    assert case.run("--root", str(pem), "--policy", "genuine")[0] == 0


def test_intel_is_the_default_root_and_knows_no_simulator(case: Case) -> None:
    code, document = case.run("--policy", "genuine")
    assert (code, document["error"], document["step"]) == (4, "VerificationError", "root")
    assert document["tcb_status"] is None and document["tee"] in ("tdx", "sgx")


@pytest.mark.parametrize("place", [50, 200, 700, -600])
def test_flipped_bytes_are_refused(case: Case, place: int) -> None:
    changed = bytearray(case.bytes)
    changed[place] ^= 1
    case.quote.write_bytes(changed)
    code, document = case.genuine()
    assert code in (3, 4) and document["verdict"] == "reject" and document["reason"]


@pytest.mark.parametrize("data", [b"", b"no quote", b"\x00" * 2000, b"abc", b"ab" * 600])
def test_bytes_that_are_no_quote_are_malformed(case: Case, data: bytes) -> None:
    case.quote.write_bytes(data)
    code, document = case.genuine()
    assert (code, document["error"], document["tee"]) == (3, "MalformedEvidence", None)


def test_truncated_quote_is_malformed(case: Case) -> None:
    case.quote.write_bytes(case.bytes[:-1])
    assert case.genuine()[0] == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"a":1,"a":1}', "null"])
def test_unreadable_collateral_is_code_6(case: Case, text: str) -> None:
    case.collateral.write_text(text)
    code, document = case.genuine()
    assert (code, document["error"]) == (6, "CollateralError")


@pytest.mark.parametrize("offset", [-40 * 86400, 400 * 86400])
def test_time_outside_the_collateral_is_refused(case: Case, offset: int) -> None:
    code, document = case.genuine("--at", str(int(time.time()) + offset))
    assert (code, document["verdict"]) == (4, "reject")


@pytest.mark.parametrize(
    "extra",
    [
        ("--at", "-1"),
        ("--at", "soon"),
        ("--report-data", "zz"),
        ("--report-data", "00"),
        ("--root", "absent"),
        ("--policy", "absent.yaml"),
        ("--measurement", "00"),
    ],
)
def test_mistakes_in_options_are_code_2(case: Case, extra: tuple[str, str]) -> None:
    code, document = case.run(*extra)
    assert (code, document["verdict"]) == (2, "reject")


def test_root_that_is_no_certificate_is_code_2(case: Case, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    assert case.run("--root", str(junk))[0] == 2


def test_policy_file_decides(case: Case, tmp_path: Path) -> None:
    tee = "tdx" if len(case.measurement) == 96 else "sgx"
    register = {"tdx": "mr_td", "sgx": "mr_enclave"}[tee]
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"version: 1\nname: mine\nmeasurements:\n  {tee}:\n    - {register}: '{case.measurement}'\n"
    )
    given = ("--root", str(case.root), "--policy", str(policy), "--report-data", DATA.hex())
    code, document = case.run(*given)
    assert (code, document["policy"]) == (0, "mine")
    policy.write_text("version: 1\nname: mine\nsurprise: 1\n")
    assert case.run(*given)[0] == 2


def test_people_see_simulated_and_inspection_only(case: Case) -> None:
    case.capsys.readouterr()
    code = main(
        ["verify-quote", str(case.quote), "--collateral", str(case.collateral),
         "--root", str(case.root), "--policy", "genuine"]
    )  # fmt: skip
    out = case.capsys.readouterr().out
    assert code == 0 and "SIMULATED" in out and "inspection only" in out
