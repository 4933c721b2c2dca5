"""Evidence of an NVIDIA GPU or NVSwitch: an SPDM exchange and the typed fields inside it.

The device states what it runs in the opaque data of its answer: a list of u16 type, u16
length, value. GPU and switch share the types up to 21 and give different meanings to the
later ones. Spec: NVIDIA attestation SDK (opaque data parsers of GPU and switch), DSP0274.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.evidence.spdm import MeasurementsTranscript
from attestation.wire import Cursor, u16

DRIVER_VERSION: Final = 3
VBIOS_VERSION: Final = 6
NVDEC0_STATUS: Final = 11
CHIP_SKU: Final = 15
PROJECT: Final = 17
PROJECT_SKU: Final = 18
FWID: Final = 20
PROTECTED_PCIE_STATUS: Final = 21
OPAQUE_DATA_VERSION: Final = 34
CHIP_INFO: Final = 35
FEATURE_FLAG: Final = 36

_COMMON: Final = {
    1: "cert_issuer_name",
    2: "cert_authority_key_identifier",
    DRIVER_VERSION: "driver_version",
    4: "gpu_info",
    5: "sku",
    VBIOS_VERSION: "vbios_version",
    7: "manufacturer_id",
    8: "tamper_detection",
    9: "smc",
    10: "vpr",
    NVDEC0_STATUS: "nvdec0_status",
    12: "msrscnt",
    13: "cprinfo",
    14: "board_id",
    CHIP_SKU: "chip_sku",
    16: "chip_sku_mod",
    PROJECT: "project",
    PROJECT_SKU: "project_sku",
    19: "project_sku_mod",
    FWID: "fwid",
    PROTECTED_PCIE_STATUS: "protected_pcie_status",
}
GPU_FIELDS: Final[Mapping[int, str]] = _COMMON | {
    22: "switch_pdi",
    23: "floorswept_ports",
    24: "position_id",
    25: "lock_switch_status",
    32: "gpu_link_conn",
    33: "sys_enable_status",
    OPAQUE_DATA_VERSION: "opaque_data_version",
    CHIP_INFO: "chip_info",
    FEATURE_FLAG: "feature_flag",
}
SWITCH_FIELDS: Final[Mapping[int, str]] = _COMMON | {
    22: "device_pdi",
    23: "disabled_ports",
    24: "switch_position_id",
    25: "switch_lock_status",
    26: "switch_gpu_pdis",
    27: "switch_ports",
}
_MODES: Final = {0: "mpt", 1: "spt", 2: "ppcie"}
_STATUS: Final = {b"\xaa": True, b"\x55": False}
_KNOWN_OPAQUE_VERSIONS: Final = (0, 1)


@dataclass(frozen=True, slots=True)
class OpaqueField:
    """One typed field of the opaque data: u16 type, u16 length, then that many bytes."""

    kind: int
    data: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next field of `c`. Raises MalformedEvidence."""
        kind = c.u16("type")
        return cls(kind, c.take("value", c.u16("length")))

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return u16(self.kind) + u16(len(self.data)) + self.data


def _error(kind: int, detail: str) -> MalformedEvidence:
    return MalformedEvidence(f"opaque.{_COMMON.get(kind, GPU_FIELDS.get(kind))}", detail)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the device says of itself; None where it does not say.

    `fwid` is the digest of its first mutable firmware (48 bytes). `nvdec0` says whether
    that unit exists, which decides whether measurement 35 means anything. `mode` is the
    confidential-compute mode: `spt` (one GPU), `mpt` (several), `ppcie` (several over an
    NVSwitch without link encryption), or `unknown` for a number nobody has documented.
    """

    driver_version: str | None
    vbios_version: str
    project: str | None
    project_sku: str | None
    chip_sku: str | None
    chip: str | None
    fwid: bytes | None
    nvdec0: bool | None
    protected_pcie: bool | None
    mode: str | None

    @classmethod
    def of(cls, fields: Mapping[int, bytes]) -> Self:
        """The facts that these opaque fields state. Raises MalformedEvidence."""
        return cls(
            driver_version=_text(fields, DRIVER_VERSION),
            vbios_version=_vbios(fields),
            project=_text(fields, PROJECT),
            project_sku=_text(fields, PROJECT_SKU),
            chip_sku=_text(fields, CHIP_SKU),
            chip=_text(fields, CHIP_INFO),
            fwid=_fwid(fields),
            nvdec0=_status(fields, NVDEC0_STATUS),
            protected_pcie=_status(fields, PROTECTED_PCIE_STATUS),
            mode=_mode(fields),
        )


def _text(fields: Mapping[int, bytes], kind: int) -> str | None:
    data = fields.get(kind)
    if data is None:
        return None
    text = data.rstrip(b"\0")
    if not text or not all(0x20 < b < 0x7F for b in text):
        raise _error(kind, "not a NUL-terminated ASCII text")
    return text.decode("ascii")


def _vbios(fields: Mapping[int, bytes]) -> str:
    """The version as NVIDIA writes it, `96.00.5E.00.01`, for GPU and switch alike.

    A switch states that text. A GPU states a little-endian u32 with the first four parts,
    then the fifth, then zeros.
    """
    data = fields.get(VBIOS_VERSION)
    if data is None:
        raise _error(VBIOS_VERSION, "missing")
    if DRIVER_VERSION not in fields:
        return (_text(fields, VBIOS_VERSION) or "").upper()
    if len(data) != 8 or any(data[5:]):
        raise _error(VBIOS_VERSION, "not a version of five bytes and three zeros")
    return ".".join(f"{b:02X}" for b in (*reversed(data[:4]), data[4]))


def _fwid(fields: Mapping[int, bytes]) -> bytes | None:
    data = fields.get(FWID)
    if data is not None and len(data) != 48:
        raise _error(FWID, f"{len(data)} bytes are not a SHA-384 digest")
    return data


def _status(fields: Mapping[int, bytes], kind: int) -> bool | None:
    data = fields.get(kind)
    if data is None:
        return None
    if data not in _STATUS:
        raise _error(kind, f"{data[:8].hex()} is neither aa (on) nor 55 (off)")
    return _STATUS[data]


def _small(fields: Mapping[int, bytes], kind: int) -> int | None:
    data = fields.get(kind)
    if data is None:
        return None
    if not 0 < len(data) <= 8:
        raise _error(kind, f"{len(data)} bytes are not an integer")
    return int.from_bytes(data, "little")


def _mode(fields: Mapping[int, bytes]) -> str | None:
    version = _small(fields, OPAQUE_DATA_VERSION) or 0
    if version not in _KNOWN_OPAQUE_VERSIONS:
        raise _error(OPAQUE_DATA_VERSION, f"{version} is not one whose meaning is known")
    flag = _small(fields, FEATURE_FLAG)
    return None if flag is None or version < 1 else _MODES.get(flag, "unknown")


@dataclass(frozen=True, slots=True)
class NvidiaEvidence:
    """One device's answer: the exchange, the typed fields in order, and what they state."""

    transcript: MeasurementsTranscript
    fields: tuple[OpaqueField, ...]
    facts: DeviceFacts

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The evidence that all of `data` is. Raises MalformedEvidence."""
        transcript = MeasurementsTranscript.read(data)
        c = Cursor("opaque", transcript.response.opaque)
        fields = []
        while c.remaining:
            fields.append(OpaqueField.read(c))
        stated = {f.kind: f.data for f in fields}
        if len(stated) != len(fields):
            raise MalformedEvidence("opaque", "a field is stated twice")
        return cls(transcript, tuple(fields), DeviceFacts.of(stated))

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return self.transcript.write()

    @property
    def is_switch(self) -> bool:
        """True for an NVSwitch, which has no driver. The certificate chain must agree."""
        return self.facts.driver_version is None

    @property
    def field_names(self) -> Mapping[int, str]:
        """What the types of `fields` are called on this kind of device."""
        return SWITCH_FIELDS if self.is_switch else GPU_FIELDS
