"""The whole quote verifier against the verifier in Python, on platforms that are odd in one way.

Certificates, CRLs, TCB info and identity are the simulator's, submitted as anybody may; what is
wrong with a platform is signed by its authorities, so it is up to the contract to see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attested
import pytest
from chain import Chain, Refused
from collateral_chain import deploy, push
from quote_inputs import STATUSES

from attestation.errors import AttestationError
from attestation.evidence import parse_quote
from attestation.issuers.simulator import Standing, Window
from attestation.onchain.errors import NotProvable
from attestation.onchain.pki import PckLeaf
from attestation.onchain.quote import Proof, compact_quote, prove
from attestation.verify import verify_quote
from attestation.x509 import read_chain

KINDS = attested.KINDS[:4]
ENDED = Window(attested.NOW - 2_000_000, attested.NOW - 10)
COMING = Window(attested.NOW + 1_000_000, attested.NOW + 2_000_000)
ODD: dict[str, dict[str, Any]] = {
    "revoked tcb": {"tcb_standing": Standing("Revoked")},
    "revoked qe": {"qe_standing": Standing("Revoked")},
    "revoked module": {"tdx_module_standing": Standing("Revoked")},
    "revoked pck": {"pck_revoked": True},
    "revoked ca": {"pck_ca_revoked": True},
    "revoked signer": {"tcb_signing_revoked": True},
    "another family's tcb info": {"tcb_info_fmspc": bytes(6)},
    "another pceid": {"tcb_info_pceid": b"\0\1"},
    "module without a version": {"tee_tcb_svn": bytes([7, 0, 6]) + bytes(13)},
    "unsigned module": {"mr_signer_seam": b"\1" * 48},
    "module with attributes": {"seam_attributes": b"\1" + bytes(7)},
    "debug qe": {"qe_attributes": bytes.fromhex("1700000000000000e700000000000000")},
    "unusual auth data": {"qe_auth_data": bytes(33)},
    "expired tcb info": {"tcb_info_window": ENDED},
    "expired identity": {"qe_identity_window": ENDED},
    "expired crl": {"crl_window": ENDED},
    "expired certificates": {"certificates": ENDED},
    "coming tcb info": {"tcb_info_window": COMING},
    "coming identity": {"qe_identity_window": COMING},
    "coming crl": {"crl_window": COMING},
    "short-lived crl": {"crl_window": Window(attested.NOW - 10, attested.NOW + 1000)},
    "another evaluation": {"tcb_evaluation_number": 9},
    **{
        f"{part} {status}": {f"{name}_standing": Standing(status)}
        for part, name in (("tcb", "tcb"), ("qe", "qe"), ("module", "tdx_module"))
        for status in STATUSES[:-1]
    },
}

NARROWER = {"unsigned module": ("tdx-v4",), "module with attributes": ("tdx-v4",)}
"""Python has verified these and leaves them to the policy; contracts know Intel's module only."""


@pytest.fixture
def chain() -> Iterator[Chain]:
    with Chain(timestamp=attested.NOW) as started:
        yield started


def past_the_encoder(raw: bytes) -> Proof:
    pem = parse_quote(raw).signature.pck_chain
    assert pem is not None
    leaf, issuer = read_chain("pck_chain", pem)[:2]
    return Proof(compact_quote(raw), PckLeaf.parse(issuer.der, leaf.der))


def on_chain(chain: Chain, kind: str, odd: dict[str, Any]) -> tuple[int, int, int]:
    """What the contract concludes; Refused or AttestationError wherever it does not."""
    platform = attested.platform(**odd)
    verifier = deploy(chain, platform.root_der)
    proof = past_the_encoder(attested.quote(kind, platform))
    stopped: Exception | None = None
    try:
        push(
            chain, verifier, attested.collateral(attested.tee_of(kind), platform), platform.root_der
        )
    except (AttestationError, Refused) as e:
        stopped = e
    chain.send(verifier, "verifyQuote", proof.quote, proof.platform)
    assert stopped is None, f"a quote is accepted without collateral ({stopped})"
    expiry, statuses, number = chain.call(
        verifier, "verifyQuote", proof.quote, proof.registered_platform
    )
    return expiry, statuses, number


@pytest.mark.parametrize("kind", KINDS)
def test_genuine(chain: Chain, kind: str) -> None:
    report = attested.verify(kind)
    proof = prove(attested.quote(kind), attested.collateral(attested.tee_of(kind)))
    assert proof == past_the_encoder(attested.quote(kind))
    assert on_chain(chain, kind, {}) == (report.endorsements_not_after, 1, 17)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", ["sgx-v3", "tdx-v4"])
def test_odd_platforms_are_judged_as_in_python(chain: Chain, kind: str, name: str) -> None:
    platform = attested.platform(**ODD[name])
    collateral = attested.collateral(attested.tee_of(kind), platform)
    try:
        report = verify_quote(
            attested.quote(kind, platform), collateral, [platform.root_der], attested.NOW
        )
    except AttestationError:
        with pytest.raises((AttestationError, Refused)):
            on_chain(chain, kind, ODD[name])
        return
    if kind in NARROWER.get(name, ()):
        with pytest.raises(NotProvable):
            prove(attested.quote(kind, platform), collateral)
        with pytest.raises(Refused):
            on_chain(chain, kind, ODD[name])
        return
    expiry, statuses, number = on_chain(chain, kind, ODD[name])
    number_in_python = report.facts()["tcb_evaluation_data_number"]
    assert (expiry, number) == (report.endorsements_not_after, number_in_python)
    found = {report.tcb_status, report.platform_tcb_status, report.qe_tcb_status}
    assert (statuses == 1) == (found == {"UpToDate"})


def test_where_the_precompile_is_missing_software_judges_the_same() -> None:
    platform = attested.platform()
    with Chain(timestamp=attested.NOW, hardfork="prague") as old:
        software = old.deploy("SoftwareP256")
        verifier = deploy(old, platform.root_der, p256=software.address)
        push(old, verifier, attested.collateral("tdx", platform), platform.root_der)
        proof = prove(attested.quote("tdx-v4"), attested.collateral("tdx"))
        old.send(verifier, "verifyQuote", proof.quote, proof.platform)
        changed = attested.flip(proof.quote, 8 * 400)
        with old.refused("QuoteSignatureInvalid"):
            old.call(verifier, "verifyQuote", changed, proof.platform)
