"""Which code a quote measures, as one id: what a `MeasurementPolicy` contract allows.

Spec: contracts/src/MeasurementPolicy.sol, `measurementId`. Pure.
"""

from __future__ import annotations

from typing import Final

from attestation.onchain.abi import keccak
from attestation.onchain.errors import NotProvable

SGX_BODY: Final = 384
TD10_BODY: Final = 584
TD15_BODY: Final = 648
_HEADER: Final = 48
_V5_DESCRIPTOR: Final = 6
_TAIL: Final = 64 + 64 + 384 + 64
_V5_BODIES: Final = {
    bytes.fromhex("020048020000"): TD10_BODY,
    bytes.fromhex("030088020000"): TD15_BODY,
}
_BODIES: Final = {3: SGX_BODY, 4: TD10_BODY}


def report_body(quote: bytes) -> bytes:
    """The report body in a compact quote (contracts/src/lib/QuoteLayout.sol).

    Raises NotProvable where the contracts know no such version or body, or bytes are missing.
    """
    start, version = _HEADER, int.from_bytes(quote[:2], "little")
    size = _BODIES.get(version)
    if version == 5:
        start += _V5_DESCRIPTOR
        size = _V5_BODIES.get(quote[_HEADER:start])
    if size is None:
        raise NotProvable("quote.version", f"contracts take no version {version} with this body")
    if len(quote) < start + size + _TAIL:
        raise NotProvable("quote", f"{len(quote)} bytes are too few for version {version}")
    return quote[start : start + size]


def report_data_of(body: bytes) -> bytes:
    """The 64 bytes of report data in a body of one of the three sizes."""
    at = 320 if len(body) == SGX_BODY else 520
    return body[at : at + 64]


def measurement_id(body: bytes) -> bytes:
    """The 32 bytes that stand for everything measured of a report body.

    TDX 1.0 (584 bytes): Keccak-256 of the TD's attributes to RTMR3; TDX 1.5 (648): the
    service TD's measurement behind them; SGX (384): all but CPUSVN and report data. Raises
    NotProvable for any other size.
    """
    if len(body) == SGX_BODY:
        return keccak(body[16:320])
    if len(body) == TD10_BODY:
        return keccak(body[120:520])
    if len(body) == TD15_BODY:
        return keccak(body[120:520] + body[600:648])
    raise NotProvable("quote.body", f"contracts know no report body of {len(body)} bytes")
