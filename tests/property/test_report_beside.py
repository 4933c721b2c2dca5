"""Whatever stands beside a genuine quote raises our errors only, and is never passed over."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

import attested
import pytest
from attested import NONCE, NOW, changed, platform
from eventlogs import ccel, ccel_events, rtmrs
from fakes import nvml as fake
from fakes.nvml import Nvml
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError
from attestation.issuers.base import BootEvidence, IssuedEvidence
from attestation.issuers.nvidia import GpuIssuer
from attestation.policy import load_policy
from attestation.report import AttestedNode, appraise_report
from attestation.statement import report_data
from attestation.verify.nvidia_gpu import gpu_nonce

MEMBERS = ("event_log", "vm_config", "app_compose", "ccel", "gpus")
LOG = ccel(ccel_events(), padding=b"")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
gpu_like = st.fixed_dictionaries(
    {
        "kind": st.just("nvidia") | anything,
        "evidence": st.binary(max_size=300).map(bytes.hex) | anything,
        "cert_chain": st.text(max_size=80) | anything,
    }
)


@lru_cache
def healthy() -> dict[str, Any]:
    """A TD with a firmware log and one GPU."""
    data = report_data(attested.keyset().digest, NONCE)
    registers = {k.replace("rtmr", "rt_mr"): bytes.fromhex(v) for k, v in rtmrs(LOG).items()}
    quote = attested.quote("tdx-v4", report_data=data, **registers)
    boot = BootEvidence(ccel=LOG.write())
    evidence = IssuedEvidence("tdx", quote, attested.collateral("tdx"), simulated=True, boot=boot)
    gpus = GpuIssuer(Nvml(gpus=1)).issue(gpu_nonce(data))
    return attested.report(evidence=evidence, gpus=gpus)


def appraise(document: Any) -> AttestedNode:
    return appraise_report(
        document,
        nonce=NONCE,
        roots=[platform().root_der, fake.root(NOW)],
        policy=load_policy("genuine"),
        now=NOW,
    )


def evidence_with(name: str, value: Any) -> Any:
    return changed(healthy(), f"attestation.evidence.{name}", value)


def test_the_healthy_report_is_believed() -> None:
    node = appraise(healthy())
    assert node.events is not None and len(node.gpus) == 1


@given(name=st.sampled_from(MEMBERS), value=anything.filter(lambda v: v is not None and v != []))
@settings(max_examples=60, deadline=None)
def test_anything_beside_the_quote_raises_only_our_errors(name: str, value: Any) -> None:
    document = evidence_with(name, value)
    if name == "vm_config" and isinstance(value, str):
        assert appraise(document).dstack is None  # nothing is concluded from it without a log
        return
    with pytest.raises(AttestationError):
        appraise(document)


@given(gpus=st.lists(gpu_like, min_size=1, max_size=2))
@settings(max_examples=60, deadline=None)
def test_anything_like_a_gpu_raises_only_our_errors(gpus: list[Any]) -> None:
    with pytest.raises(AttestationError):
        appraise(evidence_with("gpus", gpus))


@given(text=st.text(max_size=60) | st.sampled_from(["[" * 100_000, '{"a":' * 50_000, "[]" * 9]))
@settings(max_examples=60, deadline=None)
def test_any_text_for_a_log_raises_only_our_errors(text: str) -> None:
    document = changed(evidence_with("event_log", text), "attestation.evidence.ccel", None)
    with pytest.raises(AttestationError):
        appraise(document)


@given(cut=st.integers(0, len(LOG.write()) - 1))
@settings(max_examples=60, deadline=None)
def test_every_cut_of_a_log_is_refused(cut: int) -> None:
    text = base64.b64encode(LOG.write()[:cut]).decode()
    with pytest.raises(AttestationError):
        appraise(evidence_with("ccel", text))


@given(at=st.integers(0))
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_of_a_gpus_answer_is_refused(at: int) -> None:
    gpu = healthy()["attestation"]["evidence"]["gpus"][0]
    good = bytes.fromhex(gpu["evidence"])
    flipped = attested.flip(good, at % (8 * len(good))).hex()
    with pytest.raises(AttestationError):
        appraise(evidence_with("gpus", [{**gpu, "evidence": flipped}]))
