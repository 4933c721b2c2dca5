"""Attacks seen on contracts of this kind, tried on ours as they are deployed, by the front door.

Each is named after what was done elsewhere, or might be, and must be refused with the one error
that says so. Everything is the simulator's: what is wrong is signed by those who may sign it, so
that only the contracts' own checks stand in the way. Other files try each check by itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import attested
import pki_inputs as pki
import pytest
import signed_texts
from chain import GAS, Chain, Contract, Refused
from collateral_chain import PRECOMPILE, key_of
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import utils
from onchain_world import World, parts
from quote_inputs import Patches, resigned

from attestation.canonical import jcs
from attestation.issuers.simulator import Standing, Window
from attestation.onchain.pki import platform_certificate, platform_known
from attestation.onchain.policy import measurement_id, report_body
from attestation.onchain.registration import KeysetHints
from attestation.onchain.tcb import TcbInfo
from attestation.statement import report_data
from attestation.x509 import read_certificate

NOW = attested.NOW
DAY = 86_400
ENDED = Window(NOW - 2_000_000, NOW - 10)
COMING = Window(NOW + 1_000_000, NOW + 2_000_000)
EARLIER = Window(NOW - 5 * DAY, NOW + 20 * DAY)
LATER = Window(NOW - 4 * DAY, NOW + 20 * DAY)
REVOKED = Standing("Revoked")
REPORT_DATA = {"sgx-v3": 48 + 320, "tdx-v4": 48 + 520, "tdx-v5-td15": 54 + 520}
PLATFORM = attested.platform()


@pytest.fixture(scope="module")
def deployed() -> Iterator[World]:
    with World.at(NOW, PLATFORM.root_der) as made:
        yield made


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    """The contracts, and nothing in store."""
    with deployed.chain.undone():
        yield deployed


def stock(world: World, tee: str = "tdx", **odd: Any) -> dict[str, str]:
    """Submit all collateral of such a platform; what was refused, and with which error."""
    refused = {}
    of = attested.platform(**odd)
    for part in parts(of.collateral(tee), of.root_der):
        try:
            world.chain.send(world.quotes, part.function, *part.arguments)
        except Refused as error:
            refused[part.name] = error.name
    return refused


@dataclass(frozen=True)
class Shown:
    """A compact quote, and its platform in two of the forms: all of the leaf, or its name."""

    quote: bytes
    leaf: bytes
    fresh: bytes
    known: bytes


def proof(
    world: World,
    kind: str = "tdx-v4",
    signed: Patches | None = None,
    qe: Patches | None = None,
    **odd: Any,
) -> Shown:
    """Evidence for this registry, changed as the quoting enclave or its keys may change it."""
    data = report_data(world.keys.digest, world.nonce())
    compact = resigned(kind, signed={REPORT_DATA[kind]: data, **(signed or {})}, qe=qe, **odd)
    of = attested.platform(**odd)
    ca, leaf = of.pck_ca.der, of.pck.der
    return Shown(compact, leaf, platform_certificate(ca, leaf), platform_known(ca, leaf))


def allow(world: World, shown: Shown) -> None:
    world.chain.send(world.policy, "allow", measurement_id(report_body(shown.quote)))


def arguments(world: World, shown: Shown, *, known: bool = False) -> tuple[Any, ...]:
    """What `register` takes."""
    text = jcs(world.keys.document)
    hints = KeysetHints.find(text).packed
    platform = shown.known if known else shown.fresh
    return shown.quote, platform, text, hints, world.bound, world.policy.address


def register(world: World, shown: Shown, *, known: bool = False) -> None:
    world.chain.send(world.registry, "register", *arguments(world, shown, known=known))


def registered(world: World, kind: str = "tdx-v4", **odd: Any) -> Shown:
    """A node of a healthy platform, on the record, its leaf known."""
    assert stock(world, attested.tee_of(kind), **odd) == {}
    shown = proof(world, kind, **odd)
    allow(world, shown)
    register(world, shown)
    return shown


@dataclass(frozen=True)
class Attack:
    """What is odd, which submission of collateral that spoils, and why no node is registered."""

    error: str
    kind: str = "tdx-v4"
    signed: dict[int, bytes] = field(default_factory=dict)
    qe: dict[int, bytes] = field(default_factory=dict)
    odd: dict[str, Any] = field(default_factory=dict)
    spoils: dict[str, str] = field(default_factory=dict)


DEBUG_QE = bytes.fromhex("1700000000000000e700000000000000")
LATE = {"tcb_info": "CollateralOutOfTime"}
ATTACKS = {
    "debug enclave": Attack("EnclaveIsDebug", "sgx-v3", signed={48 + 48: b"\x07"}),
    "debug td": Attack("TdIsDebug", signed={48 + 120: b"\x01"}),
    "debug td of tdx 1.5": Attack("TdIsDebug", "tdx-v5-td15", signed={54 + 120: b"\x01"}),
    "debug quoting enclave": Attack("QeIsDebug", odd={"qe_attributes": DEBUG_QE}),
    "revoked tcb": Attack("TcbRevoked", odd={"tcb_standing": REVOKED}),
    "revoked tcb of sgx": Attack("TcbRevoked", "sgx-v3", odd={"tcb_standing": REVOKED}),
    "revoked quoting enclave": Attack("QeRevoked", odd={"qe_standing": REVOKED}),
    "revoked tdx module": Attack("TdxModuleRevoked", odd={"tdx_module_standing": REVOKED}),
    "revoked leaf": Attack("SerialRevoked", odd={"pck_revoked": True}),
    "revoked ca": Attack(
        "KeyUnknown",
        odd={"pck_ca_revoked": True},
        spoils={"pck_ca_certificate": "SerialRevoked", "pck_crl": "KeyUnknown"},
    ),
    "revoked tcb signer": Attack(
        "QeIdentityMissing",
        odd={"tcb_signing_revoked": True},
        spoils={
            "tcb_signing_certificate": "SerialRevoked",
            "tcb_info": "KeyUnknown",
            "qe_identity": "KeyUnknown",
        },
    ),
    "tcb info that ended": Attack("TcbInfoMissing", odd={"tcb_info_window": ENDED}, spoils=LATE),
    "tcb info to come": Attack(
        "TcbInfoMissing",
        odd={"tcb_info_window": COMING},
        spoils={"tcb_info": "CollateralNotYetIssued"},
    ),
    "identity that ended": Attack(
        "QeIdentityMissing",
        odd={"qe_identity_window": ENDED},
        spoils={"qe_identity": "CollateralOutOfTime"},
    ),
    "identity to come": Attack(
        "QeIdentityMissing",
        odd={"qe_identity_window": COMING},
        spoils={"qe_identity": "CollateralNotYetIssued"},
    ),
    "module identity that nobody published": Attack(
        "TdxModuleUnknown", signed={48: bytes([7, 9, 6])}
    ),
    "tdx module too old": Attack("TdxModuleLevelNotReached", signed={48: bytes([0, 1, 6])}),
    "tdx module of a stranger": Attack("SeamSignerUnknown", signed={48 + 64: b"\1" * 48}),
    "seam attributes": Attack("SeamAttributesSet", signed={48 + 112: b"\1"}),
    "another tee type": Attack("TeeTypeMismatch", signed={4: bytes(4)}),
    "another vendor": Attack("QeVendorUnknown", signed={12: b"\xff" * 16}),
    "another key type": Attack("AttestationKeyTypeUnsupported", signed={2: b"\3\0"}),
    "another version": Attack("QuoteVersionUnsupported", signed={0: b"\6\0"}),
    "another pceid": Attack("PceidMismatch", odd={"tcb_info_pceid": b"\0\1"}),
    "another family": Attack("TcbInfoMissing", odd={"tcb_info_fmspc": bytes(6)}),
    "attestation key of nobody": Attack("AttestationKeyNotBound", qe={320: bytes(32)}),
    "report data that goes on": Attack("ReportDataPadding", signed={48 + 552: b"\1"}),
    "service td": Attack("ServiceTdBound", "tdx-v5-td15", signed={54 + 600: b"\1"}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_key_is_registered_for(world: World, name: str) -> None:
    attack = ATTACKS[name]
    assert stock(world, attested.tee_of(attack.kind), **attack.odd) == attack.spoils
    shown = proof(world, attack.kind, attack.signed, attack.qe, **attack.odd)
    if attack.error != "QuoteVersionUnsupported":
        allow(world, shown)
    with world.chain.refused(attack.error):
        register(world, shown)


def test_the_same_without_an_attack_is_registered(world: World) -> None:
    for kind in REPORT_DATA:
        with world.chain.undone():
            registered(world, kind)


# --- who decides what runs -----------------------------------------------------------------


def test_measurements_are_checked_unasked(world: World) -> None:
    assert stock(world) == {}
    shown = proof(world)
    with world.chain.refused("MeasurementNotAllowed"):
        register(world, shown)
    given = list(arguments(world, shown))
    for nobody in ("0x" + "00" * 20, world.chain.account):
        given[-1] = nobody
        with world.chain.refused("PolicyMissing"):
            world.chain.send(world.registry, "register", *given)
    given[-1] = world.chain.deploy("AnswersAnything", b"\1" * 32).address
    with world.chain.refused("PolicyAnswerInvalid"):
        world.chain.send(world.registry, "register", *given)


def test_a_status_the_policy_does_not_name_is_refused(world: World) -> None:
    odd: dict[str, Any] = {"tdx_module_standing": Standing("OutOfDate")}
    assert stock(world, **odd) == {}
    shown = proof(world, **odd)
    allow(world, shown)
    world.chain.send(world.policy, "setTcbRules", 1, 1)
    with world.chain.refused("TcbStatusNotAllowed"):
        register(world, shown)


# --- signatures ----------------------------------------------------------------------------


def twin(der: bytes) -> bytes:
    """The same certificate with the other of the two signatures that verify."""
    of = x509.load_der_x509_certificate(der)
    r, s = utils.decode_dss_signature(of.signature)
    signature = pki.tlv(0x30, pki.number(r), pki.number(pki.ORDER - s))
    return pki.tlv(0x30, of.tbs_certificate_bytes, pki.ECDSA_SHA256, pki.tlv(3, b"\0" + signature))


def test_the_other_signature_revives_no_revoked_leaf(world: World) -> None:
    assert stock(world, pck_revoked=True) == {}
    shown = proof(world)
    other = twin(shown.leaf)
    assert other != shown.leaf
    for form in (0, 6):
        with world.chain.refused("SerialRevoked"):
            platform = bytes([form]) + shown.fresh[1:65] + other
            world.chain.send(world.quotes, "verifyQuote", shown.quote, platform)


def test_the_other_signature_revives_no_revoked_ca(world: World) -> None:
    stock(world, pck_ca_revoked=True)
    with world.chain.refused("SerialRevoked"):
        world.chain.send(world.quotes, "addCertificate", twin(PLATFORM.pck_ca.der))


def test_empty_key_identifiers_are_not_alike(world: World) -> None:
    stock(world)
    subject = pki.Holder.new("without identifiers")
    empty: dict[str, Any] = {
        "aki": pki.extension(pki.AKI, b"\x30\0"),
        "ski": pki.extension(pki.SKI, b"\4\0"),
    }
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        (empty, "AuthorityKeyIdMissing"),
        ({"ski": empty["ski"]}, "SubjectKeyIdMissing"),
        ({"aki": pki.aki(b"")}, "AuthorityKeyIdMissing"),
        ({"aki": pki.aki(bytes(20))}, "AuthorityKeyIdMismatch"),
    )
    for odd, error in cases:
        with world.chain.refused(error):
            der = pki.certificate(pki.ROOT, subject, ca=True, **odd)
            world.chain.send(world.quotes, "addCertificate", der)


def test_a_chain_without_the_precompile_is_no_yes() -> None:
    with Chain(timestamp=NOW, hardfork="prague") as old, old.refused("P256VerifierMissing"):
        key = key_of(read_certificate("root", PLATFORM.root_der))
        old.deploy("QuoteVerifier", *key, PRECOMPILE, 1)


# --- what is kept, and for how long ---------------------------------------------------------


def test_revoked_after_it_was_registered(world: World) -> None:
    """Each list is asked for its own issuer's serials, and an older list brings nothing back."""
    shown = registered(world)
    leaf, ca = PLATFORM.pck.certificate, PLATFORM.pck_ca.certificate
    update = world.chain.send
    wrong = pki.crl(pki.ROOT, [leaf.serial_number], this_update=NOW - 100)
    with world.chain.undone():
        update(world.quotes, "updateCrl", wrong, *pki.ROOT.xy)
        stock(world)
        register(world, shown, known=True)
    with world.chain.undone():
        revoking = pki.crl(pki.CA, [leaf.serial_number], this_update=NOW - 100)
        update(world.quotes, "updateCrl", revoking, *pki.CA.xy)
        assert stock(world)["pck_crl"] == "CrlNotNewer"
        for known in (True, False):
            with world.chain.refused("SerialRevoked"):
                register(world, shown, known=known)
    revoking = pki.crl(pki.ROOT, [ca.serial_number], this_update=NOW - 100)
    update(world.quotes, "updateCrl", revoking, *pki.ROOT.xy)
    with world.chain.refused("CrlOutdated"):
        register(world, shown, known=True)
    refused = stock(world)
    assert (refused["root_crl"], refused["pck_ca_certificate"]) == ("CrlNotNewer", "SerialRevoked")
    assert refused["pck_crl"] == "KeyOutdated"
    with world.chain.refused("KeyOutdated"):
        register(world, shown)


def test_known_leaf_outlives_its_certificate(world: World) -> None:
    odd: dict[str, Any] = {"certificates": Window(NOW - DAY, NOW + DAY)}
    shown = registered(world, **odd)
    world.chain.at(NOW + DAY)
    world.chain.call(world.quotes, "verifyQuote", shown.quote, shown.known)
    world.chain.at(NOW + DAY + 1)
    for platform, error in (
        (shown.known, "PlatformExpired"),
        (shown.fresh, "CertificateExpired"),
    ):
        with world.chain.refused(error):
            world.chain.call(world.quotes, "verifyQuote", shown.quote, platform)


def test_evidence_that_ends_this_second_registers_nobody(world: World) -> None:
    odd: dict[str, Any] = {"tcb_info_window": Window(NOW - DAY, NOW + DAY)}
    shown = registered(world, **odd)
    world.chain.at(NOW + DAY)
    given = arguments(world, shown, known=True)
    with world.chain.refused("EvidenceExpired"):
        world.chain.call(world.registry, "register", *given)
    world.chain.at(NOW + DAY + 1)
    with world.chain.refused("TcbInfoExpired"):
        world.chain.call(world.registry, "register", *given)


ROLLED_BACK = {
    "tcb_info_window": ("tcb_info", "CollateralOlderThanStored"),
    "qe_identity_window": ("qe_identity", "CollateralOlderThanStored"),
}


@pytest.mark.parametrize("window", ROLLED_BACK)
def test_signed_collateral_is_not_rolled_back(world: World, window: str) -> None:
    name, error = ROLLED_BACK[window]
    later: dict[str, Any] = {window: LATER}
    earlier: dict[str, Any] = {window: EARLIER}
    assert stock(world, **later) == {}
    assert stock(world, **earlier) == {name: error}
    assert stock(world, **later, tcb_evaluation_number=16)[name] == (
        "CollateralEvaluationOlderThanStored"
    )


def test_crls_are_not_rolled_back(world: World) -> None:
    assert stock(world, crl_window=LATER) == {}
    refused = stock(world, crl_window=EARLIER)
    assert refused == {"root_crl": "CrlNotNewer", "pck_crl": "CrlNotNewer"}


def test_stale_collateral_is_named_and_anybody_renews_it(world: World) -> None:
    """Nobody's fleet stands still until an owner wakes up."""
    shown = registered(world)
    later = NOW + 120 * DAY
    world.chain.at(later)
    with world.chain.refused("CrlExpired"):
        register(world, shown, known=True)
    stranger = world.chain.rpc("eth_accounts")[7]
    of = attested.platform(now=later)
    for part in parts(of.collateral("tdx"), of.root_der):
        world.chain.send(world.quotes, part.function, *part.arguments, sender=stranger)
    verdict = world.chain.call(
        world.quotes, "verifyQuote", shown.quote, shown.known, sender=stranger
    )
    assert verdict[0] > later


# --- what is sent ---------------------------------------------------------------------------


def _refusal(world: World, to: Contract, data: str, gas: int = GAS) -> str | None:
    """The error of a call with this calldata; "" where nothing is said; None if it succeeds."""
    tx = {"from": world.chain.account, "to": to.address, "data": data, "gas": hex(gas)}
    try:
        world.chain.rpc("eth_call", tx, "latest")
    except Refused as error:
        return "" if error.name == "0x" else error.name
    except RuntimeError:
        return ""
    return None


def _flipped(data: bytes, start: int, seed: int) -> Iterator[bytes]:
    bits = random.Random(seed).sample(range(8 * start, 8 * len(data)), 120)
    return (attested.flip(data, bit) for bit in bits)


@pytest.mark.parametrize("kind", REPORT_DATA)
def test_every_flipped_bit_of_a_registration_has_its_error(world: World, kind: str) -> None:
    assert stock(world, attested.tee_of(kind)) == {}
    shown = proof(world, kind)
    allow(world, shown)
    genuine = list(arguments(world, shown))
    assert _refusal(world, world.registry, world.registry.data("register", *genuine)) is None
    # The first byte of `platform` is no evidence: it says in which form the rest comes.
    for argument, start in ((0, 0), (1, 1), (2, 0)):
        for changed in _flipped(genuine[argument], start, argument):
            given = [*genuine[:argument], changed, *genuine[argument + 1 :]]
            data = world.registry.data("register", *given)
            name = _refusal(world, world.registry, data)
            assert name, f"argument {argument}: {name!r}"
            assert name not in ("Panic", "Error")
            assert not name.startswith("0x")


def test_every_flipped_bit_of_collateral_has_its_error(world: World) -> None:
    for part in parts(PLATFORM.collateral("tdx"), PLATFORM.root_der):
        first, *rest = part.arguments
        for changed in _flipped(first, 0, len(first)):
            data = world.quotes.data(part.function, changed, *rest)
            name = _refusal(world, world.quotes, data)
            assert name, f"{part.name}: {name!r}"
            assert name not in ("Panic", "Error")
            assert not name.startswith("0x")
        world.chain.send(world.quotes, part.function, *part.arguments)


def test_offsets_into_neighbouring_calldata(world: World) -> None:
    """Three arguments of variable length, each pointed at every word, and far beyond them."""
    assert stock(world) == {}
    shown = proof(world)
    allow(world, shown)
    genuine = bytes.fromhex(world.registry.data("register", *arguments(world, shown))[2:])
    assert _refusal(world, world.registry, "0x" + genuine.hex()) is None
    far = (1 << 32, 1 << 64, (1 << 64) - 1, 1 << 255, (1 << 256) - 32, (1 << 256) - 4)
    for slot in range(3):
        place = slice(4 + 32 * slot, 36 + 32 * slot)
        right = int.from_bytes(genuine[place], "big")
        for offset in (*range(0, len(genuine) - 4, 32), *far):
            changed = bytearray(genuine)
            changed[place] = offset.to_bytes(32, "big")
            found = _refusal(world, world.registry, "0x" + changed.hex())
            assert (found is None) == (offset == right), (slot, offset, found)
        for length in far:
            changed = bytearray(genuine)
            changed[4 + right : 36 + right] = length.to_bytes(32, "big")
            assert _refusal(world, world.registry, "0x" + changed.hex()) is not None


def test_too_little_gas_proves_nothing(world: World) -> None:
    """A call inside that runs dry (it gets 63 of 64 parts) is never taken for one that passed."""
    assert stock(world) == {}
    shown = proof(world)
    allow(world, shown)
    data = world.registry.data("register", *arguments(world, shown))
    passed = [
        gas
        for gas in range(60_000, 260_000, 1_000)
        if _refusal(world, world.registry, data, gas) is None
    ]
    asked = {"from": world.chain.account, "to": world.registry.address, "data": data}
    used = int(world.chain.rpc("eth_estimateGas", asked, "latest"), 16)
    assert passed == list(range(passed[0], 260_000, 1_000))
    assert abs(used - passed[0]) < 5_000


# --- what a text may say --------------------------------------------------------------------


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), "a name twice"
    return found


def _altered(compact: bytes, chance: random.Random) -> bytes:
    out = bytearray(compact)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(min(len(out), 160) if chance.random() < 0.5 else len(out))
        match chance.randrange(4):
            case 0:
                out[at] = chance.choice((0, 1, 2, 3, 28, 29, 34, 92, 127, 128, 254, 255))
            case 1:
                out[at] ^= 1 << chance.randrange(8)
            case 2:
                del out[at : at + chance.choice((1, 2, 8))]
            case _:
                out[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
    return bytes(out)


def test_whatever_text_is_rebuilt_says_what_is_stored(world: World) -> None:
    """No compact form, however odd, leads to a text that reads as anything but what is kept."""
    reader = world.chain.deploy("TextHarness")
    chance = random.Random(7)
    genuine = [TcbInfo.parse(attested.collateral(t).tcb_info).write() for t in ("sgx", "tdx")]
    rebuilt = 0
    for _ in range(800):
        compact = _altered(chance.choice(genuine), chance)
        try:
            text, packed = world.chain.call(reader, "tcbInfoText", compact)
        except Refused as error:
            assert not error.name.startswith("0x")
            continue
        rebuilt += 1
        document = json.loads(text, object_pairs_hook=_once)
        assert signed_texts.tcb_info_bytes(text) == packed
        assert document["id"] == ("TDX" if compact[0] & 1 else "SGX")
        assert bytes.fromhex(document["fmspc"]) == compact[9:15]
        assert document["tcbEvaluationDataNumber"] == int.from_bytes(compact[15:17], "big")
    assert rebuilt > 100
