"""TDX and SEV-SNP evidence from Linux's configfs-tsm.

Spec: Documentation/ABI/testing/configfs-tsm-report; for SEV-SNP's `auxblob`, AMD 56421,
SNP Extended Guest Request. `provider` says which of the two this guest is.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, MalformedEvidence
from attestation.evidence import AttestationReport, CertificateTable
from attestation.evidence.eventlog import MAX_LOG_BYTES, TcgEventLog
from attestation.evidence.snp import SIGNED_BY_VCEK
from attestation.evidence.snp_certs import MAX_TABLE_BYTES, VCEK_GUID, VLEK_GUID
from attestation.issuers.base import SEV_SNP, BootEvidence, IssuedEvidence, IssuerError
from attestation.issuers.device import (
    MAX_QUOTE_BYTES,
    REPORT_DATA_BYTES,
    DeviceError,
    DeviceFiles,
    check_quote,
    check_report_data,
    check_snp_report,
)

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
CCEL: Final = Path("/sys/firmware/acpi/tables/data/CCEL")
"""Where Linux shows the firmware's event log of a TD. Spec: UEFI 2.10, section 38.4.1."""
_TEES: Final = {"tdx_guest": "tdx", "sev_guest": SEV_SNP}
_ATTEMPTS: Final = 4
_MAX_TEXT: Final = 64
_MAX_PRIVLEVEL: Final = 3
_RACED: Final = frozenset({errno.EBUSY, errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR})
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Checked evidence, its measurement in hex, and what the host gave to endorse it."""

    quote: bytes
    measurement: str
    endorsements: SnpEndorsements | None = None


class TsmIssuer:
    """Issues TDX quotes or SEV-SNP reports of this guest. Thread-safe: each has its own report
    directory.

    Opening it asks for one, to know the measurement and to fail early. `collateral` goes out
    with all evidence; where none is given, an SEV-SNP report goes out with the certificates
    that the host hands out beside it, if any. `ccel` is where a TD's event log is, if its
    firmware kept one: that goes out with all quotes, None with none.
    """

    name = "tsm"
    simulated = False

    def __init__(
        self,
        reports: Path = REPORTS,
        collateral: Collateral | SnpEndorsements | None = None,
        files: DeviceFiles | None = None,
        ccel: Path | None = None,
    ) -> None:
        self._reports = reports
        self._collateral = collateral
        self._files = files or DeviceFiles()
        self._tee = self._in_report(self._provider)
        self._check_collateral()
        self._measurement = self._evidence(bytes(REPORT_DATA_BYTES)).measurement
        self._boot = None if ccel is None or self._tee == SEV_SNP else read_ccel(ccel)

    @property
    def tee_type(self) -> str:
        """`tdx` or `sev_snp`, as the kernel's provider says."""
        return self._tee

    @property
    def measurement(self) -> str:
        """`mr_td`, or `measurement` of an SEV-SNP report; lowercase hex."""
        return self._measurement

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """Evidence over these 64 bytes. Raises IssuerError."""
        made = self._evidence(check_report_data(report_data))
        return IssuedEvidence(
            self._tee,
            made.quote,
            self._collateral or made.endorsements,
            simulated=False,
            boot=self._boot,
        )

    def sealing_key(self) -> None:
        """None: a TD derives no key, and SEV-SNP's (MSG_KEY_REQ) is not behind this interface.

        That one would need ioctls on /dev/sev-guest, and a choice of what it is bound to:
        measurement, guest policy, SVN, TCB. So on both platforms keys live in memory.
        """
        return

    def _check_collateral(self) -> None:
        wanted = SnpEndorsements if self._tee == SEV_SNP else Collateral
        if self._collateral is not None and not isinstance(self._collateral, wanted):
            raise IssuerError(f"{self._reports}: the collateral given is not for {self._tee}")

    def _in_report(self, work: Callable[[Path], T]) -> T:
        """What `work` makes of a report directory of its own, which is removed again."""
        if not self._files.is_directory(self._reports):
            raise IssuerError(
                f"{self._reports}: not there; needs Linux 6.7+ with configfs in a TD or SNP guest"
            )
        report = self._reports / f"adyton-{os.getpid()}-{secrets.token_hex(8)}"
        self._files.make_directory(report)
        try:
            return work(report)
        finally:
            self._files.remove_directory(report)

    def _provider(self, report: Path) -> str:
        provider = self._text(report / "provider")
        if provider not in _TEES:
            raise IssuerError(f"{report / 'provider'}: unknown provider {provider!r}")
        return _TEES[provider]

    def _evidence(self, report_data: bytes) -> _Evidence:
        if self._tee == SEV_SNP:
            data, table = self._in_report(lambda r: self._generate(r, report_data, "auxblob"))
            report = check_snp_report(data, report_data, str(self._reports))
            found = None if self._collateral else _from_host(report, table, str(self._reports))
            return _Evidence(report.write(), report.measurement.hex(), found)
        data, _ = self._in_report(lambda r: self._generate(r, report_data, None))
        return _Evidence(*check_quote(data, self._tee, report_data, str(self._reports)))

    def _generate(
        self, report: Path, report_data: bytes, beside: str | None
    ) -> tuple[bytes, bytes]:
        """What the platform makes of `report_data`, and the blob `beside` it.

        `generation` counts writes to the directory. If it moved by anything but our own
        writes, or the kernel says it is busy, somebody else is at work in it: begin again.
        """
        if self._provider(report) != self._tee:
            raise IssuerError(f"{report / 'provider'}: changed since this issuer was opened")
        for _ in range(_ATTEMPTS):
            try:
                before = self._generation(report)
                ours = before + self._write(report, report_data)
                # The kernel stores a blob when it is closed, where a refusal is told to nobody.
                if self._generation(report) != ours:
                    continue
                data = self._files.read(report / "outblob", MAX_QUOTE_BYTES)
                other = self._files.read(report / beside, MAX_TABLE_BYTES) if beside else b""
                after = self._generation(report)
            except DeviceError as e:
                if e.errno not in _RACED:
                    raise
                continue
            if after == ours:
                return data, other
        raise IssuerError(f"{report}: still contended after {_ATTEMPTS} attempts")

    def _write(self, report: Path, report_data: bytes) -> int:
        """Ask for `report_data` at the lowest privilege level we may name; the number of writes.

        The kernel starts at level 0. Under a service module (SVSM) the guest itself runs at a
        higher VMPL, and level 0 is not its to ask for.
        """
        floor = self._privlevel_floor(report)
        if floor:
            self._files.write(report / "privlevel", b"%d" % floor)
        self._files.write(report / "inblob", report_data)
        return 2 if floor else 1

    def _privlevel_floor(self, report: Path) -> int:
        if self._tee != SEV_SNP:
            return 0
        try:
            floor = self._number(report / "privlevel_floor")
        except DeviceError as e:
            if e.errno != errno.ENOENT:
                raise
            return 0  # a kernel that has no such choice
        if floor > _MAX_PRIVLEVEL:
            raise IssuerError(f"{report / 'privlevel_floor'}: {floor} is above {_MAX_PRIVLEVEL}")
        return floor

    def _generation(self, report: Path) -> int:
        return self._number(report / "generation")

    def _number(self, path: Path) -> int:
        text = self._text(path)
        if not text.isdecimal() or not text.isascii():
            raise IssuerError(f"{path}: {text[:32]!r} is no number")
        return int(text)

    def _text(self, path: Path) -> str:
        return self._files.read(path, _MAX_TEXT).strip().decode("ascii", "replace")


def read_ccel(path: Path) -> BootEvidence | None:
    """The event log that firmware left at `path`, None where there is no such file.

    It is complete when the operating system starts, so it is read once; the rest of the
    firmware's fixed area, all zeros or ones, is left out. Raises IssuerError where it cannot
    be read, or is no log: clients would refuse it.
    """
    try:
        log = TcgEventLog.read(DeviceFiles().read(path, MAX_LOG_BYTES))
    except DeviceError as e:
        if e.errno != errno.ENOENT:
            raise
        return None
    except MalformedEvidence as e:
        raise IssuerError(f"{path}: no event log: {e}") from e
    if log.header is None:
        raise IssuerError(f"{path}: no event log of a TD: it has no header")
    return BootEvidence(ccel=replace(log, padding=b"").write())


def _from_host(report: AttestationReport, data: bytes, source: str) -> SnpEndorsements | None:
    """The certificates in the host's table, None where it has none for the signing key.

    Raises IssuerError where the table cannot be read: then the operator's own are needed.
    """
    try:
        table = CertificateTable.read(data)
        guid = VCEK_GUID if report.signing_key == SIGNED_BY_VCEK else VLEK_GUID
        if table.get(guid) is None:
            return None
        return SnpEndorsements.from_table(table, report.signing_key)
    except (MalformedEvidence, CollateralError) as e:
        raise IssuerError(f"{source}: the host's certificates cannot be read: {e}") from e
