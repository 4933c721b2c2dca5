"""Which platform a quote is from, as its PCK certificate says."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from attestation.collateral.check import ca_of
from attestation.collateral.item import Platform
from attestation.errors import CollateralError
from attestation.evidence import TdxQuote, parse_quote
from attestation.x509 import read_chain


def platform_of(raw: bytes, update: str = "standard") -> Platform:
    """What collateral the quote `raw` needs, by its own PCK certificate.

    The certificate is only read: verification judges it. Raises MalformedEvidence for what
    is no quote, CollateralError for a quote that does not carry its certificate.
    """
    import dcap_qvl

    parsed = parse_quote(raw)
    pem = parsed.signature.pck_chain
    if pem is None:
        raise CollateralError("pck_chain: the quote carries no PCK certificate chain")
    leaf = load_der_x509_certificate(read_chain("pck_chain", pem)[0].der)
    try:
        fmspc = bytes(dcap_qvl.parse_pck_extension_from_pem(leaf.public_bytes(Encoding.PEM)).fmspc)
    except ValueError as e:
        raise CollateralError(f"pck_chain: no SGX extension ({e})") from None
    ca = ca_of(leaf.issuer)
    if ca is None:
        raise CollateralError("pck_chain: issued by neither the platform nor the processor CA")
    return Platform("tdx" if isinstance(parsed, TdxQuote) else "sgx", fmspc.hex(), ca, update)
