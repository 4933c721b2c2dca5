"""Real Nitro documents under AWS's root, and two that were tampered with.

The vectors are collected from public repositories and are not part of this project:
ADYTON_VECTORS names their folder. `accept` there means authentic and not in debug mode.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import VerificationError
from attestation.evidence.nitro import NitroDocument
from attestation.policy import evaluate, load_policy
from attestation.roots import AWS_NITRO_ROOT_G1, load_root
from attestation.verify.nitro import verify_nitro

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
DURING_TAMPERED = 1631182760
"""When the document behind the tampered ones was made; the manifest gives one no time."""


def cases() -> list[Any]:
    manifest = VECTORS / "manifest.json"
    if not manifest.is_file():
        reason = "no manifest.json where ADYTON_VECTORS points"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    wanted = [
        v
        for v in json.loads(manifest.read_text())
        if v["tee"] == "nitro" and (v.get("expected") or {}).get("verdict")
    ]
    return [pytest.param(v, id=v["id"]) for v in wanted]


def read(vector: dict[str, Any]) -> bytes:
    return (VECTORS / vector["document"]).read_bytes()


@pytest.mark.parametrize("vector", cases())
def test_verdict_under_genuine(vector: dict[str, Any]) -> None:
    now = vector["verification_time"] or DURING_TAMPERED
    root = load_root((VECTORS / vector["root"]).read_bytes())
    assert root == AWS_NITRO_ROOT_G1
    if vector["expected"]["verdict"] == "accept":
        report = verify_nitro(read(vector), [root], now)
        evaluate(report, load_policy("genuine"), report_data=None, now=now)
        fields = vector["fields"]
        assert report.measurement == fields["pcr0"]
        assert report.document.module_id == fields["module_id"]
        assert (report.document.user_data is not None) == fields["user_data"]
        return
    with pytest.raises(VerificationError) as e:
        verify_nitro(read(vector), [root], now)
    if "debug" in vector["expected"].get("reason", ""):
        assert e.value.step == "debug"
    else:
        assert e.value.step in {"chain", "signature"}


@pytest.mark.parametrize("vector", cases())
def test_write_after_read_is_identity(vector: dict[str, Any]) -> None:
    raw = read(vector)
    assert NitroDocument.read(raw).write() == raw


@pytest.mark.parametrize("vector", cases())
def test_a_day_later_every_document_has_expired(vector: dict[str, Any]) -> None:
    now = (vector["verification_time"] or DURING_TAMPERED) + 86400
    with pytest.raises(VerificationError) as e:
        verify_nitro(read(vector), [AWS_NITRO_ROOT_G1], now)
    assert e.value.step in {"expired", "chain"}
