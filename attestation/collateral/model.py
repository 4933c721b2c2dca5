"""DCAP collateral as one value. Fields are those of dcap-qvl's QuoteCollateralV3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from attestation.errors import CollateralError

_BYTES: Final = frozenset({"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"})
_OPTIONAL: Final = frozenset({"pck_certificate_chain"})
_MAX_FIELD: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Collateral:
    """What verifying one DCAP quote needs beside the quote, each part signed by its issuer.

    Chains are PEM, leaf first; CRLs are DER; `tcb_info` and `qe_identity` are the exact
    JSON text that was signed; signatures are raw r || s (64 bytes, big-endian).
    `pck_certificate_chain` is for quotes that do not embed theirs.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    pck_certificate_chain: str | None = None

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read the JSON form (byte fields hex). Raises CollateralError naming the field."""
        if not isinstance(obj, Mapping):
            raise CollateralError("collateral: must be a JSON object")
        values: dict[str, Any] = {}
        for f in fields(cls):
            value = obj.get(f.name)
            if value is None and f.name in _OPTIONAL:
                continue
            if not isinstance(value, str):
                raise CollateralError(f"collateral.{f.name}: must be a string")
            if len(value) > 2 * _MAX_FIELD:
                raise CollateralError(f"collateral.{f.name}: longer than {2 * _MAX_FIELD}")
            if f.name in _BYTES:
                try:
                    values[f.name] = bytes.fromhex(value)
                except ValueError:
                    raise CollateralError(f"collateral.{f.name}: not hex") from None
            else:
                values[f.name] = value
        return cls(**values)

    def to_json(self) -> dict[str, str]:
        """The JSON form `from_json` reads; optional fields that are absent are left out."""
        out: dict[str, str] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                out[f.name] = value.hex() if isinstance(value, bytes) else value
        return out
