"""GPU evidence parsing: total, exact; and no flipped bit passes verification."""

from __future__ import annotations

from typing import Any

import nvidia_pki as pki
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, MalformedEvidence, VerificationError
from attestation.evidence.nras import DetachedEat
from attestation.evidence.nvidia import NvidiaEvidence, OpaqueField
from attestation.evidence.spdm import (
    MeasurementBlock,
    MeasurementsRequest,
    MeasurementsResponse,
    MeasurementsTranscript,
)

GENUINE = pki.evidence()
SWITCH = pki.switch_evidence()
EAT = pki.bundle()


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


bytes_of_one = st.integers(0, 255)
requests = st.builds(
    MeasurementsRequest,
    attributes=bytes_of_one,
    operation=bytes_of_one,
    nonce=exactly(32),
    slot_id=bytes_of_one,
)
blocks = st.lists(
    st.builds(
        MeasurementBlock,
        index=bytes_of_one,
        value_type=bytes_of_one,
        value=st.binary(max_size=64),
    ),
    max_size=8,
    unique_by=lambda b: b.index,
).map(tuple)
responses = st.builds(
    MeasurementsResponse,
    param1=bytes_of_one,
    param2=bytes_of_one,
    blocks=blocks,
    nonce=exactly(32),
    opaque=st.binary(max_size=64),
    signature=exactly(96),
)


@given(request=requests, response=responses)
def test_read_is_the_inverse_of_write(
    request: MeasurementsRequest, response: MeasurementsResponse
) -> None:
    raw = request.write() + response.write()
    read = MeasurementsTranscript.read(raw)
    assert (read.request, read.response) == (request, response)
    assert read.signed == raw[:-96]
    assert read.write() == raw


@given(kind=st.integers(0, 65535), data=st.binary(max_size=64))
def test_opaque_fields_read_as_written(kind: int, data: bytes) -> None:
    from attestation.wire import Cursor

    field = OpaqueField(kind, data)
    assert OpaqueField.read(Cursor("opaque", field.write())) == field


@pytest.mark.parametrize("raw", [GENUINE, SWITCH])
def test_every_cut_is_malformed(raw: bytes) -> None:
    for cut in range(len(raw)):
        with pytest.raises(MalformedEvidence):
            NvidiaEvidence.read(raw[:cut])


@given(data=st.binary(max_size=6000))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        NvidiaEvidence.read(data)
    with pytest.raises(MalformedEvidence):
        DetachedEat.read(data)


@given(opaque=st.lists(st.builds(OpaqueField, st.integers(0, 40), st.binary(max_size=12))))
@settings(max_examples=200)
def test_arbitrary_opaque_fields_read_exactly_or_raise_only_our_errors(
    opaque: list[OpaqueField],
) -> None:
    raw = pki.evidence(stated=[OpaqueField(6, bytes(8)), *opaque])
    try:
        assert NvidiaEvidence.read(raw).write() == raw
    except MalformedEvidence as e:
        assert e.field.startswith(("opaque", "spdm"))


@given(at=st.integers(0, 5000), patch=st.binary(min_size=1, max_size=64))
@settings(max_examples=200)
def test_overwritten_evidence_reads_exactly_or_raises_only_our_errors(
    at: int, patch: bytes
) -> None:
    at %= len(GENUINE)
    damaged = (GENUINE[:at] + patch + GENUINE[at + len(patch) :])[: len(GENUINE)]
    try:
        assert NvidiaEvidence.read(damaged).write() == damaged
    except MalformedEvidence as e:
        assert e.field.startswith(("spdm", "opaque"))


@given(bit=st.integers(0, len(GENUINE) * 8 - 1))
@settings(max_examples=300)
def test_any_flipped_bit_is_refused(bit: int) -> None:
    """All of it is signed, or is the signature."""
    raw = bytearray(GENUINE)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedEvidence, VerificationError)):
        pki.verify(bytes(raw))


@given(at=st.integers(0, 1 << 16), patch=st.binary(min_size=1, max_size=32))
@settings(max_examples=200)
def test_damaged_chains_raise_only_our_errors(at: int, patch: bytes) -> None:
    pem = pki.gpu_chain().pem
    at %= len(pem)
    from attestation.verify.nvidia import verify_gpu

    damaged = pem[:at] + patch + pem[at + len(patch) :]
    try:
        gpu = verify_gpu(GENUINE, damaged, [pki.gpu_chain().root], pki.NOW, nonce=pki.NONCE)
    except AttestationError:
        return
    assert gpu.root_sha256 == pki.verify().root_sha256


@given(at=st.integers(0, 1 << 16), patch=st.binary(min_size=1, max_size=32), data=st.data())
@settings(max_examples=200)
def test_damaged_revocation_documents_raise_only_our_errors(
    at: int, patch: bytes, data: Any
) -> None:
    document = data.draw(st.sampled_from(pki.device_revocation()))
    at %= len(document)
    try:
        pki.verify(revocation=[document[:at] + patch + document[at + len(patch) :]])
    except AttestationError:
        return


@given(at=st.integers(0, 1 << 16), patch=st.binary(min_size=1, max_size=16))
@settings(max_examples=200)
def test_damaged_verdicts_raise_only_our_errors(at: int, patch: bytes) -> None:
    from attestation.verify.nras import verify_nras

    at %= len(EAT)
    damaged = EAT[:at] + patch + EAT[at + len(patch) :]
    try:
        found = verify_nras(damaged, pki.jwks(), pki.ISSUER, pki.NOW, nonce=pki.NONCE)
    except AttestationError:
        return
    # Only the blanks between the tokens may differ in what still verifies.
    assert DetachedEat.read(damaged) == DetachedEat.read(EAT)
    assert found[0].name == "GPU-0"


@given(at=st.integers(0, 1 << 16), patch=st.binary(min_size=1, max_size=16))
@settings(max_examples=200)
def test_damaged_certificates_in_der_raise_only_our_errors(at: int, patch: bytes) -> None:
    from attestation.verify.nvidia_path import verify_path

    ders = [p.der for p in pki.gpu_chain().parties]
    which = at % (len(ders) - 1)
    at = at // 4 % len(ders[which])
    ders[which] = ders[which][:at] + patch + ders[which][at + len(patch) :]
    try:
        path = verify_path("chain", ders, [pki.gpu_chain().root])
    except AttestationError:
        return
    assert path.leaf.certificate.der == pki.gpu_chain().leaf.der
