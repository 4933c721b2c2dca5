"""What a replayed log says about the boot, and the labels that must not decide it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eventlogs import (
    CMDLINE,
    SEPARATOR,
    ccel_events,
    event,
    load_options,
    runtime,
    variable,
    verified,
    verified_runtime,
)

from attestation.errors import VerificationError
from attestation.evidence.eventlog import EventType, TcgEvent
from attestation.evidence.eventlog_data import UefiVariable
from attestation.verify.events_digest import has_digest


def test_secure_boot_is_what_firmware_measured() -> None:
    assert verified(ccel_events(b"\x01")).secure_boot is True
    assert verified(ccel_events(b"\x00")).secure_boot is False
    assert verified(ccel_events(b"")).secure_boot is False


def test_secure_boot_measured_after_firmware_ended_is_not_believed() -> None:
    """A guest may extend the register later; only what stands before the separator counts."""
    on = event(1, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\x01"))
    separator = event(1, EventType.SEPARATOR, SEPARATOR)
    assert verified([separator, on]).secure_boot is None
    assert verified([on]).secure_boot is None


def test_secure_boot_hidden_behind_another_label_is_still_seen() -> None:
    """Labels are not measured: off, relabelled and followed by a forged on, stays off."""
    events = ccel_events(b"\x00")[:3]
    relabelled = [replace(e, event_type=EventType.POST_CODE, data=b"firmware") for e in events]
    forged = [
        event(1, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\x01")),
        event(1, EventType.SEPARATOR, SEPARATOR),
    ]
    assert verified([*relabelled, *forged]).secure_boot is False


def test_two_answers_about_secure_boot_are_none() -> None:
    both = [
        event(1, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", value))
        for value in (b"\x00", b"\x01")
    ]
    assert verified([*both, event(1, EventType.SEPARATOR, SEPARATOR)]).secure_boot is None


def test_secure_boot_of_another_vendor_is_another_variable() -> None:
    real = UefiVariable.read(variable("SecureBoot", b"\x01"))
    assert real is not None
    stranger = replace(real, vendor=type(real.vendor)(int=7)).write()
    events = [
        event(1, EventType.EFI_VARIABLE_DRIVER_CONFIG, stranger),
        event(1, EventType.SEPARATOR, SEPARATOR),
    ]
    assert verified(events).secure_boot is None


def loader() -> TcgEvent:
    return ccel_events()[7]


def test_boot_applications_are_listed_and_actions_are_not() -> None:
    digests = verified(ccel_events()).boot_application_digests
    assert digests == (loader().digests[0].value.hex(),)


@pytest.mark.parametrize(
    "label", [EventType.EFI_ACTION, EventType.EFI_GPT_EVENT, EventType.SEPARATOR, 0x1234]
)
def test_a_boot_application_cannot_hide_behind_a_label(label: int) -> None:
    """Under a label whose data is hashed the log is refused, under any other it is listed."""
    hidden = replace(loader(), event_type=label)
    if label == 0x1234:
        assert verified([hidden]).boot_application_digests == (hidden.digests[0].value.hex(),)
    else:
        with pytest.raises(VerificationError, match="event_digest"):
            verified([hidden])


def test_an_image_whose_bytes_stand_in_the_log_is_still_an_image() -> None:
    image = event(2, EventType.EFI_ACTION, b"MZ" + bytes(200))
    assert len(verified([image]).boot_application_digests) == 1


def test_stripped_actions_are_known_by_their_digest() -> None:
    action = ccel_events()[4]
    stripped = replace(action, event_type=EventType.POST_CODE, data=b"")
    assert verified([stripped]).boot_application_digests == ()


def test_the_command_line_is_the_text_that_was_hashed() -> None:
    events = verified(ccel_events())
    assert events.cmdline == CMDLINE
    assert events.command_lines == (CMDLINE,)
    assert events.grub_commands == ("set timeout=0", CMDLINE)
    assert events.boot_texts == ("set timeout=0", CMDLINE)
    assert events.boots_with(CMDLINE)
    assert not events.boots_with(CMDLINE + " init=/bin/sh")


def test_a_command_line_relabelled_as_a_command_is_still_one() -> None:
    """GRUB's labels are not hashed: a forged second line cannot make the real one vanish."""
    real = replace(ccel_events()[10], data=b"grub_cmd: " + CMDLINE.encode() + b"\0")
    forged = event(3, EventType.IPL, b"kernel_cmdline: /safe\0", b"/safe")
    events = verified([real, forged])
    assert set(events.command_lines) == {CMDLINE, "/safe"}
    assert events.cmdline is None


def test_a_command_line_hidden_as_a_file_stays_an_unknown_digest() -> None:
    real = replace(ccel_events()[10], data=b"/boot/innocent\0")
    events = verified([real])
    assert events.cmdline is None
    assert events.boot_file_digests == (real.digests[0].value.hex(),)


def test_older_grub_hashes_the_final_nul() -> None:
    old = event(3, EventType.IPL, b"kernel_cmdline: /k a\0", b"/k a\0")
    assert verified([old]).cmdline == "/k a"
    assert verified([old]).grub_commands == ("/k a",)


def test_systemd_stub_measures_section_names_and_utf16_command_lines() -> None:
    name = event(3, EventType.IPL, ".linux\0".encode("utf-16-le"), b".linux\0")
    line = event(3, EventType.IPL, "root=/dev/vda quiet\0".encode("utf-16-le"))
    events = verified([name, line])
    assert events.cmdline == "root=/dev/vda quiet"
    assert events.boot_texts == (".linux", "root=/dev/vda quiet")
    assert events.grub_commands == ()


def test_a_section_with_a_name_outside_ascii_stays_opaque() -> None:
    section = event(3, EventType.IPL, ".\u00fc\0".encode("utf-16-le"), b"content")
    assert len(verified([section]).boot_file_digests) == 1


def test_load_options_of_the_efi_stub_are_known_by_digest() -> None:
    events = verified([load_options("console=ttyS0 initrd=initrd")])
    assert events.boots_with("console=ttyS0 initrd=initrd")
    assert not events.boots_with("console=ttyS0")
    assert events.cmdline is None


def test_text_that_is_not_utf8_is_shown_with_replacement() -> None:
    assert verified([event(3, EventType.EFI_ACTION, b"/k \xff")]).cmdline == "/k \ufffd"


def test_a_digest_of_no_known_length_is_nobodys() -> None:
    assert not has_digest(b"", b"short")


# Runtime events

BOOT = (
    runtime("system-preparing"),
    runtime("app-id", b"\x01" * 20),
    runtime("compose-hash", b"\x02" * 32),
    runtime("init-script-hash", b"\x03" * 32),
    runtime("init-script-hash", b"\x04" * 32),
    runtime("boot-mr-done"),
    runtime("key-provider", b"{}"),
    runtime("system-ready"),
)


def runtime_refused(*events: object, step: str = "runtime_events") -> None:
    with pytest.raises(VerificationError) as e:
        verified_runtime(events)  # type: ignore[arg-type]
    assert e.value.step == step


@pytest.mark.parametrize("version", [1, 2])
def test_boot_events_are_read_by_name(version: int) -> None:
    boot = [runtime(e.event, e.payload or b"", version) for e in BOOT]
    events = verified_runtime([*boot, runtime("hotkey", b"mine", version)])
    assert events.runtime is not None
    assert events.runtime.ready
    assert events.runtime_event("app-id") == b"\x01" * 20
    assert events.runtime_event("hotkey") is None
    assert events.runtime.later == (("hotkey", b"mine"),)
    assert events.runtime.init_scripts == (b"\x03" * 32, b"\x04" * 32)


def test_a_quote_from_before_the_end_of_boot_says_so() -> None:
    events = verified_runtime(BOOT[:-1])
    assert events.runtime is not None
    assert not events.runtime.ready


def test_a_runtime_digest_is_recomputed_and_not_believed() -> None:
    forged = runtime("compose-hash", b"\x09" * 32, digest=BOOT[2].digest)
    runtime_refused(*BOOT[:2], forged, *BOOT[3:], step="event_digest")


def test_a_forged_preimage_is_refused() -> None:
    forged = runtime("app-id", b"\x01", version=2, preimage=b"{}")
    runtime_refused(forged, step="event_digest")


def test_stripped_digests_are_computed_from_name_and_payload() -> None:
    from eventlogs import rtmr3

    from attestation.evidence.eventlog_json import RtmrEventLog
    from attestation.verify.events import verify_events

    stripped = RtmrEventLog(tuple(replace(e, digest=None) for e in BOOT))
    events = verify_events(stripped, {"rtmr3": rtmr3(BOOT)})
    assert events.runtime_event("compose-hash") == b"\x02" * 32


def test_a_boot_event_measured_twice_is_refused() -> None:
    runtime_refused(*BOOT[:3], runtime("compose-hash", b"\x09" * 32), *BOOT[3:])


def test_a_boot_event_extended_again_after_boot_is_refused() -> None:
    for name in ("compose-hash", "key-provider", "system-ready", "init-script-hash", "mr-kms"):
        runtime_refused(*BOOT, runtime(name, b"\x09" * 32))


def test_the_first_boot_cannot_be_hidden_behind_another_label() -> None:
    """Otherwise a guest could extend a whole second boot, and show only that."""
    hidden = [replace(e, event_type=0x1234, payload=None) for e in BOOT]
    runtime_refused(*hidden, *BOOT)


def test_a_name_that_can_be_read_in_two_ways_is_refused() -> None:
    """Version 1 joins with colons, so payload bytes could pass for more of the name."""
    runtime_refused(runtime("compose-hash:x", b"y"), *BOOT)
    assert runtime("a:b", b"c").digest == runtime("a", b"b:c").digest


def test_a_colon_in_a_name_of_the_application_is_its_own_business() -> None:
    events = verified_runtime([*BOOT, runtime("my:event", b"x")])
    assert events.runtime is not None
    assert events.runtime.later == (("my:event", b"x"),)
