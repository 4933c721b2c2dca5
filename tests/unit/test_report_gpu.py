"""GPUs beside a quote: each answered a nonce that only this report can have led to."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from typing import Any

import attested
import nvidia_pki
import pytest
from attested import NONCE, NOW, platform, report
from fakes import nvml as fake
from fakes.nvml import Nvml

from attestation.beside import MAX_CERT_CHAIN, MAX_GPU_EVIDENCE, MAX_GPUS
from attestation.errors import (
    CollateralError,
    MalformedEvidence,
    PolicyError,
    VerificationError,
)
from attestation.issuers.base import GpuEvidence
from attestation.issuers.nvidia import MAX_DEVICES, GpuIssuer
from attestation.keyset import KeyEntry, Keyset
from attestation.policy import Policy, load_policy
from attestation.report import AttestedNode, appraise_report
from attestation.statement import report_data
from attestation.verify.nvidia_gpu import gpu_nonce

GENUINE = load_policy("genuine")
OTHER_KEYS = attested.keyset(receipt_signing_keys=(KeyEntry("receipt-2", "ed25519", "ab" * 32),))


def evidence(
    keys: Keyset | None = None, nonce: str | None = NONCE, count: int = 2
) -> tuple[GpuEvidence, ...]:
    """What the GPUs of a node with these keys answer for this nonce."""
    data = report_data((keys or attested.keyset()).digest, nonce)
    return GpuIssuer(Nvml(gpus=count)).issue(gpu_nonce(data))


@lru_cache
def _served() -> str:
    return json.dumps(report(gpus=evidence()))


def served() -> dict[str, Any]:
    """The report of a node with two GPUs, as a client gets it."""
    document: dict[str, Any] = json.loads(_served())
    return document


def showing(*gpus: Any) -> dict[str, Any]:
    """The healthy report, whose GPUs are these instead (JSON, or as issued)."""
    document = served()
    document["attestation"]["evidence"]["gpus"] = [
        g.to_json() if isinstance(g, GpuEvidence) else g for g in gpus
    ]
    return document


def with_gpu(**members: Any) -> dict[str, Any]:
    """The healthy report with these members of its second GPU replaced (`...` drops one)."""
    document = served()
    gpu = document["attestation"]["evidence"]["gpus"][1]
    gpu |= members
    for name in [k for k, v in gpu.items() if v is ...]:
        del gpu[name]
    return document


def appraise(document: Any, policy: Policy = GENUINE, **options: Any) -> AttestedNode:
    return appraise_report(
        document,
        **{
            "nonce": NONCE,
            "roots": [platform().root_der, fake.root(NOW)],
            "policy": policy,
            "now": NOW,
            **options,
        },
    )


def wanting(**gpu: Any) -> Policy:
    """Strict, but for what GPUs must be."""
    document = {"version": 1, "name": "test", "gpu": {"required": True, **gpu}}
    return load_policy(document).with_measurement(attested.verify().measurement)


@lru_cache
def references() -> dict[str, tuple[bytes, ...]]:
    """All that a relying party needs to judge the GPUs completely."""
    return {
        "gpu_rims": fake.rims(NOW),
        "gpu_rim_roots": (fake.rim_authorities(NOW).root,),
        "gpu_revocation": (*fake.revocation(NOW), *fake.rim_revocation(NOW)),
    }


def refused(step: str, document: Any, **options: Any) -> VerificationError:
    with pytest.raises(VerificationError) as e:
        appraise(document, **options)
    assert e.value.step == step
    return e.value


def findings(document: Any, policy: Policy, **options: Any) -> set[str]:
    with pytest.raises(PolicyError) as e:
        appraise(document, policy, **options)
    return {f.field for f in e.value.findings}


# --- accepted -------------------------------------------------------------------------------


def test_gpus_are_verified_and_claimed() -> None:
    node = appraise(served(), wanting(min_count=2), **references())
    assert len(node.gpus) == 2 and all(g.measured and g.revocation_checked for g in node.gpus)
    claim = node.appraisal.claims["gpu_attested"]
    assert (claim.status, claim.source) == ("asserted", "hardware_proven")


def test_the_wire_has_kind_evidence_and_chain_of_each() -> None:
    gpus = served()["attestation"]["evidence"]["gpus"]
    assert [set(g) for g in gpus] == [{"kind", "evidence", "cert_chain"}] * 2
    assert gpus[0]["kind"] == "nvidia" and gpus[0]["cert_chain"].startswith("-----BEGIN")


def test_without_gpus_nothing_changes_on_the_wire() -> None:
    assert json.dumps(report()) == json.dumps(report(gpus=()))
    assert "gpus" not in report()["attestation"]["evidence"]


@pytest.mark.parametrize("shown", [None, []])
def test_a_report_without_gpus_leaves_the_claim_unknown(shown: Any) -> None:
    document = served()
    document["attestation"]["evidence"]["gpus"] = shown
    node = appraise(document)
    assert node.gpus == () and node.appraisal.claims["gpu_attested"].status == "unknown"


def test_an_unchallenged_report_shows_gpus_too() -> None:
    document = json.loads(json.dumps(report(nonce=None, gpus=evidence(nonce=None))))
    node = appraise(document, nonce=None)
    assert len(node.gpus) == 2 and not node.fresh


def test_reference_values_of_other_versions_are_passed_over_where_some_fit() -> None:
    old = nvidia_pki.sign_rim(nvidia_pki.rim_xml("535.1.2"), fake.rim_authorities(NOW))
    chip = nvidia_pki.sign_rim(nvidia_pki.rim_xml(product="GB100"), fake.rim_authorities(NOW))
    given = references()
    node = appraise(served(), wanting(), **{**given, "gpu_rims": (old, chip, *given["gpu_rims"])})
    assert all(g.measured for g in node.gpus)


def test_references_are_not_read_where_no_gpu_is_shown() -> None:
    assert appraise(report(), gpu_rims=(b"no xml",), gpu_revocation=(b"nothing",))


# --- refused ---------------------------------------------------------------------------------


def test_gpu_evidence_made_for_another_nonce_of_the_client_is_refused() -> None:
    error = refused("nonce", showing(*evidence(nonce="11" * 32)))
    assert error.detail.startswith("gpus[0]: ")


def test_gpu_evidence_made_for_another_report_is_refused() -> None:
    refused("nonce", showing(*evidence(nonce=None)))


def test_gpu_evidence_copied_from_another_node_is_refused() -> None:
    """The same nonce of the client, but a node with other keys: it has another statement."""
    refused("nonce", showing(*evidence(OTHER_KEYS)))


def test_one_gpu_borrowed_from_another_node_is_refused() -> None:
    own, foreign = evidence()[0], evidence(OTHER_KEYS)[1]
    assert refused("nonce", showing(own, foreign)).detail.startswith("gpus[1]: ")


def test_a_gpu_shown_twice_is_refused_under_every_policy() -> None:
    one = evidence(count=1)[0]
    assert findings(showing(one, one), GENUINE) == {"gpu.devices"}
    assert "gpu.devices" in findings(showing(one, one), wanting(min_count=2), **references())


def test_fewer_gpus_than_wanted_are_refused() -> None:
    assert findings(served(), wanting(min_count=3), **references()) == {"gpu.count"}
    assert findings(report(), wanting(), **references()) == {"gpu.count"}


def test_gpus_of_which_nobody_compared_the_firmware_are_refused_where_one_must() -> None:
    names = findings(served(), wanting())
    assert names == {f"gpu[{i}].{what}" for i in range(2) for what in ("rim", "revocation")}


def test_gpus_shown_unasked_are_judged_all_the_same() -> None:
    strict = load_policy("strict").with_measurement(attested.verify().measurement)
    assert findings(served(), strict) >= {"gpu[0].rim", "gpu[1].revocation"}
    assert appraise(served(), strict, **references())


def test_gpus_under_a_root_that_nobody_named_are_refused() -> None:
    error = refused("root", served(), roots=[platform().root_der])
    assert error.detail.startswith("gpus[0]: ")


def test_evidence_signed_by_another_gpus_key_is_refused() -> None:
    first, second = evidence()
    swapped = GpuEvidence(first.evidence, second.cert_chain)
    refused("signature", showing(swapped))


def test_a_changed_bit_of_gpu_evidence_is_refused() -> None:
    good = evidence(count=1)[0]
    flipped = attested.flip(good.evidence, 8 * 60)  # within the first measurement
    refused("signature", showing(GpuEvidence(flipped, good.cert_chain)))


def test_gpus_whose_certificates_expired_are_refused() -> None:
    late = fake.DAY + 1
    keys = attested.keyset(not_after=NOW + 10 * fake.DAY)
    document = json.loads(json.dumps(report(keys=keys, gpus=evidence(keys))))
    assert refused("expired", document, now=NOW + late).detail.startswith("gpus[0]: ")


def test_reference_values_that_fit_no_shown_gpu_are_told() -> None:
    other = nvidia_pki.sign_rim(nvidia_pki.rim_xml("535.1.2"), fake.rim_authorities(NOW))
    refused("rim_version", served(), **{**references(), "gpu_rims": (other,)})


def test_firmware_that_nvidia_did_not_sign_for_is_refused() -> None:
    nvml = Nvml(gpus=1)
    nvml.report = lambda index, nonce: nvidia_pki.evidence(
        fake.chain(index, NOW).leaf, nonce=nonce, measured=nvidia_pki.blocks(m21=b"\x66" * 48)
    )
    data = report_data(attested.keyset().digest, NONCE)
    refused("rim_measurements", showing(*GpuIssuer(nvml).issue(gpu_nonce(data))), **references())


def test_reference_values_under_no_named_root_are_refused() -> None:
    refused("root", served(), **{**references(), "gpu_rim_roots": ()})
    refused("root", served(), **{**references(), "gpu_rim_roots": (fake.root(NOW),)})


def test_unreadable_references_are_a_collateral_error() -> None:
    with pytest.raises(CollateralError, match="rim"):
        appraise(served(), gpu_rims=(b"<no",), gpu_rim_roots=(fake.root(NOW),))
    with pytest.raises(CollateralError, match=r"gpus\[0\]"):
        appraise(served(), gpu_revocation=(b"neither",))


def test_unreadable_chains_are_a_collateral_error_that_names_the_gpu() -> None:
    with pytest.raises(CollateralError, match=r"gpus\[1\]"):
        appraise(with_gpu(cert_chain="no certificates"))


# --- malformed -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["x", {}, 1, [None] * (MAX_GPUS + 1)])
def test_gpus_are_a_short_list(value: Any) -> None:
    document = served()
    document["attestation"]["evidence"]["gpus"] = value
    with pytest.raises(MalformedEvidence) as e:
        appraise(document)
    assert e.value.field == "report.attestation.evidence.gpus"


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"kind": ...}, ""),
        ({"extra": 1}, ""),
        ({"kind": "amd"}, ".kind"),
        ({"kind": None}, ".kind"),
        ({"evidence": None}, ".evidence"),
        ({"evidence": ""}, ".evidence"),
        ({"evidence": "abc"}, ".evidence"),
        ({"evidence": "zz"}, ".evidence"),
        ({"evidence": 7}, ".evidence"),
        ({"evidence": "00" * (MAX_GPU_EVIDENCE + 1)}, ".evidence"),
        ({"evidence": "00"}, ""),
        ({"cert_chain": None}, ".cert_chain"),
        ({"cert_chain": "ü"}, ".cert_chain"),
        ({"cert_chain": "x" * (MAX_CERT_CHAIN + 1)}, ".cert_chain"),
    ],
)
def test_a_gpu_of_another_shape_is_malformed(members: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedEvidence) as e:
        appraise(with_gpu(**members), **references())
    assert e.value.field == f"report.attestation.evidence.gpus[1]{field}"


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_an_entry_that_is_no_object_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedEvidence, match=r"gpus\[0\]"):
        appraise(showing(value))


def test_a_node_shows_no_more_than_a_client_reads() -> None:
    assert MAX_DEVICES <= MAX_GPUS


def test_every_cut_of_gpu_evidence_is_malformed() -> None:
    good = evidence(count=1)[0]
    for length in range(1, len(good.evidence), 97):
        cut = GpuEvidence(good.evidence[:length], good.cert_chain)
        with pytest.raises(MalformedEvidence):
            appraise(showing(cut))


def test_appraising_changes_nothing_in_the_report() -> None:
    document = served()
    before = copy.deepcopy(document)
    appraise(document)
    assert document == before
