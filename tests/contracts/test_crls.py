"""Revocation on a chain: what a CRL lists stays refused, however the certificate is dressed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pki_inputs as inputs
import pytest
from chain import Chain, Contract
from cryptography.hazmat.primitives.asymmetric import utils
from pki_inputs import CA, DAY, NOW, ROOT, TCB, Holder, certificate, crl, entry, extension

from attestation.onchain import pki

CRITICAL = b"\x01\x01\xff"
REASON = extension(bytes.fromhex("551d15"), b"\x0a\x01\x01")
UNKNOWN = bytes.fromhex("2b06010401")
CA_SERIAL = inputs.PLATFORM.pck_ca.certificate.serial_number
TCB_SERIAL = inputs.PLATFORM.tcb_signing.certificate.serial_number


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(timestamp=NOW) as started:
        yield started


@pytest.fixture(scope="module")
def filled(chain: Chain) -> Contract:
    return inputs.fill(chain, inputs.deploy(chain))


@pytest.fixture
def store(chain: Chain, filled: Contract) -> Iterator[Contract]:
    """A store with the simulator's PKI; what a test changes is taken back."""
    with chain.undone():
        yield filled


def update(chain: Chain, store: Contract, issuer: Holder, *revoked: Any, **odd: Any) -> None:
    chain.send(store, "updateCrl", crl(issuer, revoked, **odd), *issuer.xy)


# --- what is refused ----------------------------------------------------------------

AKI_OF_CA = inputs.aki(CA.key_id)
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "version 1": ({"version": b""}, "VersionUnsupported"),
    "algorithm inside": ({"algorithm": inputs.ECDSA_SHA384}, "SignatureAlgorithmUnsupported"),
    "algorithm outside": (
        {"outside": {"outer_algorithm": inputs.ECDSA_SHA384}},
        "SignatureAlgorithmUnsupported",
    ),
    "another issuer": ({"issuer_name": ROOT.name}, "IssuerNameMismatch"),
    "from the future": ({"this_update": NOW + DAY}, "CrlFromFuture"),
    "expired": ({"next_update": NOW - 1}, "CrlExpired"),
    "no next update": ({"next_update": b""}, "NextUpdateMissing"),
    "a date that does not exist": (
        {"next_update": inputs.tlv(0x17, b"300230000000Z")},
        "DateMalformed",
    ),
    "no extensions": ({"parts": []}, "AuthorityKeyIdMissing"),
    "AKI missing": ({"parts": [extension(UNKNOWN, b"")]}, "AuthorityKeyIdMissing"),
    "AKI empty": ({"parts": [inputs.aki(b"")]}, "AuthorityKeyIdMissing"),
    "AKI of another key": ({"parts": [inputs.aki(ROOT.key_id)]}, "AuthorityKeyIdMismatch"),
    "AKI twice": ({"parts": [AKI_OF_CA, AKI_OF_CA]}, "ExtensionRepeated"),
    "a delta CRL": (
        {"parts": [AKI_OF_CA, extension(bytes.fromhex("551d1b"), b"\x02\x01\x01", CRITICAL)]},
        "CriticalExtensionUnknown",
    ),
    "of limited scope": (
        {"parts": [AKI_OF_CA, extension(bytes.fromhex("551d1c"), b"\x30\x00", CRITICAL)]},
        "CriticalExtensionUnknown",
    ),
    "entry of another issuer": (
        {"revoked": [entry(5, inputs.tlv(0x30, extension(UNKNOWN, b"", CRITICAL)))]},
        "CriticalExtensionUnknown",
    ),
    "entry with bytes after its extensions": (
        {"revoked": [entry(5, inputs.tlv(0x30, REASON), b"\x05\x00")]},
        "DerTrailing",
    ),
    "entry without date": ({"revoked": [inputs.tlv(0x30, inputs.number(5))]}, "DerOverrun"),
    "serial of 21 bytes": ({"revoked": [1 << 160]}, "DerIntegerMalformed"),
    "element after the extensions": ({"after_extensions": b"\x05\x00"}, "DerTrailing"),
    "signed by another key": ({"signer": ROOT.key}, "SignatureInvalid"),
    "signature with unused bits": ({"outside": {"unused_bits": 1}}, "SignatureMalformed"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_crl(chain: Chain, store: Contract, name: str) -> None:
    fields, error = ODD[name]
    with chain.refused(error):
        chain.call(store, "updateCrl", crl(CA, **fields), *CA.xy)


def test_bytes_around_a_crl(chain: Chain, store: Contract) -> None:
    good = crl(CA, [1, 2, 3])
    for bad, error in ((good[:-1], "DerOverrun"), (good + b"\0", "DerTrailing")):
        with chain.refused(error):
            chain.call(store, "updateCrl", bad, *CA.xy)


def test_crl_of_one_issuer_given_for_another(chain: Chain, store: Contract) -> None:
    with chain.refused("SignatureInvalid"):
        chain.call(store, "updateCrl", crl(CA, [TCB_SERIAL]), *ROOT.xy)
    with chain.refused("SignatureInvalid"):
        chain.call(store, "updateCrl", crl(ROOT), *CA.xy)
    with chain.refused("KeyUnknown"):
        chain.call(store, "updateCrl", crl(Holder.new("nobody")), *Holder.new("nobody").xy)


# --- what is kept -------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 16, 17, 57, 200])
def test_every_serial_listed_is_revoked_and_no_other(
    chain: Chain, store: Contract, count: int
) -> None:
    listed = [(7919 * i) ** 12 % (1 << 159) + 1 for i in range(1, count + 1)]
    entries = [entry(s, *([inputs.tlv(0x30, REASON)] if s % 3 else [])) for s in listed]
    update(chain, store, CA, *entries)
    issuer = pki.issuer_id(*CA.xy)
    assert chain.call(store, "crlOf", issuer) == (NOW - DAY, NOW + 30 * DAY, count, True)
    assert all(chain.call(store, "isRevoked", issuer, serial) for serial in listed)
    others = [0, 1, 2**160 - 1, *(serial + 1 for serial in listed[:20])]
    assert not any(chain.call(store, "isRevoked", issuer, serial) for serial in others)
    assert not any(chain.call(store, "isRevoked", pki.issuer_id(*ROOT.xy), s) for s in listed[:9])


def test_same_crl_again_changes_nothing(chain: Chain, store: Contract) -> None:
    update(chain, store, CA, 1, 2, 3)
    before = chain.call(store, "crlOf", pki.issuer_id(*CA.xy))
    update(chain, store, CA, 1, 2, 3)
    assert chain.call(store, "crlOf", pki.issuer_id(*CA.xy)) == before


def test_rolled_back_crl(chain: Chain, store: Contract) -> None:
    """Nor may one of the same date take serials off the list, or end earlier."""
    update(chain, store, CA, 1, 2, this_update=NOW - 5)
    for fields in (
        {"revoked": [], "this_update": NOW - 6},
        {"revoked": [1, 2], "this_update": NOW - 6},
        {"revoked": [], "this_update": NOW - 5},
        {"revoked": [1], "this_update": NOW - 5},
        {"revoked": [1, 2, 3], "this_update": NOW - 5},
        {"revoked": [2, 1], "this_update": NOW - 5},
        {"revoked": [1, 2], "this_update": NOW - 5, "next_update": NOW + 29 * DAY},
    ):
        with chain.refused("CrlNotNewer"):
            chain.call(store, "updateCrl", crl(CA, **fields), *CA.xy)  # type: ignore[arg-type]


def test_crl_of_the_same_date_that_ends_later(chain: Chain, store: Contract) -> None:
    """The issuer signed both, and they say the same: the one that counts for longer counts."""
    update(chain, store, CA, 1, 2)
    update(chain, store, CA, 1, 2, next_update=NOW + 60 * DAY)
    issuer = pki.issuer_id(*CA.xy)
    assert chain.call(store, "crlOf", issuer) == (NOW - DAY, NOW + 60 * DAY, 2, True)


def test_expired_crl_vouches_for_nobody(chain: Chain, store: Contract) -> None:
    update(chain, store, ROOT, this_update=NOW - 5, next_update=NOW + DAY)
    chain.at(NOW + DAY)
    chain.call(store, "requireTcbSigner", *TCB.xy)
    chain.at(NOW + DAY + 1)
    with chain.refused("CrlExpired"):
        chain.call(store, "requireTcbSigner", *TCB.xy)
    with chain.refused("CrlExpired"):
        chain.call(store, "addCertificate", inputs.PLATFORM.pck_ca.der)


def test_crl_never_outlives_its_issuers_certificate(chain: Chain, store: Contract) -> None:
    ca, end, later = Holder.new("short CA"), NOW + 10 * DAY, NOW + 20 * DAY
    issuer = pki.issuer_id(*ca.xy)
    chain.send(store, "addCertificate", certificate(ROOT, ca, ca=True, not_after=end))
    update(chain, store, ca, 7)
    assert chain.call(store, "crlOf", issuer) == (NOW - DAY, end, 1, True)
    chain.send(store, "addCertificate", certificate(ROOT, ca, ca=True, not_after=later))
    assert chain.call(store, "crlOf", issuer)[1] == end
    update(chain, store, ca, 7)
    assert chain.call(store, "crlOf", issuer) == (NOW - DAY, later, 1, True)
    chain.at(later)
    assert chain.call(store, "crlOf", issuer)[3] is True
    chain.at(later + 1)
    assert chain.call(store, "crlOf", issuer)[3] is False
    with chain.refused("CrlExpired"):
        chain.call(store, "requirePckCrl", issuer)


def test_dates_beyond_what_a_record_holds(chain: Chain, store: Contract) -> None:
    """A CRL for ever ends when 32 bits do, and not in 1970 again."""
    root, ca = Holder.of(inputs.PLATFORM.root), Holder.new("CA for ever")
    for_ever = inputs.generalized("99991231235959Z")
    any_depth = extension(inputs.CONSTRAINTS, bytes.fromhex("30030101ff"), CRITICAL)
    own = certificate(root, root, ca=True, constraints=any_depth, not_after=for_ever)
    chain.send(store, "addCertificate", own)
    chain.send(store, "addCertificate", certificate(ROOT, ca, ca=True, not_after=for_ever))
    update(chain, store, ca, 7, next_update=for_ever)
    assert chain.call(store, "crlOf", pki.issuer_id(*ca.xy)) == (NOW - DAY, 2**32 - 1, 1, True)
    chain.at(2**32)
    with chain.refused("CrlExpired"):
        chain.call(store, "updateCrl", crl(ROOT, next_update=for_ever), *ROOT.xy)


# --- generations --------------------------------------------------------------------


def test_revoked_certificate_is_never_trusted_again(chain: Chain, store: Contract) -> None:
    update(chain, store, ROOT, TCB_SERIAL)
    assert chain.call(store, "generation") == 1
    with chain.refused("KeyOutdated"):
        chain.call(store, "requireTcbSigner", *TCB.xy)
    with chain.refused("SerialRevoked"):
        chain.call(store, "addCertificate", inputs.PLATFORM.tcb_signing.der)
    with chain.refused("CrlNotNewer"):
        chain.call(store, "updateCrl", inputs.SIMULATED.root_ca_crl, *ROOT.xy)


def test_other_signature_of_a_revoked_certificate(chain: Chain, store: Contract) -> None:
    """(r, n - s) verifies as well and makes other bytes: revocation goes by the serial."""
    update(chain, store, ROOT, 0x1234)
    both = [certificate(ROOT, TCB, outside={"high_s": high}) for high in (False, True)]
    assert both[0] != both[1]
    for one in both:
        with chain.refused("SerialRevoked"):
            chain.call(store, "addCertificate", one)


def test_what_was_not_revoked_counts_again_once_submitted(chain: Chain, store: Contract) -> None:
    update(chain, store, ROOT, TCB_SERIAL)
    issuer = pki.issuer_id(*CA.xy)
    assert chain.call(store, "keyOf", issuer)[2] is False
    with chain.refused("KeyOutdated"):
        chain.call(store, "updateCrl", crl(CA), *CA.xy)
    chain.send(store, "addCertificate", inputs.PLATFORM.pck_ca.der)
    assert chain.call(store, "keyOf", issuer)[2] is True
    assert chain.call(store, "crlOf", issuer)[3] is False
    chain.send(store, "updateCrl", inputs.SIMULATED.pck_crl, *CA.xy)
    assert chain.call(store, "crlOf", issuer)[3] is True


def test_crl_of_an_earlier_generation_is_rolled_back_in_none(chain: Chain, store: Contract) -> None:
    """Submitted again it may be; nothing older may take its place, whatever has begun since."""
    update(chain, store, CA, 5, this_update=NOW - 100)
    update(chain, store, ROOT, 1)
    chain.send(store, "addCertificate", inputs.PLATFORM.pck_ca.der)
    for older in (inputs.SIMULATED.pck_crl, crl(CA), crl(CA, this_update=NOW - 100)):
        with chain.refused("CrlNotNewer"):
            chain.call(store, "updateCrl", older, *CA.xy)
    update(chain, store, CA, 5, this_update=NOW - 100, next_update=NOW + DAY)
    assert chain.call(store, "crlOf", pki.issuer_id(*CA.xy)) == (NOW - 100, NOW + DAY, 1, True)


def test_revoked_key_comes_back_under_another_certificate_alone(
    chain: Chain, store: Contract
) -> None:
    """The root vouched for the key again, for a shorter time: its word counts."""
    update(chain, store, ROOT, TCB_SERIAL)
    chain.send(store, "addCertificate", certificate(ROOT, TCB, not_after=NOW + DAY))
    assert chain.call(store, "requireTcbSigner", *TCB.xy) == NOW + DAY


@pytest.mark.parametrize(
    ("lists", "generation"),
    [
        ([[]], 0),
        ([[1]], 1),
        ([[1], [1]], 1),
        ([[1, 2], [2]], 1),
        ([[1], [2, 1]], 2),
        ([[1], [2]], 2),
    ],
)
def test_generation_grows_with_what_the_root_newly_revokes(
    chain: Chain, store: Contract, lists: list[list[int]], generation: int
) -> None:
    for i, listed in enumerate(lists):
        update(chain, store, ROOT, *listed, this_update=NOW - 100 + i)
    assert chain.call(store, "generation") == generation


def test_revocation_by_a_pck_ca_begins_no_generation(chain: Chain, store: Contract) -> None:
    update(chain, store, CA, CA_SERIAL, TCB_SERIAL)
    assert chain.call(store, "generation") == 0
    chain.call(store, "requireTcbSigner", *TCB.xy)


def test_wrong_serial_on_the_wrong_crl_revokes_nobody(chain: Chain, store: Contract) -> None:
    """Serials are an issuer's own: a leaf's on the root's CRL says nothing of the leaf."""
    update(chain, store, ROOT, 0x777)
    chain.send(store, "addCertificate", inputs.PLATFORM.pck_ca.der)
    chain.send(store, "updateCrl", inputs.SIMULATED.pck_crl, *CA.xy)
    chain.call(store, "requirePlatform", inputs.fresh(CA, inputs.leaf()))


def answers(chain: Chain, software: Contract, data: bytes) -> set[str]:
    """What precompile and contract answer."""
    return {
        chain.rpc("eth_call", {"to": to, "data": "0x" + data.hex()}, "latest")
        for to in (inputs.P256VERIFY, software.address)
    }


@pytest.mark.parametrize("high_s", [False, True])
def test_software_and_precompile_agree(chain: Chain, store: Contract, high_s: bool) -> None:
    software = chain.deploy("SoftwareP256")
    x, y = CA.xy
    r, s = utils.decode_dss_signature(inputs.sign(CA.key, b"anything", high_s=high_s))
    digest = hashlib.sha256(b"anything").digest()

    def ask(*values: int) -> set[str]:
        return answers(chain, software, digest + b"".join(v.to_bytes(32, "big") for v in values))

    assert ask(r, s, x, y) == {"0x" + "00" * 31 + "01"}
    top, order = 2**256 - 1, inputs.ORDER
    for pair in (
        (s, r),
        (r, 0),
        (0, s),
        (r, order),
        (order, s),
        (r + 1, s),
        (r, s ^ 1),
        (top, top),
    ):
        assert ask(*pair, x, y) == {"0x"}
    for point in ((y, x), (0, 0), (x, y ^ 1), (top, y)):
        assert ask(r, s, *point) == {"0x"}
    for size in (0, 159, 161):
        assert answers(chain, software, bytes(size)) == {"0x"}
