"""The whole path without a network: a local PCCS, fetching, a bundle, and verification."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attestation.collateral.errors import CollateralMissing
from attestation.collateral.fetch import fetch_collateral
from attestation.collateral.fetch_snp import fetch_endorsements
from attestation.issuers.simulator import AmdAuthority, SimulatedPlatform, SimulatedSnp
from attestation.verify import verify_quote
from attestation.verify.snp import verify_snp


@dataclass
class Pccs:
    """`adyton collateral serve` in its own process."""

    url: str
    root: Path
    ark: Path
    state_dir: Path

    @property
    def platform(self) -> SimulatedPlatform:
        seed = (self.state_dir / "simulator.seed").read_bytes()
        return SimulatedPlatform(seed=seed, now=int(time.time()))


def adyton(*arguments: object) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "adyton.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def pccs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pccs]:
    state_dir = tmp_path_factory.mktemp("state")
    AmdAuthority.load_or_create(state_dir / "simulator-amd.pem")
    command = [sys.executable, "-m", "adyton.cli", "collateral", "serve", "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--state-dir", str(state_dir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["simulated"]
        yield Pccs(facts["url"], *map(Path, facts["roots"]), state_dir)
    finally:
        process.terminate()
        process.wait(20)


def test_fetch_bundle_and_verify_without_a_network(pccs: Pccs, tmp_path: Path) -> None:
    quote, collateral, bundle = (tmp_path / n for n in ("quote", "collateral", "bundle"))
    quote.write_bytes(pccs.platform.tdx_quote({"report_data": bytes(range(64))}))
    where = ["--url", pccs.url, "--root", pccs.root, "--cache", tmp_path / "cache"]
    assert adyton("collateral", "fetch", quote, *where, "--out", collateral)[0] == 0
    code, made = adyton("collateral", "bundle", quote, *where, "--out", bundle)
    assert (code, len(made["parts"])) == (0, 4)
    trust = ["--root", pccs.root, "--policy", "genuine"]
    for file in (collateral, bundle):
        code, found = adyton("verify-quote", quote, "--collateral", file, *trust)
        assert (code, found["verdict"], found["tcb_status"]) == (0, "accept", "UpToDate")
    code, found = adyton("collateral", "show", bundle, "--root", pccs.root)
    assert (code, found["usable"]) == (0, True)


def test_the_library_does_it_in_one_call(pccs: Pccs, tmp_path: Path) -> None:
    quote = pccs.platform.sgx_quote({"report_data": bytes(64)})
    roots, now = [pccs.root.read_bytes()], int(time.time())
    found = fetch_collateral(quote, url=pccs.url, cache=tmp_path / "c", roots=roots, now=now)
    assert verify_quote(quote, found, roots, now).tcb_status == "UpToDate"
    again = fetch_collateral(quote, url=None, cache=tmp_path / "c", roots=roots, now=now)
    assert again == found


def test_the_simulated_amd_is_asked_as_the_real_one(pccs: Pccs, tmp_path: Path) -> None:
    authority = AmdAuthority.load_or_create(pccs.state_dir / "simulator-amd.pem")
    seed, now = (pccs.state_dir / "simulator.seed").read_bytes(), int(time.time())
    report = SimulatedSnp(seed=seed, authority=authority, now=now).report({})
    roots = [pccs.ark.read_bytes()]
    found = fetch_endorsements(report, url=pccs.url, cache=tmp_path / "c", roots=roots, now=now)
    assert verify_snp(report, found, roots, now).revocation_checked
    other = SimulatedSnp(seed=b"another chip".ljust(32), authority=authority, now=now)
    with pytest.raises(CollateralMissing):
        fetch_endorsements(other.report({}), url=pccs.url, cache=None, roots=roots, now=now)


def test_many_processes_share_one_cache(pccs: Pccs, tmp_path: Path) -> None:
    quote = tmp_path / "quote"
    quote.write_bytes(pccs.platform.tdx_quote({}))
    command = [sys.executable, "-m", "adyton.cli", "collateral", "fetch", quote]
    command += ["--url", pccs.url, "--root", pccs.root, "--cache", tmp_path / "cache"]
    running = [
        subprocess.Popen([*map(str, command), "--out", str(tmp_path / f"{n}")], stdout=-3)
        for n in range(4)
    ]
    assert [process.wait(60) for process in running] == [0] * 4
    assert len({(tmp_path / f"{n}").read_bytes() for n in range(4)}) == 1
    assert not list((tmp_path / "cache").glob(".new-*"))


def test_an_unknown_root_is_not_authentic_collateral(pccs: Pccs, tmp_path: Path) -> None:
    """Intel's root, which is the default, does not vouch for the simulator."""
    quote = tmp_path / "quote"
    quote.write_bytes(pccs.platform.tdx_quote({}))
    code, found = adyton("collateral", "fetch", quote, "--url", pccs.url)
    assert (code, found["verdict"], found["error"]) == (6, "reject", "CollateralError")
