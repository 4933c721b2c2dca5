"""A deployed quote verifier and the collateral it is given, part by part, as anyone may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chain import Chain, Contract
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.collateral import Collateral
from attestation.onchain.qe import QeIdentity
from attestation.onchain.tcb import TcbInfo
from attestation.x509 import Certificate, read_certificate, read_chain

PRECOMPILE: Final = "0x" + "00" * 18 + "0100"
MIN_EVALUATION: Final = 1


def key_of(certificate: Certificate) -> tuple[int, int]:
    assert isinstance(certificate.key, ec.EllipticCurvePublicKey)
    numbers = certificate.key.public_numbers()
    return numbers.x, numbers.y


def _halves(signature: bytes) -> tuple[int, int]:
    return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")


def deploy(chain: Chain, root_der: bytes, p256: str = PRECOMPILE) -> Contract:
    root = key_of(read_certificate("root", root_der))
    return chain.deploy("QuoteVerifier", *root, p256, MIN_EVALUATION)


def push(chain: Chain, verifier: Contract, collateral: Collateral, root_der: bytes) -> None:
    """Submit every part. Raises AttestationError where an encoder refuses, `chain.Refused`
    where the contract does."""
    root = key_of(read_certificate("root", root_der))
    chain.send(verifier, "addCertificate", root_der)
    chain.send(verifier, "updateCrl", collateral.root_ca_crl, *root)
    ca = read_chain("pck_crl_issuer_chain", collateral.pck_crl_issuer_chain.encode())[0]
    chain.send(verifier, "addCertificate", ca.der)
    chain.send(verifier, "updateCrl", collateral.pck_crl, *key_of(ca))
    info, identity = collateral.tcb_info, collateral.qe_identity
    for function, compact, signature, pem in (
        (
            "updateTcbInfo",
            TcbInfo.parse(info).write(),
            collateral.tcb_info_signature,
            collateral.tcb_info_issuer_chain,
        ),
        (
            "updateQeIdentity",
            QeIdentity.parse(identity).write(),
            collateral.qe_identity_signature,
            collateral.qe_identity_issuer_chain,
        ),
    ):
        signer = read_chain("issuer_chain", pem.encode())[0]
        chain.send(verifier, "addCertificate", signer.der)
        chain.send(verifier, function, compact, *_halves(signature), *key_of(signer))


def bits(statuses: Sequence[str], names: Sequence[str]) -> int:
    """The mask that `Verdict.statuses` has for these statuses."""
    return sum(1 << names.index(status) for status in set(statuses))
