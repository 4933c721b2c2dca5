"""Quotes of a simulated platform, byte for byte in the vendor's layouts.

The layouts are those of `attestation.evidence`; here they are filled and signed. Bodies and
headers are given as fields by their vendor names, so a test can state the one that is odd
and leave the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.evidence.enclave import SgxReportBody
from attestation.evidence.header import (
    ECDSA_P256,
    INTEL_QE_VENDOR_ID,
    TEE_SGX,
    TEE_TDX,
    QuoteHeader,
)
from attestation.evidence.sgx import SgxQuote
from attestation.evidence.signature import PCK_CHAIN, CertificationData, EcdsaSignatureData
from attestation.evidence.tdx import TdReport10, TdxQuote
from attestation.issuers.base import IssuerError
from attestation.issuers.simulator.pki import public_raw, sign_raw
from attestation.wire import Cursor, u32

Fields = Mapping[str, Any]
_Body = TypeVar("_Body", SgxReportBody, TdReport10)
_Quote = TypeVar("_Quote", SgxQuote, TdxQuote)
_ZEROS: Final = bytes(1024)


def sgx_body(given: Fields) -> SgxReportBody:
    """An SGX report body of these fields, zero elsewhere. Raises IssuerError on a bad one."""
    return _fill(SgxReportBody.read(Cursor("body", _ZEROS)), given)


def td_body(given: Fields, kind: type[TdReport10] = TdReport10) -> TdReport10:
    """A TD report body of this kind (1.0, 1.5, 1.5 extended), likewise."""
    return _fill(kind.read(Cursor("body", _ZEROS)), given)


def _fill(blank: _Body, given: Fields) -> _Body:
    for name, value in given.items():
        zero = getattr(blank, name, None)
        fits = len(value) == len(zero) if isinstance(zero, bytes) else isinstance(zero, int)
        if not fits:
            raise IssuerError(f"quote body: {name} does not hold {value!r}")
    return replace(blank, **given)


@dataclass(frozen=True, slots=True)
class Quoter:
    """A quoting enclave ready to sign: its key, certified once by the platform's PCK.

    `qe_report` carries SHA-256(attestation key || auth data); `chain` is the PCK chain as
    PEM, leaf first. `qe_id` has 16 bytes.
    """

    attestation_key: ec.EllipticCurvePrivateKey
    qe_report: SgxReportBody
    qe_report_signature: bytes
    auth_data: bytes
    chain: bytes
    qe_id: bytes
    qe_svn: int
    pce_svn: int

    def sgx(self, body: SgxReportBody, header: Fields) -> bytes:
        """A version 3 quote over `body`; `header` replaces header fields by name."""
        base = self._header(3, TEE_SGX, self.qe_svn, self.pce_svn)
        blank = self._signature(nested=False)
        return self._sign(SgxQuote(replace(base, **header), body, blank, b"", b""))

    def tdx(self, version: int, body: TdReport10, header: Fields) -> bytes:
        """A version 4 or 5 quote over `body`, likewise; both SVNs of the header are zero."""
        base = self._header(version, TEE_TDX, 0, 0)
        blank = self._signature(nested=True)
        return self._sign(TdxQuote(replace(base, **header), body, blank, b"", b""))

    def _header(self, version: int, tee: int, qe_svn: int, pce_svn: int) -> QuoteHeader:
        return QuoteHeader(
            version=version,
            attestation_key_type=ECDSA_P256,
            tee_type=tee,
            qe_svn=qe_svn,
            pce_svn=pce_svn,
            qe_vendor_id=INTEL_QE_VENDOR_ID,
            user_data=self.qe_id.ljust(20, b"\0"),
        )

    def _signature(self, *, nested: bool) -> EcdsaSignatureData:
        """The signature section, all but the signature over the body."""
        return EcdsaSignatureData(
            signature=bytes(64),
            attestation_key=public_raw(self.attestation_key),
            qe_report=self.qe_report,
            qe_report_raw=self.qe_report.write(),
            qe_report_signature=self.qe_report_signature,
            qe_auth_data=self.auth_data,
            certification=CertificationData(PCK_CHAIN, self.chain),
            nested=nested,
        )

    def _sign(self, quote: _Quote) -> bytes:
        section = quote.signature.write()
        signed = quote.write()[: -len(u32(0)) - len(section)]
        signature = sign_raw(self.attestation_key, signed)
        return replace(quote, signature=replace(quote.signature, signature=signature)).write()
