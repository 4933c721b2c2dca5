"""`adyton chain` against a real node and a local chain, as an operator would type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from attested import SEED
from chain import Chain
from running import RunningNode, chat

from adyton.cli import anvil, main
from attestation.issuers.simulator.platform import SimulatedPlatform
from attestation.onchain import artifacts
from attestation.onchain.deployment import Deployment
from attestation.onchain.rpc import Rpc

CONTEXT = "5eed" * 16
VECTORS = Path(os.environ.get("ADYTON_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
STRANGER = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"


def genuine() -> list[dict[str, Any] | None]:
    """One quote of Intel's for each technology, newest first, or None where there are none."""
    manifest = VECTORS / "manifest.json"
    listed = json.loads(manifest.read_text()) if manifest.is_file() else []
    listed.sort(key=lambda v: v["verification_time"] or 0, reverse=True)
    accepted = [v for v in listed if (v.get("expected") or {}).get("verdict") == "accept"]
    found = (next((v for v in accepted if v["tee"] == tee), None) for tee in ("sgx", "tdx"))
    return [v for v in found if v is not None] or [None]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Iterator[None]:
    """The contracts as just compiled, where a run names them; else those of the package."""
    given, before = os.environ.get("ADYTON_ARTEFACTS"), artifacts.FOLDER
    if given is not None:
        artifacts.FOLDER = Path(given)  # type: ignore[misc]
    for cached in (artifacts._read, artifacts.artifact, artifacts.errors):
        cached.cache_clear()
    yield
    artifacts.FOLDER = before  # type: ignore[misc]


@dataclass(frozen=True)
class Local:
    """A chain, an account that can pay, and where this test keeps its deployment."""

    rpc: Rpc
    url: str
    key: Path
    file: Path

    @property
    def where(self) -> list[str]:
        return ["--rpc", self.url, "--deployment", str(self.file)]

    @property
    def paying(self) -> list[str]:
        return [*self.where, "--key", str(self.key)]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("chain")
    with anvil.running_anvil(folder) as chain:
        key = folder / "key"
        key.touch(0o600)
        key.write_text(bytes(chain.account._local.key).hex())
        yield Local(chain.rpc, chain.url, key, folder / "deployment.json")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        """The exit code and the one JSON object of `adyton chain ARGUMENTS --json`."""
        capsys.readouterr()
        code = main(["chain", *arguments, "--json"])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1, lines
        return code, json.loads(lines[0])

    return run


@pytest.fixture
def deployed(local: Local, run) -> Iterator[Local]:
    """Fresh contracts under the test platform's root; the chain is put back afterwards."""
    mark = local.rpc.request("evm_snapshot")
    root = local.file.with_name("root.der")
    root.write_bytes(SimulatedPlatform(seed=SEED, now=local.rpc.block().time).root_der)
    code, told = run("deploy", *deploying(local), "--root", str(root))
    assert code == 0 and told["simulated"] is True, told
    yield local
    local.rpc.request("evm_revert", mark)


def deploying(local: Local) -> list[str]:
    local.file.unlink(missing_ok=True)
    return ["--rpc", local.url, "--key", str(local.key), "--out", str(local.file)]


def saved(local: Local, tee: str, **platform: Any) -> str:
    """A file with the test platform's collateral of now."""
    machine = SimulatedPlatform(seed=SEED, now=local.rpc.block().time, **platform)
    path = local.file.with_name(f"{tee}.json")
    path.write_text(json.dumps(machine.collateral(tee).to_json()))
    return str(path)


# --- the whole way --------------------------------------------------------------------------


@pytest.mark.slow
def test_from_nothing_to_an_accepted_receipt_and_back(
    node: RunningNode, local: Local, run, tmp_path: Path
) -> None:
    trust = ["--root", node.facts["root"], "--measurement", node.facts["measurement"]]
    report = node.client().get("/v1/aci/attestation").json()
    evidence = report["attestation"]["evidence"]
    collateral, quote = tmp_path / "collateral.json", tmp_path / "quote.bin"
    collateral.write_text(json.dumps(evidence["collateral"]))
    quote.write_bytes(bytes.fromhex(evidence["quote"]))

    code, told = run("deploy", *deploying(local), "--root", node.facts["root"])
    assert code == 0 and told["simulated"] and told["gas"]["QuoteVerifier"] > 0

    pushing = ["collateral", "--collateral", str(collateral)]
    code, told = run(*pushing, *local.where, "--dry-run")
    assert code == 0 and told["pushed"] == []
    assert {part["state"] for part in told["parts"]} == {"missing"}
    code, told = run(*pushing, *local.paying)
    assert code == 0 and len(told["pushed"]) == len(told["parts"]) == 7
    assert {part["state"] for part in told["parts"]} == {"current"}
    code, told = run(*pushing, *local.paying)
    assert code == 0 and told["pushed"] == []

    local.rpc.request("evm_mine")
    registering = ["register", "--url", node.url, *local.paying]
    code, told = run(*registering)
    assert (code, told["contract_error"]) == (5, "MeasurementNotAllowed")
    needed = told["arguments"][0]
    code, told = run("allow", "--url", node.url, *trust, *local.paying)
    assert code == 0 and "0x" + told["measurement_id"] == needed
    code, told = run("allow", "--quote", str(quote), *local.paying)
    assert (code, told["contract_error"]) == (5, "AlreadyAllowed")
    local.rpc.request("evm_mine")
    mark = local.rpc.request("evm_snapshot")
    code, once = run(*registering, "--once")
    assert code == 0 and local.rpc.request("evm_revert", mark)
    local.rpc.request("evm_mine")
    code, first = run(*registering)
    assert code == 0 and once["gas"] < first["gas"]
    assert first["simulated"] and "0x" + first["measurement_id"] == needed
    local.rpc.request("evm_mine")
    code, again = run(*registering)
    assert code == 0 and again["gas"] < first["gas"] and again["expiry"] >= first["expiry"]
    assert "seated" not in again
    local.rpc.request("evm_mine")
    code, seated = run(*registering, "--seat")
    assert code == 0 and seated["seated"] is True and seated["seat_gas"] > 0
    code, told = run("seat", first["signer"], *local.paying)
    assert code == 0 and told["seated"] is True and told["seat_gas"] is None
    code, told = run("seat", "0x" + "11" * 20, *local.paying)
    assert (code, told["contract_error"]) == (5, "NodeUnknown")

    with node.client() as client:
        answer = client.post(
            "/v1/chat/completions", json=chat(), headers={"X-Adyton-Context": CONTEXT}
        )
        receipt_id = answer.headers["x-receipt-id"]
        served = client.get(f"/v1/aci/receipts/{receipt_id}/evm").content
    # A chain that was set back lags behind: a receipt counts once its time has come.
    while local.rpc.block().time < json.loads(served)["receipt"]["servedAt"]:
        time.sleep(0.2)
        local.rpc.request("evm_mine")
    request, response, receipt = (tmp_path / n for n in ("request", "response", "receipt.json"))
    request.write_bytes(answer.request.content)
    response.write_bytes(answer.content)
    receipt.write_bytes(served)
    bodies = ["--request", str(request), "--response", str(response)]
    judging = ["verify-receipt", str(receipt), *local.where]
    code, told = run(*judging, *bodies, "--context", CONTEXT)
    assert code == 0, told
    assert told["signer"].lower() == first["signer"]
    assert told["checked_request"] and told["checked_response"] and told["simulated"]
    fetching = ["--url", node.url, "--api-key", node.key(), *trust]
    code, told = run("verify-receipt", receipt_id, *local.where, *fetching)
    assert code == 0 and told["context"] == "0x" + CONTEXT

    assert run(*judging, "--context", "00" * 32)[0] == 4
    assert run(*judging, "--request", str(response))[0] == 4
    changed = json.loads(served)
    changed["receipt"]["responseHash"] = "0x" + "00" * 32
    receipt.write_text(json.dumps(changed))
    code, told = run(*judging)
    assert (code, told["step"]) == (4, "signature")
    receipt.write_bytes(served)
    code, told = run(*judging, "--under", told_policy := "0x" + "11" * 20)
    assert (code, told["contract_error"]) == (5, "NodeUnknown") and told_policy in str(told)

    code, told = run("status", *local.where)
    assert code == 0 and told["healthy"] and told["simulated"]
    assert {part["refreshed_by"] for part in told["collateral"]} == {"anyone"}
    assert [(n["counts"], n["seated"]) for n in told["nodes"]] == [(True, True)]
    assert [(s["signer"], s["expiry"]) for s in told["seats"]] == [
        (n["signer"], n["expiry"]) for n in told["nodes"]
    ]
    assert list(told["policy"]["allowed"]) == [needed[2:]]

    assert run("disallow", needed, *local.paying)[0] == 0
    code, told = run(*judging)
    assert (code, told["contract_error"]) == (5, "EpochEnded")
    code, told = run("status", *local.where)
    assert [n["counts"] for n in told["nodes"]] == [False] and not told["policy"]["allowed"]
    assert told["seats"] == []


# --- collateral -------------------------------------------------------------------------------


def test_exactly_what_is_due_is_pushed(deployed: Local, run) -> None:
    names = ["collateral", *deployed.paying, "--collateral"]
    code, told = run(*names, saved(deployed, "tdx"))
    assert code == 0 and len(told["pushed"]) == 7
    code, told = run(*names, saved(deployed, "sgx"))
    pushed = [part["part"] for part in told["pushed"]]
    assert code == 0 and pushed == ["SGX TCB info of 00ad70000000", "QE identity"]


def test_newer_collateral_replaces_older_and_never_the_other_way(deployed: Local, run) -> None:
    now = deployed.rpc.block().time
    names = ["collateral", *deployed.paying, "--collateral"]
    older = saved(deployed, "tdx")
    assert run(*names, older)[0] == 0
    window = replace(
        SimulatedPlatform(seed=SEED, now=now).certificates, start=now - 60, end=now + 60
    )
    newer = saved(deployed, "sgx", tcb_info_window=window)
    code, told = run(*names, newer)
    assert code == 0 and len(told["pushed"]) == 2
    code, told = run(*names, saved(deployed, "sgx"))
    assert code == 0 and told["pushed"] == []


def test_a_revocation_makes_everything_below_the_root_due_again(deployed: Local, run) -> None:
    """The root CRL revokes the TCB signer: nothing that it signed counts any more."""
    names = ["collateral", *deployed.paying, "--collateral"]
    assert run(*names, saved(deployed, "tdx"))[0] == 0
    now = deployed.rpc.block().time
    window = replace(SimulatedPlatform(seed=SEED, now=now).certificates, start=now, end=now + 999)
    code, told = run(*names, saved(deployed, "tdx", tcb_signing_revoked=True, crl_window=window))
    assert (code, told["contract_error"]) == (4, "SerialRevoked")
    code, told = run("status", *deployed.where)
    assert code == 6 and not told["healthy"]
    stale = {part["part"].split()[0]: part["state"] for part in told["collateral"]}
    assert stale["TCB"] == stale["TDX"] == stale["TDQE"] == "outdated"
    assert stale["root"] == "current"


def test_collateral_of_another_root_is_not_pushed(deployed: Local, run) -> None:
    other = SimulatedPlatform(
        seed=b"another simulated authority, 32 b", now=deployed.rpc.block().time
    )
    path = deployed.file.with_name("other.json")
    path.write_text(json.dumps(other.collateral("tdx").to_json()))
    code, told = run("collateral", *deployed.paying, "--collateral", str(path))
    assert (code, told["step"]) == (4, "root")


def test_forged_collateral_is_refused_by_the_contract(deployed: Local, run) -> None:
    path = saved(deployed, "tdx")
    document = json.loads(Path(path).read_text())
    document["tcb_info"] = document["tcb_info"].replace("UpToDate", "OutOfDate", 1)
    Path(path).write_text(json.dumps(document))
    code, told = run("collateral", *deployed.paying, "--collateral", path)
    assert (code, told["contract_error"]) == (4, "CollateralNotSigned")


@pytest.mark.parametrize("vector", genuine())
def test_intels_own_collateral_is_pushed_once(
    vector: dict[str, Any] | None, run, tmp_path: Path
) -> None:
    if vector is None:
        pytest.skip("no manifest.json where ADYTON_VECTORS points")
    given = ["--collateral", str(VECTORS / vector["collateral"])]
    with Chain(timestamp=vector["verification_time"]) as chain:
        key = tmp_path / "key"
        key.touch(0o600)
        key.write_text(STRANGER)  # one of the accounts anvil gives play money
        with Rpc(chain.url) as rpc:
            there = Local(rpc, chain.url, key, tmp_path / "deployment.json")
            code, told = run("deploy", *deploying(there))
            assert code == 0 and told["simulated"] is False
            code, told = run("collateral", *there.paying, *given)
            assert code == 0 and len(told["pushed"]) == 7
            code, told = run("collateral", *there.paying, *given)
            assert code == 0 and told["pushed"] == []
            code, told = run("status", *there.where)
            assert code == 0 and told["simulated"] is False


def test_status_of_an_empty_store_is_not_healthy(deployed: Local, run) -> None:
    code, told = run("status", *deployed.where)
    assert code == 6 and [p["state"] for p in told["collateral"]] == ["missing"]
    assert told["nodes"] == [] and told["policy"]["tcb_statuses"] == ["UpToDate"]


# --- what goes wrong --------------------------------------------------------------------------


def test_only_the_owner_allows(deployed: Local, run, tmp_path: Path) -> None:
    key = tmp_path / "stranger"
    key.touch(0o600)
    key.write_text(STRANGER)
    code, told = run("allow", "5a" * 32, *deployed.where, "--key", str(key))
    assert (code, told["contract_error"]) == (5, "OwnableUnauthorizedAccount")


def test_a_deployment_on_another_chain_is_not_touched(deployed: Local, run) -> None:
    replace(Deployment.load(deployed.file), chain_id=1).save(deployed.file)
    code, told = run("status", *deployed.where)
    assert (code, told["error"]) == (6, "WrongChain")


def test_a_deployment_of_nothing_is_told(deployed: Local, run) -> None:
    found = Deployment.load(deployed.file)
    replace(found, quote_verifier="0x" + "11" * 20).save(deployed.file)
    code, told = run("status", *deployed.where)
    assert (code, told["error"]) == (6, "NoContract")


def test_a_silent_node_is_the_networks_fault(deployed: Local, run, monkeypatch) -> None:
    monkeypatch.setattr("attestation.onchain.rpc.ATTEMPTS", 1)
    arguments = ["--rpc", "http://127.0.0.1:9", "--deployment", str(deployed.file)]
    code, told = run("status", *arguments)
    assert (code, told["error"]) == (6, "RpcUnreachable")


def test_a_key_that_others_may_read_is_a_usage_error(deployed: Local, run, tmp_path: Path) -> None:
    key = tmp_path / "open"
    key.write_text(STRANGER)
    key.chmod(0o644)
    code, told = run("allow", "5a" * 32, *deployed.where, "--key", str(key))
    assert (code, told["error"]) == (2, "AccountError") and STRANGER not in str(told)


def test_no_deployment_is_overwritten(deployed: Local, run, tmp_path: Path) -> None:
    arguments = ["deploy", "--rpc", deployed.url, "--key", str(deployed.key), "--out"]
    before = deployed.file.read_bytes()
    assert run(*arguments, str(deployed.file))[0] == 2
    assert deployed.file.read_bytes() == before
    assert run(*arguments, str(tmp_path / "none" / "file"))[0] == 2


def test_a_pending_transaction_is_replaced_only_when_named(deployed: Local, run) -> None:
    code, told = run("allow", "5a" * 32, *deployed.paying, "--replace", "0x" + "11" * 32)
    assert (code, told["error"]) == (6, "NonceTaken")
    assert run("allow", "5a" * 32, *deployed.paying, "--replace", "11")[0] == 2


def test_a_cap_on_fees_is_kept(deployed: Local, run) -> None:
    code, told = run("allow", "5a" * 32, *deployed.paying, "--max-fee", "0.000000001")
    assert (code, told["error"]) == (6, "FeeTooHigh")


@pytest.mark.parametrize(
    "arguments",
    [("allow",), ("allow", "5a"), ("allow", "5a" * 32, "--quote", "x"), ("disallow", "zz" * 32)],
)
def test_what_to_allow_must_be_said_once(deployed: Local, run, arguments: tuple[str, ...]) -> None:
    code, told = run(*arguments, *deployed.paying)
    assert code == 2, told


def test_a_chain_without_the_precompile_gets_a_contract_only_when_asked(
    tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = tmp_path / "anvil"
    # the last --hardfork counts
    wrapper.write_text(
        f'#!/bin/sh\nset -- $(echo "$@" | sed s/osaka/prague/)\nexec {anvil.find_anvil()} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv(anvil.VARIABLE, str(wrapper))
    with anvil.running_anvil(tmp_path) as chain:
        key = tmp_path / "key"
        key.touch(0o600)
        key.write_text(bytes(chain.account._local.key).hex())
        there = Local(chain.rpc, chain.url, key, tmp_path / "deployment.json")
        code, told = run("deploy", *deploying(there))
        assert (code, told["contract_error"]) == (6, "P256VerifierMissing")
        assert not there.file.exists()
        code, told = run("deploy", *deploying(there), "--p256", "software")
        assert code == 0 and told["simulated"] is False
        assert Deployment.load(there.file).software_p256 == told["software_p256"]


def test_without_the_extra_it_names_it(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from adyton.cli import chain_options

    monkeypatch.setattr(chain_options, "NEEDED", {"no_such_module": "no-such-package"})
    (tmp_path / "d.json").write_text("{}")
    code, told = run(
        "status", "--rpc", "http://127.0.0.1:9", "--deployment", str(tmp_path / "d.json")
    )
    assert code == 1 and "no-such-package" in told["reason"] and "adyton[onchain]" in told["reason"]


def test_people_are_told_who_may_mend_it_and_that_it_is_simulated(
    deployed: Local, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chain", "status", *deployed.where]) == 6
    out = capsys.readouterr().out
    assert "SIMULATED" in out and "anyone may" in out and "allows nothing yet" in out
    assert main(["chain", "allow", "5a" * 32, *deployed.paying]) == 0
    assert "SIMULATED" in capsys.readouterr().out
    assert main(["chain", "allow", "5a" * 32, *deployed.paying]) == 5
    assert "AlreadyAllowed" in capsys.readouterr().err


def test_the_command_line_starts_without_any_of_it() -> None:
    program = "import adyton.cli.app, sys; print(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"eth_account", "eth_abi", "httpx", "web3"} & set(done.stdout.split())


def test_every_refusal_that_is_classed_exists() -> None:
    from adyton.cli import chain_refusals as r

    classed = r._COLLATERAL | r._CHAIN | r._POLICY | r._MALFORMED | set(r._HINTS)
    assert classed - artifacts.errors().names == set()
    assert not r._COLLATERAL & r._CHAIN & r._POLICY & r._MALFORMED
