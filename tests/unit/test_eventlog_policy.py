"""The policy section `events`: each rule, and each way around it that must not work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import attested
import pytest
from eventlogs import CMDLINE, ccel, ccel_events, event, header, load_options, rtmrs

from attestation.errors import MalformedEvidence
from attestation.evidence.eventlog import EventType, TcgEvent, TcgEventLog
from attestation.policy import load_policy
from attestation.policy.events import EventsPolicy, events_findings
from attestation.verify import VerifiedReport
from attestation.verify.events import VerifiedEvents, verify_events

BOOT = ccel_events()
LOADER = BOOT[7].digests[0].value.hex()
CONFIG = BOOT[8].digests[0].value.hex()


def booted(events: Sequence[TcgEvent]) -> tuple[VerifiedReport, VerifiedEvents]:
    log = ccel(events)
    fields: dict[str, Any] = {
        k.replace("rtmr", "rt_mr"): bytes.fromhex(v) for k, v in rtmrs(log).items()
    }
    report = attested.verify("tdx-v4", **fields)
    return report, verify_events(log, report)


def section(**members: Any) -> EventsPolicy:
    document = {"version": 1, "name": "events", "events": members}
    return load_policy(document).events


def fields(events: Sequence[TcgEvent], **members: Any) -> list[str]:
    report, verified = booted(events)
    members = {"boot_applications": [LOADER], **members}
    return [f.field for f in events_findings(report, verified, section(**members))]


def test_no_log_is_wanted_unless_something_is_asked() -> None:
    report, _ = booted(BOOT)
    assert list(events_findings(report, None, EventsPolicy())) == []
    for members in ({"required": True}, {"secure_boot": True}, {"cmdline": {"forbidden": ["x"]}}):
        findings = list(events_findings(report, None, section(**members)))
        assert [f.field for f in findings] == ["events"]


def test_everything_wanted_is_found() -> None:
    assert not fields(
        BOOT,
        required=True,
        registers=["rtmr0", "rtmr1", "rtmr2", "rtmr3"],
        secure_boot=True,
        boot_applications=[LOADER],
        boot_files=[CONFIG],
        cmdline={"accepted": [CMDLINE], "required": ["ro"], "forbidden": ["init="]},
    )


def test_events_of_another_report_are_refused() -> None:
    report, _ = booted(BOOT[:-1])
    _, events = booted(BOOT)
    findings = list(events_findings(report, events, EventsPolicy()))
    assert [f.field for f in findings] == ["events.rtmr1"]
    tpm = TcgEventLog.of(header("sha384"), ())
    pcrs = verify_events(tpm, {"pcr1": "00" * 48})
    sgx = attested.verify("sgx-v3")
    assert [f.field for f in events_findings(sgx, pcrs, EventsPolicy())] == ["events.pcr1"]


def test_a_register_the_log_does_not_explain_is_named() -> None:
    report, _ = booted(BOOT)
    events = verify_events(ccel(BOOT[:8] + BOOT[11:]), report)
    findings = list(events_findings(report, events, section(registers=["rtmr1", "rtmr2"])))
    assert [(f.field, f.expected) for f in findings] == [("events.registers", "rtmr2")]


def test_secure_boot_must_be_proven_on() -> None:
    assert fields(ccel_events(b"\x00"), secure_boot=True) == ["events.secure_boot"]
    assert fields(BOOT[2:], secure_boot=True) == ["events.secure_boot"]


def test_a_boot_application_that_is_not_listed_is_refused() -> None:
    assert fields(BOOT, boot_applications=["00" * 48]) == ["events.boot_applications"]


def test_a_boot_application_under_another_label_is_refused_too() -> None:
    hidden = event(2, EventType.POST_CODE, b"firmware", b"another loader")
    assert fields([*BOOT, hidden], boot_applications=[LOADER]) == ["events.boot_applications"]


def test_applications_of_an_unexplained_register_are_not_taken_as_none() -> None:
    report, _ = booted(BOOT)
    events = verify_events(ccel([]), report)
    wanted = section(boot_applications=[LOADER])
    assert [f.field for f in events_findings(report, events, wanted)] == ["events.registers"]


def test_pcrs_have_registers_of_their_own() -> None:
    log = TcgEventLog.of(header("sha384"), ())
    events = verify_events(log, {"pcr4": "00" * 48, "pcr8": "00" * 48})
    wanted = section(boot_applications=["00" * 48], cmdline={"forbidden": ["x"]})
    findings = events_findings(attested.verify("sgx-v3"), events, wanted)
    missing = [f.expected for f in findings if f.field == "events.registers"]
    assert missing == ["pcr2", "pcr9", "pcr12"]


@pytest.mark.parametrize("rule", [{"boot_files": [CONFIG]}, {"cmdline": {"forbidden": ["x"]}}])
def test_what_an_unknown_boot_loader_measured_is_not_believed(rule: dict[str, Any]) -> None:
    report, events = booted(BOOT[:8] + BOOT[9:])
    found = [(f.field, f.actual) for f in events_findings(report, events, section(**rule))]
    assert found == [("events.boot_applications", LOADER)]


def test_a_file_that_is_not_listed_is_refused() -> None:
    assert fields(BOOT, boot_files=["00" * 48]) == ["events.boot_files"]


@pytest.mark.parametrize(
    ("cmdline", "found"),
    [
        ({"accepted": ["/boot/vmlinuz quiet"]}, "events.cmdline.accepted"),
        ({"required": ["r"]}, "events.cmdline.required"),
        ({"forbidden": ["root=/dev/vda"]}, "events.cmdline.forbidden"),
    ],
    ids=str,
)
def test_another_command_line_is_refused(cmdline: dict[str, Any], found: str) -> None:
    assert fields(BOOT, boot_files=[CONFIG], cmdline=cmdline) == [found]


def test_a_boot_that_shows_no_command_line_is_refused() -> None:
    shown = fields(BOOT[:8], cmdline={"forbidden": ["init="]})
    assert shown == ["events.cmdline"]


def test_a_command_line_hidden_as_a_file_is_refused() -> None:
    """A harmless one is measured later, the real one is relabelled: its digest is left over."""
    hidden = replace(BOOT[10], data=b"/boot/innocent\0")
    harmless = event(3, EventType.IPL, b"kernel_cmdline: /k ro\0", b"/k ro")
    found = fields([hidden, harmless], boot_files=[CONFIG], cmdline={"accepted": ["/k ro"]})
    assert found == ["events.boot_files"]


def test_a_second_command_line_must_do_as_well() -> None:
    """The real one under the label of a command is still judged."""
    real = event(3, EventType.IPL, b"grub_cmd: /k init=/bin/sh\0", b"/k init=/bin/sh")
    harmless = event(3, EventType.IPL, b"kernel_cmdline: /k ro\0", b"/k ro")
    found = fields([real, harmless], cmdline={"accepted": ["/k ro"], "forbidden": ["init="]})
    assert found == ["events.cmdline.accepted", "events.cmdline.forbidden"]


def test_load_options_are_accepted_by_their_digest() -> None:
    line = "console=ttyS0 initrd=initrd"
    wanted = {"accepted": [line, "other"], "required": ["initrd=initrd"]}
    assert not fields([load_options(line)], cmdline=wanted)
    assert fields([load_options("console=ttyS0")], cmdline=wanted) == [
        "events.boot_files",
        "events.cmdline",
    ]


@pytest.mark.parametrize(
    "events",
    [
        {"registers": ["rtmr4"]},
        {"registers": ["pcr24"]},
        {"boot_files": ["AA" * 48]},
        {"boot_applications": []},
        {"cmdline": {"required": [""]}},
        {"other": 1},
    ],
    ids=str,
)
def test_a_section_of_another_shape_is_malformed(events: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidence):
        section(**events)
