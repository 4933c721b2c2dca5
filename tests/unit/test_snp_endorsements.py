"""Endorsements from files, JSON and a host's certificate table: read whole, or named as odd."""

from __future__ import annotations

from typing import Any

import pytest
import snp_pki as pki
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.collateral.snp import MAX_CERTIFICATE_BYTES, MAX_CRL_BYTES, SnpEndorsements
from attestation.errors import CollateralError, MalformedEvidence
from attestation.evidence.snp import SIGNED_BY_VLEK
from attestation.evidence.snp_certs import (
    ARK_GUID,
    ASK_GUID,
    CRL_GUID,
    MAX_TABLE_BYTES,
    VCEK_GUID,
    VLEK_GUID,
    CertificateEntry,
    CertificateTable,
)

VEK, ASK, ARK, CRL = (
    pki.endorsements().vek,
    pki.intermediate(),
    pki.ark(),
    pki.endorsements().crl or b"",
)


def pem(*ders: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(d).public_bytes(Encoding.PEM) for d in ders)


CRL_PEM = x509.load_der_x509_crl(CRL).public_bytes(Encoding.PEM)
WHOLE = SnpEndorsements(VEK, (ASK, ARK), CRL)


@pytest.mark.parametrize(
    "files",
    [
        (VEK, pem(ASK, ARK), CRL),
        (pem(VEK), pem(ASK, ARK), CRL_PEM),
        (pem(VEK, ASK, ARK), b"", CRL),
        (pem(VEK, ASK), ARK, CRL),
        (pem(VEK).replace(b"\n", b"\r\n"), b"a note\n" + pem(ASK) + b"\n\n" + pem(ARK), CRL),
    ],
)
def test_files_of_any_kind_say_the_same(files: tuple[bytes, bytes, bytes]) -> None:
    assert SnpEndorsements.from_files(*files) == WHOLE


def test_chain_and_list_may_be_left_out() -> None:
    assert SnpEndorsements.from_files(VEK) == SnpEndorsements(VEK)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ((b"",), "vek: 0 bytes"),
        ((b"x" * (MAX_CERTIFICATE_BYTES + 1),), "vek: 16385 bytes"),
        ((b"x" * 200_000,), "vek: longer"),
        ((VEK, b"x" * 200_000), "chain: longer"),
        ((VEK, b"", b""), "crl: 0 bytes"),
        ((VEK, b"", b"x" * (2 * MAX_CRL_BYTES + 1)), "crl: longer"),
        ((VEK, pem(ASK) * 9), "chain: 9 certificates"),
        ((VEK, pem(ASK)[:-30]), "chain: a PEM block"),
        ((VEK, pem(ASK) + b"-----BEGIN CERTIFICATE-----\n"), "chain: a PEM block"),
        ((VEK, CRL_PEM), "chain: a PEM block is not a whole CERTIFICATE"),
        ((VEK, b"", pem(ASK)), "crl: a PEM block is not a whole X509 CRL"),
        ((VEK, b"", CRL_PEM * 2), "crl: 2 lists"),
        ((b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",), "not base64"),
        ((b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",), "vek: 0 bytes"),
    ],
)
def test_odd_files_are_named(files: tuple[bytes, ...], match: str) -> None:
    with pytest.raises(CollateralError, match=match):
        SnpEndorsements.from_files(*files)


def test_json_says_the_same() -> None:
    assert SnpEndorsements.from_json(WHOLE.to_json()) == WHOLE
    assert "crl" not in SnpEndorsements(VEK).to_json()


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ([], "must be a JSON object"),
        ({}, "vek: must be a string"),
        ({"vek": 1}, "vek: must be a string"),
        ({"vek": "zz"}, "vek: not hex"),
        ({"vek": ""}, "vek: 0 bytes"),
        ({"vek": "00" * (MAX_CERTIFICATE_BYTES + 1)}, "vek: must be a string of at most"),
        ({"vek": "00", "chain": "00"}, "chain: must be a list"),
        ({"vek": "00", "chain": ["00"] * 9}, "chain: must be a list of at most 8"),
        ({"vek": "00", "chain": [None]}, "chain: must be a string"),
        ({"vek": "00", "crl": 5}, "crl: must be a string"),
        ({"vek": "00", "crl": ""}, "crl: 0 bytes"),
    ],
)
def test_odd_json_is_named(document: Any, match: str) -> None:
    with pytest.raises(CollateralError, match=match):
        SnpEndorsements.from_json(document)


def table(**documents: bytes) -> CertificateTable:
    guids = {"vcek": VCEK_GUID, "vlek": VLEK_GUID, "ask": ASK_GUID, "ark": ARK_GUID}
    named = ((guids.get(n, CRL_GUID), data) for n, data in documents.items())
    return CertificateTable.read(CertificateTable.build(named).write())


def test_certificate_table_of_a_host() -> None:
    full = table(ark=ARK, ask=ASK, vcek=VEK, crl=CRL)
    assert SnpEndorsements.from_table(full) == WHOLE
    bundled = table(vcek=pem(VEK), ask=pem(ASK, ARK))
    assert SnpEndorsements.from_table(bundled) == SnpEndorsements(VEK, (ASK, ARK))


def test_what_a_host_leaves_out_comes_from_a_file() -> None:
    both = table(vcek=VEK, vlek=ASK)
    assert SnpEndorsements.from_table(both, chain=pem(ASK, ARK)).chain == (ASK, ARK)
    assert SnpEndorsements.from_table(both, SIGNED_BY_VLEK).vek == ASK


def test_table_without_the_signing_key() -> None:
    with pytest.raises(CollateralError, match="no VCEK"):
        SnpEndorsements.from_table(table(vlek=VEK))
    with pytest.raises(CollateralError, match="no VLEK"):
        SnpEndorsements.from_table(table(vcek=VEK), SIGNED_BY_VLEK)


def test_empty_tables() -> None:
    assert CertificateTable.read(b"").entries == ()
    assert CertificateTable.read(bytes(24)).write() == bytes(24)


def raw(*entries: tuple[str, int, bytes], size: int) -> bytes:
    placed = tuple(CertificateEntry(*entry) for entry in entries)
    return CertificateTable(placed, size).write()


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (bytes(MAX_TABLE_BYTES + 1), "certificate_table"),
        (bytes(10), "certificate_table.guid"),
        (bytes(20), "certificate_table.length"),
        (raw((ASK_GUID, 40, bytes(2)), size=60), "certificate_table.entry"),
        (raw((ASK_GUID, 72, b"abcd"), (ARK_GUID, 74, b"ef"), size=80), "certificate_table.entry"),
        (raw((ASK_GUID, 72, b"a"), (ASK_GUID, 73, b"b"), size=80), "certificate_table.guid"),
        (raw((ASK_GUID, 48, b""), size=60), "certificate_table.length"),
        (raw((ASK_GUID, 50, b"ab"), size=60)[:-1] + b"x", "certificate_table.trailing"),
        (raw((ASK_GUID, 50, b"ab"), size=60).replace(b"\0\0ab", b"\0xab"), "certificate_table.gap"),
        (raw((ASK_GUID, 48, b"ab"), size=60)[:49], "certificate_table.entry"),
        (b"\x01" * 24 * 3, "certificate_table.guid"),
        (b"".join(bytes([i]) * 24 for i in range(1, 19)), "certificate_table.entries"),
    ],
)
def test_odd_tables_are_malformed(data: bytes, field: str) -> None:
    with pytest.raises(MalformedEvidence) as e:
        CertificateTable.read(data)
    assert e.value.field == field


def test_entry_far_outside_the_table() -> None:
    entry = bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782") + b"\xff" * 8
    with pytest.raises(MalformedEvidence, match="overlaps or leaves"):
        CertificateTable.read(entry + bytes(24))
