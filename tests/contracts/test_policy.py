"""Which code may be registered: who decides, when it takes effect, and what an id stands for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attested
import pytest
from chain import Chain, Contract
from registering import ZERO, World, new_world

from attestation.evidence import parse_quote
from attestation.onchain.abi import keccak
from attestation.onchain.policy import measurement_id, report_body

DAY = 86_400
ID = keccak(b"some code")
OTHER = keccak(b"other code")
UP_TO_DATE, HARDENING, CONFIGURATION, OUT_OF_DATE = 1, 2, 4, 16
NOBODY = "0x" + "00" * 19 + "01"
KINDS = ("sgx-v3", "tdx-v4", "tdx-v5", "tdx-v5-td15")


@pytest.fixture(scope="module")
def deployed() -> Iterator[World]:
    with Chain(timestamp=attested.NOW) as chain:
        yield new_world(chain)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    with deployed.chain.undone():
        yield deployed


def policy(
    world: World, *, delay: int = 0, statuses: int = UP_TO_DATE, minimum: int = 0
) -> Contract:
    chain = world.chain
    return chain.deploy(
        "MeasurementPolicy", chain.account, world.registry.address, delay, statuses, minimum
    )


def body_of(kind: str, **fields: Any) -> bytes:
    return parse_quote(attested.quote(kind, **fields)).body.write()


def ask(
    world: World, of: Contract, body: bytes, *, statuses: int = UP_TO_DATE, evaluation: int = 17
) -> bytes:
    verdict = (attested.NOW + DAY, statuses, evaluation)
    asks = world.registry.address
    answer: bytes = world.chain.call(of, "requireAllowed", body, verdict, sender=asks)
    return answer


def wait(world: World, seconds: int) -> None:
    world.chain.at(world.time + seconds)


BODY = body_of("tdx-v4")


def allowing(world: World, **how: Any) -> Contract:
    made = policy(world, **how)
    world.chain.send(made, "allow", measurement_id(BODY))
    return made


# ids


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_pythons(world: World, kind: str) -> None:
    body = body_of(kind)
    on_chain = world.chain.call(policy(world), "measurementId", body)
    assert on_chain == measurement_id(body)


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_changes_with_every_measured_byte_and_no_other(world: World, kind: str) -> None:
    of = policy(world)
    body = body_of(kind)
    good = world.chain.call(of, "measurementId", body)
    if kind == "sgx-v3":
        measured = set(range(16, 320))
    else:
        measured = set(range(120, 520)) | set(range(600, len(body)))
    for at in range(0, len(body), 1 if kind == "sgx-v3" else 3):
        changed = attested.flip(body, 8 * at + at % 8)
        same = world.chain.call(of, "measurementId", changed) == good
        assert same == (at not in measured), f"byte {at}"
        assert (measurement_id(changed) == good) == same


def test_the_body_of_a_quote_is_what_is_signed() -> None:
    from attestation.onchain.quote import compact_quote

    for kind in KINDS:
        raw = attested.quote(kind)
        assert report_body(compact_quote(raw)) == parse_quote(raw).body.write()


def test_a_body_of_no_known_size_has_no_id(world: World) -> None:
    of = policy(world)
    for size in (0, 1, 383, 385, 583, 585, 647, 649, 885, 2000):
        with world.chain.refused("BodyLengthUnknown"):
            world.chain.call(of, "measurementId", bytes(size))
        with world.chain.refused("BodyLengthUnknown"):
            ask(world, of, bytes(size))


def test_a_body_does_not_borrow_from_what_follows_it(world: World) -> None:
    """The same words as a body, but cut one byte short: what was there does not count."""
    of = allowing(world)
    assert ask(world, of, BODY)
    with world.chain.refused("BodyLengthUnknown"):
        ask(world, of, BODY[:-1])


# what is allowed


def test_nothing_is_allowed_at_first(world: World) -> None:
    of = policy(world)
    assert world.chain.call(of, "allowedIds") == ()
    with world.chain.refused("MeasurementNotAllowed"):
        ask(world, of, BODY)


def test_another_registry_is_told_nothing(world: World) -> None:
    """What it registered would outlive whatever the policy ends in its own."""
    of = allowing(world)
    other = world.chain.deploy("NodeRegistry", world.quotes.address)
    for asks in (other.address, world.chain.account):
        with world.chain.refused("RegistryMismatch"):
            verdict = (attested.NOW + DAY, UP_TO_DATE, 17)
            world.chain.call(of, "requireAllowed", BODY, verdict, sender=asks)


def test_what_is_allowed_is_answered_with_the_selector(world: World) -> None:
    of = allowing(world)
    assert ask(world, of, BODY) == keccak(b"requireAllowed(bytes,(uint64,uint16,uint16))")[:4]
    with world.chain.refused("MeasurementNotAllowed"):
        ask(world, of, body_of("tdx-v4", mr_td=b"\x01" * 48))


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (UP_TO_DATE, None),
        (HARDENING, None),
        (UP_TO_DATE | HARDENING, None),
        (CONFIGURATION, "TcbStatusNotAllowed"),
        (UP_TO_DATE | OUT_OF_DATE, "TcbStatusNotAllowed"),
        (0x8000, "TcbStatusNotAllowed"),
    ],
)
def test_every_status_found_must_be_allowed(world: World, found: int, error: str | None) -> None:
    of = allowing(world, statuses=UP_TO_DATE | HARDENING)
    if error is None:
        assert ask(world, of, BODY, statuses=found)
    else:
        with world.chain.refused(error):
            ask(world, of, BODY, statuses=found)


def test_an_old_evaluation_is_refused(world: World) -> None:
    of = allowing(world, minimum=17)
    assert ask(world, of, BODY, evaluation=17)
    with world.chain.refused("TcbEvaluationTooOld"):
        ask(world, of, BODY, evaluation=16)


# who decides


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("allow", (ID,)),
        ("disallow", (ID,)),
        ("setTcbRules", (1, 1)),
        ("endEpoch", ()),
        ("renounceOwnership", ()),
        ("transferOwnership", (NOBODY,)),
    ],
)
def test_only_the_owner_decides(world: World, name: str, args: tuple[Any, ...]) -> None:
    of = policy(world)
    stranger = world.chain.rpc("eth_accounts")[2]
    with world.chain.refused("OwnableUnauthorizedAccount"):
        world.chain.send(of, name, *args, sender=stranger)


def test_an_owner_takes_over_only_by_itself(world: World) -> None:
    of = policy(world)
    new = world.chain.rpc("eth_accounts")[2]
    world.chain.send(of, "transferOwnership", new)
    with world.chain.refused("OwnableUnauthorizedAccount"):
        world.chain.send(of, "allow", ID, sender=new)
    world.chain.send(of, "acceptOwnership", sender=new)
    world.chain.send(of, "allow", ID, sender=new)


def test_a_policy_without_an_owner_stays_as_it_is(world: World) -> None:
    of = allowing(world)
    world.chain.send(of, "renounceOwnership")
    assert ask(world, of, BODY)
    for name, args in (("allow", (ID,)), ("disallow", (measurement_id(BODY),)), ("endEpoch", ())):
        with world.chain.refused("OwnableUnauthorizedAccount"):
            world.chain.send(of, name, *args)


def test_a_policy_must_know_its_registry_and_owner(world: World) -> None:
    chain = world.chain
    with chain.refused("RegistryMissing"):
        chain.deploy("MeasurementPolicy", chain.account, ZERO, 0, 1, 0)
    with chain.refused("RegistryMissing"):
        chain.deploy("MeasurementPolicy", chain.account, chain.account, 0, 1, 0)
    with chain.refused("OwnableInvalidOwner"):
        chain.deploy("MeasurementPolicy", ZERO, world.registry.address, 0, 1, 0)
    with chain.refused("DelayTooLong"):
        policy(world, delay=365 * DAY + 1)


@pytest.mark.parametrize("statuses", [1 << 6, 1 << 7, 1 << 15, 0xFFFF])
def test_revoked_is_never_allowed(world: World, statuses: int) -> None:
    with world.chain.refused("StatusesInvalid"):
        policy(world, statuses=statuses)
    with world.chain.refused("StatusesInvalid"):
        world.chain.send(policy(world), "setTcbRules", statuses, 0)


# when it takes effect


def test_new_code_waits_for_the_delay(world: World) -> None:
    of = allowing(world, delay=DAY)
    since = world.time + DAY
    assert world.chain.call(of, "allowedFrom", measurement_id(BODY)) == since
    with world.chain.refused("NotYetAllowed"):
        ask(world, of, BODY)
    world.chain.at(since - 5)
    with world.chain.refused("NotYetAllowed"):
        ask(world, of, BODY)
    world.chain.at(since)
    assert ask(world, of, BODY)


def test_an_announcement_can_be_withdrawn_before_its_time(world: World) -> None:
    of = allowing(world, delay=DAY)
    world.chain.send(of, "disallow", measurement_id(BODY))
    wait(world, 2 * DAY)
    with world.chain.refused("MeasurementNotAllowed"):
        ask(world, of, BODY)


def test_announcing_again_changes_nothing(world: World) -> None:
    of = allowing(world, delay=DAY)
    wait(world, DAY + 1)
    with world.chain.refused("AlreadyAllowed"):
        world.chain.send(of, "allow", measurement_id(BODY))
    assert ask(world, of, BODY)


def test_disallowing_takes_effect_at_once_and_ends_the_epoch(world: World) -> None:
    of = allowing(world, delay=DAY)
    wait(world, DAY)
    assert ask(world, of, BODY)
    world.chain.send(of, "disallow", measurement_id(BODY))
    assert world.chain.call(world.registry, "epochEndedAt", of.address) == world.time
    with world.chain.refused("MeasurementNotAllowed"):
        ask(world, of, BODY)
    # and allowing it once more is something new
    world.chain.send(of, "allow", measurement_id(BODY))
    with world.chain.refused("NotYetAllowed"):
        ask(world, of, BODY)


def test_only_what_is_listed_can_be_taken_back(world: World) -> None:
    of = allowing(world)
    with world.chain.refused("NotListed"):
        world.chain.send(of, "disallow", ID)
    assert world.chain.call(world.registry, "epochEndedAt", of.address) == 0


def test_looser_rules_wait_and_tighter_ones_do_not(world: World) -> None:
    of = policy(world, delay=DAY, statuses=UP_TO_DATE | HARDENING, minimum=10)
    world.chain.send(of, "allow", measurement_id(BODY))
    wait(world, DAY)
    world.chain.send(of, "setTcbRules", UP_TO_DATE | CONFIGURATION, 8)
    since = world.time + DAY
    assert world.chain.call(of, "tcbRules") == (UP_TO_DATE, 10)
    assert world.chain.call(of, "announcedTcbRules") == (UP_TO_DATE | CONFIGURATION, 8, since)
    for statuses in (HARDENING, CONFIGURATION):
        with world.chain.refused("TcbStatusNotAllowed"):
            ask(world, of, BODY, statuses=statuses)
    with world.chain.refused("TcbEvaluationTooOld"):
        ask(world, of, BODY, evaluation=9)
    world.chain.at(since)
    assert ask(world, of, BODY, statuses=CONFIGURATION, evaluation=8)
    with world.chain.refused("TcbStatusNotAllowed"):
        ask(world, of, BODY, statuses=HARDENING)


def test_tightening_stands_even_if_loosening_is_announced_after_it(world: World) -> None:
    of = policy(world, delay=DAY, statuses=UP_TO_DATE | HARDENING, minimum=0)
    world.chain.send(of, "setTcbRules", UP_TO_DATE, 17)
    wait(world, DAY // 2)
    world.chain.send(of, "setTcbRules", UP_TO_DATE | HARDENING, 0)
    assert world.chain.call(of, "tcbRules") == (UP_TO_DATE, 17)
    wait(world, DAY - 5)
    assert world.chain.call(of, "tcbRules") == (UP_TO_DATE, 17)
    wait(world, 10)
    assert world.chain.call(of, "tcbRules") == (UP_TO_DATE | HARDENING, 0)


def test_an_announcement_is_replaced_by_the_next(world: World) -> None:
    of = policy(world, delay=DAY)
    world.chain.send(of, "setTcbRules", UP_TO_DATE | OUT_OF_DATE, 0)
    world.chain.send(of, "setTcbRules", UP_TO_DATE, 0)
    wait(world, 2 * DAY)
    assert world.chain.call(of, "tcbRules") == (UP_TO_DATE, 0)


def test_what_ran_out_of_waiting_is_tightened_from_there(world: World) -> None:
    of = policy(world, delay=DAY)
    world.chain.send(of, "setTcbRules", UP_TO_DATE | HARDENING, 0)
    wait(world, 2 * DAY)
    world.chain.send(of, "setTcbRules", HARDENING, 5)
    assert world.chain.call(of, "tcbRules") == (HARDENING, 5)


@pytest.mark.parametrize(
    ("statuses", "minimum", "ends"),
    [
        (UP_TO_DATE | HARDENING, 10, False),
        (UP_TO_DATE | HARDENING | CONFIGURATION, 9, False),
        (UP_TO_DATE, 10, True),
        (UP_TO_DATE | HARDENING, 11, True),
        (UP_TO_DATE | CONFIGURATION, 9, True),
        (0, 0, True),
    ],
)
def test_tighter_rules_end_the_epoch_and_others_do_not(
    world: World, statuses: int, minimum: int, ends: bool
) -> None:
    of = policy(world, statuses=UP_TO_DATE | HARDENING, minimum=10)
    world.chain.send(of, "setTcbRules", statuses, minimum)
    ended = world.chain.call(world.registry, "epochEndedAt", of.address)
    assert ended == (world.time if ends else 0)


def test_rules_reach_every_id_and_ids_their_own_end(world: World) -> None:
    of = policy(world)
    ids = [keccak(bytes([i])) for i in range(6)]
    for each in ids:
        world.chain.send(of, "allow", each)
    world.chain.send(of, "allow", measurement_id(BODY))
    for gone in (ids[0], ids[5], ids[3]):
        world.chain.send(of, "disallow", gone)
    left = world.chain.call(of, "allowedIds")
    assert set(left) == {ids[1], ids[2], ids[4], measurement_id(BODY)}
    assert len(left) == 4
    world.chain.send(of, "setTcbRules", HARDENING, 3)
    assert ask(world, of, BODY, statuses=HARDENING)
    with world.chain.refused("TcbStatusNotAllowed"):
        ask(world, of, BODY)
    for each in ids:
        since = world.chain.call(of, "allowedFrom", each)
        assert (since != 0) == (each in left)


def test_the_list_has_an_end(world: World) -> None:
    of = policy(world)
    for i in range(128):
        world.chain.send(of, "allow", keccak(i.to_bytes(2, "big")))
    with world.chain.refused("ListFull"):
        world.chain.send(of, "allow", ID)
    gas = world.chain.send(of, "setTcbRules", HARDENING, 3)["gas"]
    assert gas < 1_500_000
    world.chain.send(of, "disallow", keccak(b"\0\0"))
    world.chain.send(of, "allow", ID)


# dstack


def info(of: Contract, **members: Any) -> tuple[Any, ...]:
    boot: dict[str, Any] = {
        "app_id": of.address,
        "compose_hash": ID,
        "instance_id": NOBODY,
        "device_id": bytes(32),
        "mr_aggregated": bytes(32),
        "mr_system": bytes(32),
        "os_image_hash": OTHER,
        "tcb_status": "UpToDate",
        "advisory_ids": [],
        **members,
    }
    return tuple(boot.values())


def app_auth(world: World, *, delay: int = 0, statuses: int = UP_TO_DATE) -> Contract:
    of = world.chain.deploy("DstackAppAuth", world.chain.account, delay, statuses)
    world.chain.send(of, "allow", world.chain.call(of, "bootId", OTHER, ID))
    return of


def test_dstack_finds_its_interface(world: World) -> None:
    of = app_auth(world)
    for known in ("1e079198", "01ffc9a7"):
        assert world.chain.call(of, "supportsInterface", bytes.fromhex(known)) is True
    for unknown in ("ffffffff", "8fd37527", "00000000"):
        assert world.chain.call(of, "supportsInterface", bytes.fromhex(unknown)) is False


def test_dstack_may_start_what_is_allowed_and_nothing_else(world: World) -> None:
    of = app_auth(world)
    assert world.chain.call(of, "isAppAllowed", info(of)) == (True, "")
    for change in (
        {"app_id": NOBODY},
        {"compose_hash": OTHER},
        {"os_image_hash": ID},
        {"compose_hash": OTHER, "os_image_hash": ID},
        {"tcb_status": "OutOfDate"},
        {"tcb_status": "Revoked"},
        {"tcb_status": "uptodate"},
        {"tcb_status": "UpToDate "},
        {"tcb_status": ""},
    ):
        allowed, reason = world.chain.call(of, "isAppAllowed", info(of, **change))
        assert allowed is False and reason


@pytest.mark.parametrize(
    ("bit", "word"),
    enumerate(
        (
            "UpToDate",
            "SWHardeningNeeded",
            "ConfigurationNeeded",
            "ConfigurationAndSWHardeningNeeded",
            "OutOfDate",
            "OutOfDateConfigurationNeeded",
        )
    ),
)
def test_dstack_statuses_are_allowed_one_by_one(world: World, bit: int, word: str) -> None:
    for statuses in (1 << bit, 0x3F & ~(1 << bit)):
        of = app_auth(world, statuses=statuses)
        allowed, _ = world.chain.call(of, "isAppAllowed", info(of, tcb_status=word))
        assert allowed is (statuses == 1 << bit)


def test_dstack_waits_for_the_delay_too(world: World) -> None:
    of = app_auth(world, delay=DAY)
    assert world.chain.call(of, "isAppAllowed", info(of))[0] is False
    wait(world, DAY)
    assert world.chain.call(of, "isAppAllowed", info(of))[0] is True
    world.chain.send(of, "disallow", world.chain.call(of, "bootId", OTHER, ID))
    assert world.chain.call(of, "isAppAllowed", info(of))[0] is False


def test_dstack_cannot_show_how_old_its_evaluation_is(world: World) -> None:
    of = app_auth(world)
    world.chain.send(of, "setTcbRules", UP_TO_DATE, 1)
    assert world.chain.call(of, "isAppAllowed", info(of))[0] is False
