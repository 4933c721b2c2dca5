"""Azure's HCL report: what the paravisor of a confidential VM says about its virtual TPM.

A guest reads it from TPM NV index 0x01400001. It holds the hardware report (SNP, or TDX
TDREPORT) and the runtime claims whose digest stands in that report's report data; among
the claims is the public part of the vTPM's attestation key. Header and request data are
not measured. Spec: OpenVMM, openhcl_attestation_protocol, igvm_attest/get.rs; Microsoft
Learn, "Azure confidential VMs guest attestation design".
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from attestation.canonical import loads_strict
from attestation.errors import MalformedEvidence
from attestation.wire import Cursor, u32

SNP_VM_REPORT: Final = 2
TDX_VM_REPORT: Final = 4
AK_KEY_ID: Final = "HCLAkPub"

_SIGNATURE: Final = b"HCLA"
_VERSIONS: Final = (1, 2)
_AK_CERT_REQUEST: Final = 2
_REQUEST_DATA_VERSION: Final = 1
_HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}
_HEADER_BYTES: Final = 32
_REPORT_AREA_BYTES: Final = 1184
_REPORT_BYTES: Final = {SNP_VM_REPORT: 1184, TDX_VM_REPORT: 1024}
_REQUEST_DATA_BYTES: Final = 20
_MAX_CLAIMS_BYTES: Final = 1 << 14
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]{1,1024}")


@dataclass(frozen=True, slots=True)
class RsaJwk:
    """An RSA public key of the runtime claims. Spec: RFC 7518 section 6.3.1."""

    kid: str
    n: int = field(repr=False)
    e: int


@dataclass(frozen=True, slots=True)
class HclReport:
    """Header, hardware report, request data and runtime claims.

    `runtime_claims` is the original bytes, whose digest the hardware report carries.
    `padding` counts the zeros that fill the rest of the NV index.
    """

    version: int
    status: int
    report_type: int
    hash_type: int
    hardware_report: bytes = field(repr=False)
    runtime_claims: bytes = field(repr=False)
    padding: int

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the hardware report must carry: the claims' digest, then zeros."""
        return hashlib.new(_HASHES[self.hash_type], self.runtime_claims).digest().ljust(64, b"\0")

    @property
    def claims(self) -> Mapping[str, Any]:
        """The runtime claims as JSON: keys, configuration of the VM, user data."""
        claims: Mapping[str, Any] = _object(loads_strict(self.runtime_claims, "hcl.claims"))
        return claims

    def attestation_key(self) -> RsaJwk:
        """The one key called HCLAkPub. Raises MalformedEvidence when there is none, or two."""
        keys = self.claims.get("keys")
        if not isinstance(keys, list):
            raise MalformedEvidence("hcl.claims.keys", "must be a list")
        named = [k for k in keys if isinstance(k, dict) and k.get("kid") == AK_KEY_ID]
        if len(named) != 1:
            raise MalformedEvidence("hcl.claims.keys", f"{len(named)} keys are the vTPM's, not one")
        if named[0].get("kty") != "RSA":
            raise MalformedEvidence("hcl.claims.keys", f"{AK_KEY_ID} is not an RSA key")
        return RsaJwk(AK_KEY_ID, n=_number(named[0], "n"), e=_number(named[0], "e"))

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A report from all of `data`, zeros at its end included. Raises MalformedEvidence."""
        c = Cursor("hcl", data)
        version, report_size, status = _read_header(c.sub("header", _HEADER_BYTES))
        area = c.sub("hardware_report", _REPORT_AREA_BYTES)
        data_size, report_type, hash_type, size = _read_request_data(c)
        if data_size != _REQUEST_DATA_BYTES + size:
            raise MalformedEvidence("hcl.data_size", f"{data_size} does not fit {size} of claims")
        if report_size != _HEADER_BYTES + _REPORT_AREA_BYTES + data_size:
            raise MalformedEvidence("hcl.report_size", f"{report_size} is not the report's size")
        hardware_report = area.take("report", _REPORT_BYTES[report_type])
        area.zeros("padding", area.remaining)
        report = cls(
            version=version,
            status=status,
            report_type=report_type,
            hash_type=hash_type,
            hardware_report=hardware_report,
            runtime_claims=c.take("runtime_claims", size),
            padding=c.remaining,
        )
        c.zeros("padding", c.remaining)
        return report

    def write(self) -> bytes:
        """The bytes `read` reads."""
        data_size = _REQUEST_DATA_BYTES + len(self.runtime_claims)
        return b"".join(
            (
                _SIGNATURE,
                u32(self.version),
                u32(_HEADER_BYTES + _REPORT_AREA_BYTES + data_size),
                u32(_AK_CERT_REQUEST),
                u32(self.status),
                bytes(12),
                self.hardware_report.ljust(_REPORT_AREA_BYTES, b"\0"),
                u32(data_size),
                u32(_REQUEST_DATA_VERSION),
                u32(self.report_type),
                u32(self.hash_type),
                u32(len(self.runtime_claims)),
                self.runtime_claims,
                bytes(self.padding),
            )
        )


def _read_header(c: Cursor) -> tuple[int, int, int]:
    """Version, size of the whole report, and status."""
    if (signature := c.take("signature", 4)) != _SIGNATURE:
        raise MalformedEvidence("hcl.header.signature", f"{signature.hex()} is not HCLA", 0)
    version, report_size = c.u32("version"), c.u32("report_size")
    if version not in _VERSIONS:
        raise MalformedEvidence("hcl.header.version", f"{version} is not known", 4)
    if (request := c.u32("request_type")) != _AK_CERT_REQUEST:
        raise MalformedEvidence("hcl.header.request_type", f"{request} is not for the vTPM", 12)
    status = c.u32("status")
    c.zeros("reserved", 12)
    return version, report_size, status


def _read_request_data(c: Cursor) -> tuple[int, int, int, int]:
    """Size of request data and claims together, report type, hash type, size of the claims."""
    data_size = c.u32("data_size")
    if (version := c.u32("request_version")) != _REQUEST_DATA_VERSION:
        raise c.error("request_version", f"{version} is not known")
    if (report_type := c.u32("report_type")) not in _REPORT_BYTES:
        raise c.error("report_type", f"{report_type} is neither SNP nor TDX")
    if (hash_type := c.u32("hash_type")) not in _HASHES:
        raise c.error("hash_type", f"{hash_type} is not known")
    if (size := c.u32("variable_data_size")) > _MAX_CLAIMS_BYTES:
        raise c.error("variable_data_size", f"{size} bytes, at most {_MAX_CLAIMS_BYTES}")
    return data_size, report_type, hash_type, size


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedEvidence("hcl.claims", "must be an object")
    return value


def _number(jwk: Mapping[str, Any], name: str) -> int:
    """A Base64urlUInt. Spec: RFC 7518 section 2."""
    text = jwk.get(name)
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise MalformedEvidence(f"hcl.claims.keys.{name}", "must be base64url without padding")
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
