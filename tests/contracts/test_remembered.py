"""What is remembered of a leaf and of its CA never admits what reading all of it would refuse.

A known leaf is judged without its CA's certificate, and without a list of revoked serials that
it was judged by before. Whatever happens to CAs, CRLs and lists between two uses, the short way
must end as the long one does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pki_inputs as inputs
import pytest
from chain import Chain, Contract, Refused
from pki_inputs import CA, DAY, NOW, PLATFORM, ROOT, Holder, certificate, crl, leaf

from attestation.onchain import pki

SERIAL = PLATFORM.pck.certificate.serial_number
CA_SERIAL = PLATFORM.pck_ca.certificate.serial_number
ISSUER = pki.issuer_id(*CA.xy)
FRESH = pki.platform_certificate(PLATFORM.pck_ca.der, PLATFORM.pck.der)
KNOWN = pki.platform_known(PLATFORM.pck_ca.der, PLATFORM.pck.der)
EDITION_BITS = 224


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(timestamp=NOW) as started:
        yield started


@pytest.fixture(scope="module")
def filled(chain: Chain) -> Contract:
    store = inputs.fill(chain, inputs.deploy(chain))
    chain.send(store, "addPlatform", FRESH)
    return store


@pytest.fixture
def store(chain: Chain, filled: Contract) -> Iterator[Contract]:
    """A store that knows the leaf; what a test changes is taken back."""
    with chain.undone():
        yield filled


def lists(chain: Chain, store: Contract, *revoked: int, before: int) -> None:
    """The CA's list is this from now on; `before` (seconds before NOW) dates it."""
    chain.send(store, "updateCrl", crl(CA, revoked, this_update=NOW - before), *CA.xy)


def steps(chain: Chain, store: Contract, op: str, function: str, *arguments: object) -> list[Any]:
    """Every execution of this instruction in a call."""
    call = {"from": chain.account, "to": store.address, "gas": hex(10_000_000)}
    call["data"] = store.data(function, *arguments)
    trace = chain.rpc("debug_traceCall", call, "latest", {"disableStorage": True})
    assert not trace["failed"]
    return [step for step in trace["structLogs"] if step["op"] == op]


def reads(chain: Chain, store: Contract) -> int:
    """How many lists are read for the known leaf."""
    return len(steps(chain, store, "EXTCODECOPY", "requirePlatform", KNOWN))


def use(chain: Chain, store: Contract) -> None:
    chain.send(store, "requirePlatform", KNOWN)


# --- the list of revoked serials ------------------------------------------------------


def test_list_is_read_once_and_again_when_it_changed(chain: Chain, store: Contract) -> None:
    assert reads(chain, store) == 0
    lists(chain, store, 1, 2, before=900)
    assert reads(chain, store) == 1
    use(chain, store)
    assert reads(chain, store) == 0
    lists(chain, store, 1, 2, before=800)
    assert reads(chain, store) == 0
    lists(chain, store, 2, before=700)
    assert reads(chain, store) == 1


def test_newly_revoked_leaf_is_refused_though_it_was_judged_before(
    chain: Chain, store: Contract
) -> None:
    lists(chain, store, 1, 2, before=900)
    use(chain, store)
    lists(chain, store, 1, 2, SERIAL, before=800)
    for _ in range(2):
        with chain.refused("SerialRevoked"):
            chain.send(store, "requirePlatform", KNOWN)
    lists(chain, store, 1, 2, SERIAL, before=700)
    with chain.refused("SerialRevoked"):
        chain.send(store, "requirePlatform", KNOWN)


@pytest.mark.parametrize("between", [(), (1,), (1, 2)])
def test_list_that_shrinks_and_grows_back(
    chain: Chain, store: Contract, between: tuple[int, ...]
) -> None:
    """The very list that a leaf was refused by comes back, and so does one it was good by."""
    for before in (900, 700, 500):
        lists(chain, store, *between, before=before)
        use(chain, store)
        lists(chain, store, SERIAL, before=before - 100)
        with chain.refused("SerialRevoked"):
            chain.call(store, "requirePlatform", KNOWN)


def test_registered_again_it_is_judged_again(chain: Chain, store: Contract) -> None:
    lists(chain, store, SERIAL, before=900)
    for remembering in (("addPlatform", FRESH), ("requirePlatform", FRESH)):
        with chain.refused("SerialRevoked"):
            chain.call(store, *remembering)
    lists(chain, store, 4, before=800)
    chain.send(store, "addPlatform", FRESH)
    assert reads(chain, store) == 0
    lists(chain, store, SERIAL, before=700)
    with chain.refused("SerialRevoked"):
        chain.call(store, "requirePlatform", KNOWN)


def test_no_more_lists_than_can_be_told_apart(chain: Chain, store: Contract) -> None:
    """The edition after the last would be the first again: it is refused, and only it."""
    lists(chain, store, 1, before=900)
    second = crl(CA, [1, 2], this_update=NOW - 800), *CA.xy
    (write,) = steps(chain, store, "SSTORE", "updateCrl", *second)
    value, slot = write["stack"][-2:]
    assert int(value, 16) >> EDITION_BITS == 2
    chain.send(store, "updateCrl", *second)
    last = int(value, 16) | 0xFFFF << EDITION_BITS
    key = f"0x{int(slot, 16):064x}"
    chain.rpc("anvil_setStorageAt", store.address, key, f"0x{last:064x}")
    assert chain.call(store, "crlOf", ISSUER)[2:] == (2, True)
    for listed in ([], [1], [1, 2, 3]):
        with chain.refused("EditionsExhausted"):
            chain.call(store, "updateCrl", crl(CA, listed, this_update=NOW - 700), *CA.xy)
    lists(chain, store, 1, 2, before=700)


# --- the CA ---------------------------------------------------------------------------


def test_crl_of_an_earlier_generation_vouches_for_nobody(chain: Chain, store: Contract) -> None:
    """Until the CA's certificate, which might be the one revoked, and then the CRL come again."""
    chain.send(store, "updateCrl", crl(ROOT, [1]), *ROOT.xy)
    assert chain.call(store, "crlOf", ISSUER)[3] is False
    with chain.refused("CrlOutdated"):
        chain.call(store, "requirePlatform", KNOWN)
    with chain.refused("KeyOutdated"):
        chain.call(store, "updateCrl", inputs.SIMULATED.pck_crl, *CA.xy)
    chain.send(store, "addCertificate", PLATFORM.pck_ca.der)
    for platform in (KNOWN, FRESH):
        with chain.refused("CrlOutdated"):
            chain.call(store, "requirePlatform", platform)
    chain.send(store, "updateCrl", inputs.SIMULATED.pck_crl, *CA.xy)
    assert chain.call(store, "crlOf", ISSUER)[3] is True
    assert reads(chain, store) == 0
    assert chain.call(store, "requirePlatform", KNOWN) == chain.call(
        store, "requirePlatform", FRESH
    )


def test_key_that_is_no_longer_a_pck_cas(chain: Chain, store: Contract) -> None:
    """In a new generation the root vouches for it as a TCB signing key: its CRL is worth nothing,
    in that generation and in the next."""
    for revoked in ([1], [1, 2]):
        before = 1_000 - len(revoked)
        chain.send(store, "updateCrl", crl(ROOT, revoked, this_update=NOW - before), *ROOT.xy)
        chain.send(store, "addCertificate", certificate(ROOT, CA))
        assert chain.call(store, "keyOf", ISSUER)[0] == 3
        with chain.refused("CrlOutdated"):
            chain.call(store, "requirePlatform", KNOWN)
        with chain.refused("KeyRoleWrong"):
            chain.call(store, "updateCrl", inputs.SIMULATED.pck_crl, *CA.xy)


def test_root_is_no_pck_ca_of_a_known_leaf(chain: Chain, store: Contract) -> None:
    """Its CRL counts, and always is of the present generation: that makes it nobody's PCK CA."""
    root = pki.issuer_id(*ROOT.xy)
    of_root = KNOWN[:1] + root + KNOWN[33:]
    for platform, error in (
        (of_root, "PlatformUnknown"),
        (inputs.fresh(ROOT, leaf(issuer=ROOT)), "KeyRoleWrong"),
    ):
        with chain.refused(error):
            chain.call(store, "requirePlatform", platform)
    with chain.refused("KeyRoleWrong"):
        chain.call(store, "requirePckCrl", root)


def test_leaf_of_a_renewed_ca(chain: Chain, store: Contract) -> None:
    """The CA's certificate comes to end later; the CRL stored before does not, until it comes
    again."""
    ca, end, later = Holder.new("renewed CA"), NOW + 5 * DAY, NOW + 9 * DAY
    first, second = (certificate(ROOT, ca, ca=True, not_after=until) for until in (end, later))
    mine = leaf(issuer=ca)
    known = pki.platform_known(first, mine)
    chain.send(store, "addCertificate", first)
    chain.send(store, "updateCrl", crl(ca), *ca.xy)
    chain.send(store, "addPlatform", inputs.fresh(ca, mine))
    chain.send(store, "addCertificate", second)
    for platform in (known, inputs.fresh(ca, mine)):
        assert chain.call(store, "requirePlatform", platform)[6] == end
    with chain.undone():
        chain.at(end + 1)
        for platform in (known, inputs.fresh(ca, mine)):
            with chain.refused("CrlExpired"):
                chain.call(store, "requirePlatform", platform)
    chain.send(store, "updateCrl", crl(ca), *ca.xy)
    assert chain.call(store, "requirePlatform", known)[6] == later


# --- everything at once -----------------------------------------------------------------


class Walk:
    """Random certificates and CRLs, in time, for a CA and a leaf that is known."""

    def __init__(self, chain: Chain, store: Contract, seed: int) -> None:
        self.chain, self.store, self.random = chain, store, random.Random(seed)
        self.listed: tuple[int, ...] = ()
        self.now = int(chain.block["timestamp"], 16)
        self.accepted = self.refused = 0

    def attempt(self, function: str, *arguments: object) -> bool:
        try:
            self.chain.send(self.store, function, *arguments)
        except Refused as refusal:
            assert not refusal.name.startswith("0x"), refusal
            return False
        return True

    def _root_crl(self) -> None:
        some = self.random.choice([(), (), (1,), (2,), (1, 2), (CA_SERIAL,)])
        date = self.now - self.random.choice([0, 1, 4_000])
        until = self.now + self.random.choice([4_000, DAY, DAY])
        document = crl(ROOT, some, this_update=date, next_update=until)
        self.attempt("updateCrl", document, *ROOT.xy)

    def _pck_crl(self) -> None:
        some = self.random.choice([(), (3,), (3, 4), (SERIAL,), (3, SERIAL)])
        date = self.now - self.random.choice([0, 1, 4_000])
        until = self.now + self.random.choice([4_000, DAY, DAY])
        if self.attempt("updateCrl", crl(CA, some, this_update=date, next_update=until), *CA.xy):
            self.listed = some

    def _ca(self) -> None:
        until = self.now + self.random.choice([2_000, DAY, 2 * DAY])
        as_ca = self.random.random() < 0.9
        serial = self.random.choice([CA_SERIAL, 9])
        document = certificate(ROOT, CA, ca=as_ca, serial=serial, not_after=until)
        self.attempt("addCertificate", document)

    def _time(self) -> None:
        self.now += self.random.choice([10, 300, 1_500, 5_000])
        self.chain.at(self.now)

    def _use(self) -> None:
        self.attempt("requirePlatform", KNOWN)

    def step(self) -> None:
        twice = [self._pck_crl, self._ca, self._use]
        self.random.choice([self._root_crl, self._time, *twice, *twice])()
        self.now = max(self.now, int(self.chain.block["timestamp"], 16))

    def judged(self, platform: bytes) -> object:
        """The facts, or None where the platform is refused."""
        try:
            return self.chain.call(self.store, "requirePlatform", platform)
        except Refused as refusal:
            assert not refusal.name.startswith("0x"), refusal
            return None

    def compare(self) -> None:
        known, fresh = self.judged(KNOWN), self.judged(FRESH)
        assert known == fresh
        assert known is None or SERIAL not in self.listed
        self.accepted += known is not None
        self.refused += known is None


@pytest.mark.parametrize("seed", range(8))
def test_short_way_ends_as_the_long_one(chain: Chain, store: Contract, seed: int) -> None:
    """Certificates and CRLs in any order: known and fresh leaf are accepted alike, or refused."""
    walk = Walk(chain, store, seed)
    for _ in range(120):
        walk.step()
        walk.compare()
    assert walk.accepted > 9 and walk.refused > 9
