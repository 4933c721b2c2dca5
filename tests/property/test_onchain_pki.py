"""Encoders of certificates, CRLs and leaves: only what is exactly right, and only our errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import attested
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.onchain import pki
from attestation.onchain.der import Der
from attestation.onchain.errors import NotProvable

PLATFORM = attested.platform(pck_revoked=True)
ROOT, CA, LEAF = PLATFORM.root.der, PLATFORM.pck_ca.der, PLATFORM.pck.der
TCB = PLATFORM.tcb_signing.der
CRL = PLATFORM.collateral("tdx").pck_crl
Encode = Callable[[bytes], object]
DOCUMENTS: dict[str, tuple[bytes, Encode]] = {
    "root": (ROOT, lambda der: pki.certificate_arguments(der, ROOT)),
    "ca": (CA, lambda der: pki.certificate_arguments(der, ROOT)),
    "tcb": (TCB, lambda der: pki.certificate_arguments(der, ROOT)),
    "crl": (CRL, lambda der: pki.crl_arguments(der, CA)),
    "leaf": (LEAF, lambda der: pki.platform_certificate(CA, der)),
    "known": (LEAF, lambda der: pki.platform_known(CA, der)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@given(data=st.data())
def test_flipped_bit_is_refused(name: str, data: st.DataObject) -> None:
    der, encode = DOCUMENTS[name]
    encode(der)
    bit = data.draw(st.integers(0, 8 * len(der) - 1))
    with pytest.raises(NotProvable):
        encode(attested.flip(der, bit))


@pytest.mark.parametrize("name", DOCUMENTS)
@given(data=st.data())
def test_cut_or_longer_is_refused(name: str, data: st.DataObject) -> None:
    der, encode = DOCUMENTS[name]
    cut = data.draw(st.integers(0, len(der) - 1))
    with pytest.raises(NotProvable):
        encode(der[:cut])
    with pytest.raises(NotProvable):
        encode(der + data.draw(st.binary(min_size=1, max_size=9)))


@pytest.mark.parametrize("name", DOCUMENTS)
@given(start=st.integers(0, 2000), more=st.binary(max_size=40))
def test_any_bytes_raise_only_our_errors(name: str, start: int, more: bytes) -> None:
    der, encode = DOCUMENTS[name]
    changed = der[:start] + more + der[start + len(more) :]
    if changed != der:
        with pytest.raises(NotProvable):
            encode(changed)


@given(value=st.binary(max_size=400))
def test_any_sgx_extension_raises_only_our_errors(value: bytes) -> None:
    with pytest.raises(NotProvable):
        pki.PckTcb.parse(value)


@given(data=st.binary(max_size=60))
def test_any_der_is_read_as_one_thing_or_not_at_all(data: bytes) -> None:
    der = Der("any", data)
    try:
        element = der.element(data[0] if data else 0x30)
    except NotProvable:
        return
    assert data.startswith(element)
    assert der.rest() == data[len(element) :]


@given(value=st.integers(0, 2**160 - 1))
def test_integers_read_as_written(value: int) -> None:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
    der = bytes([2, len(raw)]) + raw
    assert Der("n", der).unsigned(20) == value
    with pytest.raises(NotProvable):
        Der("n", bytes([2, len(raw) + 1, 0]) + raw).unsigned(32)
    with pytest.raises(NotProvable):
        Der("n", der).unsigned((value.bit_length() - 1) // 8)


@given(unix=st.integers(0, 253_402_300_799))
def test_dates_read_as_written(unix: int) -> None:
    moment = datetime.fromtimestamp(unix, UTC)
    short, long = (
        moment.strftime("%y%m%d%H%M%SZ"),
        f"{moment.year:04}" + moment.strftime("%m%d%H%M%SZ"),
    )
    early = b"\x17\x0d" + short.encode()
    late = b"\x18\x0f" + long.encode()
    right, wrong = (early, late) if moment.year < 2050 else (late, early)
    assert Der("d", right).date() == unix
    if wrong is late:
        with pytest.raises(NotProvable):
            Der("d", wrong).date()
