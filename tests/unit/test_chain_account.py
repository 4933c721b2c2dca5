"""Keys are read from private files only and never shown; deployments say where contracts are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account as Accounts
from fake_chain import KEY, TARGET

from attestation.errors import MalformedEvidence
from attestation.onchain.abi import checksummed, keccak, read_address
from attestation.onchain.account import Account
from attestation.onchain.deployment import Deployment
from attestation.onchain.faults import AccountError

ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", [KEY.hex(), "0x" + KEY.hex().upper() + "\n"])
def test_a_hex_key_is_read(tmp_path: Path, text: str) -> None:
    assert Account.load(key_file(tmp_path, text)).address == ADDRESS


def test_a_keystore_is_opened_with_its_password_only(tmp_path: Path) -> None:
    path = key_file(tmp_path, json.dumps(Accounts.encrypt(KEY, "right", iterations=2)))
    assert Account.load(path, lambda: "right").address == ADDRESS
    with pytest.raises(AccountError, match="does not open it"):
        Account.load(path, lambda: "wrong")
    with pytest.raises(AccountError, match="no password was given"):
        Account.load(path)


@pytest.mark.parametrize("change", [{"version": 2}, {"version": None}, {"crypto": {}}])
def test_a_keystore_of_another_version_is_not_blamed_on_the_password(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    made = {**Accounts.encrypt(KEY, "right", iterations=2), **change}
    with pytest.raises(AccountError, match="not a keystore of version 3"):
        Account.load(key_file(tmp_path, json.dumps(made)), lambda: "right")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_others_may_read_is_not_used(tmp_path: Path, mode: int) -> None:
    with pytest.raises(AccountError, match="chmod 600"):
        Account.load(key_file(tmp_path, KEY.hex(), mode))


@pytest.mark.parametrize(
    "text",
    ["", "hello", KEY.hex()[:-1], "[]", "{}", '{"crypto":{}}', "é" * 64, "00" * 32, "ff" * 32],
)
def test_what_is_no_key_is_refused_without_being_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(AccountError) as raised:
        Account.load(key_file(tmp_path, text), lambda: "password")
    assert not text.strip() or text not in str(raised.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match="No such file"):
        Account.load(tmp_path / "none")


def test_nothing_shows_the_key(tmp_path: Path) -> None:
    account = Account.load(key_file(tmp_path, KEY.hex()))
    assert KEY.hex() not in f"{account!r} {account} {vars(account)}"


def test_signing_leaves_the_recursion_limit_alone() -> None:
    """What eth-account loads raises it to where nested JSON from a node overruns the stack."""
    program = (
        "import sys; before = sys.getrecursionlimit()\n"
        "from attestation.onchain.account import Account\n"
        "Account(bytes(31) + b'\\1'); assert sys.getrecursionlimit() == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_one_key_signs_for_one_user_at_a_time(tmp_path: Path) -> None:
    path = key_file(tmp_path, KEY.hex())
    order: list[str] = []

    def other() -> None:
        with Account.load(path).sole_use():
            order.append("other")

    with Account.load(path).sole_use():
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "other"]


@pytest.mark.skipif(os.name != "posix", reason="advisory locks are POSIX")
def test_another_process_with_the_same_file_waits(tmp_path: Path) -> None:
    path = key_file(tmp_path, KEY.hex())
    program = (
        "import sys, pathlib; from attestation.onchain.account import Account\n"
        f"account = Account.load(pathlib.Path({str(path)!r}))\n"
        "print('ready', flush=True)\n"
        "with account.sole_use(): print('in', flush=True)\n"
    )
    with Account.load(path).sole_use():
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        assert process.poll() is None
    assert process.communicate(timeout=10)[0] == "in\n"


# --- addresses and deployments -----------------------------------------------------------------


def test_checksums_are_those_of_eip_55() -> None:
    for known in (
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ):
        assert checksummed(known) == read_address(known.lower()) == read_address(known) == known
        assert checksummed(bytes.fromhex(known[2:])) == known
        first = next(c for c in known[2:] if c.isalpha())
        with pytest.raises(ValueError, match="checksum"):
            read_address("0x" + known[2:].replace(first, first.swapcase(), 1))


def test_keccak_is_not_sha3() -> None:
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak(b"").hex() == empty


DEPLOYMENT = Deployment(
    chain_id=31337,
    block=7,
    quote_verifier=checksummed("0x" + "a1" * 20),
    node_registry=checksummed("0x" + "a2" * 20),
    measurement_policy=checksummed("0x" + "a3" * 20),
    root_sha256="5a" * 32,
    simulated=True,
)


def test_a_deployment_is_read_as_it_was_written(tmp_path: Path) -> None:
    for deployment in (DEPLOYMENT, replace(DEPLOYMENT, software_p256=checksummed(TARGET))):
        deployment.save(tmp_path / "d.json")
        assert Deployment.load(tmp_path / "d.json") == deployment
    assert [p.name for p in tmp_path.iterdir()] == ["d.json"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("format", "adyton-deployment/2"),
        ("chain_id", True),
        ("chain_id", -1),
        ("block", "7"),
        ("quote_verifier", None),
        ("quote_verifier", "0x" + "a1" * 19),
        ("node_registry", "0x" + "aB" * 20),
        ("root_sha256", "5A" * 32),
        ("simulated", 1),
        ("software_p256", ""),
    ],
)
def test_a_damaged_deployment_is_refused_by_member(member: str, value: object) -> None:
    with pytest.raises(MalformedEvidence, match=f"deployment.{member}"):
        Deployment.from_json({**DEPLOYMENT.to_json(), member: value})


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_bytes(b" " * ((1 << 16) + 1))
    with pytest.raises(MalformedEvidence, match="longer"):
        Deployment.load(tmp_path / "d.json")
