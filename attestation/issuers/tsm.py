"""TDX evidence from Linux's configfs-tsm. Spec: Documentation/ABI/testing/configfs-tsm-report."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import Final

from attestation.collateral.model import Collateral
from attestation.issuers.base import IssuedEvidence, IssuerError
from attestation.issuers.device import (
    MAX_QUOTE_BYTES,
    REPORT_DATA_BYTES,
    DeviceError,
    DeviceFiles,
    check_quote,
    check_report_data,
)

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
_ATTEMPTS: Final = 4
_RACED: Final = frozenset({errno.EBUSY, errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR})


class TsmIssuer:
    """Issues TDX quotes of this guest. Thread-safe: each quote has its own report directory.

    Opening it asks for one quote, to know the measurement and to fail early. A TD has no
    sealing key of its own, so keys live in memory.
    """

    name = "tsm"
    tee_type = "tdx"
    simulated = False

    def __init__(
        self,
        reports: Path = REPORTS,
        collateral: Collateral | None = None,
        files: DeviceFiles | None = None,
    ) -> None:
        self._reports = reports
        self._collateral = collateral
        self._files = files or DeviceFiles()
        _, self._measurement = self._quote(bytes(REPORT_DATA_BYTES))

    @property
    def measurement(self) -> str:
        """`mr_td`, lowercase hex."""
        return self._measurement

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """A quote over these 64 bytes. Raises IssuerError."""
        quote, _ = self._quote(check_report_data(report_data))
        return IssuedEvidence(self.tee_type, quote, self._collateral, simulated=False)

    def sealing_key(self) -> None:
        """None: TDX derives no key for a measurement."""
        return

    def _quote(self, report_data: bytes) -> tuple[bytes, str]:
        if not self._files.is_directory(self._reports):
            raise IssuerError(f"{self._reports}: not there; needs Linux 6.7+ with configfs in a TD")
        report = self._reports / f"adyton-{os.getpid()}-{secrets.token_hex(8)}"
        self._files.make_directory(report)
        try:
            self._check_provider(report / "provider")
            data = self._generate(report, report_data)
        finally:
            self._files.remove_directory(report)
        return check_quote(data, self.tee_type, report_data, str(self._reports))

    def _check_provider(self, path: Path) -> None:
        provider = self._files.read(path, 64).strip().decode("ascii", "replace")
        if provider == "sev_guest":
            raise IssuerError(f"{path}: SEV-SNP evidence is not supported by this version")
        if provider != "tdx_guest":
            raise IssuerError(f"{path}: unknown provider {provider!r}")

    def _generate(self, report: Path, report_data: bytes) -> bytes:
        """What the TDX module quotes for `report_data`.

        `generation` counts writes to the directory. If it moved by anything but our one
        write, or the kernel says it is busy, somebody else is at work in it: begin again.
        """
        for _ in range(_ATTEMPTS):
            try:
                before = self._generation(report)
                self._files.write(report / "inblob", report_data)
                # The kernel stores a blob when it is closed, where a refusal is told to nobody.
                if self._generation(report) != before + 1:
                    continue
                data = self._files.read(report / "outblob", MAX_QUOTE_BYTES)
                after = self._generation(report)
            except DeviceError as e:
                if e.errno not in _RACED:
                    raise
                continue
            if after == before + 1:
                return data
        raise IssuerError(f"{report}: still contended after {_ATTEMPTS} attempts")

    def _generation(self, report: Path) -> int:
        path = report / "generation"
        text = self._files.read(path, 64)
        try:
            return int(text)
        except ValueError:
            raise IssuerError(f"{path}: {text[:32]!r} is no number") from None
