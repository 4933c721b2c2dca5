"""Registering nodes: what a proof must be bound to, and how long a record counts.

The quotes are the simulator's; a stand-in takes them for genuine, since verifying them is the
quote verifier's business and has its own tests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import attested
import pytest
from chain import Chain, Contract, Refused
from hypothesis import example, given
from hypothesis import strategies as st
from registering import (
    KEY,
    KINDS,
    MONTH,
    RECEIPT,
    SIGNER,
    ZERO,
    World,
    keyset,
    new_world,
)

from attestation.canonical import jcs
from attestation.keyset import KeyEntry, TlsKey
from attestation.onchain.quote import compact_quote
from attestation.onchain.registration import KeysetHints, Registration
from attestation.statement import report_data

MANY = tuple(KeyEntry(f"k{i}", "ed25519", f"{i:064x}") for i in range(9))
HISTORY = "0x0000F90827F1C53a10cb7A02335B175320002935"


@pytest.fixture(scope="module")
def deployed() -> Iterator[World]:
    with Chain(timestamp=attested.NOW) as chain:
        yield new_world(chain)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    with deployed.chain.undone():
        yield deployed


@pytest.fixture(scope="module")
def libraries(deployed: World) -> Contract:
    return deployed.chain.deploy("RegistryLibraries")


def test_the_registry_must_have_a_verifier(world: World) -> None:
    with world.chain.refused("QuoteVerifierMissing"):
        world.chain.deploy("NodeRegistry", ZERO)
    with world.chain.refused("QuoteVerifierMissing"):
        world.chain.deploy("NodeRegistry", world.chain.account)


@pytest.mark.parametrize("kind", KINDS)
def test_a_genuine_node_is_recorded_until_its_first_end(world: World, kind: str) -> None:
    made = world.registration(kind=kind)
    world.register(made)
    assert world.node() == (world.time, world.time, made.not_after)


def test_the_first_end_may_be_the_collaterals(world: World) -> None:
    world.register(world.registration(expiry=attested.NOW + 5000))
    assert world.node()[2] == attested.NOW + 5000


def test_the_event_tells_an_indexer_what_was_recorded(world: World) -> None:
    made = world.registration()
    log = world.register(made)["logs"][-1]
    assert log["topics"][1:] == [
        "0x" + SIGNER[2:].rjust(64, "0"),
        "0x" + world.anything.address[2:].lower().rjust(64, "0"),
        "0x" + hashlib.sha256(made.keyset).hexdigest(),
    ]
    facts = int(log["data"], 16)
    assert facts == 17 << 80 | 1 << 64 | made.not_after


def test_anyone_may_submit_and_gains_nothing(world: World) -> None:
    made = world.registration()
    other = world.chain.rpc("eth_accounts")[3]
    arguments = made.arguments(world.anything.address)
    assert world.chain.call(world.registry, "register", *arguments, sender=other) == SIGNER
    world.register(made, sender=other)
    assert world.node()[2] == made.not_after


def test_a_quote_that_does_not_verify_is_not_looked_at(world: World) -> None:
    made = world.registration()
    with world.chain.refused("NotGenuine"):
        world.register(replace(made, platform=made.platform + b"\0"))
    with world.chain.refused("NotGenuine"):
        world.register(replace(made, quote=attested.flip(made.quote, 8 * 700)))


def test_a_verifier_that_answers_anything_verifies_nothing(world: World) -> None:
    """The registry's own fault, but then it must register nothing."""
    made = world.registration()
    sound = [attested.NOW + MONTH, 1, 17]
    right = b"".join(n.to_bytes(32, "big") for n in sound)
    answers = [b"", right[:-1], right + b"\0", bytes(32)]
    for place, limit in ((0, 1 << 64), (1, 1 << 16), (2, 1 << 16)):
        wrong = [limit | n if i == place else n for i, n in enumerate(sound)]
        answers.append(b"".join(n.to_bytes(32, "big") for n in wrong))
    for answer in answers:
        liar = world.chain.deploy("AnswersAnything", answer)
        registry = world.chain.deploy("NodeRegistry", liar.address)
        with world.chain.refused("QuoteVerifierAnswerInvalid"):
            world.chain.send(registry, "register", *made.arguments(world.anything.address))
    honest = world.chain.deploy("AnswersAnything", right)
    registry = world.chain.deploy("NodeRegistry", honest.address)
    with world.chain.refused("ReportDataMismatch"):
        world.chain.send(registry, "register", *made.arguments(world.anything.address))


def test_a_registration_is_not_replayed_on_another_chain(world: World) -> None:
    made = world.registration()
    before = int(world.chain.rpc("eth_chainId"), 16)
    world.chain.rpc("anvil_setChainId", before + 1)
    try:
        with world.chain.refused("ReportDataMismatch"):
            world.chain.call(world.registry, "register", *made.arguments(world.anything.address))
    finally:
        world.chain.rpc("anvil_setChainId", before)
    world.register(made)


def test_a_registration_is_not_replayed_with_another_registry(world: World) -> None:
    made = world.registration()
    other = world.chain.deploy("NodeRegistry", world.quotes.address)
    with world.chain.refused("ReportDataMismatch"):
        world.chain.send(other, "register", *made.arguments(world.anything.address))


def test_a_quote_for_another_block_is_refused(world: World) -> None:
    made = world.registration()
    with world.chain.refused("ReportDataMismatch"):
        world.register(replace(made, block_number=made.block_number - 1))


def test_a_quote_for_another_keyset_is_refused(world: World) -> None:
    made = world.registration()
    other = jcs(keyset(subject="another").document)
    with world.chain.refused("ReportDataMismatch"):
        world.register(replace(made, keyset=other))
    with world.chain.refused("ReportDataMismatch"):
        world.register(replace(made, keyset=attested.flip(made.keyset, 8 * 30)))


@pytest.mark.parametrize("nonce", ["5a" * 32, None])
def test_a_quote_for_a_clients_nonce_is_no_registration(world: World, nonce: str | None) -> None:
    made = world.registration()
    data = report_data(keyset().digest, nonce)
    quote = compact_quote(attested.quote("tdx-v4", report_data=data))
    world.believe(quote, attested.NOW + MONTH)
    with world.chain.refused("ReportDataMismatch"):
        world.register(replace(made, quote=quote))


@pytest.mark.parametrize("kind", KINDS)
def test_report_data_that_goes_on_is_refused(world: World, kind: str) -> None:
    made = world.registration(kind=kind)
    data = report_data(keyset().digest, world.nonce(made.block_number))
    for at in (32, 63):
        padded = data[:at] + b"\x01" + data[at + 1 :]
        quote = compact_quote(attested.quote(kind, report_data=padded))
        world.believe(quote, attested.NOW + MONTH)
        with world.chain.refused("ReportDataPadding"):
            world.register(replace(made, quote=quote))


def test_evidence_that_has_run_out_is_refused(world: World) -> None:
    made = world.registration()
    world.chain.at(attested.NOW + 5000)
    world.believe(made.quote, attested.NOW + 5000)
    with world.chain.refused("EvidenceExpired"):
        world.register(made)


def test_an_expired_keyset_is_refused(world: World) -> None:
    made = world.registration()
    world.chain.at(made.not_after)
    with world.chain.refused("KeysetExpired"):
        world.register(made)


def test_the_registrys_nonce_is_the_encoders(world: World) -> None:
    height = world.number - 1
    on_chain = world.chain.call(world.registry, "registrationNonce", height)
    assert on_chain.hex() == world.nonce(height)


# which block


def test_a_block_to_come_binds_nothing(world: World) -> None:
    made = world.registration()
    for height in (world.number + 2, 2**64, 2**256 - 1):
        with world.chain.refused("BlockInFuture"):
            world.register(replace(made, block_number=height))


def test_a_block_within_256_needs_no_history(world: World) -> None:
    made = world.registration()
    world.chain.rpc("anvil_setCode", HISTORY, "0x")
    world.chain.rpc("anvil_mine", hex(made.block_number + 255 - world.number))
    world.register(made)


def _answering(word: bytes) -> str:
    """Code that returns these bytes (at most 32) to any call."""
    size = len(word)
    return "0x7f" + word.ljust(32, b"\0").hex() + f"60005260{size:02x}6000f3"


@pytest.fixture
def older(world: World) -> Registration:
    """Bound to a block that only a history contract knows."""
    made = world.registration()
    world.chain.rpc("anvil_mine", hex(400))
    return made


def test_an_older_block_is_asked_of_the_history_contract(world: World, older: Registration) -> None:
    block = world.chain.rpc("eth_getBlockByNumber", hex(older.block_number), False)
    world.chain.rpc("anvil_setCode", HISTORY, _answering(bytes.fromhex(block["hash"][2:])))
    world.register(older)
    assert world.node()[2] == older.not_after


def test_an_older_block_has_no_hash_where_there_is_no_history(
    world: World, older: Registration
) -> None:
    world.chain.rpc("anvil_setCode", HISTORY, "0x")
    with world.chain.refused("BlockHistoryMissing"):
        world.register(older)


@pytest.mark.parametrize(
    "code", [_answering(bytes(32)), _answering(b"\x01" * 31), "0x00", "0x60206000fd", "0xfe"]
)
def test_a_history_that_does_not_answer_is_not_taken_for_one_that_does(
    world: World, older: Registration, code: str
) -> None:
    world.chain.rpc("anvil_setCode", HISTORY, code)
    with world.chain.refused("BlockHashUnknown"):
        world.register(older)


def test_a_history_that_lies_proves_nothing(world: World, older: Registration) -> None:
    world.chain.rpc("anvil_setCode", HISTORY, _answering(b"\x11" * 32))
    with world.chain.refused("ReportDataMismatch"):
        world.register(older)


def test_a_block_too_old_is_refused_whatever_the_history_says(world: World) -> None:
    made = world.registration()
    world.chain.rpc("anvil_setCode", HISTORY, _answering(b"\x11" * 32))
    world.chain.rpc("anvil_mine", hex(8300))
    with world.chain.refused("BlockTooOld"):
        world.register(made)


# which policy


def test_a_forgotten_policy_is_refused(world: World) -> None:
    arguments = world.registration().arguments(world.anything.address)[:-1]
    for nobody in (ZERO, world.chain.account, "0x" + "01".rjust(40, "0")):
        with world.chain.refused("PolicyMissing"):
            world.chain.send(world.registry, "register", *arguments, nobody)


def test_a_contract_that_answers_anything_is_no_policy(world: World) -> None:
    made = world.registration()
    item = next(s for s in (world.chain.call(world.anything, "requireAllowed", b"", (0, 0, 0)),))
    wrong = (
        b"",
        bytes(32),
        b"\x00" * 31 + b"\x01",
        item,
        item.ljust(31, b"\0"),
        item.ljust(33, b"\0"),
        item.ljust(32, b"\x01"),
        item.rjust(32, b"\0"),
    )
    for answer in wrong:
        liar = world.chain.deploy("AnswersAnything", answer)
        with world.chain.refused("PolicyAnswerInvalid"):
            world.register(made, liar.address)
    right = world.chain.deploy("AnswersAnything", item.ljust(32, b"\0"))
    world.register(made, right.address)


def test_another_policys_record_is_its_own(world: World) -> None:
    other = world.chain.deploy("AllowAllPolicy")
    made = world.registration()
    world.register(made)
    assert world.node(other.address) == (0, 0, 0)
    before = world.node()
    world.register(made, other.address)
    assert world.node() == before


# how long


def test_a_record_is_not_shortened_by_replay(world: World) -> None:
    older = world.registration(expiry=attested.NOW + 10_000)
    world.register(older)
    world.register(world.registration())
    begun, _, expiry = world.node()
    world.chain.at(world.time + 100)
    world.register(older)
    assert world.node() == (begun, world.time, expiry)


def test_renewing_in_time_keeps_the_beginning(world: World) -> None:
    world.register(world.registration(expiry=attested.NOW + 10_000))
    begun = world.node()[0]
    world.chain.at(attested.NOW + 9_000)
    world.register(world.registration(expiry=attested.NOW + 20_000))
    assert world.node() == (begun, world.time, attested.NOW + 20_000)


def test_renewing_too_late_begins_anew(world: World) -> None:
    world.register(world.registration(expiry=attested.NOW + 10_000))
    world.chain.at(attested.NOW + 10_001)
    world.register(world.registration(expiry=attested.NOW + 20_000))
    assert world.node() == (world.time, world.time, attested.NOW + 20_000)


# epochs

Ended = Callable[[], None]


@pytest.fixture
def policy(world: World) -> Contract:
    """A policy that allows the simulator's TD, owned by the chain's first account."""
    made = world.chain.deploy(
        "MeasurementPolicy", world.chain.account, world.registry.address, 0, 1, 0
    )
    world.chain.send(made, "allow", world.registration().measurement)
    return made


def test_an_ended_epoch_is_not_brought_back_by_replay(world: World, policy: Contract) -> None:
    made = world.registration()
    world.register(made, policy.address)
    world.chain.send(policy, "endEpoch")
    world.chain.at(world.time + 5)
    with world.chain.refused("EpochEnded"):
        world.register(made, policy.address)


def test_a_new_quote_begins_again_after_an_epoch(world: World, policy: Contract) -> None:
    world.register(world.registration(), policy.address)
    world.chain.at(world.time + 5)
    world.chain.send(policy, "endEpoch")
    ended = world.time
    world.chain.rpc("anvil_mine", "0x2", "0x5")
    made = world.registration()
    world.register(made, policy.address)
    assert world.node(policy.address) == (world.time, world.time, made.not_after)
    assert world.time > ended == world.chain.call(world.registry, "epochEndedAt", policy.address)


def test_disallowed_code_stays_out_after_its_epoch(world: World, policy: Contract) -> None:
    made = world.registration()
    world.register(made, policy.address)
    world.chain.send(policy, "disallow", made.measurement)
    world.chain.rpc("anvil_mine", "0x2", "0x5")
    fresh = world.registration()
    with world.chain.refused("MeasurementNotAllowed"):
        world.register(fresh, policy.address)
    # and were it allowed again, only with a quote made since
    world.chain.send(policy, "allow", made.measurement)
    with world.chain.refused("EpochEnded"):
        world.register(made, policy.address)
    world.register(fresh, policy.address)


def test_an_epoch_is_only_its_own_policys(world: World, policy: Contract) -> None:
    world.register(world.registration())
    world.chain.send(policy, "endEpoch")
    world.chain.send(world.registry, "endEpoch")
    assert world.chain.call(world.registry, "epochEndedAt", world.anything.address) == 0


def test_serving(world: World) -> None:
    chain = world.chain
    records = chain.deploy("RecordsHarness")
    policy = chain.rpc("eth_accounts")[1]
    with chain.refused("NodeUnknown"):
        chain.call(records, "requireServing", SIGNER, policy, world.time)
    end = world.time + 1000
    chain.send(records, "renew", SIGNER, policy, end, world.number)
    begun = world.time
    chain.call(records, "requireServing", SIGNER, policy, begun)
    with chain.refused("ServedBeforeRegistration"):
        chain.call(records, "requireServing", SIGNER, policy, begun - 1)
    with chain.refused("ServedInFuture"):
        chain.call(records, "requireServing", SIGNER, policy, begun + 500)
    chain.at(end + 50)
    chain.call(records, "requireServing", SIGNER, policy, end - 1)
    with chain.refused("NodeExpiredWhenServed"):
        chain.call(records, "requireServing", SIGNER, policy, end)
    chain.send(records, "endEpoch", sender=policy)
    with chain.refused("EpochEnded"):
        chain.call(records, "requireServing", SIGNER, policy, end - 1)


# what the keyset says

START, NOT_AFTER, KEYS = b'{"e2ee_public_keys":[', b'],"not_after":', b',"receipt_signing_keys":['
ENTRY = json.dumps(KEY.to_json(), sort_keys=True, separators=(",", ":")).encode()


def hints_at(text: bytes, not_after_at: int, key_at: int, signer: str = SIGNER) -> int:
    return KeysetHints(signer, 0, not_after_at, key_at).packed


def found(text: bytes) -> int:
    """Hints at the first of either pattern, as somebody who wants them taken would choose."""
    return hints_at(text, text.index(NOT_AFTER), text.index(ENTRY))


@pytest.fixture
def read(deployed: World, libraries: Contract) -> Callable[..., Any]:
    return lambda text, hints: deployed.chain.call(libraries, "readKeyset", text, hints)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"subject": "node.example", "tls_public_keys": ()},
        {"receipt_signing_keys": (KEY,)},
        {"receipt_signing_keys": (KEY, RECEIPT)},
        {"receipt_signing_keys": (*MANY, KEY)},
        {"e2ee_public_keys": (KeyEntry("x", "x25519-aes-256-gcm", "05" * 32),)},
        {"e2ee_public_keys": (KeyEntry("p", "mlkem768-x25519", "05" * 1216),)},
        {"subject": '],"not_after":9999999999,"receipt_signing_keys":['},
        {"subject": '{"algo":"eip712-secp256k1","key_id":"evm-1","public_key":"' + "b" * 40 + '"}'},
        {"tls_public_keys": (TlsKey("c0" * 32, '],"not_after":9999999999,'),)},
        {"receipt_signing_keys": (KeyEntry('"},{"algo":"', "ed25519", "07" * 32), KEY)},
        {"receipt_signing_keys": (KeyEntry("\\", "ed25519", "07" * 32), KEY)},
        {"not_after": 1_000_000_000},
        {"not_after": 9_999_999_999},
    ],
)  # fmt: skip
def test_what_the_encoder_points_at_is_what_the_keyset_says(
    read: Callable[..., Any], members: dict[str, Any]
) -> None:
    keys = keyset(**members)
    text = jcs(keys.document)
    assert read(text, KeysetHints.find(text).packed) == (SIGNER, keys.not_after)


def test_a_not_after_in_the_subject_is_not_read(deployed: World, read: Callable[..., Any]) -> None:
    fake = '],"not_after":9999999999,"receipt_signing_keys":['
    text = jcs(keyset(subject="x" + fake + "y" * 200).document)
    at = text.index(rb"],\"not_after\":9999999999")
    good = KeysetHints.find(text)
    for offset in range(at - 3, at + 60):
        with deployed.chain.refused("KeysetHintsOutOfRange"):
            read(text, hints_at(text, offset, good.key_at))
    for offset in range(at - 3, len(text) - 149):
        with deployed.chain.refused("KeysetBracketUnexpected"):
            read(text, hints_at(text, offset, offset + 49))


def test_a_not_after_in_a_domain_is_not_read(deployed: World, read: Callable[..., Any]) -> None:
    fake = 'a],"not_after":9999999999,"receipt_signing_keys":[' + ENTRY.decode()
    text = jcs(keyset(tls_public_keys=(TlsKey("c0" * 32, fake),)).document)
    at = text.index(rb"],\"not_after\":9999999999")
    for offset in range(at - 3, at + 4):
        with deployed.chain.refused("KeysetBracketUnexpected"):
            read(text, hints_at(text, offset, offset + 49))


def test_a_not_after_in_an_end_to_end_keys_id_is_not_read(
    deployed: World, read: Callable[..., Any]
) -> None:
    """Before the real one, so that no bracket check but the pattern itself is in the way."""
    fake = ',"not_after":9999999999,"receipt_signing_keys":'
    keys = keyset(e2ee_public_keys=(KeyEntry(fake, "x", "05" * 32),))
    text = jcs(keys.document)
    at = text.index(rb",\"not_after\":9999999999")
    key_at = text.index(ENTRY)
    for offset in range(at - 14, at + 14):
        with deployed.chain.refused("KeysetNotAfterMisplaced"):
            read(text, hints_at(text, offset, key_at))
    assert read(text, found(text))[1] == keys.not_after


def test_a_nested_not_after_is_not_read(deployed: World, read: Callable[..., Any]) -> None:
    """Not even one that is structure, which no operator could write."""
    inner = {"a": [], "not_after": 9999999999, "receipt_signing_keys": [KEY.to_json()]}
    document = {**keyset().document, "e2ee_public_keys": [inner]}
    text = jcs(document)
    with deployed.chain.refused("KeysetBracketUnexpected"):
        read(text, found(text))
    for name in ("e2ee", "a_longer_name_than_that"):
        text = jcs({**keyset().document, name: {**inner, "a": ["x" * 30]}})
        with deployed.chain.refused("KeysetStartUnexpected"):
            read(text, found(text))
    text = jcs({**keyset().document, "zz": inner})
    at = text.rindex(NOT_AFTER)
    with deployed.chain.refused("KeysetBracketUnexpected"):
        read(text, hints_at(text, at, text.rindex(ENTRY)))


def test_a_key_in_the_end_to_end_list_is_not_read(
    deployed: World, read: Callable[..., Any]
) -> None:
    keys = keyset(receipt_signing_keys=(RECEIPT,), e2ee_public_keys=(KEY,))
    text = jcs(keys.document)
    with deployed.chain.refused("KeysetHintsOutOfRange"):
        read(text, found(text))


def test_a_key_outside_its_list_is_not_read(deployed: World, read: Callable[..., Any]) -> None:
    base = keyset(receipt_signing_keys=(RECEIPT,)).document
    for document in (
        {**base, "tls_public_keys": [KEY.to_json()]},
        {**base, "roots": [KEY.to_json()]},
        {**base, "tls_public_keys": [{"spki_sha256": "c0" * 32}, KEY.to_json()]},
        {**base, "subject": KEY.to_json()},
        {**base, "receipt_signing_keys": [{**RECEIPT.to_json(), "zz": [KEY.to_json()]}]},
        {**base, "receipt_signing_keys": [{**RECEIPT.to_json(), "zz": [1, KEY.to_json()]}]},
    ):
        text = jcs(document)
        with deployed.chain.refused(
            "KeysetKeyMisplaced"
            if text[text.index(ENTRY) - 1 : text.index(ENTRY)] != b","
            else "KeysetBracketUnexpected"
        ):
            read(text, found(text))


def test_a_key_inside_another_entry_is_not_read(deployed: World, read: Callable[..., Any]) -> None:
    entry = {**RECEIPT.to_json(), "zz": KEY.to_json()}
    text = jcs({**keyset().document, "receipt_signing_keys": [entry]})
    with deployed.chain.refused("KeysetKeyMisplaced"):
        read(text, found(text))


@pytest.mark.parametrize(
    "public_key",
    [
        SIGNER[2:].upper(),
        SIGNER[2:] + "0",
        SIGNER[2:-1],
        "0x" + SIGNER[2:],
        SIGNER[2:-1] + "g",
        "0" + SIGNER[2:],
        SIGNER[2:-1] + " ",
        "a1b2c3d4e5" * 3 + "a1b2c3d4e6",
        SIGNER[2:].replace("b", "B", 1),
    ],
)
def test_only_40_lowercase_digits_of_the_address_are_the_key(
    deployed: World, read: Callable[..., Any], public_key: str
) -> None:
    keys = keyset(receipt_signing_keys=(RECEIPT, replace(KEY, public_key=public_key)))
    text = jcs(keys.document)
    at = text.index(b'{"algo":"eip712')
    with deployed.chain.refused("KeysetKeyMismatch"):
        read(text, hints_at(text, text.index(NOT_AFTER), at))


@pytest.mark.parametrize(
    ("name", "value"),
    [("algo", "eip712-secp256r1"), ("key_id", "evm-2"), ("algo", "EIP712-secp256k1"), ("zz", "")],
)
def test_an_entry_that_says_anything_else_is_not_the_key(
    deployed: World, read: Callable[..., Any], name: str, value: str
) -> None:
    entry = {**KEY.to_json(), name: value}
    text = jcs({**keyset().document, "receipt_signing_keys": [RECEIPT.to_json(), entry]})
    at = text.rindex(b'{"algo":')
    with deployed.chain.refused("KeysetKeyMismatch"):
        read(text, hints_at(text, text.index(NOT_AFTER), at))


def test_another_address_than_the_keysets_is_refused(
    deployed: World, read: Callable[..., Any]
) -> None:
    text = jcs(keyset().document)
    good = KeysetHints.find(text)
    for bit in range(160):
        wrong = f"0x{int(SIGNER, 16) ^ 1 << bit:040x}"
        with deployed.chain.refused("KeysetKeyMismatch"):
            read(text, replace(good, signer=wrong).packed)


def test_the_zero_address_is_no_key(deployed: World, read: Callable[..., Any]) -> None:
    text = jcs(keyset(receipt_signing_keys=(replace(KEY, public_key="0" * 40),)).document)
    at = text.index(b'{"algo":')
    with deployed.chain.refused("KeysetSignerZero"):
        read(text, hints_at(text, text.index(NOT_AFTER), at, ZERO))


@pytest.mark.parametrize(
    "number",
    ["0999999999", "999999999", "12345678901", "-999999999", "1.00000000", "1e10", "0000000000",
     "178000000x", "null", '"1780000000"', " 1780000000", "17800000001780000000", ":780000000",
     "/780000000", "178000000\u00e9"],
)  # fmt: skip
def test_ten_digits_and_nothing_else_are_a_time(
    deployed: World, read: Callable[..., Any], number: str
) -> None:
    text = START + NOT_AFTER + number.encode() + KEYS + b" " * 10 + ENTRY + b"]}"
    with deployed.chain.refused("KeysetNotAfterMisplaced"):
        read(text, found(text))


@pytest.mark.parametrize("digit", range(10))
def test_every_digit_counts_in_its_place(read: Callable[..., Any], digit: int) -> None:
    for place in range(10):
        number = str(1_111_111_111)
        number = number[:place] + str(digit) + number[place + 1 :]
        if number[0] == "0":
            continue
        text = START + NOT_AFTER + number.encode() + KEYS + ENTRY + b"]}"
        assert read(text, found(text)) == (SIGNER, int(number))


def test_offsets_past_the_end_read_nothing(deployed: World, libraries: Contract) -> None:
    """Not even where the caller has put what is missing right behind the keyset."""
    text = jcs(keyset().document)
    good = KeysetHints.find(text)
    end = good.key_at + 100
    cases = [(0, n, good.packed) for n in (0, 21, good.not_after_at, good.key_at, end - 1)]
    cases += [(0, len(text), hints_at(text, a, b)) for a, b in (
        (2**48 - 1, 2**48 - 1), (good.not_after_at, len(text)), (good.not_after_at, 2**48 - 1),
        (len(text), len(text) + 49), (good.key_at, good.not_after_at), (0, good.key_at),
        (20, good.key_at), (good.not_after_at, good.not_after_at + 48),
    )]  # fmt: skip
    for start, stop, hints in cases:
        with deployed.chain.refused("KeysetHintsOutOfRange"):
            deployed.chain.call(libraries, "readKeysetAmong", text, start, stop, hints)
    assert deployed.chain.call(libraries, "readKeysetAmong", text, 0, end, good.packed)


def test_a_bracket_hides_in_no_byte_of_either_list(
    deployed: World, read: Callable[..., Any]
) -> None:
    """Every place, so that neither a word's edge nor the last, shifted word lets one through."""
    for length in range(0, 70, 3):
        for place in {0, length // 2, length - 1} - {-1}:
            name = "x" * place + "[]"[length % 2] + "x" * (length - place - 1)
            for members in (
                {"e2ee_public_keys": (KeyEntry(name, "x", "05"),)},
                {"receipt_signing_keys": (replace(RECEIPT, key_id=name), KEY)},
            ):
                text = jcs(keyset(**members).document)
                with deployed.chain.refused("KeysetBracketUnexpected"):
                    read(text, found(text))


def test_other_bytes_are_no_brackets(read: Callable[..., Any]) -> None:
    """What a word-wise search might take for one by mistake, next to each other."""
    name = "".join(chr(c) for c in range(32, 0x250) if chr(c) not in "[]")
    keys = keyset(
        e2ee_public_keys=(KeyEntry(name, "x", "05"),),
        receipt_signing_keys=(replace(RECEIPT, key_id=name[::-1]), KEY),
    )
    text = jcs(keys.document)
    assert read(text, found(text)) == (SIGNER, keys.not_after)


INNER = {"a": [], "not_after": 9_999_999_999, "receipt_signing_keys": [KEY.to_json()]}
NAMES = ("a", "e2ee_public_keys", "not_after", "nz", "receipt_signing_keys", "rz", "zz")
VALUES: tuple[Any, ...] = (
    INNER, [INNER], [], [[]], 1_780_000_000, [KEY.to_json()], [{"k": [KEY.to_json()]}],
    [{"k": KEY.to_json()}], [RECEIPT.to_json(), KEY.to_json()], "]", '],"not_after":9999999999,',
)  # fmt: skip


@given(st.fixed_dictionaries({}, optional={n: st.sampled_from(VALUES) for n in NAMES}))
@example(
    {"e2ee_public_keys": [], "not_after": 1_780_000_000, "receipt_signing_keys": VALUES[8]}
).via("a keyset")
def test_whatever_the_document_and_hints_what_is_read_is_what_it_says(
    deployed: World, libraries: Contract, document: dict[str, Any]
) -> None:
    """Any structure, and every place that has either pattern: more than an operator can do."""
    text = jcs(document)
    times = [m.start() for m in re.finditer(re.escape(NOT_AFTER), text)]
    keys = [m.start() for m in re.finditer(re.escape(ENTRY), text)]
    for hints in (hints_at(text, a, b) for a in times for b in keys):
        try:
            got = deployed.chain.call(libraries, "readKeyset", text, hints)
        except Refused:
            continue
        assert got == (SIGNER, document["not_after"])
        assert KEY.to_json() in document["receipt_signing_keys"]


def test_a_false_keyset_is_refused_through_the_front_door_too(world: World) -> None:
    text = jcs(keyset(receipt_signing_keys=(RECEIPT,), e2ee_public_keys=(KEY,)).document)
    arguments = world.text(text, found(text))
    with world.chain.refused("KeysetHintsOutOfRange"):
        world.chain.send(world.registry, "register", *arguments)


# bytes, and what they cost


def test_statement_and_digits_are_pythons(deployed: World, libraries: Contract) -> None:
    for seed in range(20):
        keys, nonce = (hashlib.sha256(bytes([seed, i])).digest() for i in (0, 1))
        stated = deployed.chain.call(libraries, "statementHash", keys, nonce)
        assert stated == report_data("sha256:" + keys.hex(), nonce.hex())[:32]
        shown = deployed.chain.call(libraries, "hexDigits", int.from_bytes(keys, "big"))
        assert shown.to_bytes(32, "big").decode() == keys[16:].hex()


def own_gas(world: World, mined: dict[str, Any]) -> int:
    """What the registry itself used: without calldata, quote verification and the record."""
    tx = world.chain.rpc("eth_getTransactionByHash", mined["transactionHash"])
    data = bytes.fromhex(tx["input"][2:])
    intrinsic = 21_000 + sum(4 if b == 0 else 16 for b in data)
    trace = world.chain.rpc(
        "debug_traceTransaction", mined["transactionHash"], {"tracer": "callTracer"}
    )
    verification = next(
        c for c in trace["calls"] if c["to"].lower() == world.quotes.address.lower()
    )
    return int(mined["gas"]) - intrinsic - int(verification["gasUsed"], 16) - 2_600 - 22_100


def test_the_registrys_own_part_is_cheap(world: World, policy: Contract) -> None:
    made = world.registration()
    spent = own_gas(world, world.register(made, policy.address))
    print(f"own part of register, {len(made.keyset)} bytes of keyset: {spent}")
    assert spent <= 17_800
