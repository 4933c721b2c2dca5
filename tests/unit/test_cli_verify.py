"""The commands that talk to a node, run in this process against a node that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_node import FakeNode

from adyton.cli import main


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path, "node").running() as running:
        yield running


@pytest.fixture
def root(node: FakeNode, tmp_path: Path) -> str:
    path = tmp_path / "root.der"
    path.write_bytes(node.root)
    return str(path)


class Cli:
    """Runs commands; keeps exit code, stdout and stderr of the last one."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(arguments)
        out = self._capsys.readouterr()
        return code, out.out, out.err

    def json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = self(*arguments, "--json")
        assert out.count("\n") == 1, "one JSON object on one line"
        document: dict[str, Any] = json.loads(out)
        return code, document


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


# --- verify ------------------------------------------------------------------------


def test_verify_prints_each_check_and_says_simulated(node: FakeNode, root: str, cli: Cli) -> None:
    code, out, err = cli("verify", node.url, "--root", root, "--measurement", node.measurement)
    assert (code, err) == (0, "")
    for check in ("authentic", "fresh", "keyset", "policy strict", "channel"):
        assert check in out
    assert out.count("✓") == 8 and "✗" not in out
    assert "SIMULATED" in out and node.measurement in out
    assert "inspection only" not in out


def test_verify_under_genuine_says_it_is_for_inspection(
    node: FakeNode, root: str, cli: Cli
) -> None:
    code, out, _ = cli("verify", node.url, "--root", root, "--policy", "genuine")
    assert code == 0
    assert "inspection only" in out and f"--measurement {node.measurement}" in out


def test_verify_json_names_everything_established(node: FakeNode, root: str, cli: Cli) -> None:
    code, document = cli.json("verify", node.url, "--root", root, "--policy", "genuine")
    assert code == 0
    expected = {
        "verdict": "accept",
        "reason": None,
        "tee": "tdx",
        "simulated": True,
        "tcb_status": "UpToDate",
        "measurement": node.measurement,
        "keyset_digest": node.keyset.digest,
        "tls_spki_sha256": node.tls.spki_sha256,
        "policy": "genuine",
        "inspection_only": True,
        "findings": [],
    }
    assert document | expected == document
    assert document["claims"]["tee_attested"]["source"] == "hardware_proven"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ((), 4, "VerificationError"),
        (("--root", "ROOT"), 5, "PolicyError"),
        (("--root", "ROOT", "--measurement", "00" * 48), 5, "PolicyError"),
        (("--root", "ROOT", "--measurement", "xyz"), 2, "UsageError"),
        (("--root", "ROOT", "--policy", "no-such-file.yaml"), 2, "UsageError"),
        (("--root", "no-such-file"), 2, "BadParameter"),
    ],
)
def test_verify_refusals_have_their_exit_code(
    node: FakeNode, root: str, cli: Cli, arguments: tuple[str, ...], code: int, error: str
) -> None:
    given = [root if a == "ROOT" else a for a in arguments]
    got, document = cli.json("verify", node.url, *given)
    assert (got, document["verdict"], document["error"]) == (code, "reject", error)
    assert document["reason"]


def test_verify_refusal_for_people_names_the_check_and_what_to_do(
    node: FakeNode, root: str, cli: Cli
) -> None:
    code, out, err = cli("verify", node.url)
    assert code == 4 and "✗" in out and "root" in out
    assert "not authentic" in err and "--root" in err
    code, out, err = cli("verify", node.url, "--root", root)
    assert code == 5 and node.measurement in out
    assert "refused by policy" in err and "--measurement" in err


def test_verify_malformed_report_is_code_3(node: FakeNode, root: str, cli: Cli) -> None:
    node.fixed_report = b"[]"
    code, document = cli.json("verify", node.url, "--root", root)
    assert (code, document["error"]) == (3, "MalformedResponse")


def test_verify_nobody_there_is_code_6(cli: Cli) -> None:
    code, document = cli.json("verify", "https://127.0.0.1:1")
    assert (code, document["error"]) == (6, "NodeUnreachable")


def test_verify_error_status_is_code_6(node: FakeNode, root: str, cli: Cli) -> None:
    node.report_status = 500
    code, document = cli.json("verify", node.url, "--root", root)
    assert (code, document["error"]) == (6, "NodeRefused")


def test_verify_plain_http_is_code_2(cli: Cli) -> None:
    code, document = cli.json("verify", "http://127.0.0.1:1")
    assert (code, document["error"]) == (2, "UnsafeUrl")


def test_verify_through_a_man_in_the_middle_is_code_4(tmp_path: Path, cli: Cli) -> None:
    genuine, middle = FakeNode(tmp_path, "genuine"), FakeNode(tmp_path, "middle")
    middle.report_from = genuine
    root = tmp_path / "r.der"
    root.write_bytes(genuine.root)
    with middle.running():
        code, document = cli.json("verify", middle.url, "--root", str(root), "--policy", "genuine")
    assert (code, document["error"], document["step"]) == (4, "ChannelError", "channel")


def test_hostile_text_cannot_drive_the_terminal(node: FakeNode, root: str, cli: Cli) -> None:
    node.edit_report = lambda r: r | {"workload_keyset_digest": "\x1b]0;owned\x07\x9b31m"}
    code, out, err = cli("verify", node.url, "--root", root)
    assert code == 4
    assert not {"\x1b", "\x07", "\x9b"} & set(out + err)


def test_saved_certificate_pins_the_node_for_other_clients(
    node: FakeNode, root: str, cli: Cli, tmp_path: Path
) -> None:
    import ssl

    cert = tmp_path / "cert.pem"
    assert (
        cli("verify", node.url, "--root", root, "--policy", "genuine", "--save-cert", str(cert))[0]
        == 0
    )
    assert ssl.PEM_cert_to_DER_cert(cert.read_text()) == node.tls.certificate_der


# --- chat --------------------------------------------------------------------------


def test_chat_prints_the_answer_and_its_receipt(node: FakeNode, root: str, cli: Cli) -> None:
    code, out, err = cli(
        "chat", "hello", "--url", node.url, "--root", root, "--api-key", "k",
        "--measurement", node.measurement,
    )  # fmt: skip
    assert (code, out) == (0, "One two three\n")
    assert "SIMULATED" in err and f"receipt {next(iter(node.receipts))}" in err


def test_chat_json_holds_answer_and_proof(node: FakeNode, root: str, cli: Cli) -> None:
    code, document = cli.json(
        "chat", "hello", "--url", node.url, "--root", root, "--policy", "genuine"
    )
    assert code == 0
    assert document["answer"] == "One two three"
    assert document["receipt_id"] in node.receipts
    assert document["simulated"] is True and document["inspection_only"] is True


def test_chat_sends_nothing_to_a_refused_node(node: FakeNode, root: str, cli: Cli) -> None:
    code, _, err = cli("chat", "a secret", "--url", node.url, "--root", root)
    assert code == 5 and "refused by policy" in err
    assert node.prompts == []


def test_chat_answer_that_fails_its_receipt_is_code_4(node: FakeNode, root: str, cli: Cli) -> None:
    node.flip_response = True
    code, document = cli.json(
        "chat", "hello", "--url", node.url, "--root", root, "--policy", "genuine"
    )
    assert (code, document["error"]) == (4, "ReceiptError")


def test_chat_reads_a_prompt_from_stdin(
    node: FakeNode, root: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    code, out, _ = cli("chat", "--url", node.url, "--root", root, "--policy", "genuine")
    assert (code, out) == (0, "One two three\n")
    assert b"from a pipe" in node.prompts[0]
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert cli("chat", "--url", node.url, "--root", root, "--policy", "genuine")[0] == 2


def test_chat_on_a_terminal_is_a_conversation(
    node: FakeNode, root: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("first\nsecond\n\n"))
    code, out, err = cli("chat", "--url", node.url, "--root", root, "--policy", "genuine")
    assert code == 0 and out.count("One two three") == 2
    assert err.count("receipt ") == 2
    assert [m["role"] for m in json.loads(node.prompts[1])["messages"]] == [
        "user",
        "assistant",
        "user",
    ]


def test_chat_answer_cannot_drive_the_terminal(
    node: FakeNode, root: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fake_node

    chunks = [c.replace(b" two", b"\\u001b]0;x\\u0007") for c in fake_node.stream_chunks()]
    monkeypatch.setattr(fake_node, "stream_chunks", lambda: chunks)
    _, out, _ = cli("chat", "hi", "--url", node.url, "--root", root, "--policy", "genuine")
    assert out.startswith("One") and "\x1b" not in out


# --- receipt -----------------------------------------------------------------------


def chat_keeping_bundle(node: FakeNode, root: str, cli: Cli, folder: Path) -> Path:
    code, *_ = cli(
        "chat", "hello", "--url", node.url, "--root", root, "--policy", "genuine",
        "--receipt-dir", str(folder), "--api-key", "k",
    )  # fmt: skip
    assert code == 0
    (path,) = folder.glob("*.json")
    return path


def test_kept_bundle_verifies_offline(node: FakeNode, root: str, cli: Cli, tmp_path: Path) -> None:
    path = chat_keeping_bundle(node, root, cli, tmp_path / "kept")
    assert path.stat().st_mode & 0o777 == 0o600
    code, document = cli.json(
        "receipt", "verify", str(path), "--root", root, "--measurement", node.measurement
    )
    assert code == 0
    assert document["checked_request"] and document["checked_response"]
    assert document["simulated"] is True
    code, out, _ = cli("receipt", "verify", str(path), "--root", root, "--policy", "genuine")
    assert code == 0 and "SIMULATED" in out and "inspection only" in out


def test_changed_bundles_are_refused(node: FakeNode, root: str, cli: Cli, tmp_path: Path) -> None:
    path = chat_keeping_bundle(node, root, cli, tmp_path / "kept")
    kept = json.loads(path.read_text())

    def verdict(change: dict[str, Any], *extra: str) -> tuple[int, str]:
        path.write_text(json.dumps(kept | change))
        code, document = cli.json(
            "receipt", "verify", str(path), "--root", root, "--policy", "genuine", *extra
        )
        return code, document.get("step", document.get("error", ""))

    assert verdict({}) == (0, "")
    assert verdict({"response_b64": "AAAA"}) == (4, "response.returned")
    assert verdict({"request_b64": "AAAA"}) == (4, "request.received")
    assert verdict({"request_b64": "!"}) == (3, "MalformedResponse")
    assert verdict({"receipt": kept["receipt"] | {"model": "other"}}) == (4, "signature")
    assert verdict({"nonce": "00" * 32}) == (4, "report_data")
    assert verdict({"nonce": "short"}) == (3, "MalformedEvidence")
    assert verdict({"format": "other"})[0] == 2
    assert verdict({}, "--at", str(node.not_after + 1)) == (4, "keyset.not_after")


def test_receipt_verify_takes_bare_documents(
    node: FakeNode, root: str, cli: Cli, tmp_path: Path
) -> None:
    path = chat_keeping_bundle(node, root, cli, tmp_path / "kept")
    kept = json.loads(path.read_text())
    bare, report, body = tmp_path / "receipt", tmp_path / "report", tmp_path / "body"
    bare.write_text(json.dumps(kept["receipt"]))
    report.write_text(json.dumps(kept["report"]))
    body.write_bytes(node.prompts[0])
    trust = ("--root", root, "--policy", "genuine")
    assert cli("receipt", "verify", str(bare), *trust)[0] == 2
    given = ("--report", str(report), "--nonce", kept["nonce"], "--request", str(body))
    code, document = cli.json("receipt", "verify", str(bare), *given, *trust)
    assert (code, document["checked_request"], document["checked_response"]) == (0, True, False)
    code, document = cli.json(
        "receipt", "verify", str(bare), *given, "--response", str(body), *trust
    )
    assert (code, document["step"]) == (4, "response.returned")
    assert cli("receipt", "verify", str(bare), "--report", str(report), *trust)[0] == 4


def test_report_saved_by_verify_serves_for_receipts(
    node: FakeNode, root: str, cli: Cli, tmp_path: Path
) -> None:
    path = chat_keeping_bundle(node, root, cli, tmp_path / "kept")
    report = tmp_path / "report.json"
    trust = ("--root", root, "--policy", "genuine")
    assert cli("verify", node.url, *trust, "--save-report", str(report))[0] == 0
    bare = tmp_path / "receipt"
    bare.write_text(json.dumps(json.loads(path.read_text())["receipt"]))
    assert cli("receipt", "verify", str(bare), "--report", str(report), *trust)[0] == 0


def test_receipt_get_fetches_a_bundle(node: FakeNode, root: str, cli: Cli, tmp_path: Path) -> None:
    chat_keeping_bundle(node, root, cli, tmp_path / "kept")
    receipt_id = next(iter(node.receipts))
    where = ("--url", node.url, "--root", root, "--policy", "genuine")
    code, out, _ = cli("receipt", "get", receipt_id, *where, "--api-key", "k")
    assert code == 0 and json.loads(out)["receipt"]["receipt_id"] == receipt_id
    file = tmp_path / "got.json"
    got = cli("receipt", "get", receipt_id, *where, "--api-key", "k", "--out", str(file))
    assert got[0] == 0 and "written to" in got[1]
    assert cli("receipt", "verify", str(file), "--root", root, "--policy", "genuine")[0] == 0
    code, document = cli.json("receipt", "get", "unknown", *where, "--api-key", "k")
    assert (code, document["error"]) == (1, "NotDone")


def test_receipt_get_refuses_another_receipt(
    node: FakeNode, root: str, cli: Cli, tmp_path: Path
) -> None:
    chat_keeping_bundle(node, root, cli, tmp_path / "kept")
    node.raw_receipt = (200, json.dumps(next(iter(node.receipts.values()))).encode())
    where = ("--url", node.url, "--root", root, "--policy", "genuine", "--api-key", "k")
    code, document = cli.json("receipt", "get", "r" + "f" * 30, *where)
    assert code == 1 and "another exchange" in document["reason"]


# --- the command itself --------------------------------------------------------------


def test_exit_codes_are_told_apart() -> None:
    import click

    import adyton
    from adyton.cli.failures import exit_code_of

    cases: list[tuple[BaseException, int]] = [
        (click.UsageError("x"), 2),
        (adyton.UnsafeUrl("x"), 2),
        (adyton.MalformedEvidence("f", "x"), 3),
        (adyton.MalformedResponse("f", "x"), 3),
        (adyton.VerificationError("s", "x"), 4),
        (adyton.ChannelError("s", "x"), 4),
        (adyton.ReceiptError("s", "x"), 4),
        (adyton.PolicyError(()), 5),
        (adyton.CollateralError("x"), 6),
        (adyton.NodeUnreachable("x"), 6),
        (adyton.NodeRefused("x", 500), 6),
        (ValueError("x"), 1),
        (OSError("x"), 1),
    ]
    assert [exit_code_of(e)[0] for e, _ in cases] == [code for _, code in cases]


def test_openai_errors_have_exit_codes() -> None:
    import httpx2
    import openai

    from adyton.cli.failures import exit_code_of

    request = httpx2.Request("GET", "https://h/")
    assert exit_code_of(openai.APIConnectionError(request=request))[0] == 6
    assert exit_code_of(openai.APIError("x", request, body=None))[0] == 1


@pytest.mark.parametrize("arguments", [(), ("no-such-command",), ("verify",), ("--no-such",)])
def test_usage_mistakes_are_code_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments)[0] == 2


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("receipt", "--help")])
def test_help_and_version_are_no_errors(cli: Cli, arguments: tuple[str, ...]) -> None:
    code, out, _ = cli(*arguments)
    assert code == 0 and out


def test_serve_and_keys_hand_everything_to_the_gateway(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        assert path == sys.executable
        calls.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", execv)
    for given in (["serve", "--tee", "simulator", "--json"], ["serve", "--help"], ["keys", "list"]):
        with pytest.raises(SystemExit):
            cli(*given)
        assert calls[-1] == [sys.executable, "-P", "-m", "gateway", *given]


def test_files_in_the_current_folder_do_not_run_instead_of_the_node(tmp_path: Path) -> None:
    for name in ("gateway.py", "adyton.py", "click.py"):
        (tmp_path / name).write_text("print('hijacked')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "adyton.cli", "serve", "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "--tee" in done.stdout and "hijacked" not in done.stdout


@pytest.mark.parametrize("command", ["serve", "keys", "demo"])
def test_without_the_node_installed_its_commands_say_what_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("adyton.cli.node.find_spec", lambda name: None)
    code, _, err = cli(command)
    assert code == 1 and "adyton[node]" in err


def test_output_stays_readable_where_marks_cannot_be_printed(node: FakeNode, root: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adyton.cli", "verify", node.url, "--root", root,
         "--policy", "genuine"],
        env={"PYTHONIOENCODING": "ascii", "PATH": ""}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"  ok " in done.stdout


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in memory after a fresh interpreter ran `statement`."""
    code = f"{statement}\nimport sys; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_adyton_loads_nothing_heavy() -> None:
    heavy = {"openai", "httpx2", "cryptography", "click", "dcap_qvl", "rich", "yaml"}
    assert not heavy & loaded_by("import adyton, adyton.cli")


def test_verify_quote_loads_neither_http_nor_openai() -> None:
    heavy = {"openai", "httpx", "httpx2", "httpcore2", "jsonschema", "rich", "numpy", "grpc"}
    assert not heavy & loaded_by(
        "import adyton.cli.app, adyton.cli.quote, attestation.policy as p, attestation.verify\n"
        "p.load_policy('genuine')"
    )


def test_all_public_names_load() -> None:
    import adyton

    for name in adyton.__all__:
        assert getattr(adyton, name) is not None
    assert set(adyton.__all__) <= set(dir(adyton))
    with pytest.raises(AttributeError):
        _ = adyton.no_such_name


def test_documented_help_is_the_real_help() -> None:
    from adyton.cli.helpdoc import render

    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text("utf-8") == render(), "run: python -m adyton.cli.helpdoc > docs/cli.md"
