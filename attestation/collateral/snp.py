"""What verifying one SEV-SNP report needs beside it, as one value.

AMD's key distribution service hands out the VCEK as DER and `cert_chain` as PEM, ASK (or
ASVK) before ARK; hosts put the same into a certificate table, as DER or PEM. Reading proves
nothing: signatures are checked by `attestation.verify`. Spec: AMD 57230, chapter 4.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.errors import CollateralError
from attestation.evidence.snp import SIGNED_BY_VCEK
from attestation.evidence.snp_certs import (
    ARK_GUID,
    ASK_GUID,
    CRL_GUID,
    VCEK_GUID,
    VLEK_GUID,
    CertificateTable,
)

MAX_CERTIFICATE_BYTES: Final = 1 << 14
MAX_CHAIN: Final = 8
MAX_CRL_BYTES: Final = 1 << 20
_MAX_FILE: Final = 1 << 17
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,32})-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_MARK: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class SnpEndorsements:
    """The certificate of the signing key, who issued it, and what is revoked; all DER.

    `vek` is a VCEK or VLEK. `chain` holds ASK or ASVK and then ARK, as given; it may hold
    certificates that are not needed. `crl` is the ARK's revocation list, when there is one.
    """

    vek: bytes
    chain: tuple[bytes, ...] = ()
    crl: bytes | None = None

    def __post_init__(self) -> None:
        if len(self.chain) > MAX_CHAIN:
            raise CollateralError(f"chain: {len(self.chain)} certificates, at most {MAX_CHAIN}")
        for name, der in (("vek", self.vek), *(("chain", c) for c in self.chain)):
            _bound(name, der, MAX_CERTIFICATE_BYTES)
        if self.crl is not None:
            _bound("crl", self.crl, MAX_CRL_BYTES)

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read `{vek, chain, crl?}`, bytes as hex. Raises CollateralError naming the field."""
        if not isinstance(obj, Mapping):
            raise CollateralError("endorsements: must be a JSON object")
        chain, crl = obj.get("chain", []), obj.get("crl")
        if not isinstance(chain, list) or len(chain) > MAX_CHAIN:
            raise CollateralError(f"chain: must be a list of at most {MAX_CHAIN}")
        return cls(
            _hex("vek", obj.get("vek"), MAX_CERTIFICATE_BYTES),
            tuple(_hex("chain", c, MAX_CERTIFICATE_BYTES) for c in chain),
            None if crl is None else _hex("crl", crl, MAX_CRL_BYTES),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON form `from_json` reads; an absent `crl` is left out."""
        out: dict[str, Any] = {"vek": self.vek.hex(), "chain": [c.hex() for c in self.chain]}
        if self.crl is not None:
            out["crl"] = self.crl.hex()
        return out

    @classmethod
    def from_files(cls, vek: bytes, chain: bytes = b"", crl: bytes | None = None) -> Self:
        """Read the contents of files, each DER or PEM. Raises CollateralError naming the file.

        `vek` may be a bundle: what follows its first certificate stands before `chain`. Both
        keep their order, in which AMD's service has ASK or ASVK before ARK.
        """
        own = _certificates("vek", vek)
        rest = _certificates("chain", chain) if chain else []
        return cls(own[0], (*own[1:], *rest), _crl(crl))

    @classmethod
    def from_table(
        cls,
        table: CertificateTable,
        signing_key: int = SIGNED_BY_VCEK,
        chain: bytes = b"",
    ) -> Self:
        """Read what a host's certificate table has for a report signed by this kind of key.

        Hosts often leave ASK and ARK out; `chain`, a file's contents, follows what the table
        has. Raises CollateralError when the key's own certificate is missing.
        """
        is_vcek = signing_key == SIGNED_BY_VCEK
        vek = table.get(VCEK_GUID if is_vcek else VLEK_GUID)
        if vek is None:
            raise CollateralError(f"certificate table: has no {'VCEK' if is_vcek else 'VLEK'}")
        own = _certificates("vek", vek)
        parts = (table.get(ASK_GUID), table.get(ARK_GUID), chain)
        rest = [der for part in parts if part for der in _certificates("chain", part)]
        return cls(own[0], (*own[1:], *rest), _crl(table.get(CRL_GUID)))


def _bound(name: str, der: bytes, limit: int) -> None:
    if not 0 < len(der) <= limit:
        raise CollateralError(f"{name}: {len(der)} bytes, expected 1 to {limit}")


def _hex(name: str, value: Any, limit: int) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * limit:
        raise CollateralError(f"{name}: must be a string of at most {2 * limit}")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise CollateralError(f"{name}: not hex") from None


def _certificates(name: str, data: bytes) -> list[bytes]:
    return _documents(name, data, b"CERTIFICATE", MAX_CERTIFICATE_BYTES)


def _crl(data: bytes | None) -> bytes | None:
    if data is None:
        return None
    lists = _documents("crl", data, b"X509 CRL", MAX_CRL_BYTES)
    if len(lists) != 1:
        raise CollateralError(f"crl: {len(lists)} lists, expected one")
    return lists[0]


def _documents(name: str, data: bytes, label: bytes, limit: int) -> list[bytes]:
    """The documents of a file: those of its PEM blocks, or the file itself as DER."""
    if len(data) > max(_MAX_FILE, 2 * limit):
        raise CollateralError(f"{name}: longer than {max(_MAX_FILE, 2 * limit)} bytes")
    if _MARK not in data:
        return [data]
    blocks = _PEM.findall(data)
    if len(blocks) != data.count(_MARK) or any(found != label for found, _ in blocks):
        raise CollateralError(f"{name}: a PEM block is not a whole {label.decode()}")
    try:
        return [base64.b64decode(b"".join(text.split()), validate=True) for _, text in blocks]
    except ValueError:
        raise CollateralError(f"{name}: a PEM block is not base64") from None
