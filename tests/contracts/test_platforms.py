"""PCK leaves on a chain: verified once, judged at every use, and never by what their owner says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pki_inputs as inputs
import pytest
from chain import Chain, Contract
from pki_inputs import CA, DAY, NOW, PLATFORM, ROOT, Holder, certificate, crl, leaf

from attestation.issuers.simulator import der
from attestation.issuers.simulator.platform import CERTIFICATES_UNTIL
from attestation.onchain import pki

CRITICAL = b"\x01\x01\xff"
OID = "1.2.840.113741.1.13.1"
SERIAL = PLATFORM.pck.certificate.serial_number
ISSUER = pki.issuer_id(*CA.xy)
FRESH = pki.platform_certificate(PLATFORM.pck_ca.der, PLATFORM.pck.der)
PASSING = pki.platform_certificate(PLATFORM.pck_ca.der, PLATFORM.pck.der, remember=False)
KNOWN = pki.platform_known(PLATFORM.pck_ca.der, PLATFORM.pck.der)


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(timestamp=NOW) as started:
        yield started


@pytest.fixture(scope="module")
def filled(chain: Chain) -> Contract:
    return inputs.fill(chain, inputs.deploy(chain))


@pytest.fixture
def store(chain: Chain, filled: Contract) -> Iterator[Contract]:
    """A store with the simulator's PKI and no leaf; what a test changes is taken back."""
    with chain.undone():
        yield filled


def test_leaf_is_read_and_known_from_then_on(chain: Chain, store: Contract) -> None:
    facts = chain.call(store, "requirePlatform", FRESH)
    x, y, fmspc, pceid, pcesvn, cpusvn, expiry = facts
    assert (x, y) == Holder.of(PLATFORM.pck).xy
    assert (fmspc, pceid) == (PLATFORM.fmspc, PLATFORM.pceid)
    assert (pcesvn, cpusvn) == (PLATFORM.pce_svn, PLATFORM.cpu_svn)
    assert expiry == chain.call(store, "crlOf", ISSUER)[1]
    with chain.refused("PlatformUnknown"):
        chain.call(store, "requirePlatform", KNOWN)
    assert chain.call(store, "platformNotAfter", ISSUER, SERIAL) == 0
    chain.send(store, "addPlatform", FRESH)
    assert chain.call(store, "platformNotAfter", ISSUER, SERIAL) == CERTIFICATES_UNTIL
    assert chain.call(store, "requirePlatform", KNOWN) == facts


def test_leaf_in_passing_is_judged_and_not_remembered(chain: Chain, store: Contract) -> None:
    assert b"\6" + FRESH[1:] == PASSING
    facts = chain.call(store, "requirePlatform", FRESH)
    assert chain.call(store, "requirePlatform", PASSING) == facts
    chain.send(store, "requirePlatform", PASSING)
    assert chain.call(store, "platformNotAfter", ISSUER, SERIAL) == 0
    with chain.refused("PlatformUnknown"):
        chain.call(store, "requirePlatform", KNOWN)
    chain.send(store, "updateCrl", crl(CA, [SERIAL]), *CA.xy)
    with chain.refused("SerialRevoked"):
        chain.call(store, "requirePlatform", PASSING)


def test_known_leaf_differs_in_nothing(chain: Chain, store: Contract) -> None:
    chain.send(store, "addPlatform", FRESH)
    for at in range(53, len(KNOWN)):
        changed = bytearray(KNOWN)
        changed[at] ^= 1
        with chain.refused("PlatformMismatch"):
            chain.call(store, "requirePlatform", bytes(changed))
    for at in (1, 32, 33, 52):
        changed = bytearray(KNOWN)
        changed[at] ^= 1
        with chain.refused("PlatformUnknown"):
            chain.call(store, "requirePlatform", bytes(changed))


@pytest.mark.parametrize(
    "bad", [b"", b"\0", FRESH[:65], KNOWN[:-1], KNOWN + b"\0", b"\3" + KNOWN[1:], b"\6"]
)
def test_neither_form_of_platform(chain: Chain, store: Contract, bad: bytes) -> None:
    chain.send(store, "addPlatform", FRESH)
    with chain.refused("PlatformMalformed"):
        chain.call(store, "requirePlatform", bad)


def test_only_a_certificate_registers(chain: Chain, store: Contract) -> None:
    for bad in (b"", KNOWN, b"\0" * 65, PASSING):
        with chain.refused("PlatformMalformed"):
            chain.call(store, "addPlatform", bad)


# --- the certificate ----------------------------------------------------------------

LEAVES: dict[str, tuple[dict[str, Any], str]] = {
    "a CA's": ({"ca": True}, "PlatformIsCa"),
    "without SGX extension": ({"value": b""}, "SgxExtensionMissing"),
    "not yet valid": ({"not_before": NOW + 1000}, "CertificateNotYetValid"),
    "expired": ({"not_after": NOW - 1}, "CertificateExpired"),
    "signed by another key": ({"signer": ROOT.key}, "SignatureInvalid"),
    "issuer of another name": ({"issuer_name": ROOT.name}, "IssuerNameMismatch"),
    "AKI missing": ({"without": inputs.AKI}, "AuthorityKeyIdMissing"),
    "AKI of another key": ({"aki": inputs.aki(ROOT.key_id)}, "AuthorityKeyIdMismatch"),
    "may sign certificates": (
        {"usage": inputs.extension(inputs.USAGE, b"\x03\x02\x02\x84", CRITICAL)},
        "KeyUsageUnsuitable",
    ),
    "unknown critical extension": (
        {"more": [inputs.extension(b"\x2b", b"", CRITICAL)]},
        "CriticalExtensionUnknown",
    ),
    "two SGX extensions": (
        {"more": [inputs.extension(inputs.SGX, inputs.sgx_value())] * 2},
        "ExtensionRepeated",
    ),
}


@pytest.mark.parametrize("form", [b"\0", b"\6"])
@pytest.mark.parametrize("name", LEAVES)
def test_odd_leaf(chain: Chain, store: Contract, name: str, form: bytes) -> None:
    fields, error = LEAVES[name]
    with chain.refused(error):
        chain.call(store, "requirePlatform", form + inputs.fresh(CA, leaf(**fields))[1:])


def entry(arcs: str, value: bytes) -> bytes:
    return der.sequence(der.oid(f"{OID}.{arcs}"), value)


def sgx(
    *,
    svns: Callable[[int], bytes] = lambda i: der.integer(i),
    pcesvn: bytes = der.integer(11),
    cpusvn: bytes = der.octets(bytes(16)),
    tcb: Callable[[list[bytes]], list[bytes]] = lambda entries: entries,
    outer: Callable[[list[bytes]], list[bytes]] = lambda entries: entries,
) -> bytes:
    """An SGX extension's value, with entries changed or in another order."""
    inner = [entry(f"2.{i}", svns(i)) for i in range(1, 17)]
    inner += [entry("2.17", pcesvn), entry("2.18", cpusvn)]
    entries = [
        entry("1", der.octets(bytes(16))),
        entry("2", der.sequence(*tcb(inner))),
        entry("3", der.octets(b"\x01\x02")),
        entry("4", der.octets(b"\x10\x20\x30\x40\x50\x60")),
        entry("5", der.enumerated(1)),
    ]
    return der.sequence(*outer(entries))


def swapped(entries: list[bytes]) -> list[bytes]:
    return [entries[1], entries[0], *entries[2:]]


INSTANCE, CONFIGURATION = entry("6", der.octets(bytes(16))), entry("7", der.sequence())
EXTENSIONS: dict[str, tuple[bytes, str]] = {
    "no sequence": (b"\x31" + sgx()[1:], "DerTagUnexpected"),
    "bytes after": (sgx() + b"\0", "DerTrailing"),
    "SVN of 256": (sgx(svns=lambda i: der.integer(256 if i == 3 else 0)), "SgxSvnMalformed"),
    "SVN of -1": (sgx(svns=lambda i: b"\x02\x01\xff"), "SgxSvnMalformed"),
    "SVN padded": (sgx(svns=lambda i: b"\x02\x02\x00\x01"), "SgxSvnMalformed"),
    "SVN of another type": (sgx(svns=lambda i: b"\x0a\x01\x01"), "SgxSvnMalformed"),
    "PCESVN of 65536": (sgx(pcesvn=der.integer(65536)), "SgxSvnMalformed"),
    "PCESVN of -1": (sgx(pcesvn=b"\x02\x02\xff\xff"), "SgxSvnMalformed"),
    "PCESVN padded": (sgx(pcesvn=b"\x02\x02\x00\x7f"), "SgxSvnMalformed"),
    "PCESVN padded twice": (sgx(pcesvn=b"\x02\x03\x00\x7f\xff"), "SgxSvnMalformed"),
    "CPUSVN of 15 bytes": (sgx(cpusvn=der.octets(bytes(15))), "SgxSvnMalformed"),
    "components out of order": (sgx(tcb=swapped), "SgxSvnMalformed"),
    "component twice": (sgx(tcb=lambda e: [e[0], *e]), "SgxSvnMalformed"),
    "component missing": (sgx(tcb=lambda e: e[1:]), "SgxSvnMalformed"),
    "a nineteenth component": (sgx(tcb=lambda e: [*e, e[0]]), "SgxSvnMalformed"),
    "PCESVN missing": (sgx(tcb=lambda e: [*e[:16], e[17]]), "SgxSvnMalformed"),
    "CPUSVN missing": (sgx(tcb=lambda e: e[:17]), "SgxSvnMalformed"),
    "no TCB": (sgx(outer=lambda e: [e[0], *e[2:]]), "SgxEntryMalformed"),
    "two TCBs": (sgx(outer=lambda e: [e[0], e[1], *e[1:]]), "SgxEntryMalformed"),
    "no PPID": (sgx(outer=lambda e: e[1:]), "SgxEntryMalformed"),
    "entries out of order": (sgx(outer=swapped), "SgxEntryMalformed"),
    "no PCEID": (sgx(outer=lambda e: [*e[:2], *e[3:]]), "SgxEntryMalformed"),
    "no FMSPC": (sgx(outer=lambda e: [*e[:3], *e[4:]]), "SgxEntryMalformed"),
    "no type": (sgx(outer=lambda e: e[:4]), "SgxEntryMalformed"),
    "PCEID of 3 bytes": (
        sgx(outer=lambda e: [*e[:2], entry("3", der.octets(bytes(3))), *e[3:]]),
        "SgxEntryMalformed",
    ),
    "FMSPC of 7 bytes": (
        sgx(outer=lambda e: [*e[:3], entry("4", der.octets(bytes(7))), *e[4:]]),
        "SgxEntryMalformed",
    ),
    "FMSPC again at the end": (sgx(outer=lambda e: [*e, e[3]]), "SgxEntryMalformed"),
    "instance twice": (sgx(outer=lambda e: [*e, INSTANCE, INSTANCE]), "SgxEntryMalformed"),
    "instance last": (sgx(outer=lambda e: [*e, CONFIGURATION, INSTANCE]), "SgxEntryMalformed"),
    "cut in its last entry": (sgx(outer=lambda e: [*e, INSTANCE[:-1]]), "DerOverrun"),
    "cut in its type": (sgx(outer=lambda e: [*e[:4], e[4][:-1]]), "DerOverrun"),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_odd_sgx_extension(chain: Chain, store: Contract, name: str) -> None:
    value, error = EXTENSIONS[name]
    with chain.refused(error):
        chain.call(store, "requirePlatform", inputs.fresh(CA, leaf(value)))


@pytest.mark.parametrize("pcesvn", [0, 127, 128, 255, 256, 32767, 32768, 65535])
@pytest.mark.parametrize("tail", [[], [INSTANCE], [INSTANCE, CONFIGURATION]])
def test_every_svn_and_both_kinds_of_ca(
    chain: Chain, store: Contract, pcesvn: int, tail: list[bytes]
) -> None:
    svns = bytes((i * 37 + pcesvn) % 256 for i in range(1, 17))
    value = sgx(
        svns=lambda i: der.integer(svns[i - 1]),
        pcesvn=der.integer(pcesvn),
        outer=lambda e: [*e, *tail],
    )
    found = chain.call(store, "requirePlatform", inputs.fresh(CA, leaf(value)))
    assert found[2:6] == (b"\x10\x20\x30\x40\x50\x60", b"\x01\x02", pcesvn, svns)


# --- the chain above it ---------------------------------------------------------------


def test_leaf_of_an_unknown_ca(chain: Chain, store: Contract) -> None:
    nobody = Holder.new("nobody")
    with chain.refused("KeyUnknown"):
        chain.call(store, "requirePlatform", inputs.fresh(nobody, leaf(issuer=nobody)))


def test_leaf_given_another_ca(chain: Chain, store: Contract) -> None:
    other = Holder.new("other CA")
    chain.send(store, "addCertificate", certificate(ROOT, other, ca=True))
    with chain.refused("CrlMissing"):
        chain.call(store, "requirePlatform", inputs.fresh(other, leaf(issuer=other)))
    chain.send(store, "updateCrl", crl(other), *other.xy)
    chain.call(store, "requirePlatform", inputs.fresh(other, leaf(issuer=other)))
    with chain.refused("IssuerNameMismatch"):
        chain.call(store, "requirePlatform", inputs.fresh(other, leaf()))


@pytest.mark.parametrize("platform", [FRESH, KNOWN], ids=["fresh", "known"])
def test_revoked_leaf(chain: Chain, store: Contract, platform: bytes) -> None:
    chain.send(store, "addPlatform", FRESH)
    chain.send(store, "updateCrl", crl(CA, [1, SERIAL]), *CA.xy)
    with chain.refused("SerialRevoked"):
        chain.call(store, "requirePlatform", platform)


def test_other_signature_of_a_revoked_leaf(chain: Chain, store: Contract) -> None:
    """(r, n - s) verifies as well and makes other bytes: revocation goes by the serial."""
    both = [inputs.fresh(CA, leaf(outside={"high_s": high})) for high in (False, True)]
    for one in both:
        chain.call(store, "requirePlatform", one)
    chain.send(store, "updateCrl", crl(CA, [0x777]), *CA.xy)
    for one in both:
        with chain.refused("SerialRevoked"):
            chain.call(store, "requirePlatform", one)


@pytest.mark.parametrize("platform", [FRESH, KNOWN], ids=["fresh", "known"])
def test_leaf_of_a_revoked_ca(chain: Chain, store: Contract, platform: bytes) -> None:
    chain.send(store, "addPlatform", FRESH)
    serial = PLATFORM.pck_ca.certificate.serial_number
    chain.send(store, "updateCrl", crl(ROOT, [serial]), *ROOT.xy)
    with chain.refused("KeyOutdated" if platform is FRESH else "CrlOutdated"):
        chain.call(store, "requirePlatform", platform)
    with chain.refused("SerialRevoked"):
        chain.call(store, "addCertificate", PLATFORM.pck_ca.der)
    with chain.refused("KeyOutdated"):
        chain.call(store, "updateCrl", crl(CA), *CA.xy)


@pytest.mark.parametrize("platform", [FRESH, KNOWN], ids=["fresh", "known"])
@pytest.mark.parametrize("issuer", [ROOT, CA], ids=["root", "CA"])
def test_either_crl_expired(chain: Chain, store: Contract, issuer: Holder, platform: bytes) -> None:
    chain.send(store, "addPlatform", FRESH)
    end = NOW + 3 * DAY
    chain.send(store, "updateCrl", crl(issuer, next_update=end), *issuer.xy)
    assert chain.call(store, "requirePlatform", platform)[6] == end
    chain.at(end + 1)
    with chain.refused("CrlExpired"):
        chain.call(store, "requirePlatform", platform)


def test_known_leaf_expires(chain: Chain, store: Contract) -> None:
    end = NOW + 3 * DAY
    short = leaf(not_after=end)
    chain.send(store, "addPlatform", inputs.fresh(CA, short))
    known = pki.platform_known(PLATFORM.pck_ca.der, short)
    assert chain.call(store, "requirePlatform", known)[6] == end
    chain.at(end + 1)
    with chain.refused("PlatformExpired"):
        chain.call(store, "requirePlatform", known)
    with chain.refused("CertificateExpired"):
        chain.call(store, "requirePlatform", inputs.fresh(CA, short))


def test_ca_that_ends_before_its_leaf(chain: Chain, store: Contract) -> None:
    ca, end = Holder.new("short CA"), NOW + 3 * DAY
    ca_der = certificate(ROOT, ca, ca=True, not_after=end)
    chain.send(store, "addCertificate", ca_der)
    chain.send(store, "updateCrl", crl(ca), *ca.xy)
    long = leaf(issuer=ca)
    chain.send(store, "addPlatform", inputs.fresh(ca, long))
    known = pki.platform_known(ca_der, long)
    assert chain.call(store, "requirePlatform", known)[6] == end
    chain.at(end + 1)
    for platform, error in ((known, "CrlExpired"), (inputs.fresh(ca, long), "KeyExpired")):
        with chain.refused(error):
            chain.call(store, "requirePlatform", platform)
