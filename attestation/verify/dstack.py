"""What a dstack guest is: which application, which keys, which operating system image.

Everything is read from registers of a verified quote: RTMR3 through its replayed events,
and, for the image, MRTD, RTMR1 and RTMR2 against material that `os_image_hash` commits to.
The rest of what a host says about its machine proves nothing and is not kept. RTMR0 holds
the virtual hardware; dstack's own full check rebuilds it with QEMU, here a reference value
must be pinned instead.

Spec: Dstack-TEE/dstack, dstack-attest `attestation.rs` (`decode_app_info`,
`decode_mr_tdx_from_quote`), dstack-mr `tdx.rs`, dstack-types `mr_config.rs`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Final, Literal

from attestation.canonical import sha256_hex
from attestation.errors import VerificationError
from attestation.evidence import TdxQuote
from attestation.evidence.dstack import (
    APP_ID_BYTES,
    PROVIDER_NAMES,
    AppCompose,
    KeyProviderInfo,
    KeyRelease,
    OsImageMeasurement,
    VmConfig,
)
from attestation.verify.dcap_report import DcapReport
from attestation.verify.dstack_keys import ReleasedKey, verify_key_release
from attestation.verify.events import VerifiedEvents, replay
from attestation.verify.events_runtime import RuntimeEvents
from attestation.verify.model import _SEAL

_MR_CONFIG_V1: Final = 1
_BEFORE_EXIT: Final = (
    b"Calling EFI Application from Boot Option",
    bytes(4),
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DstackFacts:
    """What one verified quote and its events say of a dstack guest. Digests are hex.

    `app_id` equals the start of `compose_hash` when `app_id_is_compose_hash`; otherwise
    whoever deployed chose it, and only an on-chain or KMS rule ties it to code.
    `instance_id` is empty where the application asked for none. `os_image_hash` is None
    unless proven, by measurement material or by the caller's reference; what the KMS said
    while booting is `kms_os_image_hash`, as good as that KMS. `later_events` are what the
    application itself measured.
    """

    app_id: str
    app_id_is_compose_hash: bool
    compose_hash: str
    instance_id: str
    key_provider: KeyProviderInfo | None
    init_script_hashes: tuple[str, ...]
    kms_os_image_hash: str | None
    os_image_hash: str | None
    os_image_proof: Literal["measurement", "reference"] | None
    mr_aggregated: str
    app_compose: AppCompose | None
    released_key: ReleasedKey | None
    later_events: tuple[tuple[str, bytes], ...]
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("DstackFacts are made by attestation.verify only")


def _runtime(report: DcapReport, events: VerifiedEvents) -> RuntimeEvents:
    """dstack's events, once they are known to be of this very report."""
    if not isinstance(report.quote, TdxQuote):
        raise VerificationError("tee", f"dstack facts are read from TDX, not {report.tee}")
    for register, value in events.registers.items():
        if report.registers.get(register.replace("rtmr", "rt_mr")) != value:
            raise VerificationError("events", f"{register} is of another report")
    if "rtmr3" not in events.registers or events.runtime is None:
        raise VerificationError("events", "no runtime events explain RTMR3")
    if not events.runtime.ready:
        raise VerificationError("system_ready", "the quote is from before the end of boot")
    return events.runtime


def _sized(runtime: RuntimeEvents, name: str, sizes: tuple[int, ...]) -> bytes:
    payload = runtime.boot.get(name)
    step = name.replace("-", "_")
    if payload is None:
        raise VerificationError(step, f"{name!r} was not measured")
    if len(payload) not in sizes:
        raise VerificationError(step, f"{name!r} has {len(payload)} bytes")
    return payload


def _compose(
    data: bytes | None, compose_hash: bytes, provider: KeyProviderInfo | None
) -> AppCompose | None:
    """The application's file, if given, is the one measured and is obeyed by its keys."""
    if data is None:
        return None
    if sha256_hex(data) != compose_hash.hex():
        raise VerificationError("compose_hash", f"{sha256_hex(data)} was not measured")
    compose = AppCompose.read(data)
    if provider is not None:
        wanted = PROVIDER_NAMES[compose.key_provider]
        if provider.name != wanted:
            raise VerificationError("key_provider", f"{provider.name!r} instead of {wanted!r}")
        if compose.key_provider_id and provider.id.lower() != compose.key_provider_id:
            raise VerificationError("key_provider", "not the one the application pins")
    return compose


def _check_mr_config_id(report: DcapReport, compose_hash: bytes) -> None:
    """Version 1 of MRCONFIGID names the application too, and must name the same."""
    mr_config_id = bytes.fromhex(report.registers["mr_config_id"])
    if mr_config_id[0] == _MR_CONFIG_V1 and mr_config_id[1:] != compose_hash + bytes(15):
        raise VerificationError("mr_config_id", "the TD was configured for another application")


def _sha384s(contents: Sequence[bytes]) -> list[bytes]:
    return [hashlib.sha384(c).digest() for c in contents]


def _expect(report: DcapReport, register: str, accepted: Sequence[bytes]) -> None:
    actual = bytes.fromhex(report.registers[register])
    if not any(hmac.compare_digest(actual, value) for value in accepted):
        raise VerificationError("os_image", f"{register} is not that of the image")


def _check_material(report: DcapReport, config: VmConfig, measurement: bytes) -> None:
    """The registers are what the image behind `os_image_hash` leads to."""
    if sha256_hex(config.checksum_file or b"") != config.os_image_hash:
        raise VerificationError("os_image", "the checksum file is not that of os_image_hash")
    if sha256_hex(measurement) != config.material_digest():
        raise VerificationError("os_image", "the measurement is not in the checksum file")
    image = OsImageMeasurement.read(measurement)
    rtmr1 = [image.kernel, *_sha384s(_BEFORE_EXIT)]
    _expect(report, "mr_td", image.mr_td)
    _expect(report, "rt_mr1", [replay(rtmr1, "sha384", bytes(48))])
    _expect(report, "rt_mr2", [replay([image.cmdline, image.initrd], "sha384", bytes(48))])


def _os_image(
    report: DcapReport,
    vm_config: bytes | str | None,
    references: Mapping[str, Mapping[str, str]],
) -> tuple[str | None, Literal["measurement", "reference"] | None]:
    """The image's hash, and what proves it; neither when nothing does."""
    if vm_config is None:
        return None, None
    config = VmConfig.read(vm_config)
    if config.measurement is not None:
        _check_material(report, config, config.measurement)
        return config.os_image_hash, "measurement"
    reference = references.get(config.os_image_hash)
    if not reference:
        return None, None
    for register, value in reference.items():
        if report.registers.get(register) != value:
            raise VerificationError("os_image", f"{register} is not that of the image")
    return config.os_image_hash, "reference"


def mr_aggregated(registers: Mapping[str, str]) -> str:
    """dstack's one digest of a whole TD, as KMS and on-chain rules name it. Hex."""
    names = ["mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"]
    identity = ["mr_config_id", "mr_owner", "mr_owner_config"]
    if any(registers[name].strip("0") for name in identity):
        names += identity
    return sha256_hex(b"".join(bytes.fromhex(registers[name]) for name in names))


def verify_dstack(
    report: DcapReport,
    events: VerifiedEvents,
    *,
    app_compose: bytes | None = None,
    vm_config: bytes | str | None = None,
    os_images: Mapping[str, Mapping[str, str]] | None = None,
    key_release: KeyRelease | None = None,
    kms_roots: Sequence[bytes] = (),
) -> DstackFacts:
    """The report is of a dstack guest, and this is what it runs.

    `events` must have been verified against `report` and explain RTMR3. `app_compose` are
    the exact bytes of the application's file; `vm_config` the JSON the guest serves;
    `os_images` maps image hashes to the register values that the caller expects of them
    (`mr_td`, `rt_mr0`..); `key_release` is checked up to one of `kms_roots`. What is not
    given is not claimed. Raises MalformedEvidence, or VerificationError with the step
    `tee`, `events`, `system_ready`, `app_id`, `compose_hash`, `instance_id`,
    `os_image_hash`, `key_provider`, `mr_config_id`, `os_image`, `key_signature` or
    `kms_root`.
    """
    runtime = _runtime(report, events)
    app_id = _sized(runtime, "app-id", (APP_ID_BYTES,))
    compose_hash = _sized(runtime, "compose-hash", (32,))
    instance_id = _sized(runtime, "instance-id", (0, 20))
    provider = runtime.boot.get("key-provider")
    info = None if provider is None else KeyProviderInfo.read(provider)
    stated = "os-image-hash" in runtime.boot
    kms_os_image_hash = _sized(runtime, "os-image-hash", (0, 32)).hex() if stated else ""
    _check_mr_config_id(report, compose_hash)
    compose = _compose(app_compose, compose_hash, info)
    os_image_hash, proof = _os_image(report, vm_config, os_images or {})
    key = None if key_release is None else verify_key_release(key_release, app_id, kms_roots)
    return DstackFacts(
        app_id=app_id.hex(),
        app_id_is_compose_hash=app_id == compose_hash[:APP_ID_BYTES],
        compose_hash=compose_hash.hex(),
        instance_id=instance_id.hex(),
        key_provider=info,
        init_script_hashes=tuple(h.hex() for h in runtime.init_scripts),
        kms_os_image_hash=kms_os_image_hash or None,
        os_image_hash=os_image_hash,
        os_image_proof=proof,
        mr_aggregated=mr_aggregated(report.registers),
        app_compose=compose,
        released_key=key,
        later_events=runtime.later,
        seal=_SEAL,
    )
