"""AMD's Key Distribution Service: the certificate of one chip at one firmware level.

The service limits how often it is asked, so requests keep their distance, waits are long,
and certificates, which never change, are kept for a month. Spec: AMD 57230, chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attestation.collateral.check_snp import levels_text
from attestation.collateral.http import Fetcher, Patience, base_url
from attestation.collateral.item import Item, Key, Kind
from attestation.collateral.pcs import pem_chain
from attestation.collateral.snp import MAX_CERTIFICATE_BYTES
from attestation.errors import CollateralError
from attestation.evidence.snp import SIGNED_BY_VCEK, SIGNED_BY_VLEK, AttestationReport
from attestation.x509 import read_chain

AMD_KDS: Final = "https://kdsintf.amd.com"
KDS_PATIENCE: Final = Patience(
    read_s=30.0, total_s=120.0, attempts=5, backoff_s=5.0, longest_wait_s=40.0, spacing_s=1.0
)
_TURIN_HWID_BYTES: Final = 8
_LEVELS: Final = ("blSPL", "teeSPL", "snpSPL", "ucodeSPL")
_MAX_CHAIN_BYTES: Final = 1 << 16
_UNNAMED: Final = ("Milan", "Genoa")
"""Products whose reports (version 2) do not say which they are of."""


@dataclass(frozen=True, slots=True)
class Chip:
    """What endorsements for a report depend on. `hwid` is hex, `levels` as in item keys."""

    product: str
    signer: str
    hwid: str
    levels: str

    @property
    def vcek(self) -> Key:
        return Key(Kind.SNP_VCEK, f"{self.product.lower()}/{self.hwid}/{self.levels}")

    @property
    def chain(self) -> Key:
        return Key(Kind.SNP_CHAIN, f"{self.signer}/{self.product.lower()}")

    @property
    def crl(self) -> Key:
        return Key(Kind.SNP_CRL, f"{self.signer}/{self.product.lower()}")


def chips_of(raw: bytes, product: str | None = None) -> tuple[Chip, ...]:
    """Whose endorsements the report `raw` may need: one chip, or two where it names no product.

    `product` says which it is of. The report is only read: verification judges it. Raises
    MalformedEvidence, or CollateralError when the report does not say what to ask for.
    """
    report = AttestationReport.read(raw)
    if report.signing_key not in (SIGNED_BY_VCEK, SIGNED_BY_VLEK):
        raise CollateralError("signing_key: the report is signed by neither VCEK nor VLEK")
    signer = "vcek" if report.signing_key == SIGNED_BY_VCEK else "vlek"
    if signer == "vcek" and not any(report.chip_id):
        raise CollateralError("chip_id: masked, so the report does not say whose VCEK it needs")
    named = product or report.product
    if named is None and report.cpuid_fam_id is not None:
        raise CollateralError("product: the report is of no known processor")
    return tuple(_chip(report, p, signer) for p in ((named,) if named else _UNNAMED))


def _chip(report: AttestationReport, product: str, signer: str) -> Chip:
    chip_id = report.chip_id[:_TURIN_HWID_BYTES] if product == "Turin" else report.chip_id
    return Chip(product, signer, chip_id.hex(), levels_text(report.reported_tcb.parts(product)))


class KdsClient:
    """Gets items from AMD's service, or from one that speaks like it, at `url`. Unchecked."""

    def __init__(self, fetcher: Fetcher, url: str = AMD_KDS) -> None:
        """Raises CollateralError when `url` is not one that may be asked."""
        self._fetcher = fetcher
        self._base = base_url(url)
        self._chains: dict[str, str] = {}

    async def fetch(self, key: Key) -> Item:
        """The item as served. Raises CollateralUnavailable, or CollateralError naming it."""
        match key.kind:
            case Kind.SNP_VCEK:
                return await self._vcek(key)
            case Kind.SNP_CHAIN:
                signer, product = key.parts
                chain = read_chain(str(key.kind), (await self._chain(signer, product)).encode())
                return Item(key, chain[0].der, b"", "")
            case Kind.SNP_CRL:
                signer, product = key.parts
                reply = await self._fetcher.get(
                    f"{self._base}/{signer}/v1/{product.capitalize()}/crl", str(key.kind)
                )
                return Item(key, reply.body, b"", "")
            case _:
                raise CollateralError(f"{key.kind}: not something AMD's service has")

    async def _vcek(self, key: Key) -> Item:
        product, hwid, levels = key.parts
        names = ("fmcSPL", *_LEVELS) if levels.count("-") == len(_LEVELS) else _LEVELS
        query = "&".join(f"{n}={int(v):02d}" for n, v in zip(names, levels.split("-"), strict=True))
        url = f"{self._base}/vcek/v1/{product.capitalize()}/{hwid}?{query}"
        reply = await self._fetcher.get(url, str(key.kind), limit=MAX_CERTIFICATE_BYTES)
        return Item(key, reply.body, b"", await self._chain("vcek", product))

    async def _chain(self, signer: str, product: str) -> str:
        """ASK or ASVK, then ARK, as PEM; asked for once."""
        found = self._chains.get(f"{signer}/{product}")
        if found is None:
            url = f"{self._base}/{signer}/v1/{product.capitalize()}/cert_chain"
            reply = await self._fetcher.get(url, "snp-chain", limit=_MAX_CHAIN_BYTES)
            found = pem_chain("snp-chain", reply.body.decode("latin-1"))
            self._chains[f"{signer}/{product}"] = found
        return found
