"""Identities of quoting enclaves on a chain: as Intel signed them, or not at all."""

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
    qe_identities,
    qe_identity_bytes,
    real_collateral,
    signer,
)

from attestation.errors import MalformedEvidence
from attestation.issuers.simulator.tcb import Standing as Simulated
from attestation.onchain.errors import NotProvable
from attestation.onchain.levels import STATUSES, Standing
from attestation.onchain.qe import QeIdentity

NOW = attested.NOW
DAY = 86_400
REAL = real_collateral()
NO_VECTORS = pytest.mark.skipif(not REAL, reason="no collateral where ADYTON_VECTORS points")
QE = QeIdentity(
    tdx=True,
    lower=False,
    issue_date=NOW - DAY,
    next_update=NOW + 29 * DAY,
    evaluation_number=20,
    miscselect=bytes(4),
    miscselect_mask=b"\xff" * 4,
    attributes=b"\x11" + bytes(15),
    attributes_mask=bytes.fromhex("fbffffffffffffff") + bytes(8),
    mrsigner=bytes(range(0xA0, 0xC0)),
    isvprodid=2,
    levels=(
        (8, Standing(0, "20240313", ())),
        (6, Standing(4, "20210101", ("INTEL-SA-00615",))),
        (256, Standing(6, "20200101", ("INTEL-SA-00477", "INTEL-SA-00615"))),
    ),
)
HEADER = 86


@pytest.fixture(scope="module")
def deployed() -> Iterator[Store]:
    with Chain(timestamp=NOW - 3600) as chain:
        yield Store.deploy(chain)


@pytest.fixture
def store(deployed: Store) -> Iterator[Store]:
    with deployed.chain.undone():
        deployed.chain.at(NOW)
        yield deployed


def standing(store: Store, tdx: bool = True) -> tuple[int, int, int, bool, bytes]:
    """issueDate, expiry, evaluation number, whether it counts, content."""
    found: tuple[int, int, int, bool, bytes] = store.ask("qeIdentityOf", tdx)
    return found


# --- accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
@pytest.mark.parametrize("status", STATUSES)
def test_the_simulators_identity_is_stored_as_signed(store: Store, tee: str, status: str) -> None:
    of = attested.platform(qe_standing=Simulated(status, ("INTEL-SA-00615",)))
    collateral = attested.collateral(tee, of)
    text, signature = collateral.qe_identity, collateral.qe_identity_signature
    identity = QeIdentity.parse(text)
    key = signer(collateral.qe_identity_issuer_chain)
    made = store.submit_signed("updateQeIdentity", identity.write(), signature, key)
    assert made["gas"] <= 150_000
    packed = qe_identity_bytes(text)
    stored = (identity.issue_date, identity.next_update, identity.evaluation_number)
    assert standing(store, tee == "tdx") == (*stored, True, packed)
    assert store.ask("qeIdentity", tee == "tdx") == (packed, *stored[1:])


@given(qe_identities())
@settings(max_examples=40)
def test_the_contract_rebuilds_every_text_to_the_byte(deployed: Store, qe: QeIdentity) -> None:
    text = qe.text()
    assert deployed.rebuilt(qe) == (text, qe_identity_bytes(text))


@NO_VECTORS
@pytest.mark.parametrize("name", REAL)
def test_real_identities_are_stored_as_intel_signed_them(name: str) -> None:
    text, signature = REAL[name].qe_identity, REAL[name].qe_identity_signature
    identity = QeIdentity.parse(text)
    with Chain(timestamp=identity.issue_date) as chain:
        store = Store.deploy(chain)
        key = signer(REAL[name].qe_identity_issuer_chain)
        store.trust(*key)
        made = store.submit_signed("updateQeIdentity", identity.write(), signature, key)
        assert made["gas"] <= 150_000
        found = store.ask("qeIdentity", identity.tdx)
        assert found == (
            qe_identity_bytes(text),
            identity.next_update,
            identity.evaluation_number,
        )


# --- refused: not what was signed ---------------------------------------------------------


def refuse_every_flip(store: Store, data: str, compact: bytes) -> None:
    """No change of the compact bytes is taken by the contract, asked directly."""
    at = data.index(compact.hex())
    for i, byte in enumerate(compact):
        for mask in (0x01, 0x80, 0xFF):
            changed = data[: at + 2 * i] + f"{byte ^ mask:02x}" + data[at + 2 * i + 2 :]
            with pytest.raises(Refused) as refused:
                store.chain.rpc("eth_call", {"to": store.contract.address, "data": changed})
            assert not refused.value.name.startswith("0x"), f"byte {i}: {refused.value}"


def test_every_changed_byte_is_refused(store: Store) -> None:
    refuse_every_flip(store, store.contract.data(*store.arguments(QE)), QE.write())


@NO_VECTORS
def test_every_changed_byte_of_a_real_identity_is_refused() -> None:
    collateral = REAL[min(REAL)]
    identity = QeIdentity.parse(collateral.qe_identity)
    with Chain(timestamp=identity.issue_date + 60) as chain:
        store = Store.deploy(chain)
        key = signer(collateral.qe_identity_issuer_chain)
        store.trust(*key)
        signature = halves(collateral.qe_identity_signature)
        compact = identity.write()
        data = store.contract.data("updateQeIdentity", compact, *signature, *key)
        refuse_every_flip(store, data, compact)


def test_a_text_signed_by_someone_else_is_refused(store: Store) -> None:
    with store.chain.refused("CollateralNotSigned"):
        store.submit(QE, by=STRANGER)
    with store.chain.refused("SignerNotTrusted"):
        store.submit(QE, by=STRANGER, key=STRANGER)


def test_another_texts_signature_is_refused(store: Store) -> None:
    with store.chain.refused("CollateralNotSigned"):
        store.submit(QE, text=replace(QE, isvprodid=3).text())
    with store.chain.refused("CollateralNotSigned"):
        store.submit(QE, text=attested.collateral("tdx").tcb_info)


def test_the_identity_of_one_enclave_is_never_the_others(store: Store) -> None:
    store.submit(replace(QE, tdx=False))
    with store.chain.refused("QeIdentityMissing"):
        store.ask("qeIdentity", True)
    with store.chain.refused("CollateralNotSigned"):
        store.submit(QE, text=replace(QE, tdx=False).text())
    # Intel's key signs a third identity, of the enclave that verifies quotes.
    with store.chain.refused("CollateralNotSigned"):
        store.submit(QE, text=QE.text().replace("TD_QE", "QVE"))


# --- refused: when ------------------------------------------------------------------------


def test_an_expired_identity_is_refused_and_no_longer_counts(store: Store) -> None:
    store.submit(QE)
    store.chain.at(QE.next_update)
    assert store.ask("qeIdentity", True)[1] == QE.next_update
    with store.chain.refused("CollateralOutOfTime"):
        store.submit(QE)
    store.chain.at(QE.next_update + 1)
    with store.chain.refused("QeIdentityExpired"):
        store.ask("qeIdentity", True)
    assert standing(store)[3] is False


def test_an_identity_from_the_future_is_refused(store: Store) -> None:
    with store.chain.refused("CollateralNotYetIssued"):
        store.submit(replace(QE, issue_date=NOW + DAY))


def test_an_identity_rolled_back_is_refused(store: Store) -> None:
    store.submit(QE)
    with store.chain.refused("CollateralOlderThanStored"):
        store.submit(replace(QE, issue_date=QE.issue_date - 1))
    with store.chain.refused("CollateralEvaluationOlderThanStored"):
        store.submit(replace(QE, evaluation_number=19))
    assert standing(store)[:3] == (QE.issue_date, QE.next_update, 20)


def test_an_evaluation_below_the_stores_minimum_is_refused(store: Store) -> None:
    with store.chain.refused("TcbEvaluationBelowMinimum"):
        store.submit(replace(QE, evaluation_number=9))


def test_an_identity_ends_with_the_chain_of_its_signer(store: Store) -> None:
    store.trust(*point(KEY), NOW + DAY)
    store.submit(QE)
    assert standing(store)[1] == NOW + DAY


def test_an_identity_nobody_submitted_is_missing(store: Store) -> None:
    with store.chain.refused("QeIdentityMissing"):
        store.ask("qeIdentity", True)
    assert standing(store) == (0, 0, 0, False, b"")


def test_a_revocation_ends_what_was_stored_until_it_is_submitted_again(store: Store) -> None:
    store.submit(QE)
    store.chain.send(store.contract, "setGeneration", 2)
    with store.chain.refused("QeIdentityOfEarlierGeneration"):
        store.ask("qeIdentity", True)
    assert standing(store)[3] is False
    store.submit(QE)
    assert store.ask("qeIdentity", True)[0] == QE.packed()


# --- refused: not a compact form ----------------------------------------------------------


def patched(compact: bytes, at: int, new: bytes) -> bytes:
    return compact[:at] + new + compact[at + len(new) :]


def test_every_cut_and_every_byte_more_is_refused(store: Store) -> None:
    compact = QE.write()
    for end in range(len(compact)):
        with pytest.raises(Refused) as refused:
            store.chain.call(store.contract, *store.arguments(QE, compact=compact[:end]))
        assert not refused.value.name.startswith("0x")
    with store.chain.refused("CompactGoesOn"):
        store.submit(QE, compact=compact + b"\0")


def test_what_stands_beside_the_slice_is_not_read(store: Store) -> None:
    """The declared length ends early, the calldata after it goes on with what is missing."""
    data = bytes.fromhex(store.contract.data(*store.arguments(QE))[2:])
    length = len(QE.write())
    at = data.index(length.to_bytes(32, "big"))
    for short in (1, 2, 3, length - HEADER, length - HEADER + 1, length):
        changed = patched(data, at, (length - short).to_bytes(32, "big"))
        with store.chain.refused("CompactEndsEarly"):
            store.chain.transact(store.contract.address, "0x" + changed.hex())


def test_what_a_compact_form_may_not_say_is_refused(store: Store) -> None:
    compact = QE.write()
    level = compact.rindex(b"\x00\x08\x00")
    for at, new, error in (
        (0, b"\4", "CompactFormUnknown"),
        (HEADER - 1, b"\0", "TcbLevelsMissing"),
        (HEADER + 2, b'"', "CompactStringUnfit"),
        (HEADER + 2, b"\\", "CompactStringUnfit"),
        (level + 2, b"\7", "TcbStatusUnknown"),
        (compact.index(b"\1\0\0\0", level), b"\1\0\0\xff", "CompactStringUnknown"),
        (compact.index(b"\1\0\x0f", level), b"\1\0\x0e", "CompactAdvisoriesCut"),
    ):
        with store.chain.refused(error):
            store.submit(QE, compact=patched(compact, at, new))


def test_an_identity_without_levels_is_refused(store: Store) -> None:
    with store.chain.refused("TcbLevelsMissing"):
        store.submit(replace(QE, levels=()))


# --- what the encoder says first ----------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"version":2', '"version":1', "qe_identity.version"),
        ('"TD_QE"', '"QVE"', "qe_identity.id"),
        ("UpToDate", "Splendid", "qe_identity.tcbLevels[0].tcbStatus"),
        ('"isvsvn":8', '"isvsvn":65536', "qe_identity.tcbLevels[0].tcb.isvsvn"),
        ('"isvprodid":2', '"isvprodid":2.0', "qe_identity.isvprodid"),
        ('"miscselect":"00', '"miscselect":"', "qe_identity.miscselect"),
        ("A0A1", "a0A1", "qe_identity."),
        (',"tcbLevels"', ',"more":0,"tcbLevels"', "qe_identity.more"),
        ('"isvprodid":2,', '"isvprodid":2, ', "qe_identity.isvprodid"),
        ("INTEL-SA-00615", "INTÉL-SA-00615", "advisoryIDs[0]"),
    ],
)
def test_the_encoder_names_what_cannot_be_proved(old: str, new: str, field: str) -> None:
    assert old in QE.text()
    with pytest.raises(NotProvable) as refused:
        QeIdentity.parse(QE.text().replace(old, new))
    assert field in refused.value.field


def test_what_is_no_document_is_malformed() -> None:
    for text in ("", "[]", '{"id":'):
        with pytest.raises(MalformedEvidence):
            QeIdentity.parse(text)
