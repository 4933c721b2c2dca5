"""The machine a node opens: what was named, with what it keeps between starts, or nothing."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import attested
import pytest
import snp_pki

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.issuers import IssuerError
from attestation.issuers.simulator import AmdAuthority, SimulatedSnp, SimulatorIssuer
from gateway import machine
from gateway.errors import StartError
from gateway.machine import Machine, code_provenance, read_collateral
from gateway.settings import SIMULATED_TEES, TEES, Settings

MODELS = [("echo", "sha256:" + "ab" * 32)]


@lru_cache
def authority() -> AmdAuthority:
    return AmdAuthority.of(snp_pki.rsa_key("ark"), snp_pki.rsa_key("ask"))


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are new each time, as a real authority's are; the keys need not be."""
    keys = authority().ark_key, authority().ask_key
    monkeypatch.setattr(AmdAuthority, "generate", lambda: AmdAuthority.of(*keys))


def opened(state: Path, **more: Any) -> SimulatorIssuer:
    settings = Settings(**{"tee": "simulator", "state_dir": state, "sim_tee": "sev-snp", **more})
    issuer = Machine.open(settings).issuer(MODELS)
    assert isinstance(issuer, SimulatorIssuer)
    return issuer


def test_a_simulated_amd_keeps_its_root_over_restarts(tmp_path: Path) -> None:
    first = opened(tmp_path / "a")
    again = opened(tmp_path / "a")
    assert again.root_der == first.root_der
    assert again.sealing_key() == first.sealing_key()
    assert again.issue(bytes(64)).quote == first.issue(bytes(64)).quote
    assert opened(tmp_path / "b").root_der != first.root_der
    for name in ("simulator.seed", "simulator-amd.pem"):
        assert (tmp_path / "a" / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_no_amd_is_made_where_none_is_simulated(tee: str, tmp_path: Path) -> None:
    assert opened(tmp_path, sim_tee=tee).tee_type == tee
    assert [p.name for p in tmp_path.iterdir()] == ["simulator.seed"]


def test_every_tee_the_simulator_has_can_be_typed() -> None:
    from attestation.issuers import HARDWARE_ISSUERS, simulator

    assert SIMULATED_TEES == simulator.SIMULATED_TEES
    assert set(TEES) == {"auto", "simulator", *HARDWARE_ISSUERS}


def test_auto_opens_what_is_found_with_the_operators_collateral(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening: list[Any] = []
    monkeypatch.setattr(machine, "detect_issuer", lambda: "tsm")
    monkeypatch.setattr(machine, "open_issuer", lambda name, **o: opening.append((name, o)))
    path = tmp_path / "collateral.json"
    path.write_text(json.dumps(attested.collateral("tdx").to_json()))
    Machine.open(Settings("auto", tmp_path, collateral=path))
    assert opening == [("tsm", {"collateral": attested.collateral("tdx"), "event_log": True})]


def test_auto_finding_nothing_does_not_simulate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> str:
        raise IssuerError("this machine shows no TEE")

    monkeypatch.setattr(machine, "detect_issuer", nothing)
    with pytest.raises(IssuerError, match="no TEE"):
        Machine.open(Settings("auto", tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tee", ["auto", "tsm"])
def test_code_of_hardware_nodes_is_not_named_by_its_files(tee: str, tmp_path: Path) -> None:
    """On hardware the measurement names the code; our own digest of it proves nothing there."""
    assert code_provenance(Settings(tee, tmp_path)).provenance.image_digest is None
    assert code_provenance(Settings("simulator", tmp_path)).provenance.image_digest is not None


# --- the operator's collateral -------------------------------------------------------------


def test_collateral_of_either_vendor_is_told_by_its_content(tmp_path: Path) -> None:
    endorsements = SimulatedSnp(
        seed=b"s" * 32, authority=authority(), now=attested.NOW
    ).endorsements()
    for given, kind in (
        (attested.collateral("tdx"), Collateral),
        (endorsements, SnpEndorsements),
    ):
        path = tmp_path / "collateral.json"
        path.write_text(json.dumps(given.to_json()))
        found = read_collateral(path)
        assert isinstance(found, kind) and found == given
    assert read_collateral(None) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"vek": 1}', b'{"vek": "zz"}', b"\xff"])
def test_collateral_that_is_none_is_a_start_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "collateral.json"
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"collateral\.json is not collateral"):
        read_collateral(path)


def test_collateral_that_is_absent_or_too_large_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        read_collateral(tmp_path / "absent")
    path = tmp_path / "large"
    path.write_bytes(bytes((4 << 20) + 1))
    with pytest.raises(StartError, match="too large"):
        read_collateral(path)


def test_what_a_person_copies_is_printed_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gateway.cli import _introduce

    monkeypatch.setenv("COLUMNS", "40")
    facts = {
        "simulated": True,
        "url": "https://127.0.0.1:8443",
        "tee_type": "sev_snp",
        "measurement": "0a" * 48,
        "keyset_digest": "sha256:" + "ab" * 32,
        "root": None,
        "tls_cert": "/state/tls-cert.pem",
        "models": ["echo"],
        "state_dir": "/state",
    }
    _introduce(facts)
    lines = capsys.readouterr().out.splitlines()
    assert f"{'measurement':<15}{'0a' * 48}" in lines
    assert not any(line.startswith("root ") for line in lines)
