"""What the device issuers share: plain file access, and distrust of what a device returns."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from attestation.errors import MalformedEvidence
from attestation.evidence import AttestationReport, parse_quote
from attestation.evidence.sgx import SgxQuote
from attestation.evidence.snp import REPORT_BYTES
from attestation.issuers.base import IssuerError

REPORT_DATA_BYTES: Final = 64
MAX_QUOTE_BYTES: Final = 32 << 10
"""Ceiling on what is read as a quote; real ones stay below 16 KiB."""


class DeviceError(IssuerError):
    """The kernel refused an operation on a device file; `errno` says why."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: {error.strerror}")
        self.errno = error.errno


class DeviceFiles:
    """Device files by single system calls: no buffering, no truncation, no creation.

    Every failure is a DeviceError naming the path.
    """

    def write(self, path: Path, data: bytes) -> None:
        """Hand over `data` in one write, since each write replaces the device's value."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as e:
            raise DeviceError(path, e) from e
        if written != len(data):
            raise IssuerError(f"{path}: took {written} of {len(data)} bytes")

    def read(self, path: Path, limit: int) -> bytes:
        """All that `path` holds. Raises IssuerError where that is more than `limit` bytes."""
        out = b""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while len(out) <= limit and (chunk := os.read(descriptor, limit + 1 - len(out))):
                    out += chunk
            finally:
                os.close(descriptor)
        except OSError as e:
            raise DeviceError(path, e) from e
        if len(out) > limit:
            raise IssuerError(f"{path}: holds more than {limit} bytes")
        return out

    def is_directory(self, path: Path) -> bool:
        return path.is_dir()

    def make_directory(self, path: Path) -> None:
        try:
            path.mkdir()
        except OSError as e:
            raise DeviceError(path, e) from e

    def remove_directory(self, path: Path) -> None:
        try:
            path.rmdir()
        except OSError as e:
            raise DeviceError(path, e) from e


def check_report_data(report_data: bytes) -> bytes:
    """`report_data` itself, when it has exactly 64 bytes: devices would pad or cut others."""
    if len(report_data) != REPORT_DATA_BYTES:
        raise IssuerError(f"report data has {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
    return report_data


def check_quote(data: bytes, tee: str, report_data: bytes, source: str) -> tuple[bytes, str]:
    """The quote without the device's zero padding, and its measurement register in hex.

    Raises IssuerError where it is no quote of this TEE or is over other report data, which
    happens when somebody else used the device between our write and our read.
    """
    try:
        quote = parse_quote(data)
    except MalformedEvidence as e:
        raise IssuerError(f"{source}: returned no quote: {e}") from e
    found = "sgx" if isinstance(quote, SgxQuote) else "tdx"
    if found != tee:
        raise IssuerError(f"{source}: returned a quote of {found}, not {tee}")
    if quote.body.report_data != report_data:
        raise IssuerError(f"{source}: returned a quote over other report data")
    if any(quote.trailing):
        raise IssuerError(f"{source}: returned {len(quote.trailing)} bytes after the quote")
    measured = quote.body.mr_enclave if isinstance(quote, SgxQuote) else quote.body.mr_td
    return replace(quote, trailing=b"").write(), measured.hex()


def check_snp_report(data: bytes, report_data: bytes, source: str) -> AttestationReport:
    """The SEV-SNP report in `data`, which may be followed by zeros only.

    Raises IssuerError where it is no report, or is over other report data, as above.
    """
    if any(data[REPORT_BYTES:]):
        raise IssuerError(f"{source}: returned {len(data) - REPORT_BYTES} bytes after the report")
    try:
        report = AttestationReport.read(data[:REPORT_BYTES])
    except MalformedEvidence as e:
        raise IssuerError(f"{source}: returned no SEV-SNP report: {e}") from e
    if report.report_data != report_data:
        raise IssuerError(f"{source}: returned a report over other report data")
    return report


def derive_sealing_key(secret: bytes, issuer: str) -> bytes:
    """32 bytes from a platform secret, so that ours never equals a key used elsewhere."""
    info = f"adyton {issuer} sealing v1".encode("ascii")
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret)
