"""Real quotes and real collateral: a chain and the verifier in Python say the same.

The vectors are collected from public repositories and are not part of this project:
ADYTON_VECTORS names their folder. What the encoders refuse is named with its reason; whatever
they refuse is submitted all the same, past them, wherever it can be written down at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attested
import pytest
from chain import Chain, Contract, Refused
from collateral_chain import deploy, push

from attestation.collateral import Collateral
from attestation.errors import AttestationError
from attestation.evidence import parse_quote
from attestation.onchain.errors import NotProvable
from attestation.onchain.pki import PckLeaf
from attestation.onchain.quote import Proof, compact_quote, prove
from attestation.policy import evaluate, load_policy
from attestation.verify import DcapReport, verify_quote
from attestation.x509 import read_chain

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
UNPROVABLE = {
    # Body type 4: contracts read TD reports 1.0 and 1.5.
    "tdx-v5-fd88575b0463-ev19-20260827": "quote.body_type",
    "tdx-v5-fd88575b0463-ev20-20260828": "quote.body_type",
}
FLIPPED = (
    "tdx-v4-b9e238b2bd96-ev20-20260828",
    "tdx-v5-cf77a6e91e48-ev18-20260213",
    "sgx-v3-b7ab1cb4b149-ev17-20250830",
)
Key = tuple[str, int, str]


def vectors() -> list[dict[str, Any]]:
    manifest = VECTORS / "manifest.json"
    listed = json.loads(manifest.read_text()) if manifest.is_file() else []
    wanted = [
        v for v in listed if v["tee"] in {"sgx", "tdx"} and (v.get("expected") or {}).get("verdict")
    ]
    return sorted(wanted, key=lambda v: (key(v), v["id"]))


def key(vector: dict[str, Any]) -> Key:
    """Vectors of one key are judged on one chain."""
    return vector["collateral"], vector["verification_time"], vector["root"]


def cases(ids: tuple[str, ...] = ()) -> list[Any]:
    found = [pytest.param(v, id=v["id"]) for v in vectors() if not ids or v["id"] in ids]
    skip = pytest.mark.skip(reason="no manifest.json where ADYTON_VECTORS points")
    return found or [pytest.param(None, marks=skip)]


def read(vector: dict[str, Any], member: str) -> bytes:
    path: Path = VECTORS / vector[member]
    return path.read_bytes()


def root(vector: dict[str, Any]) -> bytes:
    path = VECTORS / vector["root"]
    # Cases of a foreign root need not carry it: any root that is not the vendor's will do.
    return path.read_bytes() if path.is_file() else attested.platform().root_der


class Judge:
    """A chain at the vector's time with its collateral; kept while vectors need the same."""

    def __init__(self) -> None:
        self._key: Key | None = None
        self._chain: Chain | None = None
        self._verifier: Contract | None = None
        self.refusal: Exception | None = None

    def close(self) -> None:
        if self._chain is not None:
            self._chain.__exit__()

    def of(self, vector: dict[str, Any]) -> tuple[Chain, Contract]:
        """`refusal` is then what stopped the collateral, if anything did."""
        if self._key != key(vector):
            self.close()
            self._key, self.refusal = key(vector), None
            self._chain = Chain(timestamp=vector["verification_time"])
            self._verifier = deploy(self._chain, root(vector))
            try:
                push(self._chain, self._verifier, collateral(vector), root(vector))
            except (AttestationError, Refused) as e:
                self.refusal = e
        assert self._chain is not None
        assert self._verifier is not None
        return self._chain, self._verifier


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge()
    yield made
    made.close()


def collateral(vector: dict[str, Any]) -> Collateral:
    return Collateral.from_json(json.loads(read(vector, "collateral")))


def in_python(vector: dict[str, Any]) -> DcapReport | None:
    """What Python concludes under the policy `genuine`; None where it refuses."""
    now = vector["verification_time"]
    try:
        report = verify_quote(read(vector, "quote"), collateral(vector), [root(vector)], now)
        evaluate(report, load_policy("genuine"), report_data=None, now=now)
    except AttestationError:
        return None
    return report


def past_the_encoder(vector: dict[str, Any]) -> Proof:
    """A proof of which nothing is known but that it can be written. Raises AttestationError."""
    raw = read(vector, "quote")
    chain = parse_quote(raw).signature.pck_chain
    if chain is None:
        raise NotProvable("quote.certification_data_type", "no PCK chain")
    leaf, issuer = read_chain("pck_chain", chain)[:2]
    return Proof(compact_quote(raw), PckLeaf.parse(issuer.der, leaf.der))


@pytest.mark.parametrize("vector", cases())
def test_chain_and_python_agree(judge: Judge, vector: dict[str, Any]) -> None:
    report = in_python(vector)
    chain, verifier = judge.of(vector)
    try:
        proof = prove(read(vector, "quote"), collateral(vector))
    except AttestationError as refusal:
        if report is not None:
            assert isinstance(refusal, NotProvable)
            assert UNPROVABLE[vector["id"]] == refusal.field
        try:
            proof = past_the_encoder(vector)
        except AttestationError:
            return
        report = None
    if report is None:
        with pytest.raises(Refused):
            chain.call(verifier, "verifyQuote", proof.quote, proof.platform)
        return
    assert judge.refusal is None
    with chain.undone():
        chain.send(verifier, "verifyQuote", proof.quote, proof.platform)
        known = chain.call(verifier, "verifyQuote", proof.quote, proof.registered_platform)
    verdict = chain.call(verifier, "verifyQuote", proof.quote, proof.platform)
    assert verdict == known
    expiry, statuses, number = verdict
    assert (expiry, number) == (report.endorsements_not_after, report.tcb_eval_data_number)
    healthy = {report.merged_tcb_status, report.qe_tcb_status} == {"UpToDate"}
    assert (statuses == 1) == healthy


@pytest.mark.parametrize("vector", cases(FLIPPED))
@pytest.mark.parametrize("part", ["quote", "platform"])
def test_every_flipped_byte_is_refused(judge: Judge, vector: dict[str, Any], part: str) -> None:
    """Submitted to the contract past the encoder, one byte at a time."""
    chain, verifier = judge.of(vector)
    proof = past_the_encoder(vector)
    arguments = {"quote": proof.quote, "platform": proof.platform}
    chain.call(verifier, "verifyQuote", *arguments.values())
    for at in range(len(arguments[part])):
        changed = {**arguments, part: attested.flip(arguments[part], 8 * at + at % 8)}
        try:
            chain.call(verifier, "verifyQuote", *changed.values())
        except Refused:
            continue
        pytest.fail(f"accepted with byte {at} of {part} changed")
