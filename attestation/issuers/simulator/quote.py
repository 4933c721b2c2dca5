"""Quotes of a simulated platform, byte for byte in the vendor's layouts.

Spec: Intel SGX ECDSA QuoteLibReference, quote version 3; Intel TDX DCAP Quoting Library
API, quote versions 4 and 5. A body is given as fields by their vendor names, so a test can
state the one that is odd and leave the rest. Integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.issuers.base import IssuerError
from attestation.issuers.simulator.pki import public_raw, sign_raw
from attestation.wire import u16, u32

INTEL_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
ECDSA_P256: Final = 2
TEE_SGX: Final = 0x00000000
TEE_TDX: Final = 0x00000081
_QE_REPORT_CERTIFICATION: Final = 6
_PCK_CHAIN: Final = 5

Fields = Mapping[str, bytes]

_SGX_BODY: Final = {
    "cpu_svn": 16,
    "misc_select": 4,
    "reserved1": 12,
    "isv_ext_prod_id": 16,
    "attributes": 16,
    "mr_enclave": 32,
    "reserved2": 32,
    "mr_signer": 32,
    "reserved3": 32,
    "config_id": 64,
    "isv_prod_id": 2,
    "isv_svn": 2,
    "config_svn": 2,
    "reserved4": 42,
    "isv_family_id": 16,
    "report_data": 64,
}
_TD_BODY_10: Final = {
    "tee_tcb_svn": 16,
    "mr_seam": 48,
    "mr_signer_seam": 48,
    "seam_attributes": 8,
    "td_attributes": 8,
    "xfam": 8,
    "mr_td": 48,
    "mr_config_id": 48,
    "mr_owner": 48,
    "mr_owner_config": 48,
    "rt_mr0": 48,
    "rt_mr1": 48,
    "rt_mr2": 48,
    "rt_mr3": 48,
    "report_data": 64,
}
_TD_BODY_15: Final = {**_TD_BODY_10, "tee_tcb_svn2": 16, "mr_service_td": 48}


def _pack(layout: Mapping[str, int], fields: Fields) -> bytes:
    """The fields in layout order; absent ones are zero, other names or sizes are refused."""
    for name, value in fields.items():
        if layout.get(name) != len(value):
            raise IssuerError(f"quote body: {name} cannot hold {len(value)} bytes")
    return b"".join(fields.get(name, bytes(size)) for name, size in layout.items())


def sgx_body(fields: Fields) -> bytes:
    """An SGX report body, 384 bytes."""
    return _pack(_SGX_BODY, fields)


def td_body(fields: Fields, *, v15: bool = False) -> bytes:
    """A TD report body: 584 bytes, or 648 where `v15` asks for TDX 1.5's."""
    return _pack(_TD_BODY_15 if v15 else _TD_BODY_10, fields)


@dataclass(frozen=True, slots=True)
class Quoter:
    """A quoting enclave ready to sign: its key, certified once by the platform's PCK.

    `qe_report` (384 bytes) carries SHA-256(attestation key || auth data); `chain` is the
    PCK chain as PEM, leaf first. `qe_svn` and `pce_svn` appear in version 3 headers.
    """

    attestation_key: ec.EllipticCurvePrivateKey
    qe_report: bytes
    qe_report_signature: bytes
    auth_data: bytes
    chain: bytes
    qe_id: bytes
    qe_svn: int
    pce_svn: int

    def sgx_v3(self, body: bytes) -> bytes:
        header = self._header(3, TEE_SGX, self.qe_svn, self.pce_svn)
        return self._sign(header + body, nested=False)

    def tdx_v4(self, body: bytes) -> bytes:
        return self._sign(self._header(4, TEE_TDX, 0, 0) + body, nested=True)

    def tdx_v5(self, body: bytes) -> bytes:
        """Version 5 says which body follows: type 2 is TD 1.0, type 3 TD 1.5."""
        body_type = 3 if len(body) == sum(_TD_BODY_15.values()) else 2
        header = self._header(5, TEE_TDX, 0, 0)
        return self._sign(header + u16(body_type) + u32(len(body)) + body, nested=True)

    def _header(self, version: int, tee: int, qe_svn: int, pce_svn: int) -> bytes:
        return (
            u16(version)
            + u16(ECDSA_P256)
            + u32(tee)
            + u16(qe_svn)
            + u16(pce_svn)
            + INTEL_VENDOR_ID
            + self.qe_id.ljust(20, b"\0")
        )

    def _sign(self, signed: bytes, *, nested: bool) -> bytes:
        certified = (
            self.qe_report
            + self.qe_report_signature
            + u16(len(self.auth_data))
            + self.auth_data
            + u16(_PCK_CHAIN)
            + u32(len(self.chain))
            + self.chain
        )
        if nested:
            certified = u16(_QE_REPORT_CERTIFICATION) + u32(len(certified)) + certified
        signature = sign_raw(self.attestation_key, signed) + public_raw(self.attestation_key)
        return signed + u32(len(signature) + len(certified)) + signature + certified
