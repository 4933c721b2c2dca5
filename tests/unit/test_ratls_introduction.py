"""What nodes hand each other before a channel: read strictly, trusted not at all."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ratls_peers import appraise, collateral_for, der_of, issued

from attestation.errors import CollateralError, MalformedEvidence
from attestation.ratls import Introduction

DER = der_of(issued())


def document(**changes: Any) -> bytes:
    made = json.loads(Introduction(DER, collateral_for("tdx")).write())
    return json.dumps({k: v for k, v in {**made, **changes}.items() if v is not ...}).encode()


def test_what_is_written_is_read() -> None:
    for collateral in (None, collateral_for("tdx"), collateral_for("sev-snp")):
        introduction = Introduction(DER, collateral)
        assert Introduction.read(introduction.write()) == introduction


def test_it_is_enough_to_judge_its_node() -> None:
    introduction = Introduction.read(document())
    assert appraise(introduction.certificate, collateral=introduction.collateral).spki_sha256


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="array"),
        pytest.param(document(format=...), id="no-format"),
        pytest.param(document(format="adyton-ratls-introduction/2"), id="another-format"),
        pytest.param(document(certificate=...), id="no-certificate"),
        pytest.param(document(certificate=7), id="number"),
        pytest.param(document(certificate="=="), id="not-base64"),
        pytest.param(document(certificate="AAF="), id="not-canonical-base64"),
        pytest.param(document(certificate="A" * 90_000), id="oversized-certificate"),
        pytest.param(document(x="A" * (256 << 10)), id="oversized"),
        pytest.param(b'{"format":1,"format":2}', id="duplicate-name"),
    ],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        Introduction.read(data)


@pytest.mark.parametrize("collateral", [[], {}, 7, "x", {"vek": "00"}, {"vek": 7}])
def test_collateral_of_another_shape_is_a_collateral_error(collateral: Any) -> None:
    with pytest.raises(CollateralError):
        judged = Introduction.read(document(collateral=collateral))
        appraise(judged.certificate, collateral=judged.collateral)


def test_the_certificate_is_read_by_whoever_judges_it() -> None:
    garbage = base64.b64encode(b"garbage").decode()
    introduction = Introduction.read(document(certificate=garbage))
    with pytest.raises(MalformedEvidence, match="certificate"):
        appraise(introduction.certificate)
