"""An SPDM 1.1 exchange: the request for measurements and the signed answer to it.

A device signs both messages together, so the request, with the nonce in it, is as much a
part of the evidence as the answer. Spec: DMTF DSP0274 version 1.1, section 10.11
(GET_MEASUREMENTS request, MEASUREMENTS response), with one signature algorithm: ECDSA over
P-384, raw r || s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.wire import Cursor, u8, u16

SPDM_1_1: Final = 0x11
GET_MEASUREMENTS: Final = 0xE0
MEASUREMENTS: Final = 0x60
GENERATE_SIGNATURE: Final = 0x01
ALL_MEASUREMENTS: Final = 0xFF
DMTF: Final = 0x01
NONCE_BYTES: Final = 32
SIGNATURE_BYTES: Final = 96
MAX_TRANSCRIPT: Final = 1 << 16
_MAX_OPAQUE: Final = 1024


def _message(c: Cursor, code: int) -> None:
    version = c.u8("version")
    if version != SPDM_1_1:
        raise c.error("version", f"{version:#04x} is not SPDM 1.1")
    actual = c.u8("code")
    if actual != code:
        raise c.error("code", f"{actual:#04x} instead of {code:#04x}")


@dataclass(frozen=True, slots=True)
class MeasurementsRequest:
    """GET_MEASUREMENTS, 37 bytes: what the verifier asked and the nonce it chose.

    `attributes` bit 0 asks for a signature; `operation` 0xFF asks for every measurement;
    `nonce` is 32 bytes; `slot_id` names the certificate chain that shall sign.
    """

    attributes: int
    operation: int
    nonce: bytes
    slot_id: int

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next 37 bytes of `c`. Raises MalformedEvidence."""
        _message(c, GET_MEASUREMENTS)
        return cls(
            attributes=c.u8("param1"),
            operation=c.u8("param2"),
            nonce=c.take("nonce", NONCE_BYTES),
            slot_id=c.u8("slot_id"),
        )

    def write(self) -> bytes:
        """The bytes `read` reads."""
        head = bytes((SPDM_1_1, GET_MEASUREMENTS, self.attributes, self.operation))
        return head + self.nonce + u8(self.slot_id)


@dataclass(frozen=True, slots=True)
class MeasurementBlock:
    """One measurement in DMTF form: `index` from 1, `value_type`, and the value itself.

    Bits 6:0 of `value_type` say what was measured (1 is mutable firmware); bit 7 says that
    `value` is raw data instead of a digest.
    """

    index: int
    value_type: int
    value: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next block of `c`. Raises MalformedEvidence."""
        index = c.u8("index")
        specification = c.u8("specification")
        if specification != DMTF:
            raise c.error("specification", f"{specification:#04x} is not DMTF")
        inner = c.sub("measurement", c.u16("size"))
        value_type = inner.u8("value_type")
        value = inner.take("value", inner.u16("value_size"))
        inner.finish()
        return cls(index, value_type, value)

    def write(self) -> bytes:
        """The bytes `read` reads."""
        size = len(self.value)
        head = u8(self.index) + u8(DMTF) + u16(size + 3)
        return head + u8(self.value_type) + u16(size) + self.value


def _blocks(c: Cursor, count: int) -> tuple[MeasurementBlock, ...]:
    blocks = tuple(MeasurementBlock.read(c) for _ in range(count))
    c.finish()
    if len({b.index for b in blocks}) != count:
        raise c.error("index", "two measurements have one index")
    return blocks


@dataclass(frozen=True, slots=True)
class MeasurementsResponse:
    """MEASUREMENTS: the device's answer.

    `param1` is reserved here; bits 3:0 of `param2` are the slot that signed. `nonce` is
    the device's own (32 bytes). `opaque` is vendor data, at most 1024 bytes. `signature`
    is r || s, big-endian, 48 bytes each.
    """

    param1: int
    param2: int
    blocks: tuple[MeasurementBlock, ...]
    nonce: bytes
    opaque: bytes
    signature: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The rest of `c`. Raises MalformedEvidence."""
        _message(c, MEASUREMENTS)
        param1, param2 = c.u8("param1"), c.u8("param2")
        count = c.u8("number_of_blocks")
        size = int.from_bytes(c.take("measurement_record_length", 3), "little")
        blocks = _blocks(c.sub("measurement_record", size), count)
        nonce = c.take("nonce", NONCE_BYTES)
        opaque_size = c.u16("opaque_length")
        if opaque_size > _MAX_OPAQUE:
            raise c.error("opaque_length", f"{opaque_size} exceeds {_MAX_OPAQUE}")
        opaque = c.take("opaque", opaque_size)
        signature = c.take("signature", SIGNATURE_BYTES)
        c.finish()
        return cls(param1, param2, blocks, nonce, opaque, signature)

    def write(self) -> bytes:
        """The bytes `read` reads."""
        record = b"".join(b.write() for b in self.blocks)
        return b"".join(
            (
                bytes((SPDM_1_1, MEASUREMENTS, self.param1, self.param2, len(self.blocks))),
                len(record).to_bytes(3, "little"),
                record,
                self.nonce,
                u16(len(self.opaque)),
                self.opaque,
                self.signature,
            )
        )


@dataclass(frozen=True, slots=True)
class MeasurementsTranscript:
    """Request and response, end to end; `signed` is the slice that the device signed."""

    request: MeasurementsRequest
    response: MeasurementsResponse
    signed: bytes = field(repr=False, compare=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The exchange that all of `data` is. Raises MalformedEvidence."""
        if len(data) > MAX_TRANSCRIPT:
            raise MalformedEvidence("spdm", f"longer than {MAX_TRANSCRIPT} bytes", 0)
        c = Cursor("spdm", data)
        request = MeasurementsRequest.read(c)
        response = MeasurementsResponse.read(c)
        return cls(request, response, data[: len(data) - SIGNATURE_BYTES])

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return self.request.write() + self.response.write()
