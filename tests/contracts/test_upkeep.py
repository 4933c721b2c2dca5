"""Collateral kept current on a chain: what is due is pushed, in order, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import attested
import pytest
from chain import ARTEFACTS, Chain
from pki_inputs import CA, DAY, NOW, PLATFORM, ROOT, certificate, crl, extension

from attestation.collateral import Collateral
from attestation.onchain import artifacts
from attestation.onchain.account import Account
from attestation.onchain.deploy import deploy
from attestation.onchain.deployment import Deployment
from attestation.onchain.faults import ContractRefused
from attestation.onchain.rpc import Rpc
from attestation.onchain.sender import Sender
from attestation.onchain.survey import survey
from attestation.onchain.upkeep import CollateralClient, State

PAYER = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""An account that anvil gives every test chain; worth nothing anywhere else."""
DOCUMENT = attested.collateral("tdx")
PARTS = [
    "root certificate",
    "root CRL",
    "PCK CA certificate",
    "PCK CRL",
    "TCB signing certificate",
    f"TDX TCB info of {PLATFORM.fmspc.hex()}",
    "TDQE identity",
]


@pytest.fixture(scope="module", autouse=True)
def contracts() -> Iterator[None]:
    """The contracts that the other tests here are about, also where they were just compiled."""
    with pytest.MonkeyPatch.context() as patched:
        if len(ARTEFACTS) == 1 or not artifacts.names():
            patched.setattr(artifacts, "FOLDER", ARTEFACTS[-1])
        for cached in (artifacts.artifact, artifacts.errors, artifacts._read):
            cached.cache_clear()
        yield


class Kept:
    """A deployment and who keeps its collateral."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.sender = Sender(Rpc(chain.url), Account(bytes.fromhex(PAYER)), poll_s=0.02)
        self.deployed: Deployment = deploy(self.sender, root=PLATFORM.root_der)[0]
        verifier = self.deployed.quote_verifier
        self.client = CollateralClient(self.sender.rpc, verifier, self.sender)

    def standings(self, document: Collateral = DOCUMENT) -> list[State]:
        return [s.state for s in self.client.standings(document, PLATFORM.root_der)]

    def push(self, document: Collateral = DOCUMENT) -> list[tuple[str, State]]:
        done = self.client.push(document, PLATFORM.root_der)
        assert self.standings(document) == [State.CURRENT] * len(PARTS)
        assert self.client.push(document, PLATFORM.root_der) == []
        return [(p.before.part, p.before.state) for p in done]

    def surveyed(self) -> dict[str, State]:
        """The first two words of each part, and how it stands."""
        found = survey(self.sender.rpc, self.deployed)
        assert found.healthy == all(s.state is State.CURRENT for s in found.collateral)
        return {" ".join(s.part.split()[:2]): s.state for s in found.collateral}


@pytest.fixture(scope="module")
def deployed() -> Iterator[Kept]:
    with Chain(timestamp=NOW) as chain:
        kept = Kept(chain)
        assert kept.push() == [(part, State.MISSING) for part in PARTS]
        yield kept


@pytest.fixture
def kept(deployed: Kept) -> Iterator[Kept]:
    """All is current; what a test changes is taken back."""
    with deployed.chain.undone():
        yield deployed


def test_what_is_current_is_not_pushed(kept: Kept) -> None:
    assert kept.push() == []
    assert set(kept.surveyed().values()) == {State.CURRENT}


def test_crl_is_due_again_after_its_ca_when_the_root_revoked_something(kept: Kept) -> None:
    """A new generation begins: the CA's certificate comes first, or its CRL would be refused."""
    revoking = replace(DOCUMENT, root_ca_crl=crl(ROOT, [1], this_update=NOW))
    kept.push(revoking)
    more = replace(DOCUMENT, root_ca_crl=crl(ROOT, [1, 2], this_update=NOW + 1))
    kept.chain.at(int(kept.chain.block["timestamp"], 16) + 10)
    assert kept.standings(more) == [State.CURRENT, State.OLDER, *[State.CURRENT] * 5]
    assert kept.push(more) == [
        ("root CRL", State.OLDER),
        *((part, State.OUTDATED) for part in PARTS[2:]),
    ]


def test_survey_says_what_is_outdated(kept: Kept) -> None:
    client = kept.client
    root_crl = crl(ROOT, [1], this_update=NOW)
    call = artifacts.artifact("QuoteVerifier").interface.call("updateCrl", root_crl, *ROOT.xy)
    kept.sender.send(client.verifier, call)
    stale = {name for name, state in kept.surveyed().items() if state is State.OUTDATED}
    assert stale == {"PCK CA", "PCK CRL", "TCB signing", "TDX TCB", "TDQE identity"}


def test_crl_that_ends_with_the_certificate_comes_again_when_that_is_renewed(kept: Kept) -> None:
    """Where the certificate that is stored ends before the CRL, the next one lengthens both."""
    critical = b"\x01\x01\xff"
    any_depth = extension(bytes.fromhex("551d13"), bytes.fromhex("30030101ff"), critical)

    def until(end: int) -> Collateral:
        root = certificate(ROOT, ROOT, ca=True, constraints=any_depth, not_after=end)
        ca = certificate(ROOT, CA, ca=True, not_after=end)
        return replace(
            DOCUMENT,
            pck_crl_issuer_chain=pem(ca) + pem(root),
            tcb_info_issuer_chain=pem(PLATFORM.tcb_signing.der) + pem(root),
            qe_identity_issuer_chain=pem(PLATFORM.tcb_signing.der) + pem(root),
            root_ca_crl=crl(ROOT, next_update=NOW + 40 * DAY),
            pck_crl=crl(CA, next_update=NOW + 40 * DAY),
        )

    fresh = Kept(kept.chain)
    first, second = until(NOW + 5 * DAY), until(NOW + 9 * DAY)
    fresh.client.push(first)
    again = [p.before for p in fresh.client.push(second)]
    assert {(s.state, s.until) for s in again} == {(State.OLDER, NOW + 5 * DAY)}
    assert [s.part for s in again] == PARTS
    assert fresh.client.push(second) == []


def test_older_crl_than_the_one_outdated_is_refused(kept: Kept) -> None:
    """What is at hand is too old to help: whoever pushes is told, and pays nothing."""
    newest = replace(DOCUMENT, pck_crl=crl(CA, [5], this_update=NOW))
    kept.client.push(newest, PLATFORM.root_der)
    revoking = replace(DOCUMENT, root_ca_crl=crl(ROOT, [1], this_update=NOW))
    with pytest.raises(ContractRefused, match="CrlNotNewer"):
        kept.client.push(revoking, PLATFORM.root_der)
    kept.push(replace(revoking, pck_crl=newest.pck_crl))


def pem(der: bytes) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
