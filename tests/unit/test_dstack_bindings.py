"""dstack: what ties application, keys and image to a verified quote, and what must not."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import attested
import cbor2
import pytest
from eventlogs import extend, rtmr3, runtime

from attestation.canonical import sha256_hex
from attestation.errors import MalformedEvidence, VerificationError
from attestation.evidence.dstack import (
    AppCompose,
    KeyProviderInfo,
    OsImageMeasurement,
    VmConfig,
)
from attestation.evidence.eventlog_json import RtmrEvent, RtmrEventLog
from attestation.verify import DcapReport
from attestation.verify.dstack import DstackFacts, verify_dstack
from attestation.verify.events import verify_events

COMPOSE = json.dumps(
    {
        "manifest_version": 2,
        "name": "node",
        "runner": "docker-compose",
        "docker_compose_file": "services: {}",
        "kms_enabled": True,
        "key_provider_id": "3059ab",
    },
    indent=4,
).encode()
COMPOSE_HASH = hashlib.sha256(COMPOSE).digest()
PROVIDER = b'{"name":"kms","id":"3059ab"}'
CMDLINE, KERNEL, INITRD = (hashlib.sha384(x).digest() for x in (b"cmdline", b"kernel", b"initrd"))
MR_TD = (b"\x11" * 48, b"\x22" * 48)
IMAGE = {
    "version": 3,
    "image": {
        "cmdline_sha384": CMDLINE,
        "kernel_authenticode": KERNEL,
        "initrd_sha384": INITRD,
    },
    "tdvf": {
        "ovmf": "pre202505",
        "mrtd": {"single_pass": MR_TD[0], "two_pass": MR_TD[1]},
        "td_hob": b"",
    },
}
MEASUREMENT = cbor2.dumps(IMAGE)
CHECKSUMS = f"{'ab' * 32}  ovmf.fd\n{sha256_hex(MEASUREMENT)}  measurement.tdx.cbor\n".encode()
BOOT = [
    hashlib.sha384(x).digest()
    for x in (
        b"Calling EFI Application from Boot Option",
        bytes(4),
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Returned with Success",
    )
]


def boot(**payloads: bytes | None) -> list[RtmrEvent]:
    """The events of a boot; a payload of None leaves its event out."""
    named: dict[str, bytes | None] = {
        "system-preparing": b"",
        "app-id": COMPOSE_HASH[:20],
        "compose-hash": COMPOSE_HASH,
        "init-script-hash": b"\x05" * 32,
        "instance-id": b"\x06" * 20,
        "boot-mr-done": b"",
        "key-provider": PROVIDER,
        "system-ready": b"",
        **{name.replace("_", "-"): payload for name, payload in payloads.items()},
    }
    return [runtime(name, payload) for name, payload in named.items() if payload is not None]


@lru_cache(maxsize=64)
def _report(fields: tuple[tuple[str, bytes], ...]) -> DcapReport:
    report = attested.verify("tdx-v4", **dict[str, Any](fields))
    assert isinstance(report, DcapReport)
    return report


def report_of(events: list[RtmrEvent], **fields: bytes) -> DcapReport:
    registers = {
        "mr_td": MR_TD[1],
        "rt_mr1": bytes.fromhex(extend([KERNEL, *BOOT])),
        "rt_mr2": bytes.fromhex(extend([CMDLINE, INITRD])),
        "rt_mr3": bytes.fromhex(rtmr3(events)),
        **fields,
    }
    return _report(tuple(sorted(registers.items())))


def judge(
    events: list[RtmrEvent], /, fields: dict[str, bytes] | None = None, **given: Any
) -> DstackFacts:
    report = report_of(events, **(fields or {}))
    explained = verify_events(
        RtmrEventLog(tuple(events)), {"rtmr3": report.registers["rt_mr3"]}, required=("rtmr3",)
    )
    return verify_dstack(report, explained, **given)


def refused(step: str, events: list[RtmrEvent], /, **given: Any) -> None:
    with pytest.raises(VerificationError) as e:
        judge(events, **given)
    assert e.value.step == step


def vm_config(**odd: Any) -> str:
    material = {
        "checksum_file": base64.b64encode(odd.pop("checksums", CHECKSUMS)).decode(),
        "measurement": base64.b64encode(odd.pop("measurement", MEASUREMENT)).decode(),
    }
    config = {"os_image_hash": sha256_hex(CHECKSUMS), "tdx_measurement": material}
    return json.dumps({**config, **odd})


def test_facts_come_from_the_events_before_system_ready() -> None:
    facts = judge([*boot(), runtime("mine", b"1")], app_compose=COMPOSE)
    assert facts.app_id == COMPOSE_HASH[:20].hex()
    assert facts.app_id_is_compose_hash
    assert facts.compose_hash == sha256_hex(COMPOSE)
    assert facts.instance_id == "06" * 20
    assert facts.key_provider == KeyProviderInfo("kms", "3059ab")
    assert facts.init_script_hashes == ("05" * 32,)
    assert facts.later_events == (("mine", b"1"),)
    assert facts.app_compose is not None
    assert facts.app_compose.document["docker_compose_file"] == "services: {}"
    assert (facts.os_image_hash, facts.kms_os_image_hash, facts.released_key) == (None, None, None)


def test_an_app_id_that_somebody_chose_is_marked_as_such() -> None:
    assert not judge(boot(app_id=b"\x07" * 20)).app_id_is_compose_hash


def test_nobody_else_makes_facts() -> None:
    facts = judge(boot())
    with pytest.raises(TypeError, match="made by"):
        replace(facts, seal=object())


def test_another_compose_file_is_refused() -> None:
    refused("compose_hash", boot(), app_compose=COMPOSE + b"\n")


def test_a_reformatted_compose_file_is_another_file() -> None:
    compact = json.dumps(json.loads(COMPOSE), separators=(",", ":"), sort_keys=True).encode()
    refused("compose_hash", boot(), app_compose=compact)


def test_a_fake_compose_hash_extended_after_boot_is_refused() -> None:
    forged = runtime("compose-hash", b"\x09" * 32)
    refused("runtime_events", [*boot(), forged])


def test_events_of_another_machine_are_refused() -> None:
    events = verify_events(RtmrEventLog(tuple(boot())), {"rtmr3": rtmr3(boot())})
    other = report_of(boot(app_id=b"\x07" * 20))
    with pytest.raises(VerificationError, match="rtmr3 is of another report"):
        verify_dstack(other, events)


def test_events_that_do_not_explain_rtmr3_are_refused() -> None:
    report = report_of(boot())
    for registers in ({"rtmr2": report.registers["rt_mr2"]}, {"rtmr3": report.registers["rt_mr3"]}):
        nothing = verify_events(RtmrEventLog(()), registers)
        with pytest.raises(VerificationError, match="no runtime events explain RTMR3"):
            verify_dstack(report, nothing)
    untouched = report_of([], rt_mr3=bytes(48))
    with pytest.raises(VerificationError, match="no runtime events explain RTMR3"):
        verify_dstack(untouched, verify_events(RtmrEventLog(()), untouched))


def test_an_sgx_report_has_no_dstack_facts() -> None:
    report = attested.verify("sgx-v3")
    assert isinstance(report, DcapReport)
    events = verify_events(RtmrEventLog(()), {"rtmr3": "00" * 48})
    with pytest.raises(VerificationError, match="tee"):
        verify_dstack(report, events)


def test_a_quote_from_before_the_end_of_boot_is_refused() -> None:
    refused("system_ready", boot(system_ready=None))


@pytest.mark.parametrize(
    ("step", "payloads"),
    [
        ("app_id", {"app_id": None}),
        ("app_id", {"app_id": b"\x01" * 32}),
        ("compose_hash", {"compose_hash": None}),
        ("compose_hash", {"compose_hash": b""}),
        ("instance_id", {"instance_id": b"x"}),
        ("os_image_hash", {"instance_id": b"", "os_image_hash": None, "key_provider": PROVIDER}),
    ],
)
def test_what_dstack_always_measures_must_be_there(step: str, payloads: dict[str, Any]) -> None:
    if step != "os_image_hash":
        refused(step, boot(**payloads))
        return
    assert judge(boot(**payloads)).kms_os_image_hash is None


def test_the_image_a_kms_named_is_kept_apart_from_a_proven_one() -> None:
    events = boot(system_ready=None)
    stated = [*events, runtime("os-image-hash", b"\x08" * 32), runtime("system-ready")]
    facts = judge(stated)
    assert (facts.kms_os_image_hash, facts.os_image_hash) == ("08" * 32, None)
    empty = [*events, runtime("os-image-hash"), runtime("system-ready")]
    assert judge(empty).kms_os_image_hash is None
    odd = [*events, runtime("os-image-hash", b"8"), runtime("system-ready")]
    refused("os_image_hash", odd)


# Keys


def compose(**odd: Any) -> bytes:
    return json.dumps({"name": "n", "runner": "bash", **odd}).encode()


def judge_compose(data: bytes, provider: bytes | None) -> DstackFacts:
    digest = hashlib.sha256(data).digest()
    events = boot(app_id=digest[:20], compose_hash=digest, key_provider=provider)
    return judge(events, app_compose=data)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ({"kms_enabled": True}, "kms"),
        ({"local_key_provider_enabled": True}, "local-sgx"),
        ({}, "none"),
        ({"key_provider": "tpm", "kms_enabled": True}, "tpm"),
        ({"kms_enabled": True, "local_key_provider_enabled": True}, "kms"),
    ],
)
def test_keys_come_from_the_provider_the_application_asks_for(
    file: dict[str, Any], name: str
) -> None:
    provider = json.dumps({"name": name, "id": ""}).encode()
    facts = judge_compose(compose(**file), provider)
    assert facts.key_provider == KeyProviderInfo(name, "")
    with pytest.raises(VerificationError, match="key_provider"):
        judge_compose(compose(**file), b'{"name":"another","id":""}')


def test_keys_from_another_kms_than_the_pinned_one_are_refused() -> None:
    pinned = compose(kms_enabled=True, key_provider_id="AB01")
    assert judge_compose(pinned, b'{"name":"kms","id":"ab01"}').key_provider is not None
    with pytest.raises(VerificationError, match="not the one the application pins"):
        judge_compose(pinned, b'{"name":"kms","id":"ab02"}')


def test_a_guest_that_measured_no_provider_has_none() -> None:
    assert judge_compose(compose(), None).key_provider is None


def test_a_td_configured_for_another_application_is_refused() -> None:
    right = b"\x01" + COMPOSE_HASH + bytes(15)
    assert judge(boot(), fields={"mr_config_id": right}).compose_hash == COMPOSE_HASH.hex()
    refused("mr_config_id", boot(), fields={"mr_config_id": b"\x01" + bytes(47)})
    refused("mr_config_id", boot(), fields={"mr_config_id": right[:-1] + b"\x01"})


# Image


def test_an_image_is_proven_by_the_material_its_hash_commits_to() -> None:
    for mr_td in MR_TD:
        facts = judge(boot(), fields={"mr_td": mr_td}, vm_config=vm_config())
        assert (facts.os_image_hash, facts.os_image_proof) == (
            sha256_hex(CHECKSUMS),
            "measurement",
        )
    nested = json.dumps({"kms_urls": [], "vm_config": vm_config()}).encode()
    assert judge(boot(), vm_config=nested).os_image_proof == "measurement"


@pytest.mark.parametrize("register", ["mr_td", "rt_mr1", "rt_mr2"])
def test_a_register_that_is_not_the_images_is_refused(register: str) -> None:
    refused("os_image", boot(), fields={register: b"\x09" * 48}, vm_config=vm_config())


def test_material_that_is_not_behind_the_hash_is_refused() -> None:
    refused("os_image", boot(), vm_config=vm_config(os_image_hash="00" * 32))
    other = cbor2.dumps({**IMAGE, "later": 1})
    refused("os_image", boot(), vm_config=vm_config(measurement=other))
    twice = CHECKSUMS + CHECKSUMS
    refused(
        "os_image", boot(), vm_config=vm_config(checksums=twice, os_image_hash=sha256_hex(twice))
    )
    none = b"\xff nothing"
    refused("os_image", boot(), vm_config=vm_config(checksums=none, os_image_hash=sha256_hex(none)))


def test_an_image_hash_that_only_the_host_states_proves_nothing() -> None:
    facts = judge(boot(), vm_config='{"os_image_hash": "aa"}')
    assert (facts.os_image_hash, facts.os_image_proof) == (None, None)


def test_an_image_is_proven_by_reference_values_of_the_caller() -> None:
    expected = {"mr_td": MR_TD[1].hex(), "rt_mr2": extend([CMDLINE, INITRD])}
    stated = '{"os_image_hash": "0xAA"}'
    facts = judge(boot(), vm_config=stated, os_images={"aa": expected})
    assert (facts.os_image_hash, facts.os_image_proof) == ("aa", "reference")
    wrong = {**expected, "rt_mr0": "00" * 48}
    refused(
        "os_image",
        boot(),
        fields={"rt_mr0": b"\x01" * 48},
        vm_config=stated,
        os_images={"aa": wrong},
    )
    assert judge(boot(), vm_config=stated, os_images={"aa": {}}).os_image_hash is None
    assert judge(boot(), vm_config=stated, os_images={"bb": expected}).os_image_hash is None


def test_the_aggregate_covers_the_configuration_of_a_td_that_has_one() -> None:
    names = ["mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"]
    identity = ["mr_config_id", "mr_owner", "mr_owner_config"]
    for fields, covered in (
        (dict.fromkeys(identity, bytes(48)), names),
        ({"mr_owner": b"\x01" * 48}, names + identity),
    ):
        registers = report_of(boot(), **fields).registers
        joined = b"".join(bytes.fromhex(registers[name]) for name in covered)
        assert judge(boot(), fields=fields).mr_aggregated == sha256_hex(joined)


# Documents


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        compose(name=1),
        compose(runner=None),
        compose(kms_enabled="yes"),
        compose(no_instance_id=1),
        compose(key_provider="other"),
        compose(key_provider=["kms"]),
        compose(key_provider_id="xyz"),
        compose(key_provider_id=7),
        b'{"name":"a","name":"b","runner":"c"}',
        b" " * (1 << 20) + b"{}",
    ],
)
def test_a_compose_file_of_another_shape_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        AppCompose.read(data)


@pytest.mark.parametrize("data", [b"{}", b'{"name":"kms"}', b'{"name":1,"id":""}', b"kms"])
def test_a_key_provider_of_another_shape_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        KeyProviderInfo.read(data)


@pytest.mark.parametrize(
    "data",
    [
        "[]",
        '{"os_image_hash": 5}',
        '{"tdx_measurement": []}',
        '{"tdx_measurement": {}}',
        '{"tdx_measurement": {"checksum_file": "?", "measurement": ""}}',
        '{"tdx_measurement": {"checksum_file": "\u00e9", "measurement": ""}}',
        '{"vm_config": "[]"}',
    ],
)
def test_a_vm_config_of_another_shape_is_malformed(data: str) -> None:
    with pytest.raises(MalformedEvidence):
        VmConfig.read(data)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {**IMAGE, "version": 2},
        {**IMAGE, "image": []},
        {**IMAGE, "tdvf": {"mrtd": None}},
        {**IMAGE, "image": {"cmdline_sha384": b"short"}},
        {**IMAGE, "image": {"cmdline_sha384": "text"}},
    ],
    ids=str,
)
def test_an_image_measurement_of_another_shape_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedEvidence):
        OsImageMeasurement.read(cbor2.dumps(value))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", MEASUREMENT + b"\0", b"\x81" * 2000, bytes(1 << 21)]
)
def test_bytes_that_are_no_image_measurement_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        OsImageMeasurement.read(data)
