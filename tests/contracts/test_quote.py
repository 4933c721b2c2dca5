"""Quote verification on a chain, one attack after another, with the platform's facts given.

`QuoteHarness` answers for the certificates and the collateral; here only what the contract
makes of them counts. Offsets are those of the quote's vendor structures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import attested
import pytest
from chain import Chain, Contract
from quote_inputs import (
    EXPIRY,
    STATUSES,
    Given,
    packed_qe_identity,
    packed_tcb_info,
    patched,
    resigned,
)

from attestation.errors import AttestationError
from attestation.evidence import TdReport10, parse_quote
from attestation.issuers.simulator import Standing
from attestation.issuers.simulator.pki import derive_key, public_raw, sign_raw
from attestation.onchain.quote import compact_quote, prove

KINDS = attested.KINDS[:4]
TDX_KINDS = KINDS[1:]
BODY = {"sgx-v3": 48, "tdx-v4": 48, "tdx-v5": 54, "tdx-v5-td15": 54}
FMSPC = attested.platform().fmspc


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(timestamp=attested.NOW) as started:
        yield started


@pytest.fixture(scope="module")
def deployed(chain: Chain) -> Given:
    given = Given(chain)
    for tee in ("sgx", "tdx"):
        collateral = attested.collateral(tee)
        proof = prove(attested.quote("sgx-v3" if tee == "sgx" else "tdx-v4"), collateral)
        given.set(tee, proof.leaf, collateral)
    return given


@pytest.fixture
def given(deployed: Given) -> Iterator[Given]:
    """The healthy platform; what a test changes is taken back."""
    with deployed.chain.undone():
        yield deployed


def compact(kind: str, **odd: Any) -> bytes:
    return compact_quote(attested.quote(kind, attested.platform(**odd)))


def info(tee: str, **odd: Any) -> dict[str, Any]:
    text = attested.collateral(tee, attested.platform(**odd)).tcb_info
    document: dict[str, Any] = json.loads(text)
    return document


def identity(tee: str, **odd: Any) -> dict[str, Any]:
    text = attested.collateral(tee, attested.platform(**odd)).qe_identity
    document: dict[str, Any] = json.loads(text)
    return document


# --- what is accepted -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_genuine(given: Given, kind: str) -> None:
    assert given.verify(compact(kind)) == (EXPIRY, 1, 17)


@pytest.mark.parametrize("kind", KINDS)
def test_own_cost(given: Given, kind: str) -> None:
    """All but certificates and collateral: 14,074 gas are the two signatures."""
    assert 14_074 < given.gas(compact(kind), attested.tee_of(kind)) < 22_000


def test_three_statuses_stay_apart(given: Given) -> None:
    odd = {
        "tcb_standing": Standing("ConfigurationNeeded"),
        "tdx_module_standing": Standing("OutOfDate"),
    }
    given.info("tdx", packed_tcb_info(info("tdx", **odd)), FMSPC)
    given.identity("tdx", packed_qe_identity(identity("tdx")))
    assert given.verify(compact("tdx-v4"))[1] == 1 << 2 | 1 << 4 | 1 << 0


@pytest.mark.parametrize("kind", ["sgx-v3", "tdx-v4"])
@pytest.mark.parametrize("status", STATUSES[:-1])
def test_platform_status(given: Given, kind: str, status: str) -> None:
    tee = attested.tee_of(kind)
    given.info(tee, packed_tcb_info(info(tee, tcb_standing=Standing(status))), FMSPC)
    assert given.verify(compact(kind))[1] == 1 << STATUSES.index(status) | 1


def test_earliest_expiry_and_smallest_number(given: Given) -> None:
    leaf = prove(attested.quote("tdx-v4"), attested.collateral("tdx")).leaf
    tcb, qe = packed_tcb_info(info("tdx")), packed_qe_identity(identity("tdx"))
    quote = compact("tdx-v4")
    for expiries in ((100, 200, 300), (300, 100, 200), (200, 300, 100)):
        given.platform(leaf, expiries[0])
        given.info("tdx", tcb, FMSPC, expiries[1], 18)
        given.identity("tdx", qe, expiries[2], 19)
        assert given.verify(quote) == (100, 1, 18)
    given.identity("tdx", qe, 300, 16)
    assert given.verify(quote)[2] == 16


# --- format -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_truncated(given: Given, kind: str) -> None:
    quote = compact(kind)
    for size in {0, 1, 47, 48, 53, 54, 500, len(quote) - 32, len(quote) - 1}:
        with given.chain.refused("QuoteTruncated"):
            given.verify(quote[:size])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extra", [b"\0", bytes(32), bytes(64)])
def test_trailing_bytes(given: Given, kind: str, extra: bytes) -> None:
    with given.chain.refused("QuoteTrailingBytes"):
        given.verify(compact(kind) + extra)


def test_quote_may_not_borrow_from_the_platform_argument(given: Given) -> None:
    """Cut in its own argument, whole in the calldata: what follows is the other argument."""
    quote = compact("tdx-v4")
    call = bytes.fromhex(given.contract.data("verifyQuote", quote, b"")[2:])
    shorter = patched(call, {4 + 64: (len(quote) - 1).to_bytes(32, "big")})
    with given.chain.refused("QuoteTruncated"):
        given.chain.rpc("eth_call", {"to": given.contract.address, "data": "0x" + shorter.hex()})
    endless = patched(call, {4 + 64: (1 << 255).to_bytes(32, "big")})
    with given.chain.refused("0x"):
        given.chain.rpc("eth_call", {"to": given.contract.address, "data": "0x" + endless.hex()})


@pytest.mark.parametrize("version", [0, 1, 2, 6, 0x0103, 0x0304, 0xFFFF])
def test_unknown_version(given: Given, version: int) -> None:
    quote = resigned("tdx-v4", signed={0: version.to_bytes(2, "little")})
    with given.chain.refused("QuoteVersionUnsupported"):
        given.verify(quote)


@pytest.mark.parametrize(
    "descriptor",
    ["010080010000", "020048020001", "030048020000", "020088020000", "040075030000"],
)
def test_unknown_body_of_version_5(given: Given, descriptor: str) -> None:
    with given.chain.refused("QuoteBodyUnsupported"):
        given.verify(resigned("tdx-v5-td15", signed={48: bytes.fromhex(descriptor)}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tee_type", [0x00, 0x01, 0x80, 0x81, 0x8100, 0x81000000])
def test_swapped_tee_type(given: Given, kind: str, tee_type: int) -> None:
    if tee_type == (0 if kind == "sgx-v3" else 0x81):
        return
    with given.chain.refused("TeeTypeMismatch"):
        given.verify(resigned(kind, signed={4: tee_type.to_bytes(4, "little")}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key_type", [0, 1, 3, 0x0200, 0x0102])
def test_wrong_key_type(given: Given, kind: str, key_type: int) -> None:
    with given.chain.refused("AttestationKeyTypeUnsupported"):
        given.verify(resigned(kind, signed={2: key_type.to_bytes(2, "little")}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0, 7, 15])
def test_wrong_vendor_id(given: Given, kind: str, at: int) -> None:
    vendor = attested.flip(bytes.fromhex("939a7233f79c4ca9940a0db3957f0607"), 8 * at)
    with given.chain.refused("QeVendorUnknown"):
        given.verify(resigned(kind, signed={12: vendor}))


@pytest.mark.parametrize("kind", KINDS)
def test_header_fields_that_nobody_judges(given: Given, kind: str) -> None:
    """QE SVN, PCE SVN and user data: signed, and free, as for the verifier in Python."""
    assert given.verify(resigned(kind, signed={8: b"\xff" * 4, 28: b"\xff" * 20}))[1] == 1


# --- debug and the rest of the life cycle ---------------------------------------------


def test_debug_enclave(given: Given) -> None:
    with given.chain.refused("EnclaveIsDebug"):
        given.verify(resigned("sgx-v3", signed={48 + 48: b"\x07"}))


@pytest.mark.parametrize("kind", TDX_KINDS)
def test_debug_td(given: Given, kind: str) -> None:
    with given.chain.refused("TdIsDebug"):
        given.verify(resigned(kind, signed={BODY[kind] + 120: b"\x01"}))


@pytest.mark.parametrize("kind", KINDS)
def test_debug_quoting_enclave(given: Given, kind: str) -> None:
    tee = attested.tee_of(kind)
    blind = identity(tee) | {"attributesMask": "00" * 16}
    given.identity(tee, packed_qe_identity(blind))
    with given.chain.refused("QeIsDebug"):
        given.verify(resigned(kind, qe={48: b"\x17"}))


TD_BITS = {0: "TdIsDebug", 17: "TdHasServiceExtension", 28: "SeptVeNotDisabled"}
TD_BITS |= {29: "TdIsMigratable", 4: "TdIsProfiled", 5: "TdIsProfiled", 6: "TdIsProfiled"}
FREE_BITS = {16, 18, 19, 20, 21, 22, 27, 30, 31, 62, 63}


@pytest.mark.parametrize("bit", range(64))
def test_every_td_attribute(given: Given, bit: int) -> None:
    """Bit by bit as the verifier in Python judges it."""
    attributes = attested.flip(bytes.fromhex("0000001000000000"), bit)
    raw = attested.quote("tdx-v4", td_attributes=attributes)
    if bit in FREE_BITS:
        attested.verify(raw=raw)
        assert given.verify(compact_quote(raw))[1] == 1
        return
    with pytest.raises(AttestationError):
        attested.verify(raw=raw)
    with given.chain.refused(TD_BITS.get(bit, "TdAttributesReserved")):
        given.verify(compact_quote(raw))


@pytest.mark.parametrize("kind", TDX_KINDS)
@pytest.mark.parametrize("at", [0, 15, 31, 32, 47])
def test_seam_signer_not_intel(given: Given, kind: str, at: int) -> None:
    with given.chain.refused("SeamSignerUnknown"):
        given.verify(resigned(kind, signed={BODY[kind] + 64 + at: b"\x01"}))


@pytest.mark.parametrize("kind", TDX_KINDS)
@pytest.mark.parametrize("at", range(8))
def test_seam_attributes(given: Given, kind: str, at: int) -> None:
    with given.chain.refused("SeamAttributesSet"):
        given.verify(resigned(kind, signed={BODY[kind] + 112 + at: b"\x80"}))


@pytest.mark.parametrize("at", [0, 15, 16, 47])
def test_bound_service_td(given: Given, at: int) -> None:
    with given.chain.refused("ServiceTdBound"):
        given.verify(resigned("tdx-v5-td15", signed={54 + 600 + at: b"\x01"}))


@pytest.mark.parametrize("at", [20, 31, 96, 127, 160, 191, 262, 293, 294, 303])
def test_reserved_bytes_of_reports(given: Given, at: int) -> None:
    with given.chain.refused("ReportReservedBytesSet"):
        given.verify(resigned("sgx-v3", signed={48 + at: b"\x01"}))
    with given.chain.refused("ReportReservedBytesSet"):
        given.verify(resigned("tdx-v4", qe={at: b"\x01"}))


@pytest.mark.parametrize("at", [0, 16, 19, 32, 47, 64, 95, 128, 192, 255, 256, 261, 304, 320, 383])
def test_enclave_fields_that_nobody_judges(given: Given, at: int) -> None:
    """Next to reserved spans: none of them reaches too far."""
    assert given.verify(resigned("sgx-v3", signed={48 + at: b"\x09"}))[1] == 1


# --- signatures -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_any_flipped_byte(given: Given, kind: str) -> None:
    quote = compact(kind)
    for at in range(0, len(quote), 17):
        with pytest.raises(AssertionError) as refusal:
            given.verify(attested.flip(quote, 8 * at + at % 8))
        assert not refusal.value.args[0].startswith("0x"), refusal.value


def test_signatures_name_what_failed(given: Given) -> None:
    quote = compact("tdx-v4")
    end = len(quote) - 608
    for at, name in (
        (48 + 136, "QuoteSignatureInvalid"),
        (end, "QuoteSignatureInvalid"),
        (end + 64, "AttestationKeyNotBound"),
        (end + 128, "QeReportSignatureInvalid"),
        (end + 512, "QeReportSignatureInvalid"),
        (end + 576, "AttestationKeyNotBound"),
    ):
        with given.chain.refused(name):
            given.verify(attested.flip(quote, 8 * at))


@pytest.mark.parametrize("kind", KINDS)
def test_attestation_key_not_bound_to_the_qe_report(given: Given, kind: str) -> None:
    """A key of one's own signs the quote; the genuine QE never saw it."""
    quote = compact(kind)
    end = len(quote) - 608
    key = derive_key(attested.SEED, "somebody else's attestation")
    forged = {end: sign_raw(key, quote[:end]), end + 64: public_raw(key)}
    with given.chain.refused("AttestationKeyNotBound"):
        given.verify(patched(quote, forged))


@pytest.mark.parametrize("at", [32, 47, 63])
def test_qe_report_data_that_goes_on(given: Given, at: int) -> None:
    with given.chain.refused("QeReportDataNotPadded"):
        given.verify(resigned("tdx-v4", qe={320 + at: b"\x01"}))


def test_quote_of_another_platform(given: Given) -> None:
    """The platform named is genuine and the quote is not its own."""
    other = attested.platform(seed=b"fixed seed of another platform!!", now=attested.NOW)
    with given.chain.refused("QeReportSignatureInvalid"):
        given.verify(compact_quote(attested.quote("tdx-v4", other)))


@pytest.mark.parametrize("value", [0, (1 << 256) - 1])
def test_degenerate_signatures(given: Given, value: int) -> None:
    quote = compact("tdx-v4")
    end = len(quote) - 608
    for at, name in ((end, "QuoteSignatureInvalid"), (end + 512, "QeReportSignatureInvalid")):
        with given.chain.refused(name):
            given.verify(patched(quote, {at: 2 * value.to_bytes(32, "big")}))


def test_attestation_key_that_is_no_point(given: Given) -> None:
    """Bound by the QE and still no key: zero is what a broken verifier may accept."""
    bound = hashlib.sha256(bytes(64) + bytes(range(32))).digest()
    quote = resigned("tdx-v4", qe={320: bound})
    end = len(quote) - 608
    with given.chain.refused("QuoteSignatureInvalid"):
        given.verify(patched(quote, {end: bytes(64), end + 64: bytes(64)}))


def test_missing_precompile_is_no_success(given: Given) -> None:
    code = given.chain.rpc("eth_getCode", given.contract.address, "latest")
    with Chain(timestamp=attested.NOW, hardfork="prague") as old:
        with old.refused("P256VerifierMissing"):
            Given(old)
        old.rpc("anvil_setCode", given.contract.address, code)
        moved = Given.__new__(Given)
        moved.chain, moved.contract = old, Contract(given.contract.address, given.abi)
        collateral = attested.collateral("tdx")
        moved.set("tdx", prove(attested.quote("tdx-v4"), collateral).leaf, collateral)
        with old.refused("QeReportSignatureInvalid"):
            moved.verify(compact("tdx-v4"))


# --- the quoting enclave's identity -----------------------------------------------------


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (128, b"\x00", "QeSignerMismatch"),
        (159, b"\x00", "QeSignerMismatch"),
        (48, b"\x95", "QeAttributesMismatch"),
        (55, b"\x80", "QeAttributesMismatch"),
        (16, b"\x01", "QeMiscSelectMismatch"),
        (19, b"\x01", "QeMiscSelectMismatch"),
        (256, b"\x01", "QeProductMismatch"),
        (257, b"\x01", "QeProductMismatch"),
        (258, b"\x07", "QeLevelNotReached"),
    ],
)
def test_another_quoting_enclave(given: Given, at: int, value: bytes, error: str) -> None:
    with given.chain.refused(error):
        given.verify(resigned("tdx-v4", qe={at: value}))


@pytest.mark.parametrize(("at", "value"), [(48, b"\x11"), (56, b"\xff"), (63, b"\xff")])
def test_attributes_outside_the_mask_are_free(given: Given, at: int, value: bytes) -> None:
    assert given.verify(resigned("tdx-v4", qe={at: value}))[1] == 1


def test_miscselect_outside_the_mask_is_free(given: Given) -> None:
    given.identity("tdx", packed_qe_identity(identity("tdx") | {"miscselectMask": "FFFFFF00"}))
    assert given.verify(resigned("tdx-v4", qe={19: b"\x01"}))[1] == 1
    with given.chain.refused("QeMiscSelectMismatch"):
        given.verify(resigned("tdx-v4", qe={16: b"\x01"}))


def test_qe_svn_is_little_endian(given: Given) -> None:
    assert given.verify(resigned("tdx-v4", qe={258: b"\x00\x01"}))[1] == 1


@pytest.mark.parametrize("kind", ["sgx-v3", "tdx-v4"])
def test_sgx_and_tdx_quoting_enclaves_are_not_exchanged(given: Given, kind: str) -> None:
    tee = attested.tee_of(kind)
    other = "sgx" if tee == "tdx" else "tdx"
    given.identity(tee, packed_qe_identity(identity(other)))
    with given.chain.refused("QeProductMismatch"):
        given.verify(compact(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_revoked_quoting_enclave(given: Given, kind: str) -> None:
    tee = attested.tee_of(kind)
    revoked = identity(tee, qe_standing=Standing("Revoked"))
    given.identity(tee, packed_qe_identity(revoked))
    with given.chain.refused("QeRevoked"):
        given.verify(compact(kind))


@pytest.mark.parametrize("status", [1, 3, 7, 255])
def test_status_that_intel_gives_no_qe(given: Given, status: int) -> None:
    packed = packed_qe_identity(identity("tdx"))
    given.identity("tdx", packed[:-1] + bytes([status]))
    with given.chain.refused("TcbStatusUnexpected"):
        given.verify(compact("tdx-v4"))


def test_qe_identity_cut_or_prolonged(given: Given) -> None:
    packed = packed_qe_identity(identity("tdx"))
    for wrong in (packed[:-1], packed + b"\0", packed[:74] + b"\x02" + packed[75:], packed[:60]):
        given.identity("tdx", wrong)
        with pytest.raises(AssertionError):
            given.verify(compact("tdx-v4"))


# --- TCB --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_revoked_tcb(given: Given, kind: str) -> None:
    tee = attested.tee_of(kind)
    given.info(tee, packed_tcb_info(info(tee, tcb_standing=Standing("Revoked"))), FMSPC)
    with given.chain.refused("TcbRevoked"):
        given.verify(compact(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_pceid_mismatch(given: Given, kind: str) -> None:
    tee = attested.tee_of(kind)
    given.info(tee, packed_tcb_info(info(tee, tcb_info_pceid=b"\x00\x01")), FMSPC)
    with given.chain.refused("PceidMismatch"):
        given.verify(compact(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_tcb_info_of_another_family(given: Given, kind: str) -> None:
    """What the store has for other families does not count: its own error, by lookup."""
    leaf = prove(attested.quote("tdx-v4"), attested.collateral("tdx")).leaf
    other = replace(leaf.tcb, fmspc=attested.flip(leaf.tcb.fmspc, 0))
    given.platform(replace(leaf, tcb=other))
    with given.chain.refused("NothingGiven"):
        given.verify(compact(kind))


def raised(tee: str, component: str, index: int) -> dict[str, Any]:
    """The TCB info with one number of every level out of the platform's reach."""
    document = info(tee)
    for level in document["tcbLevels"]:
        level["tcb"][component][index]["svn"] = 255
    return document


@pytest.mark.parametrize("kind", ["sgx-v3", "tdx-v4"])
@pytest.mark.parametrize("index", range(16))
def test_every_sgx_component_counts(given: Given, kind: str, index: int) -> None:
    tee = attested.tee_of(kind)
    given.info(tee, packed_tcb_info(raised(tee, "sgxtcbcomponents", index)), FMSPC)
    if attested.platform().cpu_svn[index] == 255:
        assert given.verify(compact(kind))[1] == 1
    else:
        with given.chain.refused("TcbLevelNotReached"):
            given.verify(compact(kind))


@pytest.mark.parametrize("index", range(16))
def test_every_tdx_component_counts_but_the_modules(given: Given, index: int) -> None:
    """With a module version, the first two are the module's and judged by its own levels."""
    given.info("tdx", packed_tcb_info(raised("tdx", "tdxtcbcomponents", index)), FMSPC)
    if index < 2:
        assert given.verify(compact("tdx-v4"))[1] == 1
    else:
        with given.chain.refused("TcbLevelNotReached"):
            given.verify(compact("tdx-v4"))
    old = attested.quote("tdx-v4", tee_tcb_svn=bytes([7, 0, 6]) + bytes(13))
    with given.chain.refused("TcbLevelNotReached"):
        given.verify(compact_quote(old))


def test_pcesvn_counts(given: Given) -> None:
    document = info("tdx")
    for level in document["tcbLevels"]:
        level["tcb"]["pcesvn"] = 14
    given.info("tdx", packed_tcb_info(document), FMSPC)
    with given.chain.refused("TcbLevelNotReached"):
        given.verify(compact("tdx-v4"))


def test_tdx_module_skipped(given: Given) -> None:
    """A TCB info without identities vouches for no module that has a version."""
    given.info("tdx", packed_tcb_info(info("tdx") | {"tdxModuleIdentities": []}), FMSPC)
    with given.chain.refused("TdxModuleUnknown"):
        given.verify(compact("tdx-v4"))


@pytest.mark.parametrize("version", [2, 3, 255])
def test_unknown_tdx_module(given: Given, version: int) -> None:
    quote = attested.quote("tdx-v4", tee_tcb_svn=bytes([7, version, 6]) + bytes(13))
    with given.chain.refused("TdxModuleUnknown"):
        given.verify(compact_quote(quote))


def test_old_tdx_module(given: Given) -> None:
    quote = attested.quote("tdx-v4", tee_tcb_svn=bytes([6, 1, 6]) + bytes(13))
    with given.chain.refused("TdxModuleLevelNotReached"):
        given.verify(compact_quote(quote))


def test_module_without_version_has_no_levels_of_its_own(given: Given) -> None:
    quote = attested.quote("tdx-v4", tee_tcb_svn=bytes([0, 0, 6]) + bytes(13))
    assert given.verify(compact_quote(quote))[1] == 1


@pytest.mark.parametrize("kind", TDX_KINDS)
def test_revoked_tdx_module(given: Given, kind: str) -> None:
    revoked = info("tdx", tdx_module_standing=Standing("Revoked"))
    given.info("tdx", packed_tcb_info(revoked), FMSPC)
    with given.chain.refused("TdxModuleRevoked"):
        given.verify(compact(kind))


@pytest.mark.parametrize("status", ["SWHardeningNeeded", "ConfigurationNeeded"])
def test_status_that_intel_gives_no_module(given: Given, status: str) -> None:
    odd = info("tdx", tdx_module_standing=Standing(status))
    given.info("tdx", packed_tcb_info(odd), FMSPC)
    with given.chain.refused("TcbStatusUnexpected"):
        given.verify(compact("tdx-v4"))


@pytest.mark.parametrize("status", [7, 255])
def test_status_that_does_not_exist(given: Given, status: int) -> None:
    document = info("sgx") | {"tcbLevels": info("sgx")["tcbLevels"][:1]}
    packed = packed_tcb_info(document)
    given.info("sgx", packed[:-1] + bytes([status]), FMSPC)
    with given.chain.refused("TcbStatusUnexpected"):
        given.verify(compact("sgx-v3"))


def two_modules() -> dict[str, Any]:
    """Identities of versions 3, 1 (out of date below 9) and 1 again, which must not count."""
    document = info("tdx")
    known = document["tdxModuleIdentities"][0]
    levels = [{**known["tcbLevels"][0], "tcb": {"isvsvn": 9}}, known["tcbLevels"][0]]
    levels[1] = {**levels[1], "tcbStatus": "OutOfDate"}
    healthy = {**known, "tcbLevels": [known["tcbLevels"][0]]}
    document["tdxModuleIdentities"] = [
        {**known, "id": "TDX_03"},
        {**known, "tcbLevels": levels},
        healthy,
    ]
    return document


def test_first_identity_of_a_version_counts(given: Given) -> None:
    given.info("tdx", packed_tcb_info(two_modules()), FMSPC)
    assert given.verify(compact("tdx-v4"))[1] == 1 << 4 | 1


def test_current_tcb_of_a_td_that_outlived_an_update(given: Given) -> None:
    """TDX 1.5 states the TCB at launch and now: both must do, and both statuses are told."""
    given.info("tdx", packed_tcb_info(two_modules()), FMSPC)
    for current, statuses in (([7, 1, 6], 1 << 4 | 1), ([9, 1, 6], 1 << 4 | 1), ([7, 3, 6], 17)):
        quote = resigned("tdx-v5-td15", signed={54 + 584: bytes(current)})
        assert given.verify(quote)[1] == statuses
    launched = resigned("tdx-v5-td15", signed={54: bytes([9, 1, 6])})
    assert given.verify(launched)[1] == 1 << 4 | 1


@pytest.mark.parametrize(
    ("current", "error"),
    [
        ([7, 2, 6], "TdxModuleUnknown"),
        ([6, 1, 6], "TdxModuleLevelNotReached"),
        ([7, 1, 5], "TcbLevelNotReached"),
    ],
)
def test_current_tcb_is_judged(given: Given, current: list[int], error: str) -> None:
    with given.chain.refused(error):
        given.verify(resigned("tdx-v5-td15", signed={54 + 584: bytes(current)}))


def test_first_level_reached_counts(given: Given) -> None:
    """A better level that the platform does not reach gives nothing away to the next."""
    document = info("sgx", tcb_standing=Standing("OutOfDate"))
    assert [v["tcbStatus"] for v in document["tcbLevels"]] == ["UpToDate", "OutOfDate", "OutOfDate"]
    given.info("sgx", packed_tcb_info(document), FMSPC)
    assert given.verify(compact("sgx-v3"))[1] == 1 << 4 | 1


def test_no_levels_at_all(given: Given) -> None:
    given.info("sgx", packed_tcb_info(info("sgx") | {"tcbLevels": []}), FMSPC)
    with given.chain.refused("TcbLevelNotReached"):
        given.verify(compact("sgx-v3"))


@pytest.mark.parametrize("kind", ["sgx-v3", "tdx-v4"])
def test_packed_tcb_info_cut_or_prolonged(given: Given, kind: str) -> None:
    tee = attested.tee_of(kind)
    packed = packed_tcb_info(info(tee))
    more_levels = packed[:3] + bytes([packed[3] + 1]) + packed[4:]
    more_modules = packed[:2] + bytes([packed[2] + 1]) + packed[3:]
    for wrong in (packed[:-1], packed + b"\0", more_levels, more_modules, packed[:3], b"\0\0"):
        given.info(tee, wrong, FMSPC)
        with given.chain.refused("LevelsMalformed"):
            given.verify(compact(kind))


def test_nothing_is_judged_of_the_body_but_what_is_said(given: Given) -> None:
    quote = attested.quote("tdx-v4", mr_td=b"\xaa" * 48, rt_mr3=b"\xbb" * 48, xfam=b"\xff" * 8)
    body = parse_quote(quote).body
    assert isinstance(body, TdReport10)
    assert body.xfam == b"\xff" * 8
    assert given.verify(compact_quote(quote))[1] == 1
