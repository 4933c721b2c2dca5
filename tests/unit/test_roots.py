"""Trust anchors are exactly the vendor's, or exactly the one certificate a person named."""

from __future__ import annotations

import hashlib

import attested
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import CollateralError
from attestation.roots import (
    AMD_ARKS,
    AWS_NITRO_ROOT_G1,
    INTEL_SGX_ROOT,
    NVIDIA_DEVICE_ROOT,
    NVIDIA_RIM_ROOT,
    PRODUCTION_ROOTS,
    load_root,
)

INTEL_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


# As AMD's key distribution service hands them out, for Milan, Genoa and Turin.
AMD_SHA256 = [
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
]


def test_the_built_in_roots_are_the_vendors_and_no_others() -> None:
    vendors = (INTEL_SGX_ROOT, *AMD_ARKS, NVIDIA_DEVICE_ROOT, AWS_NITRO_ROOT_G1)
    assert vendors == PRODUCTION_ROOTS
    assert hashlib.sha256(INTEL_SGX_ROOT).hexdigest() == INTEL_SHA256
    assert [hashlib.sha256(ark).hexdigest() for ark in AMD_ARKS] == AMD_SHA256


@pytest.mark.parametrize("der", AMD_ARKS)
def test_amd_root_keys_sign_themselves(der: bytes) -> None:
    ark = x509.load_der_x509_certificate(der)
    ark.verify_directly_issued_by(ark)
    assert load_root(der) == der


@pytest.mark.parametrize(
    ("der", "sha256"),
    [
        (NVIDIA_DEVICE_ROOT, "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"),
        (NVIDIA_RIM_ROOT, "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"),
    ],
)
def test_nvidia_roots_are_pinned_and_sign_themselves(der: bytes, sha256: str) -> None:
    root = x509.load_der_x509_certificate(der)
    root.verify_directly_issued_by(root)
    assert hashlib.sha256(der).hexdigest() == sha256
    assert load_root(der) == der


def test_who_signs_reference_values_signs_no_evidence() -> None:
    assert NVIDIA_RIM_ROOT not in PRODUCTION_ROOTS


def test_simulator_root_is_not_built_in() -> None:
    assert attested.platform().root_der not in PRODUCTION_ROOTS


@pytest.mark.parametrize("der", [INTEL_SGX_ROOT, attested.platform().root_der])
def test_pem_and_der_give_the_same_root(der: bytes) -> None:
    assert load_root(der) == load_root(pem(der)) == load_root(b"# a note\n" + pem(der)) == der


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a certificate",
        INTEL_SGX_ROOT[:-1],
        INTEL_SGX_ROOT + b"\0",
        pem(INTEL_SGX_ROOT) * 2,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----",
        b"\0" * 70_000,
    ],
)
def test_what_is_not_exactly_one_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(CollateralError, match="root: "):
        load_root(data)


def test_leaf_cannot_be_a_root() -> None:
    with pytest.raises(CollateralError, match="not a CA"):
        load_root(attested.platform().pck.der)


def test_certificate_that_states_no_constraints_cannot_be_a_root() -> None:
    from datetime import UTC, datetime

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bare")])
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2025, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2035, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(CollateralError, match="not a CA"):
        load_root(bare.public_bytes(Encoding.DER))
