"""AMD's key distribution service for the AMD of `tests.snp_pki`."""

from __future__ import annotations

from urllib.parse import parse_qs

import snp_pki as amd
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from attestation.issuers.simulator.pccs import Answer


def pem(*ders: bytes) -> str:
    return "".join(load_der_x509_certificate(d).public_bytes(Encoding.PEM).decode() for d in ders)


class Kds:
    """AMD's service for the test PKI: paths and parameters as AMD 57230 has them."""

    def __init__(self) -> None:
        self.crls = {p: amd.crl(product=p) for p in amd.PRODUCTS}
        self.veks = {p: amd.vek("vcek", p) for p in amd.PRODUCTS}

    def answer(self, path: str, query: str) -> Answer:
        signer, version, product, what = path.strip("/").split("/")
        assert version == "v1"
        if what == "cert_chain":
            chain = pem(amd.intermediate(signer, product), amd.ark(product))
            return Answer(200, "application/x-pem-file", chain.encode())
        if what == "crl":
            return Answer(200, "application/pkix-crl", self.crls[product])
        asked = {name: int(value[0]) for name, value in parse_qs(query).items()}
        levels = amd.LEVELS[product]
        parts = (levels.bootloader, levels.tee, levels.snp, levels.microcode)
        wanted = dict(zip(("blSPL", "teeSPL", "snpSPL", "ucodeSPL"), parts, strict=True))
        if levels.fmc is not None:
            wanted["fmcSPL"] = levels.fmc
        hwid = amd.chip_id(product)[: 8 if product == "Turin" else 64].hex()
        if signer != "vcek" or asked != wanted or what != hwid:
            return Answer(404)
        return Answer(200, "application/pkix-cert", self.veks[product])
