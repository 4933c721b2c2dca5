"""Real dstack bundles: what their quotes, events and images prove, and what a change breaks.

The vectors are collected from public repositories and are not part of this project:
ADYTON_VECTORS names their folder. No verdicts come with them; the facts below were found
with this code and are held by the quotes themselves, since every event replays to RTMRs
that the quote carries. Only one bundle brings collateral; the other quotes are parsed and
not verified here, which the other vectors do.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from attestation.collateral import Collateral
from attestation.errors import AttestationError, MalformedEvidence, VerificationError
from attestation.evidence import parse_quote
from attestation.evidence.dstack_attestation import DstackAttestation
from attestation.evidence.eventlog_json import RtmrEventLog
from attestation.roots import PRODUCTION_ROOTS
from attestation.verify import DcapReport, verify_quote
from attestation.verify.dstack import DstackFacts, verify_dstack
from attestation.verify.events import verify_events
from attestation.verify.model import _SEAL

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
BUNDLES = VECTORS / "dstack-bundle"
pytestmark = pytest.mark.skipif(
    not BUNDLES.is_dir(), reason="no dstack bundles where ADYTON_VECTORS points"
)

NEAR_TIME = 1_787_000_000  # 2026-08-17, inside the window of the collateral in the bundle
GET_QUOTE = (
    "dstack-quote-report/quote-report.json",
    "dstack-examples-rtmr3/report.json",
    "dstack-tdx-lite-getquote/tdx-lite-getquote.json",
)
KMS = "3059301306072a8648ce3d020106082a8648ce3d030107034200042f71e234d7339a1c"


@cache
def bundle(name: str) -> Any:
    return json.loads((BUNDLES / name).read_text())


def unverified(quote: bytes) -> DcapReport:
    """The registers of a quote that came without collateral, as if it had been verified."""
    texts = dict.fromkeys(
        ("merged_tcb_status", "platform_tcb_status", "qe_tcb_status", "fmspc", "pce_id"), ""
    )
    numbers = dict.fromkeys(("tcb_eval_data_number", "collateral_issued", "sgx_type"), 0)
    flags = dict.fromkeys(("dynamic_platform", "cached_keys", "smt"))
    times = dict.fromkeys(("verified_at", "endorsements_not_before", "endorsements_not_after"), 0)
    fields: dict[str, Any] = {**texts, **numbers, **flags, **times}
    return DcapReport(
        quote=parse_quote(quote), advisory_ids=(), root_sha256="", seal=_SEAL, **fields
    )


def get_quote(name: str) -> tuple[DcapReport, bytes, str | None]:
    answer = bundle(name)
    report = unverified(bytes.fromhex(answer["quote"]))
    return report, answer["event_log"].encode(), answer.get("vm_config")


def facts(name: str) -> DstackFacts:
    report, log, vm_config = get_quote(name)
    events = verify_events(log, report, required=("rtmr0", "rtmr1", "rtmr2", "rtmr3"))
    return verify_dstack(report, events, vm_config=vm_config)


def test_a_guest_with_a_local_key_provider() -> None:
    got = facts(GET_QUOTE[0])
    assert got.app_id == "3763bc34552cf3a27ff71ad5f7a90471562a1a2d"
    assert got.app_id_is_compose_hash
    assert got.key_provider is not None
    assert got.key_provider.name == "local-sgx"
    assert [name for name, _ in got.later_events] == ["LIUM_MINER_HOTKEY"]
    # The host states an image; nothing in the bundle proves it.
    assert got.os_image_hash is None


def test_a_guest_of_dstacks_examples() -> None:
    got = facts(GET_QUOTE[1])
    assert got.app_id == "06768e6df639ce3be65e9e5321f8b2d82dbffb01"
    assert got.key_provider is not None
    assert got.key_provider.name == "kms"


def test_a_guest_whose_image_is_proven_by_measurement_material() -> None:
    got = facts(GET_QUOTE[2])
    assert got.app_id == "86b0e55f2fa8e4fb69d890f14f54d5612707646e"
    assert got.key_provider is not None
    assert got.key_provider.id.startswith(KMS)
    assert got.os_image_proof == "measurement"
    assert got.os_image_hash == "e6f5cfec20c02e7b97baa213d0f718020b55e040172d90ccbcb946d56c8b09db"
    # The KMS of this test stack was told another image: its word is kept apart.
    assert got.kms_os_image_hash != got.os_image_hash


@pytest.mark.parametrize("name", GET_QUOTE)
def test_every_entry_counts(name: str) -> None:
    report, log, _ = get_quote(name)
    entries = RtmrEventLog.read(log).events
    for i in range(len(entries)):
        with pytest.raises(VerificationError):
            verify_events(RtmrEventLog(entries[:i] + entries[i + 1 :]), report)
    for i, entry in enumerate(entries):
        if entry.is_runtime:
            forged = replace(entry, payload=(entry.payload or b"") + b"x", digest=None)
            with pytest.raises(VerificationError, match="rtmr3"):
                verify_events(RtmrEventLog((*entries[:i], forged, *entries[i + 1 :])), report)


def test_logs_of_other_quotes_do_not_replay() -> None:
    for name in GET_QUOTE:
        for other in GET_QUOTE:
            if name != other:
                with pytest.raises(VerificationError, match="rtmr"):
                    verify_events(get_quote(other)[1], get_quote(name)[0])


def test_changed_measurement_material_is_refused() -> None:
    report, log, vm_config = get_quote(GET_QUOTE[2])
    events = verify_events(log, report)
    config = json.loads(vm_config or "")
    material = config["tdx_measurement"]
    for odd in (
        {**config, "os_image_hash": "00" * 32},
        {**config, "tdx_measurement": {**material, "measurement": "AAAA"}},
        {**config, "tdx_measurement": {**material, "checksum_file": "AAAA"}},
    ):
        with pytest.raises(VerificationError, match="os_image"):
            verify_dstack(report, events, vm_config=json.dumps(odd))
    other = get_quote(GET_QUOTE[0])[0]
    with pytest.raises(VerificationError, match="os_image"):
        verify_dstack(other, verify_events(get_quote(GET_QUOTE[0])[1], other), vm_config=vm_config)


# A node of NEAR's MPC network: quote, collateral, events and application file together.


def near() -> tuple[DcapReport, RtmrEventLog, bytes]:
    info = bundle("near-mpc-public-data/public_data.json")["tee_participant_info"]["Dstack"]
    endorsements = {
        k: bytes(v).hex() if isinstance(v, list) else v for k, v in info["collateral"].items()
    }
    quote = bytes(info["quote"])
    report = verify_quote(quote, Collateral.from_json(endorsements), PRODUCTION_ROOTS, NEAR_TIME)
    tcb_info = info["tcb_info"]
    log = RtmrEventLog.from_json(tcb_info["event_log"])
    return report, log, tcb_info["app_compose"].encode()


def test_a_production_quote_its_events_and_its_application_agree() -> None:
    report, log, compose = near()
    events = verify_events(log, report, required=("rtmr0", "rtmr1", "rtmr2", "rtmr3"))
    got = verify_dstack(report, events, app_compose=compose)
    assert report.tee == "tdx"
    assert got.compose_hash == "2911e1f733466216dedb862d6d669e11256ee7a34ce4dbc66c4b807ba7a9c895"
    assert got.app_compose is not None
    assert got.app_compose.key_provider == "local"
    assert got.instance_id == ""
    # MRCONFIGID version 1 names the same application.
    assert report.registers["mr_config_id"] == "01" + got.compose_hash + "00" * 15


def test_a_changed_application_of_that_node_is_refused() -> None:
    report, log, compose = near()
    events = verify_events(log, report)
    for odd in (compose + b" ", compose.replace(b"false", b"true", 1)):
        with pytest.raises(VerificationError, match="compose_hash"):
            verify_dstack(report, events, app_compose=odd)


# Binary attestations


@pytest.mark.parametrize(
    ("name", "app_id", "proof"),
    [
        (
            "dstack-guest-agent-attestation/attestation.bin",
            "5bb4ff9a3837357f19dc176407a5709c62eb6c56",
            None,
        ),
        (
            "dstack-simulator-attestation/attestation.bin",
            "5bb4ff9a3837357f19dc176407a5709c62eb6c56",
            None,
        ),
        (
            "dstack-tdx-lite/tdx-lite-attestation.json",
            "86b0e55f2fa8e4fb69d890f14f54d5612707646e",
            "measurement",
        ),
    ],
)
def test_binary_attestations_prove_the_same_way(name: str, app_id: str, proof: str | None) -> None:
    path = BUNDLES / name
    raw = (
        bytes.fromhex(bundle(name)["attestation"]) if path.suffix == ".json" else path.read_bytes()
    )
    attestation = DstackAttestation.read(raw)
    assert attestation.write() == raw
    report = unverified(attestation.quote)
    assert report.report_data == attestation.report_data
    # Stripped logs keep all of RTMR3 only; the image is proven from the registers themselves.
    only = {"rtmr3": report.registers["rt_mr3"]}
    events = verify_events(attestation.event_log, only, required=only)
    got = verify_dstack(report, events, vm_config=attestation.config)
    assert (got.app_id, got.os_image_proof) == (app_id, proof)
    for size in range(0, len(raw), 997):
        with pytest.raises(MalformedEvidence):
            DstackAttestation.read(raw[:size])


def test_a_stripped_log_does_not_pass_for_a_whole_one() -> None:
    raw = bytes.fromhex(bundle("dstack-tdx-lite/tdx-lite-attestation.json")["attestation"])
    attestation = DstackAttestation.read(raw)
    with pytest.raises(VerificationError, match="rtmr0"):
        verify_events(attestation.event_log, unverified(attestation.quote))


def test_an_attestation_of_another_tee_is_refused() -> None:
    raw = bytes.fromhex(bundle("dstack-sev-snp/sev-snp-attestation.json")["attestation"])
    with pytest.raises(AttestationError, match=r"attestation\.platform"):
        DstackAttestation.read(raw)
