"""What a node hands another before they open a channel: its certificate, and its collateral.

It may cross any network and pass anybody's hands. It proves nothing about who hands it
over; the handshake that follows does. Spec: docs/spec/ratls.md, "Introduction".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from attestation.canonical import jcs, loads_strict
from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import MalformedEvidence
from attestation.ratls.certificate import MAX_CERTIFICATE_BYTES

FORMAT: Final = "adyton-ratls-introduction/1"
MAX_INTRODUCTION_BYTES: Final = 256 << 10
_MAX_CERTIFICATE_TEXT: Final = 4 * MAX_CERTIFICATE_BYTES // 3 + 4


@dataclass(frozen=True, slots=True)
class Introduction:
    """A certificate (DER) and, where its holder has some, the collateral to judge it by.

    The document holds it as reports do: DCAP collateral, or AMD's `{vek, chain, crl?}`.
    """

    certificate: bytes = field(repr=False)
    collateral: Collateral | SnpEndorsements | None = field(default=None, repr=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises MalformedEvidence, or CollateralError naming the member."""
        if len(data) > MAX_INTRODUCTION_BYTES:
            raise MalformedEvidence("introduction", f"longer than {MAX_INTRODUCTION_BYTES} bytes")
        document = loads_strict(data, "introduction")
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise MalformedEvidence("introduction.format", f"is not {FORMAT}")
        return cls(
            _certificate(document.get("certificate")), _collateral(document.get("collateral"))
        )

    def write(self) -> bytes:
        document: dict[str, Any] = {
            "format": FORMAT,
            "certificate": base64.b64encode(self.certificate).decode("ascii"),
        }
        if self.collateral is not None:
            document["collateral"] = self.collateral.to_json()
        return jcs(document)


def _collateral(value: Any) -> Collateral | SnpEndorsements | None:
    if value is None:
        return None
    amd = isinstance(value, Mapping) and "vek" in value
    return SnpEndorsements.from_json(value) if amd else Collateral.from_json(value)


def _certificate(text: Any) -> bytes:
    where = "introduction.certificate"
    if not isinstance(text, str) or len(text) > _MAX_CERTIFICATE_TEXT:
        raise MalformedEvidence(where, "not a short string")
    try:
        der = base64.b64decode(text, validate=True)
    except ValueError:
        raise MalformedEvidence(where, "not base64") from None
    if base64.b64encode(der).decode("ascii") != text:
        raise MalformedEvidence(where, "not canonical base64")
    return der
