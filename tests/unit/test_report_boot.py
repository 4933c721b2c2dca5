"""Event logs in a report explain the very registers of its quote, or the report is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import attested
import pytest
from attested import NONCE, NOW, changed, platform, report
from eventlogs import ccel, ccel_events, event, rtmr3, rtmrs, runtime

from attestation.beside import MAX_EVENT_LOG, MAX_TEXT
from attestation.errors import MalformedEvidence, PolicyError, VerificationError
from attestation.evidence.eventlog import EventType, TcgEventLog
from attestation.evidence.eventlog_json import RtmrEvent, RtmrEventLog
from attestation.issuers.base import BootEvidence, IssuedEvidence
from attestation.policy import Policy, load_policy
from attestation.report import AttestedNode, appraise_report
from attestation.statement import report_data

GENUINE = load_policy("genuine")
COMPOSE = '{"manifest_version":2,"name":"node ü","runner":"docker-compose"}'
COMPOSE_HASH = hashlib.sha256(COMPOSE.encode()).digest()


def dstack_boot(compose_hash: bytes = COMPOSE_HASH) -> list[RtmrEvent]:
    named = {
        "system-preparing": b"",
        "app-id": COMPOSE_HASH[:20],
        "compose-hash": compose_hash,
        "instance-id": b"\x06" * 20,
        "key-provider": b'{"name":"none","id":""}',
        "system-ready": b"",
    }
    return [runtime(name, payload) for name, payload in named.items()]


def text_of(events: list[RtmrEvent]) -> str:
    return RtmrEventLog(tuple(events)).write().decode()


def served(boot: BootEvidence, **registers: bytes) -> dict[str, Any]:
    """What a TD with these registers serves, through JSON as a client gets it."""
    data = report_data(attested.keyset().digest, NONCE)
    raw = attested.quote("tdx-v4", report_data=data, **registers)
    evidence = IssuedEvidence("tdx", raw, attested.collateral("tdx"), simulated=True, boot=boot)
    out: dict[str, Any] = json.loads(json.dumps(report(evidence=evidence)))
    return out


def dstack_report(
    events: list[RtmrEvent] | None = None, rt_mr3: str | None = None, **more: str | None
) -> dict[str, Any]:
    chosen = dstack_boot() if events is None else events
    boot = BootEvidence(
        **{"event_log": text_of(chosen), "vm_config": "{}", "app_compose": COMPOSE, **more}
    )
    return served(boot, rt_mr3=bytes.fromhex(rt_mr3 or rtmr3(chosen)))


def ccel_report(log: TcgEventLog, registers: dict[str, str] | None = None) -> dict[str, Any]:
    values = {k.replace("rtmr", "rt_mr"): bytes.fromhex(v) for k, v in rtmrs(log).items()}
    values |= {k: bytes.fromhex(v) for k, v in (registers or {}).items()}
    return served(BootEvidence(ccel=log.write()), **values)


def appraise(document: Any, policy: Policy = GENUINE) -> AttestedNode:
    return appraise_report(
        document, nonce=NONCE, roots=[platform().root_der], policy=policy, now=NOW
    )


def refused(step: str, document: Any) -> VerificationError:
    with pytest.raises(VerificationError) as e:
        appraise(document)
    assert e.value.step == step
    return e.value


def malformed(field: str, document: Any) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as e:
        appraise(document)
    assert e.value.field == f"report.attestation.evidence.{field}"
    return e.value


def member(document: Any, name: str, value: Any) -> Any:
    return changed(document, f"attestation.evidence.{name}", value)


def wanting(**sections: Any) -> Policy:
    document = {"version": 1, "name": "test", "measurements": "any", **sections}
    return load_policy({**document, "inspection_only": True})


# --- dstack ---------------------------------------------------------------------------------


def test_a_dstack_report_is_replayed_and_says_which_application_runs() -> None:
    node = appraise(dstack_report())
    assert node.events is not None and "rtmr3" in node.events.registers
    assert node.dstack is not None
    assert node.dstack.compose_hash == COMPOSE_HASH.hex()
    assert node.dstack.app_compose is not None and node.dstack.app_compose.name == "node ü"


def test_the_members_are_those_of_acis_dstack_reports() -> None:
    evidence = dstack_report()["attestation"]["evidence"]
    assert json.loads(evidence["event_log"])[1]["event"] == "app-id"
    assert (evidence["vm_config"], evidence["app_compose"]) == ("{}", COMPOSE)


def test_a_policy_that_pins_the_application_is_met_or_says_what_it_saw() -> None:
    pin = {"dangerous_allow_any_os_image": True, "compose_hashes": [COMPOSE_HASH.hex()]}
    assert appraise(dstack_report(), wanting(dstack=pin))
    pin["compose_hashes"] = ["00" * 32]
    with pytest.raises(PolicyError) as e:
        appraise(dstack_report(), wanting(dstack=pin))
    assert [f.field for f in e.value.findings] == ["dstack.compose_hash"]


@pytest.mark.parametrize("section", ["events", "dstack"])
def test_a_report_without_a_log_is_refused_where_one_is_wanted(section: str) -> None:
    with pytest.raises(PolicyError) as e:
        appraise(report(), wanting(**{section: {"required": True}}))
    assert [f.field for f in e.value.findings] == [section]


def test_without_a_log_nothing_is_said_of_the_boot() -> None:
    node = appraise(report())
    assert (node.events, node.dstack, node.gpus) == (None, None, ())


def test_a_log_of_another_boot_is_refused_under_every_policy() -> None:
    error = refused("rtmr3", dstack_report(rt_mr3="ab" * 48))
    assert "replays to" in error.detail


@pytest.mark.parametrize("drop", range(6))
def test_a_log_with_an_event_left_out_is_refused(drop: int) -> None:
    events = dstack_boot()
    document = dstack_report([*events[:drop], *events[drop + 1 :]], rtmr3(events))
    refused("rtmr3", document)


def test_a_log_with_an_event_added_is_refused() -> None:
    events = dstack_boot()
    refused("rtmr3", dstack_report([*events, runtime("mine", b"1")], rtmr3(events)))


def test_a_log_whose_payloads_were_changed_is_refused() -> None:
    entries = json.loads(text_of(dstack_boot()))
    entries[1]["event_payload"] = "00" * 20
    document = dstack_report(event_log=json.dumps(entries))
    refused("event_digest", document)


def test_a_log_beside_evidence_without_such_registers_is_refused() -> None:
    document = member(report("sgx"), "event_log", text_of(dstack_boot()))
    refused("registers", document)


def test_an_application_that_was_not_measured_is_refused() -> None:
    refused("compose_hash", dstack_report(app_compose=COMPOSE + " "))
    refused("compose_hash", dstack_report(dstack_boot(compose_hash=b"\x07" * 32)))


def test_an_application_that_no_log_measures_is_refused() -> None:
    refused("compose_hash", dstack_report(event_log=None))
    refused("compose_hash", member(report(), "app_compose", COMPOSE))
    refused("compose_hash", dstack_report(dstack_boot()[:-1]))


def test_a_boot_that_has_not_ended_names_no_application() -> None:
    node = appraise(dstack_report(dstack_boot()[:-1], app_compose=None))
    assert node.events is not None and node.dstack is None


def test_an_image_that_its_own_material_contradicts_is_refused() -> None:
    material = {k: base64.b64encode(b"x").decode() for k in ("checksum_file", "measurement")}
    config = json.dumps({"os_image_hash": "ab" * 32, "tdx_measurement": material})
    refused("os_image", dstack_report(vm_config=config))


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("event_log", [], "string or null"),
        ("event_log", {"log": "x"}, "string or null"),
        ("event_log", "x" * (MAX_EVENT_LOG + 1), "longer"),
        ("event_log", "", "eventlog"),
        ("event_log", "[", "eventlog"),
        ("event_log", "{}", "must be a JSON list"),
        ("event_log", '[{"imr":3}]', "eventlog.event.event_type"),
        ("event_log", '"\\ud800"', "eventlog"),
        ("vm_config", {}, "string or null"),
        ("vm_config", "x" * (MAX_TEXT + 1), "longer"),
        ("vm_config", "[]", "not a JSON object"),
        ("app_compose", 1, "string or null"),
        ("app_compose", "x" * (MAX_TEXT + 1), "longer"),
        ("app_compose", "\ud800", "surrogate"),
        ("ccel", "AAAA", "one log is enough"),
    ],
)
def test_members_of_another_shape_are_malformed(name: str, value: Any, detail: str) -> None:
    error = malformed(name, member(dstack_report(), name, value))
    assert detail in error.detail


def test_a_measured_application_without_a_name_is_malformed() -> None:
    nameless = '{"runner":"docker-compose"}'
    events = dstack_boot(compose_hash=hashlib.sha256(nameless.encode()).digest())
    malformed("app_compose.name", dstack_report(events, app_compose=nameless))


@pytest.mark.parametrize("name", ["event_log", "vm_config", "app_compose", "ccel"])
def test_null_is_nothing(name: str) -> None:
    assert appraise(member(report(), name, None)).events is None


# --- the firmware's own log ------------------------------------------------------------------


def test_a_firmware_log_is_replayed_to_the_registers() -> None:
    node = appraise(ccel_report(ccel(ccel_events())))
    assert node.events is not None and node.dstack is None
    assert set(node.events.registers) == {"rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    assert node.events.secure_boot is True


def test_a_policy_can_ask_for_the_boot_that_the_firmware_log_proves() -> None:
    wanted = wanting(events={"required": True, "secure_boot": True, "registers": ["rtmr0"]})
    assert appraise(ccel_report(ccel(ccel_events())), wanted)
    with pytest.raises(PolicyError) as e:
        appraise(ccel_report(ccel(ccel_events(secure_boot=b"\0"))), wanted)
    assert [f.field for f in e.value.findings] == ["events.secure_boot"]


@pytest.mark.parametrize("register", ["rt_mr0", "rt_mr1", "rt_mr2"])
def test_a_firmware_log_of_another_boot_is_refused(register: str) -> None:
    step = register.replace("rt_mr", "rtmr")
    refused(step, ccel_report(ccel(ccel_events()), {register: "ab" * 48}))


def test_a_register_that_moved_after_boot_makes_the_log_refused() -> None:
    log = ccel(ccel_events())
    later = ccel([*ccel_events(), event(3, EventType.IPL, b"by the running system")])
    refused("rtmr2", ccel_report(log, {"rt_mr2": rtmrs(later)["rtmr2"]}))


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (1, "string or null"),
        ("A" * (MAX_EVENT_LOG + 1), "longer"),
        ("no base64", "not base64"),
        ("ü", "not base64"),
        ("AAAA", "eventlog"),
        ("", "eventlog"),
        (base64.b64encode(text_of(dstack_boot()).encode()).decode(), "eventlog"),
    ],
)
def test_a_firmware_log_of_another_shape_is_malformed(value: Any, detail: str) -> None:
    assert detail in malformed("ccel", member(report(), "ccel", value)).detail


def test_boot_evidence_leaves_out_what_there_is_none_of() -> None:
    assert BootEvidence().to_json() == {}
    assert set(BootEvidence(event_log="[]", ccel=b"").to_json()) == {"event_log", "ccel"}
    plain = report(evidence=IssuedEvidence("tdx", attested.quote("tdx-v4"), None, simulated=False))
    assert set(plain["attestation"]["evidence"]) == {"quote", "simulated", "key_custody"}
