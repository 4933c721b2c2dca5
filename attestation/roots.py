"""The trust anchors everything chains to.

A simulator's root is not here and never will be: production roots simply lack it, so no
code asks whether evidence is simulated. Whoever wants it names its file.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from attestation.errors import CollateralError
from attestation.x509 import read_certificate, read_chain

_MAX_ROOT: Final = 1 << 16
_PEM: Final = b"-----BEGIN CERTIFICATE-----"

INTEL_SGX_ROOT: Final[bytes] = (
    resources.files("attestation").joinpath("intel_sgx_root_ca.der").read_bytes()
)
"""Intel SGX Root CA (CN=Intel SGX Root CA), DER; tests pin its SHA-256."""

AMD_ARKS: Final[tuple[bytes, ...]] = tuple(
    resources.files("attestation").joinpath(f"amd_ark_{product}.der").read_bytes()
    for product in ("milan", "genoa", "turin")
)
"""AMD Root Keys (CN=ARK-Milan, ARK-Genoa, ARK-Turin) for SEV-SNP, DER; tests pin SHA-256."""

NVIDIA_DEVICE_ROOT: Final[bytes] = (
    resources.files("attestation").joinpath("nvidia_device_root.der").read_bytes()
)
"""NVIDIA Device Identity CA, above the keys of GPUs and switches, DER; tests pin SHA-256."""

NVIDIA_RIM_ROOT: Final[bytes] = (
    resources.files("attestation").joinpath("nvidia_rim_root.der").read_bytes()
)
"""NVIDIA CoRIM signing Root CA, above the signers of reference values, DER.

Not among PRODUCTION_ROOTS: it says what good firmware is, and no evidence chains to it.
"""

AWS_NITRO_ROOT_G1: Final[bytes] = (
    resources.files("attestation").joinpath("aws_nitro_root_g1.der").read_bytes()
)
"""AWS Nitro Enclaves Root G1 (CN=aws.nitro-enclaves), DER; tests pin its SHA-256."""

PRODUCTION_ROOTS: Final[tuple[bytes, ...]] = (
    INTEL_SGX_ROOT,
    *AMD_ARKS,
    NVIDIA_DEVICE_ROOT,
    AWS_NITRO_ROOT_G1,
)


def load_root(data: bytes) -> bytes:
    """The one certificate in `data` (PEM or DER), as DER.

    Raises CollateralError when there is not exactly one, or when it is not a CA.
    """
    if len(data) > _MAX_ROOT:
        raise CollateralError(f"root: longer than {_MAX_ROOT} bytes")
    chain = read_chain("root", data) if _PEM in data else (read_certificate("root", data),)
    if len(chain) != 1:
        raise CollateralError(f"root: {len(chain)} certificates, expected one")
    if not chain[0].is_ca:
        raise CollateralError("root: not a CA certificate")
    return chain[0].der
