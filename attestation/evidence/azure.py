"""Bundles that confidential VMs on Azure hand out: HCL report, vTPM quote, VCEK or TD quote.

Spec: confidential-containers/trustee, deps/verifier/src/az_snp_vtpm and az_tdx_vtpm: versions
1 and 2 (hex and base64url), and the older form without one (lists of bytes, PEM). The PCRs are all
24 of the SHA-256 bank, in order; the signature is RSASSA over SHA-256 without its TPMT head.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from attestation.canonical import loads_strict
from attestation.errors import MalformedEvidence
from attestation.evidence import parse_quote

_MAX_BUNDLE_BYTES: Final = 1 << 18
_MAX_MEMBER_BYTES: Final = 1 << 14
_PCRS: Final = 24
_PCR_BYTES: Final = 32
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")
_PEM: Final = re.compile(
    r"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----\s*"
)


def _malformed(name: str, detail: str) -> MalformedEvidence:
    return MalformedEvidence(f"azure.{name}", detail)


def _listed(value: Any, name: str) -> bytes:
    """A list of numbers from 0 to 255."""
    if not isinstance(value, list) or len(value) > _MAX_MEMBER_BYTES:
        raise _malformed(name, f"must be a list of at most {_MAX_MEMBER_BYTES} bytes")
    if not all(type(b) is int and 0 <= b <= 255 for b in value):
        raise _malformed(name, "must be a list of bytes")
    return bytes(value)


def _hex(value: Any, name: str) -> bytes:
    if (
        not isinstance(value, str)
        or len(value) > 2 * _MAX_MEMBER_BYTES
        or not _HEX.fullmatch(value)
    ):
        raise _malformed(name, f"must be hex of at most {_MAX_MEMBER_BYTES} bytes")
    return bytes.fromhex(value)


def _base64(text: str, name: str) -> bytes:
    """Standard or URL-safe alphabet, padded or not, white space between."""
    compact = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    if len(compact) > 2 * _MAX_MEMBER_BYTES:
        raise _malformed(name, f"more than {_MAX_MEMBER_BYTES} bytes")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except ValueError:
        raise _malformed(name, "not base64") from None


def _pem(text: str, name: str) -> bytes:
    match = _PEM.fullmatch(text)
    if match is None:
        raise _malformed(name, "not one PEM certificate")
    return _base64(match[1], name)


def _one_of(document: Mapping[str, Any], *names: str) -> tuple[str, Any]:
    """The one member that goes by any of `names`."""
    given = [name for name in names if name in document]
    if len(given) != 1:
        raise _malformed(names[0], f"needs exactly one of {', '.join(names)}")
    return given[0], document[given[0]]


def _binary(value: Any, name: str, version: int) -> bytes:
    """A member in base64url, or a list of bytes where no version is stated."""
    if version == 0:
        return _listed(value, name)
    if not isinstance(value, str):
        raise _malformed(name, "must be base64")
    return _base64(value, name)


def _version(document: Mapping[str, Any]) -> int:
    version = document.get("version", 0)
    if type(version) is not int or version not in (0, 1, 2):
        raise _malformed("version", f"{str(version)[:32]} is not known")
    return version


def _quote(value: Any, version: int) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Message, signature and registers of the TPM's quote."""
    if not isinstance(value, dict):
        raise _malformed("quote", "must be an object")
    read = _hex if version else _listed
    message = read(value.get("message"), "quote.message")
    signature = read(value.get("signature"), "quote.signature")
    pcrs = value.get("pcrs")
    if not isinstance(pcrs, list) or len(pcrs) != _PCRS:
        raise _malformed("quote.pcrs", f"must be a list of {_PCRS}")
    registers = tuple(read(pcr, f"quote.pcrs.{i}") for i, pcr in enumerate(pcrs))
    if any(len(pcr) != _PCR_BYTES for pcr in registers):
        raise _malformed("quote.pcrs", f"registers must have {_PCR_BYTES} bytes")
    return message, signature, registers


@dataclass(frozen=True, slots=True)
class AzureBundle:
    """HCL report, quote (TPMS_ATTEST), raw RSASSA-SHA256 signature, and PCRs 0 to 23.

    SNP machines add their VCEK (DER), TDX machines their TD quote, here without the zeros
    that may follow it; the other is None.
    `version` is 0 for the form that states none.
    """

    version: int
    hcl_report: bytes = field(repr=False)
    message: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    pcrs: tuple[bytes, ...] = field(repr=False)
    vcek: bytes | None = field(repr=False)
    td_quote: bytes | None = field(repr=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A bundle from all of `data`, JSON. Raises MalformedEvidence naming the member."""
        if len(data) > _MAX_BUNDLE_BYTES:
            raise _malformed("bundle", f"longer than {_MAX_BUNDLE_BYTES} bytes")
        document = loads_strict(data, "azure.bundle")
        if not isinstance(document, dict):
            raise _malformed("bundle", "must be an object")
        version = _version(document)
        _, report = _one_of(document, "hcl_report", "report")
        _, quote = _one_of(document, "tpm_quote", "quote")
        kind, hardware = _one_of(document, "vcek", "td_quote")
        if kind == "td_quote":
            vcek, td_quote = None, _td_quote(_binary(hardware, kind, version))
        else:
            vcek, td_quote = _vcek(hardware, version), None
        message, signature, pcrs = _quote(quote, version)
        return cls(
            version=version,
            hcl_report=_binary(report, "hcl_report", version),
            message=message,
            signature=signature,
            pcrs=pcrs,
            vcek=vcek,
            td_quote=td_quote,
        )


def _td_quote(data: bytes) -> bytes:
    """The quote alone: Azure's instance metadata service fills it up with zeros to 5006 bytes."""
    trailing = parse_quote(data).trailing
    return data[: len(data) - len(trailing)] if not any(trailing) else data


def _vcek(value: Any, version: int) -> bytes:
    """DER of a certificate in base64, or in PEM where no version is stated."""
    if not isinstance(value, str):
        raise _malformed("vcek", "must be a string")
    return _base64(value, "vcek") if version else _pem(value, "vcek")
