"""TCB infos on a chain: what Intel signed is stored, as it was signed, or nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import attested
import pytest
from chain import Chain, Refused
from hypothesis import given, settings
from signed_texts import (
    KEY,
    STRANGER,
    Store,
    halves,
    point,
    real_collateral,
    signer,
    tcb_info_bytes,
    tcb_infos,
)

from attestation.errors import MalformedEvidence
from attestation.issuers.simulator.tcb import Standing as Simulated
from attestation.onchain.errors import NotProvable
from attestation.onchain.levels import STATUSES, Standing
from attestation.onchain.tcb import Level, Module, TcbInfo

NOW = attested.NOW
DAY = 86_400
REAL = {name: c for name, c in real_collateral().items() if c.tcb_info.startswith('{"id":')}
NO_VECTORS = pytest.mark.skipif(not REAL, reason="no collateral where ADYTON_VECTORS points")
BEST = Standing(0, "20260101", ())
OLD = Standing(4, "20250101", ("INTEL-SA-01036", "INTEL-SA-01099"))
OLDER = Standing(4, "20240101", ("INTEL-SA-00837", "INTEL-SA-01036", "INTEL-SA-01099"))
SVNS = bytes([8, 10, 3, 255]) + bytes(12)
INFO = TcbInfo(
    tdx=True,
    lower=False,
    issue_date=NOW - DAY,
    next_update=NOW + 29 * DAY,
    fmspc=bytes.fromhex("b0c06f000000"),
    evaluation_number=20,
    pceid=bytes(2),
    labels=(("BIOS", "Early Microcode Update"), ("OS/VMM", None)) + ((None, None),) * 30,
    modules=(Module(3, ((5, BEST), (3, OLD))), Module(1, ((11, BEST), (6, OLDER)))),
    levels=(
        Level(SVNS, SVNS, 13, BEST),
        Level(SVNS, bytes(16), 11, OLD),
        Level(bytes(16), bytes(16), 5, OLDER),
    ),
)
"""Everything a TCB info can have: labels, modules, advisories in lists that share an end."""
SGX = replace(INFO, tdx=False, labels=INFO.labels[:16], modules=())
SGX = replace(SGX, levels=tuple(replace(level, tdx=b"") for level in INFO.levels))


@pytest.fixture(scope="module")
def deployed() -> Iterator[Store]:
    with Chain(timestamp=NOW - 3600) as chain:
        yield Store.deploy(chain)


@pytest.fixture
def store(deployed: Store) -> Iterator[Store]:
    with deployed.chain.undone():
        deployed.chain.at(NOW)
        yield deployed


def family(info: TcbInfo) -> tuple[bytes, bool]:
    return info.fmspc, info.tdx


def standing(store: Store, info: TcbInfo) -> tuple[int, int, int, bool, bytes]:
    """issueDate, expiry, evaluation number, whether it counts, content."""
    found: tuple[int, int, int, bool, bytes] = store.ask("tcbInfoOf", *family(info))
    return found


# --- accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_the_simulators_tcb_info_is_stored_as_signed(store: Store, tee: str) -> None:
    collateral = attested.collateral(tee)
    info = TcbInfo.parse(collateral.tcb_info)
    key = signer(collateral.tcb_info_issuer_chain)
    made = store.submit_signed("updateTcbInfo", info.write(), collateral.tcb_info_signature, key)
    assert made["gas"] <= 300_000
    packed = tcb_info_bytes(collateral.tcb_info)
    stored = (info.issue_date, info.next_update, info.evaluation_number)
    assert standing(store, info) == (*stored, True, packed)
    assert store.ask("tcbInfo", *family(info)) == (packed, *stored[1:])


@pytest.mark.parametrize("status", STATUSES)
def test_levels_of_every_status_are_stored_with_it(store: Store, status: str) -> None:
    worst = Simulated(status, ("INTEL-SA-00219", "INTEL-SA-00334"))
    of = attested.platform(tcb_standing=worst, tdx_module_standing=worst)
    collateral = attested.collateral("tdx", of)
    info = TcbInfo.parse(collateral.tcb_info)
    store.submit(info)
    assert standing(store, info)[-1] == tcb_info_bytes(collateral.tcb_info)
    assert STATUSES.index(status) in [level.standing.status for level in info.levels]


@pytest.mark.parametrize("info", [INFO, SGX], ids=["tdx", "sgx"])
def test_levels_keep_their_order_and_labels_cost_nothing(store: Store, info: TcbInfo) -> None:
    store.submit(info)
    bare = replace(info, labels=((None, None),) * len(info.labels))
    first = standing(store, info)
    store.submit(bare)
    assert standing(store, info) == first
    assert first[-1] == tcb_info_bytes(info.text())


@given(tcb_infos())
@settings(max_examples=40)
def test_the_contract_rebuilds_every_text_to_the_byte(deployed: Store, info: TcbInfo) -> None:
    text = info.text()
    assert deployed.rebuilt(info) == (text, tcb_info_bytes(text))


@NO_VECTORS
@pytest.mark.parametrize("name", REAL)
def test_real_tcb_infos_are_stored_as_intel_signed_them(name: str) -> None:
    collateral = REAL[name]
    info = TcbInfo.parse(collateral.tcb_info)
    with Chain(timestamp=info.issue_date) as chain:
        store = Store.deploy(chain)
        key = signer(collateral.tcb_info_issuer_chain)
        store.trust(*key)
        signature = collateral.tcb_info_signature
        made = store.submit_signed("updateTcbInfo", info.write(), signature, key)
        assert made["gas"] <= 300_000
        packed = tcb_info_bytes(collateral.tcb_info)
        found = store.ask("tcbInfo", *family(info))
        assert found == (packed, info.next_update, info.evaluation_number)


# --- refused: not what was signed ---------------------------------------------------------


def refuse_every_flip(store: Store, data: str, compact: bytes, masks: tuple[int, ...]) -> None:
    """No change of the compact bytes is taken by the contract, asked directly."""
    at = data.index(compact.hex())
    for i, byte in enumerate(compact):
        for mask in masks:
            changed = data[: at + 2 * i] + f"{byte ^ mask:02x}" + data[at + 2 * i + 2 :]
            with pytest.raises(Refused) as refused:
                store.chain.rpc("eth_call", {"to": store.contract.address, "data": changed})
            assert not refused.value.name.startswith("0x"), f"byte {i}: {refused.value}"


@pytest.mark.parametrize("info", [INFO, SGX], ids=["tdx", "sgx"])
def test_every_changed_byte_is_refused(store: Store, info: TcbInfo) -> None:
    data = store.contract.data(*store.arguments(info))
    refuse_every_flip(store, data, info.write(), (0x01, 0x80, 0xFF))


@NO_VECTORS
def test_every_changed_byte_of_a_real_tcb_info_is_refused() -> None:
    collateral = REAL[min(REAL)]
    info = TcbInfo.parse(collateral.tcb_info)
    with Chain(timestamp=info.issue_date + 60) as chain:
        store = Store.deploy(chain)
        key = signer(collateral.tcb_info_issuer_chain)
        store.trust(*key)
        signature = halves(collateral.tcb_info_signature)
        data = store.contract.data("updateTcbInfo", info.write(), *signature, *key)
        refuse_every_flip(store, data, info.write(), (0x01, 0x40))


def test_a_text_signed_by_someone_else_is_refused(store: Store) -> None:
    with store.chain.refused("CollateralNotSigned"):
        store.submit(INFO, by=STRANGER)
    with store.chain.refused("SignerNotTrusted"):
        store.submit(INFO, by=STRANGER, key=STRANGER)


def test_another_texts_signature_is_refused(store: Store) -> None:
    other = replace(INFO, evaluation_number=INFO.evaluation_number + 1)
    with store.chain.refused("CollateralNotSigned"):
        store.submit(INFO, text=other.text())


def test_zeros_for_a_signature_are_refused(store: Store) -> None:
    with store.chain.refused("CollateralNotSigned"):
        store.chain.send(store.contract, "updateTcbInfo", INFO.write(), 0, 0, *point(KEY))


def test_a_tcb_info_for_sgx_is_never_stored_for_tdx(store: Store) -> None:
    store.submit(SGX)
    with store.chain.refused("TcbInfoMissing"):
        store.ask("tcbInfo", SGX.fmspc, True)
    with store.chain.refused("CollateralNotSigned"):
        store.submit(INFO, text=SGX.text())


# --- refused: when ------------------------------------------------------------------------


def test_an_expired_tcb_info_is_refused(store: Store) -> None:
    store.chain.at(INFO.next_update)
    with store.chain.refused("CollateralOutOfTime"):
        store.submit(INFO)


def test_a_tcb_info_from_the_future_is_refused(store: Store) -> None:
    with store.chain.refused("CollateralNotYetIssued"):
        store.submit(replace(INFO, issue_date=NOW + DAY))


def test_a_tcb_info_rolled_back_to_an_earlier_date_is_refused(store: Store) -> None:
    store.submit(INFO)
    with store.chain.refused("CollateralOlderThanStored"):
        store.submit(replace(INFO, issue_date=INFO.issue_date - 1, evaluation_number=30))


def test_a_tcb_info_of_the_same_date_may_not_be_of_an_earlier_evaluation(store: Store) -> None:
    store.submit(INFO)
    store.submit(INFO)
    with store.chain.refused("CollateralEvaluationOlderThanStored"):
        store.submit(replace(INFO, evaluation_number=19))
    store.submit(replace(INFO, evaluation_number=21))
    assert standing(store, INFO)[2] == 21


def test_a_later_tcb_info_may_be_of_an_earlier_evaluation(store: Store) -> None:
    """Intel publishes standard and early evaluations side by side; policies have a minimum."""
    store.submit(INFO)
    store.submit(replace(INFO, issue_date=INFO.issue_date + 1, evaluation_number=19))
    assert standing(store, INFO)[:3] == (INFO.issue_date + 1, INFO.next_update, 19)


def test_an_evaluation_below_the_stores_minimum_is_refused(store: Store) -> None:
    assert store.ask("minTcbEvaluationDataNumber") == 10
    store.submit(replace(INFO, evaluation_number=10))
    with store.chain.refused("TcbEvaluationBelowMinimum"):
        store.submit(replace(INFO, evaluation_number=9, issue_date=INFO.issue_date + 1))


def test_an_expired_tcb_info_no_longer_counts(store: Store) -> None:
    store.submit(INFO)
    store.chain.at(INFO.next_update)
    assert store.ask("tcbInfo", *family(INFO))[1] == INFO.next_update
    store.chain.at(INFO.next_update + 1)
    with store.chain.refused("TcbInfoExpired"):
        store.ask("tcbInfo", *family(INFO))
    assert standing(store, INFO)[3] is False


def test_a_tcb_info_ends_with_the_chain_of_its_signer(store: Store) -> None:
    store.trust(*point(KEY), NOW + DAY)
    store.submit(INFO)
    assert standing(store, INFO)[1] == NOW + DAY
    store.chain.at(NOW + DAY + 1)
    with store.chain.refused("TcbInfoExpired"):
        store.ask("tcbInfo", *family(INFO))


def test_a_family_nobody_submitted_is_missing(store: Store) -> None:
    with store.chain.refused("TcbInfoMissing"):
        store.ask("tcbInfo", *family(INFO))
    assert standing(store, INFO) == (0, 0, 0, False, b"")


def test_a_revocation_ends_what_was_stored_until_it_is_submitted_again(store: Store) -> None:
    store.submit(INFO)
    store.chain.send(store.contract, "setGeneration", 2)
    with store.chain.refused("TcbInfoOfEarlierGeneration"):
        store.ask("tcbInfo", *family(INFO))
    assert standing(store, INFO)[3] is False
    with store.chain.refused("CollateralOlderThanStored"):
        store.submit(replace(INFO, issue_date=INFO.issue_date - 1))
    store.submit(INFO)
    assert store.ask("tcbInfo", *family(INFO))[0] == INFO.packed()


def test_a_generation_that_a_record_cannot_hold_is_refused(store: Store) -> None:
    store.chain.send(store.contract, "setGeneration", 65535)
    store.submit(INFO)
    store.chain.send(store.contract, "setGeneration", 65536)
    with store.chain.refused("TcbInfoOfEarlierGeneration"):
        store.ask("tcbInfo", *family(INFO))
    with store.chain.refused("GenerationUnrecordable"):
        store.submit(INFO)


# --- refused: not a compact form ----------------------------------------------------------

HEADER = 21
STRINGS = INFO.write()[HEADER:].index(b"INTEL") + HEADER - 2
"""Where the count of strings stands; the first string follows its length."""


def patched(compact: bytes, at: int, new: bytes) -> bytes:
    return compact[:at] + new + compact[at + len(new) :]


def first_string(new: bytes) -> bytes:
    """INFO with another first string, not as long perhaps."""
    compact = INFO.write()
    length = compact[STRINGS + 1]
    return compact[: STRINGS + 1] + bytes([len(new)]) + new + compact[STRINGS + 2 + length :]


@pytest.mark.parametrize(
    "string",
    [
        b'A"],"tcbStatus":"UpToDate',
        b"INTEL-SA-00001\\",
        b"INTEL\x1fSA",
        b"INTEL\x00SA",
        b"INTEL\x80SA",
        b"\xffINTEL",
        b"",
        b",",
        b"I" * 29,
        b"I" * 255,
    ],
)
def test_a_string_that_could_end_early_is_refused(store: Store, string: bytes) -> None:
    """A quote would let one text be read in two ways; so might what JSON escapes."""
    with store.chain.refused("CompactStringUnfit"):
        store.submit(INFO, compact=first_string(string))


def test_only_strings_and_labels_that_were_given_are_known(store: Store) -> None:
    one = replace(SGX, levels=(replace(SGX.levels[1]),))
    compact = one.write()
    assert compact[-2:] == b"\0\1"
    with store.chain.refused("CompactStringUnknown"):
        store.submit(one, compact=patched(compact, len(compact) - 1, b"\xff"))
    labels = compact.index(bytes([2, 3, 4, 5, 0, 1, 2, 0, 0]))
    with store.chain.refused("CompactStringUnknown"):
        store.submit(one, compact=patched(compact, labels + 1, b"\x06"))
    with store.chain.refused("CompactLabelUnknown"):
        store.submit(one, compact=patched(compact, labels + 5, b"\x03"))


@pytest.mark.parametrize("kept", [1, 2, 3, 14, 16, 18, 20, 31, 33, 65535])
def test_a_list_of_advisories_is_taken_again_from_a_string_on_only(store: Store, kept: int) -> None:
    levels = (SGX.levels[1], replace(SGX.levels[2], standing=replace(OLD, day="20230101")))
    info = replace(SGX, levels=levels)
    compact = info.write()
    at = compact.rindex(b"\x00\x20")  # all 32 bytes: INTEL-SA-01036","INTEL-SA-01099"
    assert at == len(compact) - 2
    with store.chain.refused("CompactAdvisoriesCut"):
        store.submit(info, compact=patched(compact, at, kept.to_bytes(2, "big")))


def test_no_list_is_taken_again_before_there_is_one(store: Store) -> None:
    info = replace(SGX, levels=(SGX.levels[0],))
    compact = info.write()
    with store.chain.refused("CompactAdvisoriesCut"):
        store.submit(info, compact=patched(compact, len(compact) - 2, b"\0\1"))


def test_every_cut_is_refused(store: Store) -> None:
    compact = INFO.write()
    for end in range(len(compact)):
        with pytest.raises(Refused) as refused:
            store.chain.call(store.contract, *store.arguments(INFO, compact=compact[:end]))
        assert not refused.value.name.startswith("0x")


def test_bytes_after_the_last_level_are_refused(store: Store) -> None:
    with store.chain.refused("CompactGoesOn"):
        store.submit(INFO, compact=INFO.write() + b"\0")


def test_what_stands_beside_the_slice_is_not_read(store: Store) -> None:
    """The declared length ends early, the calldata after it goes on with what is missing."""
    data = bytes.fromhex(store.contract.data(*store.arguments(INFO))[2:])
    length = len(INFO.write())
    at = data.index(length.to_bytes(32, "big"))
    for short in (1, 2, 40, length - HEADER, length):
        changed = patched(data, at, (length - short).to_bytes(32, "big"))
        with store.chain.refused("CompactEndsEarly"):
            store.chain.transact(store.contract.address, "0x" + changed.hex())


@pytest.mark.parametrize("form", [4, 5, 128, 255])
def test_a_form_without_meaning_is_refused(store: Store, form: int) -> None:
    with store.chain.refused("CompactFormUnknown"):
        store.submit(INFO, compact=patched(INFO.write(), 0, bytes([form])))


def test_modules_stand_in_tcb_infos_for_tdx_only(store: Store) -> None:
    with store.chain.refused("TdxModulesUnexpected"):
        store.submit(SGX, compact=patched(SGX.write(), 19, b"\1"))
    with store.chain.refused("TdxModulesUnexpected"):
        store.submit(INFO, compact=patched(INFO.write(), 19, b"\0"))


def test_lists_without_a_level_are_refused(store: Store) -> None:
    for info in (replace(SGX, levels=()), replace(INFO, modules=(Module(3, ()),))):
        with store.chain.refused("TcbLevelsMissing"):
            store.submit(info)


@pytest.mark.parametrize("status", [7, 255])
def test_a_status_without_a_name_is_refused(store: Store, status: int) -> None:
    compact = SGX.write()
    first = compact.index(SGX.levels[0].sgx + b"\0\x0d")
    with store.chain.refused("TcbStatusUnknown"):
        store.submit(SGX, compact=patched(compact, first + 18, bytes([status])))


# --- one text, one content ----------------------------------------------------------------


def other_forms(info: TcbInfo) -> Iterator[bytes]:
    """Compact forms that are not the encoder's and say the same."""
    yield info.write()
    compact = info.write()
    # A string nobody names, at the end of the table.
    count, at = compact[STRINGS], STRINGS + 1
    for _ in range(count):
        at += 1 + compact[at]
    yield (
        compact[:STRINGS] + bytes([count + 1]) + compact[STRINGS + 1 : at] + b"\2xx" + compact[at:]
    )
    # The list of advisories written out, not taken from the one before: 2, 1, 0 are its strings.
    last = compact.rindex(b"\1\0\x20")
    again = compact[last + 3 :]
    strings = bytes([again[0], 0, 1])
    yield compact[:last] + b"\3\0\0" + strings + compact[last + 4 :]


def test_all_compact_forms_of_a_text_store_the_same(store: Store) -> None:
    found = set()
    forms = list(other_forms(INFO))
    assert len(set(forms)) == 3
    for compact in forms:
        store.submit(INFO, compact=compact)
        found.add(standing(store, INFO))
    assert len(found) == 1


def test_case_without_letters_makes_no_difference(store: Store) -> None:
    info = replace(INFO, fmspc=bytes.fromhex("001122334455"))
    store.submit(info)
    first = standing(store, info)
    store.submit(info, compact=patched(info.write(), 0, b"\3"))
    assert standing(store, info) == first


# --- what the encoder says first ----------------------------------------------------------

TEXT = INFO.text()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"version":3', '"version":2', "tcb_info.version"),
        ('"version":3', '"version":3.0', "tcb_info.version"),
        ('"id":"TDX",', '"id":"TDY",', "tcb_info.id"),
        ('"tcbType":0', '"tcbType":1', "tcb_info.tcbType"),
        ('"tcbType":0', '"tcbType":false', "tcb_info.tcbType"),
        ("UpToDate", "Splendid", "Identities[0].tcbLevels[0].tcbStatus"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "Identities[0].tcbLevels[0].tcbDate"),
        ('"mrsigner":"0', '"mrsigner":"1', "tcb_info.tdxModule.mrsigner"),
        ('"attributesMask":"F', '"attributesMask":"E', "tcb_info.tdxModule.attributesMask"),
        ('TDX_03","mrsigner":"0', 'TDX_03","mrsigner":"1', "tdxModuleIdentities[0].mrsigner"),
        ("TDX_03", "TDX_3", "tdxModuleIdentities[0].id"),
        ('"pcesvn":13', '"pcesvn":65536', "tcbLevels[0].tcb.pcesvn"),
        ('"pcesvn":13', '"pcesvn":"13"', "tcbLevels[0].tcb.pcesvn"),
        ('"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":-1', "DataNumber"),
        ("OS/VMM", "OS\\\\VMM", "category"),
        ("BIOS", "Basic input and output systems", "category"),
        (',"tcbLevels"', ', "tcbLevels"', "attributesMask"),
        ('"pceId":"0000"', '"pceId":"0000","more":1', "more"),
        ('"tcbType":0,', "", "tcb_info.tcbType"),
        ("B0C06F", "b0C06F", "fmspc"),
        ("INTEL-SA-00837", "I", "advisoryIDs[0]"),
    ],
)
def test_the_encoder_names_what_cannot_be_proved(old: str, new: str, field: str) -> None:
    assert old in TEXT
    with pytest.raises(NotProvable) as refused:
        TcbInfo.parse(TEXT.replace(old, new))
    assert field in refused.value.field


def test_labels_that_differ_between_levels_cannot_be_proved() -> None:
    text = TEXT[::-1].replace(',"category":"BIOS"'[::-1], "", 1)[::-1]
    with pytest.raises(NotProvable, match="tcb_info"):
        TcbInfo.parse(text)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id":1,"id":1}', "[" * 5000])
def test_what_is_no_document_is_malformed(text: str) -> None:
    with pytest.raises(MalformedEvidence):
        TcbInfo.parse(text)


def test_nothing_else_that_the_key_signs_is_a_tcb_info(store: Store) -> None:
    identity = attested.collateral("tdx").qe_identity
    with store.chain.refused("CollateralNotSigned"):
        store.submit(INFO, text=identity)
    with pytest.raises(NotProvable, match="version"):
        TcbInfo.parse(identity)
