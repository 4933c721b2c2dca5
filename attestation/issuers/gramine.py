"""SGX evidence from Gramine's /dev/attestation. Spec: Gramine, "Attestation and Secret
Provisioning", and the behaviour of its pseudo-files.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from attestation.collateral.model import Collateral
from attestation.issuers.base import IssuedEvidence, IssuerError
from attestation.issuers.device import (
    MAX_QUOTE_BYTES,
    REPORT_DATA_BYTES,
    DeviceFiles,
    check_quote,
    check_report_data,
    derive_sealing_key,
)

DEVICE: Final = Path("/dev/attestation")
_MRENCLAVE_KEY: Final = "_sgx_mrenclave"
_MRENCLAVE_KEY_BYTES: Final = 16
# user_report_data is one value for the whole process, and the quote is made of it when
# `quote` is opened: whoever writes between our two calls would be quoted instead of us.
_DEVICE_LOCK: Final = threading.Lock()


class GramineIssuer:
    """Issues SGX version 3 quotes of this Gramine enclave. Thread-safe.

    Opening it asks for one quote, to know the measurement and to fail early. Gramine keeps
    no collateral; the operator's, if given, is passed along.
    """

    name = "gramine"
    tee_type = "sgx"
    simulated = False

    def __init__(
        self,
        device: Path = DEVICE,
        collateral: Collateral | None = None,
        files: DeviceFiles | None = None,
    ) -> None:
        self._device = device
        self._collateral = collateral
        self._files = files or DeviceFiles()
        kind = self._files.read(device / "attestation_type", 64).strip()
        if kind != b"dcap":
            raise IssuerError(
                f"{device / 'attestation_type'}: is {kind.decode('ascii', 'replace')!r}, not "
                "'dcap'; the manifest needs sgx.remote_attestation = \"dcap\""
            )
        _, self._measurement = self._quote(bytes(REPORT_DATA_BYTES))

    @property
    def measurement(self) -> str:
        """`mr_enclave`, lowercase hex."""
        return self._measurement

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """A quote over these 64 bytes. Raises IssuerError."""
        quote, _ = self._quote(check_report_data(report_data))
        return IssuedEvidence(self.tee_type, quote, self._collateral, simulated=False)

    def sealing_key(self) -> bytes:
        """Derived from the key SGX derives for this MRENCLAVE on this CPU.

        Raises IssuerError. Gramine may use that key for mounts, so it is never used itself.
        """
        path = self._device / "keys" / _MRENCLAVE_KEY
        secret = self._files.read(path, 64)
        if len(secret) != _MRENCLAVE_KEY_BYTES:
            raise IssuerError(f"{path}: {len(secret)} bytes, not {_MRENCLAVE_KEY_BYTES}")
        return derive_sealing_key(secret, self.name)

    def _quote(self, report_data: bytes) -> tuple[bytes, str]:
        path = self._device / "quote"
        with _DEVICE_LOCK:
            self._files.write(self._device / "user_report_data", report_data)
            data = self._files.read(path, MAX_QUOTE_BYTES)
        return check_quote(data, self.tee_type, report_data, str(path))
