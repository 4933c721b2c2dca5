"""What holds for every SEV-SNP report and certificate table, and for every byte string."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedEvidence
from attestation.evidence.snp import REPORT_BYTES, AttestationReport
from attestation.evidence.snp_certs import CertificateTable

# Where the specification lets bytes vary, by version: everything else is reserved.
_FREE = ((0x04, 0x08), (0x10, 0x48), (0x50, 0x188), (0x1A0, 0x1EB), (0x1EC, 0x1EF), (0x1F0, 0x1F8))
_CPUID = (0x188, 0x18B)
_MITIGATIONS = (0x1F8, 0x208)
_SIGNATURE = (0x2A0, 0x330)


@st.composite
def reports(draw: st.DrawFn) -> bytes:
    """Any report the format allows."""
    version = draw(st.integers(2, 5))
    out = bytearray(REPORT_BYTES)
    spans = [*_FREE, _SIGNATURE]
    spans += [_CPUID] if version >= 3 else []
    spans += [_MITIGATIONS] if version >= 5 else []
    for start, end in spans:
        out[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
    out[0:4] = version.to_bytes(4, "little")
    out[8:16] = (draw(st.integers(0, (1 << 26) - 1)) | 1 << 17).to_bytes(8, "little")
    out[0x48:0x4C] = draw(st.integers(0, 31)).to_bytes(4, "little")
    return bytes(out)


documents = st.dictionaries(
    st.binary(min_size=16, max_size=16).filter(any).map(lambda b: str(uuid.UUID(bytes=b))),
    st.binary(min_size=1, max_size=40),
    max_size=16,
)


@given(reports())
def test_a_report_is_written_as_it_was_read(data: bytes) -> None:
    assert AttestationReport.read(data).write() == data


@given(reports(), st.integers(0, REPORT_BYTES - 1))
def test_every_cut_of_a_report_is_malformed(data: bytes, size: int) -> None:
    with pytest.raises(MalformedEvidence):
        AttestationReport.read(data[:size])


@given(reports(), st.binary(min_size=1, max_size=64))
def test_nothing_may_follow_a_report(data: bytes, more: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="trailing"):
        AttestationReport.read(data + more)


@given(reports(), st.integers(0, 8 * REPORT_BYTES - 1))
def test_no_bit_of_a_report_is_ignored(data: bytes, bit: int) -> None:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MalformedEvidence):
        assert AttestationReport.read(bytes(changed)) != AttestationReport.read(data)


@given(st.binary(max_size=1400))
def test_arbitrary_bytes_are_a_report_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidence):
        assert AttestationReport.read(data).write() == data


@given(documents)
def test_a_certificate_table_is_written_as_it_was_read(wanted: dict[str, bytes]) -> None:
    table = CertificateTable.build(wanted.items())
    raw = table.write()
    assert CertificateTable.read(raw) == table
    assert {e.guid: e.data for e in table.entries} == wanted
    padded = raw + bytes(100)
    assert CertificateTable.read(padded).write() == padded


@given(documents.filter(bool), st.data())
def test_every_cut_of_a_certificate_table_is_malformed(
    wanted: dict[str, bytes], data: st.DataObject
) -> None:
    raw = CertificateTable.build(wanted.items()).write()
    with pytest.raises(MalformedEvidence):
        CertificateTable.read(raw[: data.draw(st.integers(1, len(raw) - 1))])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_certificate_table_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidence):
        assert CertificateTable.read(data).write() == data
