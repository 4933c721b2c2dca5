"""The trust anchors everything chains to.

A simulator's root is not here and never will be: production roots simply lack it, so no
code asks whether evidence is simulated. Whoever wants it names its file.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import CollateralError

_MAX_ROOT: Final = 1 << 16
_PEM: Final = b"-----BEGIN CERTIFICATE-----"

INTEL_SGX_ROOT: Final[bytes] = (
    resources.files("attestation").joinpath("intel_sgx_root_ca.der").read_bytes()
)
"""Intel SGX Root CA (CN=Intel SGX Root CA), DER; tests pin its SHA-256."""

PRODUCTION_ROOTS: Final[tuple[bytes, ...]] = (INTEL_SGX_ROOT,)


def load_root(data: bytes) -> bytes:
    """The one certificate in `data` (PEM or DER), as DER.

    Raises CollateralError when there is not exactly one, or when it is not a CA.
    """
    if len(data) > _MAX_ROOT:
        raise CollateralError(f"root: longer than {_MAX_ROOT} bytes")
    try:
        if _PEM in data:
            certificates = x509.load_pem_x509_certificates(data)
        else:
            certificates = [x509.load_der_x509_certificate(data)]
        if len(certificates) != 1:
            raise CollateralError(f"root: {len(certificates)} certificates, expected one")
        constraints = certificates[0].extensions.get_extension_for_class(x509.BasicConstraints)
    except (ValueError, x509.ExtensionNotFound) as e:
        raise CollateralError(f"root: not a CA certificate ({e})") from None
    if not constraints.value.ca:
        raise CollateralError("root: not a CA certificate")
    return certificates[0].public_bytes(Encoding.DER)
