"""Collateral in a certificate, in the form that Open Enclave and RATS-TLS use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from ratls_peers import collateral_for

from attestation.errors import MalformedEvidence
from attestation.ratls.endorsements import read_endorsements, write_endorsements

COLLATERAL = collateral_for("tdx")


def parts() -> list[Any]:
    return list(cbor2.loads(write_endorsements(COLLATERAL)).value)


def encoded(items: Any, tag: int = 60000) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, items))


def changed(index: int, value: Any) -> bytes:
    items = parts()
    items[index] = value
    return encoded(items)


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_what_is_written_is_read(tee: str) -> None:
    collateral = collateral_for(tee)
    data = write_endorsements(collateral)
    assert read_endorsements(data) == collateral
    assert data[:5] == bytes.fromhex("d9ea60881a")  # eight parts, the version in four bytes


def test_hex_crls_of_version_3_0_and_its_version_in_four_bytes_are_read() -> None:
    items = parts()
    items[3:5] = [items[3].hex().encode() + b"\0", items[4].hex().encode() + b"\0"]
    body = b"".join(map(cbor2.dumps, items[1:]))
    assert read_endorsements(encoded([3, *items[1:]])) == COLLATERAL
    assert read_endorsements(bytes.fromhex("d9ea60881a00000003") + body) == COLLATERAL


def test_a_creation_time_is_ignored() -> None:
    assert read_endorsements(encoded([*parts(), b"2026-01-01T00:00:00Z\0"])) == COLLATERAL


def test_the_signed_text_is_kept_to_the_byte() -> None:
    odd = replace(COLLATERAL, tcb_info='{"a": 1 ,"signature":"00"}')
    assert read_endorsements(write_endorsements(odd)).tcb_info == odd.tcb_info


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(parts(), tag=60001), id="tag"),
        pytest.param(encoded(parts()[:7]), id="seven-parts"),
        pytest.param(encoded([*parts(), b"", b""]), id="ten-parts"),
        pytest.param(changed(0, 1), id="version-1"),
        pytest.param(changed(0, b"\3"), id="version-as-bytes"),
        pytest.param(changed(0, True), id="version-true"),
        pytest.param(changed(1, "text"), id="text"),
        pytest.param(changed(2, b"\xff"), id="chain-not-utf-8"),
        pytest.param(changed(1, b"\xff"), id="not-utf-8"),
        pytest.param(changed(1, b'{"tcbInfo":{}}'), id="unsigned"),
        pytest.param(changed(1, parts()[6]), id="identity-for-tcb-info"),
        pytest.param(changed(6, b'{"enclaveIdentity":{},"signature":"00"}'), id="short-signature"),
        pytest.param(encoded([3, *parts()[1:]]), id="binary-crl-under-3.0"),
        pytest.param(encoded([3, *parts()[1:3], b"xy", b"xy", *parts()[5:]]), id="crl-not-hex"),
        pytest.param(write_endorsements(COLLATERAL) + b"\0", id="trailing"),
        pytest.param(write_endorsements(COLLATERAL)[:-1], id="truncated"),
        pytest.param(b"\xd9\xea\x60\x98\x08" + encoded(parts())[4:], id="long-form-count"),
        pytest.param(cbor2.dumps(parts()), id="untagged"),
        pytest.param(b"", id="empty"),
    ],
)
def test_endorsements_of_another_shape_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence, match=r"ratls\.endorsements"):
        read_endorsements(data)
