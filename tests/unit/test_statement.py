"""The statement has one form; a nonce or digest in any other form makes none."""

from __future__ import annotations

import pytest

from attestation.errors import MalformedEvidence
from attestation.statement import check_nonce, report_data, statement

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "nonce",
    ["", "ab", "AB" * 32, "ab" * 33, "zz" * 32, "ab" * 31 + "b\n", " " + "ab" * 31 + "a", "é" * 64],
)
def test_nonce_must_be_64_lowercase_hex(nonce: str) -> None:
    with pytest.raises(MalformedEvidence, match="nonce"):
        check_nonce(nonce)
    with pytest.raises(MalformedEvidence, match="nonce"):
        statement(DIGEST, nonce)


@pytest.mark.parametrize("digest", ["", "ab" * 32, "sha256:" + "AB" * 32, DIGEST + '","x":"'])
def test_digest_cannot_smuggle_json_into_the_statement(digest: str) -> None:
    with pytest.raises(MalformedEvidence, match="keyset_digest"):
        statement(digest, None)


def test_null_nonce_differs_from_every_nonce() -> None:
    assert b'"nonce":null' in statement(DIGEST, None)
    assert report_data(DIGEST, None) != report_data(DIGEST, "00" * 32)


def test_report_data_is_a_digest_then_zeros() -> None:
    data = report_data(DIGEST, None)
    assert len(data) == 64
    assert data[32:] == bytes(32)
