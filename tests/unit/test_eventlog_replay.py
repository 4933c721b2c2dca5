"""A log must lead to the registers: every way of lying about it is refused, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import attested
import pytest
import tpm_device
from eventlogs import (
    SEPARATOR,
    ccel,
    ccel_events,
    event,
    extend,
    header,
    locality,
    no_action,
    rtmrs,
    runtime,
    variable,
    verified,
)

from attestation.errors import MalformedEvidence, VerificationError
from attestation.evidence.eventlog import Digest, EventType, TcgEvent, TcgEventLog
from attestation.evidence.eventlog_json import RtmrEvent, RtmrEventLog
from attestation.verify.events import VerifiedEvents, replay, verify_events
from attestation.verify.model import _SEAL
from attestation.verify.tpm import verify_tpm

HONEST = ccel(ccel_events())
REGISTERS = rtmrs(HONEST)
PCR_BANKS = ("sha256", "sha384")


def refused(log: TcgEventLog | RtmrEventLog, registers: dict[str, str], step: str) -> None:
    with pytest.raises(VerificationError) as e:
        verify_events(log, registers)
    assert e.value.step == step


def tampered(change: Callable[[list[TcgEvent]], object]) -> TcgEventLog:
    events = list(HONEST.events[1:])
    change(events)
    return HONEST.with_events(tuple(events))


def test_an_honest_log_explains_every_register() -> None:
    events = verify_events(HONEST.write(), REGISTERS, required=REGISTERS)
    assert events.registers == REGISTERS
    assert events.unexplained == ()
    assert events.bank == "sha384"
    assert [len(events.events[r]) for r in REGISTERS] == [4, 5, 3, 0]
    assert events.runtime is None
    assert events.runtime_event("app-id") is None


def test_what_is_not_in_the_log_is_not_verified_data() -> None:
    events = verify_events(HONEST, REGISTERS)
    firmware, secure_boot, *_ = events.events["rtmr0"]
    assert not firmware.data_verified
    assert secure_boot.data_verified
    assert secure_boot.measured == secure_boot.data
    boot_option = events.events["rtmr0"][3]
    assert boot_option.measured == b"a boot option"


def test_a_verified_td_report_is_judged_by_its_own_registers() -> None:
    fields: dict[str, Any] = {
        k.replace("rtmr", "rt_mr"): bytes.fromhex(v) for k, v in REGISTERS.items()
    }
    report = attested.verify("tdx-v4", **fields)
    assert verify_events(HONEST.write(), report).registers == REGISTERS
    other = attested.verify("tdx-v4", rt_mr0=b"\x01" * 48)
    with pytest.raises(VerificationError, match="rtmr"):
        verify_events(HONEST.write(), other)


def test_evidence_without_such_registers_is_refused() -> None:
    report = attested.verify("sgx-v3")
    with pytest.raises(VerificationError, match="registers"):
        verify_events(HONEST, report)


def test_a_forged_digest_is_refused() -> None:
    forged = replace(HONEST.events[1], digests=(Digest(0x0C, bytes(48)),))
    log = tampered(lambda events: events.__setitem__(0, forged))
    refused(log, REGISTERS, "rtmr0")


def test_forged_data_under_an_honest_digest_is_refused() -> None:
    forged = replace(HONEST.events[2], data=variable("SecureBoot", b"\x00"))
    log = tampered(lambda events: events.__setitem__(1, forged))
    refused(log, REGISTERS, "event_digest")


def test_a_forged_command_line_under_an_honest_digest_is_refused() -> None:
    forged = replace(HONEST.events[11], data=b"kernel_cmdline: /boot/vmlinuz quiet\0")
    log = tampered(lambda events: events.__setitem__(10, forged))
    refused(log, REGISTERS, "event_digest")


def test_a_forged_boot_variable_under_an_honest_digest_is_refused() -> None:
    for data in (variable("Boot0000", b"another"), b"no variable"):
        forged = replace(HONEST.events[4], data=data)
        entries = [*HONEST.events[1:4], forged, *HONEST.events[5:]]
        refused(HONEST.with_events(tuple(entries)), REGISTERS, "event_digest")


def test_an_extra_event_is_refused() -> None:
    log = tampered(lambda events: events.append(event(4, EventType.EVENT_TAG, b"extra")))
    refused(log, REGISTERS, "rtmr3")


def test_a_removed_event_is_refused() -> None:
    refused(tampered(lambda events: events.pop()), REGISTERS, "rtmr1")


def test_reordered_events_of_one_register_are_refused() -> None:
    def swap(events: list[TcgEvent]) -> None:
        events[0], events[1] = events[1], events[0]

    refused(tampered(swap), REGISTERS, "rtmr0")


def test_an_event_moved_to_another_register_is_refused() -> None:
    moved = replace(HONEST.events[12], register=3)
    refused(tampered(lambda events: events.__setitem__(11, moved)), REGISTERS, "rtmr1")


def test_an_event_hidden_as_unmeasured_is_refused() -> None:
    hidden = replace(HONEST.events[12], event_type=EventType.NO_ACTION)
    refused(tampered(lambda events: events.__setitem__(11, hidden)), REGISTERS, "rtmr1")


@pytest.mark.parametrize("register", [0, 5, 0xFFFFFFFE])
def test_an_event_on_an_unknown_register_is_refused(register: int) -> None:
    stray = event(register, EventType.EFI_ACTION, b"x")
    refused(tampered(lambda events: events.append(stray)), REGISTERS, "register")


def test_unmeasured_events_may_name_any_register() -> None:
    log = tampered(lambda events: events.insert(0, no_action(0, b"SP800-155 Event3")))
    assert verify_events(log, REGISTERS).registers == REGISTERS


def test_a_register_emptied_of_its_events_is_not_explained() -> None:
    log = tampered(lambda events: events.__setitem__(slice(8, 11), []))
    events = verify_events(log, REGISTERS)
    assert events.unexplained == ("rtmr2",)
    assert "rtmr2" not in events.events
    assert events.cmdline is None
    with pytest.raises(VerificationError, match=r"coverage: .* rtmr2"):
        verify_events(log, REGISTERS, required=("rtmr0", "rtmr2"))


def test_registers_the_report_does_not_have_are_left_out() -> None:
    events = verify_events(HONEST, {"rtmr2": REGISTERS["rtmr2"]})
    assert list(events.events) == ["rtmr2"]


def test_bytes_that_are_no_log_are_malformed() -> None:
    with pytest.raises(MalformedEvidence):
        verify_events(b"no log", REGISTERS)
    with pytest.raises(MalformedEvidence):
        verify_events(b"[", REGISTERS)


@pytest.mark.parametrize(
    ("registers", "step"),
    [
        ({}, "registers"),
        ({"rtmr4": "00" * 48}, "registers"),
        ({"pcr24": "00" * 32}, "registers"),
        ({"mr_td": "00" * 48}, "registers"),
        ({"rtmr0": ""}, "registers"),
        ({"rtmr0": "AA" * 48}, "registers"),
        ({"rtmr0": "00" * 48, "pcr0": "00" * 48}, "registers"),
        ({"rtmr0": "00" * 32}, "bank"),
        ({"pcr0": "00" * 20}, "bank"),
        ({"pcr0": "00" * 32, "pcr1": "00" * 48}, "bank"),
        ({"pcr0": "00" * 33}, "bank"),
    ],
    ids=str,
)
def test_registers_that_no_log_can_explain(registers: dict[str, str], step: str) -> None:
    refused(HONEST, registers, step)


# PCRs


def pcr_log(*events: TcgEvent) -> TcgEventLog:
    return TcgEventLog.of(header(*PCR_BANKS), events)


def pcr(register: int, data: bytes, event_type: int = EventType.EFI_ACTION) -> TcgEvent:
    return event(register, event_type, data, banks=PCR_BANKS)


@pytest.mark.parametrize("bank", PCR_BANKS)
def test_pcrs_replay_in_the_bank_of_the_report(bank: str) -> None:
    log = pcr_log(pcr(4, b"one"), pcr(4, b"two"), pcr(9, SEPARATOR))
    digests = [d for e in log.events[1:3] if (d := e.digest(bank))]
    events = verify_events(log, {"pcr4": extend(digests, bank)})
    assert (events.bank, [e.index for e in events.events["pcr4"]]) == (bank, [1, 2])


def test_a_bank_the_log_does_not_carry_is_refused() -> None:
    refused(pcr_log(pcr(0, b"x")), {"pcr0": "00" * 64}, "bank")


def test_a_sha1_log_explains_no_accepted_bank() -> None:
    log = TcgEventLog(None, (TcgEvent(0, 8, (Digest(4, bytes(20)),), b"x"),))
    refused(log, {"pcr0": "00" * 32}, "bank")


def test_pcr0_starts_with_the_locality_of_startup() -> None:
    action = pcr(0, b"x")
    start = bytes(31) + b"\x03"
    value = extend([action.digest("sha256") or b""], "sha256", start)
    log = pcr_log(locality(3, PCR_BANKS), action)
    assert verify_events(log, {"pcr0": value}).registers == {"pcr0": value}
    refused(pcr_log(action), {"pcr0": value}, "pcr0")
    refused(pcr_log(locality(4, PCR_BANKS), action), {"pcr0": value}, "pcr0")


def test_an_impossible_or_doubled_startup_locality_is_refused() -> None:
    for events in (
        (locality(1, PCR_BANKS),),
        (locality(3, PCR_BANKS), locality(3, PCR_BANKS)),
    ):
        refused(pcr_log(*events), {"pcr0": "00" * 32}, "startup_locality")


def test_a_verified_tpm_quote_is_judged_by_its_own_registers() -> None:
    log = pcr_log(pcr(4, b"one"), pcr(9, b"not quoted"))
    digest = log.events[1].digest("sha256") or b""
    pcrs = {4: bytes.fromhex(extend([digest], "sha256")), 7: bytes(32)}
    quote = tpm_device.quoted(pcrs).write()
    made = tpm_device.signed(quote)
    report = verify_tpm(quote, made, pcrs, tpm_device.bound(), tpm_device.NOW)
    events = verify_events(log, report, required=("pcr4", "pcr7"))
    assert sorted(events.registers) == ["pcr4", "pcr7"]
    refused(pcr_log(), dict(report.measurements), "registers")
    with pytest.raises(VerificationError, match="pcr4"):
        verify_events(pcr_log(pcr(4, b"two")), report)


def test_untouched_registers_explain_themselves() -> None:
    values = {"pcr1": "00" * 32, "pcr17": "ff" * 32, "pcr23": "00" * 32, "pcr18": "00" * 32}
    events = verify_events(pcr_log(), values)
    assert events.unexplained == ("pcr18",)
    assert sorted(events.registers) == ["pcr1", "pcr17", "pcr23"]


def test_an_event_on_a_pcr_no_tpm_has_is_refused() -> None:
    refused(pcr_log(pcr(24, b"x")), {"pcr0": "00" * 32}, "register")


# JSON


def boot(**odd: Any) -> RtmrEvent:
    digest = HONEST.events[3].digests[0].value
    fields = {"imr": 0, "event_type": 4, "digest": digest, "event": "", "payload": None}
    return RtmrEvent(**{**fields, **odd})


def test_a_stripped_payload_leaves_its_event_opaque() -> None:
    log = RtmrEventLog((boot(), boot(payload=SEPARATOR)))
    events = verify_events(log, {"rtmr0": extend([e.digest or b"" for e in log.events])})
    assert [e.data_verified for e in events.events["rtmr0"]] == [False, True]


def test_a_json_entry_on_an_unknown_rtmr_is_refused() -> None:
    refused(RtmrEventLog((boot(imr=4),)), {"rtmr0": "00" * 48}, "register")


def test_unmeasured_and_unreported_json_entries_are_left_out() -> None:
    log = RtmrEventLog((boot(event_type=int(EventType.NO_ACTION)), boot(imr=1)))
    assert verify_events(log, {"rtmr0": "00" * 48}).events == {"rtmr0": ()}


def test_a_log_of_rtmrs_explains_no_pcrs() -> None:
    refused(RtmrEventLog((runtime("app-id"),)), {"pcr0": "00" * 32}, "registers")


def test_nobody_else_makes_verified_events() -> None:
    fields = {f: getattr(verified([]), f) for f in ("bank", "registers", "events")}
    with pytest.raises(TypeError, match="made by attestation"):
        VerifiedEvents(**fields, unexplained=(), runtime=None, seal=object())
    assert VerifiedEvents(**fields, unexplained=(), runtime=None, seal=_SEAL).cmdline is None


def test_replaying_nothing_is_where_it_began() -> None:
    assert replay((), "sha384", bytes(48)) == bytes(48)
