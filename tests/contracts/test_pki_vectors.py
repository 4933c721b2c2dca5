"""Intel's own certificates, CRLs and PCK leaves: accepted as they are, refused with a bit flipped.

They are not part of this project: ADYTON_VECTORS names their folder. The gas measured here is
that of whole transactions on an empty store, as operators pay it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attested
import pki_inputs as inputs
import pytest
from chain import Chain, Contract, Refused
from pki_inputs import Real

from attestation.onchain import pki
from attestation.x509 import read_crl

REAL = inputs.real()
FLIPS = 150
CERTIFICATE_GAS, CRL_GAS = 120_000, 350_000
COLD_LEAF_GAS, PASSING_LEAF_GAS, KNOWN_LEAF_GAS = 57_000, 34_500, 8_000
"""Inside `verifyQuote`, beyond calldata: with the P-256 call, every lookup and the new slot."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    if not REAL:
        pytest.skip("no manifest.json where ADYTON_VECTORS points")
    with Chain(timestamp=min(real.now for real in REAL)) as started:
        yield started


@contextmanager
def filled(chain: Chain, real: Real) -> Iterator[tuple[Contract, dict[str, int]]]:
    """A store with this platform's chain, at its time."""
    with chain.undone():
        chain.at(max(real.now, int(chain.block["timestamp"], 16) + 1))
        store = inputs.deploy(chain, Real.xy(real.root))
        yield store, real.fill(chain, store)


@pytest.mark.parametrize("real", REAL, ids=lambda real: real.name)
def test_real_platform_is_accepted_within_its_gas(chain: Chain, real: Real) -> None:
    with filled(chain, real) as (store, gas):
        assert max(gas["root"], gas["ca"], gas["tcb"]) <= CERTIFICATE_GAS
        assert max(gas["root_crl"], gas["pck_crl"]) <= CRL_GAS
        x, y = Real.xy(real.tcb)
        assert chain.call(store, "requireTcbSigner", x, y) > real.now
        assert chain.call(store, "metered", real.fresh) <= COLD_LEAF_GAS
        passing = pki.platform_certificate(real.ca.der, real.leaf.der, remember=False)
        assert chain.call(store, "metered", passing) <= PASSING_LEAF_GAS
        facts = chain.call(store, "requirePlatform", real.fresh)
        assert chain.call(store, "requirePlatform", passing) == facts
        assert facts[:2] == Real.xy(real.leaf)
        chain.send(store, "addPlatform", real.fresh)
        known = pki.platform_known(real.ca.der, real.leaf.der)
        assert pki.platform_certificate(real.ca.der, real.leaf.der) == real.fresh
        assert chain.call(store, "metered", known) <= KNOWN_LEAF_GAS
        assert chain.call(store, "requirePlatform", known) == facts


def flipped(data: bytes, start: int = 0) -> Iterator[bytes]:
    """`data` with one bit of every part of it inverted; the same bits each time."""
    bits = random.Random(len(data)).sample(range(8 * start, 8 * len(data)), FLIPS)
    return (attested.flip(data, bit) for bit in bits)


def all_refused(call: Callable[[bytes], object], data: bytes, start: int = 0) -> None:
    for bad in flipped(data, start):
        with pytest.raises(Refused) as refused:
            call(bad)
        assert not refused.value.name.startswith("0x"), "refused without a custom error"


@pytest.mark.parametrize("real", REAL[:3], ids=lambda real: real.name)
def test_flipped_bits_of_intels_documents_are_refused(chain: Chain, real: Real) -> None:
    with chain.undone():
        chain.at(max(real.now, int(chain.block["timestamp"], 16) + 1))
        store = inputs.deploy(chain, Real.xy(real.root))

        def add(der: bytes) -> object:
            return chain.call(store, "addCertificate", der)

        all_refused(add, real.root.der)
        chain.send(store, "addCertificate", real.root.der)
        root, ca = Real.xy(real.root), Real.xy(real.ca)
        all_refused(lambda der: chain.call(store, "updateCrl", der, *root), real.root_crl)
        chain.send(store, "updateCrl", real.root_crl, *root)
        all_refused(add, real.ca.der)
        all_refused(add, real.tcb.der)
        chain.send(store, "addCertificate", real.ca.der)
        all_refused(lambda der: chain.call(store, "updateCrl", der, *ca), real.pck_crl)
        chain.send(store, "updateCrl", real.pck_crl, *ca)
        all_refused(lambda p: chain.call(store, "requirePlatform", p), real.fresh)


def test_every_serial_of_a_real_crl_is_revoked(chain: Chain) -> None:
    real = max(REAL, key=lambda r: len(r.pck_crl))
    listed = read_crl("pck_crl", real.pck_crl).revoked
    assert len(listed) > 50
    with filled(chain, real) as (store, _):
        issuer = pki.issuer_id(*Real.xy(real.ca))
        assert chain.call(store, "crlOf", issuer)[2] == len(listed)
        assert all(chain.call(store, "isRevoked", issuer, serial) for serial in listed)
        assert not chain.call(store, "isRevoked", issuer, real.leaf.serial)
