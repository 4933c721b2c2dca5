"""Whatever is done to a healthy SEV-SNP report or its endorsements, nothing else passes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import snp_pki as pki
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import AttestationError, CollateralError
from attestation.evidence.snp import REPORT_BYTES, SIGNED_BYTES
from attestation.verify.snp import verify_snp

RAW = pki.report()


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(st.integers(0, 8 * SIGNED_BYTES - 1))
def test_any_flipped_signed_bit_is_refused(bit: int) -> None:
    with pytest.raises(AttestationError):
        verify_snp(flip(RAW, bit), pki.endorsements(), pki.roots(), pki.NOW)


@given(st.integers(8 * SIGNED_BYTES, 8 * REPORT_BYTES - 1))
def test_any_flipped_bit_of_the_signature_field_is_refused(bit: int) -> None:
    with pytest.raises(AttestationError):
        verify_snp(flip(RAW, bit), pki.endorsements(), pki.roots(), pki.NOW)


@given(st.data())
@settings(max_examples=60)
def test_any_flipped_bit_of_a_certificate_is_refused(data: st.DataObject) -> None:
    # The root is not changed: which certificates are roots is the caller's to say.
    healthy = pki.endorsements()
    part = data.draw(st.sampled_from(["vek", "chain", "crl"]))
    whole = {"vek": healthy.vek, "chain": healthy.chain[0], "crl": healthy.crl}[part]
    assert whole is not None
    odd = flip(whole, data.draw(st.integers(0, 8 * len(whole) - 1)))
    changed = replace(healthy, **{part: (odd, healthy.chain[1]) if part == "chain" else odd})
    with pytest.raises(AttestationError):
        verify_snp(RAW, changed, pki.roots(), pki.NOW)


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["vek", "chain", "crl"]))
def test_arbitrary_endorsements_raise_only_our_errors(data: bytes, part: str) -> None:
    odd = replace(pki.endorsements(), **{part: (data,) if part == "chain" else data})
    with pytest.raises(AttestationError):
        verify_snp(RAW, odd, pki.roots(), pki.NOW)


@given(st.binary(max_size=1300))
def test_arbitrary_reports_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(AttestationError):
        verify_snp(data, pki.endorsements(), pki.roots(), pki.NOW)


@given(
    st.binary(min_size=1, max_size=50),
    st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    st.none() | st.binary(min_size=1, max_size=50),
)
def test_endorsements_are_read_as_they_were_written(
    vek: bytes, chain: list[bytes], crl: bytes | None
) -> None:
    endorsements = SnpEndorsements(vek, tuple(chain), crl)
    assert SnpEndorsements.from_json(endorsements.to_json()) == endorsements


@given(st.binary(max_size=400), st.binary(max_size=400), st.none() | st.binary(max_size=400))
def test_arbitrary_files_are_endorsements_or_collateral_errors(
    vek: bytes, chain: bytes, crl: bytes | None
) -> None:
    with suppress(CollateralError):
        assert SnpEndorsements.from_files(vek, chain, crl).vek == vek
