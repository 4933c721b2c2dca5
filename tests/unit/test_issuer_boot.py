"""What issuers hand out beside a quote: dstack's log and application, a TD's firmware log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attested
import pytest
from attested import NOW
from eventlogs import ccel, ccel_events, rtmrs
from fakes import tsm as tsm_fake
from fakes.dstack import COMPOSE, COMPOSE_HASH, Agent, serving
from fakes.pseudo import InProcess

from attestation.errors import VerificationError
from attestation.issuers import IssuerError, open_issuer
from attestation.issuers.dstack import DstackIssuer
from attestation.issuers.tsm import REPORTS, TsmIssuer, read_ccel
from attestation.policy import load_policy
from attestation.report import AttestedNode, appraise_report
from attestation.statement import report_data

DATA = report_data(attested.keyset().digest, attested.NONCE)


def quote(data: bytes, rt_mr3: bytes = bytes(48)) -> bytes:
    return attested.quote("tdx-v4", report_data=data, rt_mr3=rt_mr3)


def appraise(issuer: Any) -> AttestedNode:
    """A node of this issuer, as a client judges it."""
    document = attested.report(evidence=issuer.issue(DATA))
    return appraise_report(
        json.loads(json.dumps(document)),
        nonce=attested.NONCE,
        roots=[attested.platform().root_der],
        policy=load_policy("genuine"),
        now=NOW,
    )


# --- dstack ---------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with serving(tmp_path / "dstack.sock", quote) as server:
        yield server


def opened(agent: Agent, **options: Any) -> DstackIssuer:
    return DstackIssuer(agent.path, attested.collateral("tdx"), **options)


def test_a_dstack_node_says_what_it_runs_and_is_believed(agent: Agent) -> None:
    node = appraise(opened(agent))
    assert node.dstack is not None and node.dstack.compose_hash == COMPOSE_HASH
    assert node.dstack.app_compose is not None and node.dstack.app_compose.name == "fake"


def test_the_log_is_the_one_that_came_with_the_quote(agent: Agent) -> None:
    issuer = opened(agent)
    agent.events.append(("mine", b"the application measures on"))
    boot = issuer.issue(DATA).boot
    assert boot is not None and boot.event_log is not None
    assert json.loads(boot.event_log)[-1]["event"] == "mine"
    assert appraise(issuer).dstack is not None


def test_the_application_goes_out_character_by_character(agent: Agent) -> None:
    boot = opened(agent).issue(DATA).boot
    assert boot is not None and boot.app_compose == COMPOSE
    assert hashlib.sha256(boot.app_compose.encode()).hexdigest() == COMPOSE_HASH


def test_the_application_is_asked_for_once(agent: Agent) -> None:
    issuer = opened(agent)
    for _ in range(3):
        issuer.issue(DATA)
    assert [method for method, _ in agent.asked].count("/Info") == 1


def test_an_agent_that_tells_another_application_is_found_out_by_clients(agent: Agent) -> None:
    lie = json.dumps({"tcb_info": json.dumps({"app_compose": COMPOSE + " "})})
    agent.answers["/Info"] = (200, lie.encode())
    with pytest.raises(VerificationError, match="compose_hash"):
        appraise(opened(agent))


@pytest.mark.parametrize("told", [{}, {"tcb_info": ""}, {"tcb_info": "{}"}, {"tcb_info": None}])
def test_an_agent_that_keeps_the_application_to_itself_is_no_error(
    agent: Agent, told: dict[str, Any]
) -> None:
    agent.answers["/Info"] = (200, json.dumps(told).encode())
    issuer = opened(agent)
    boot = issuer.issue(DATA).boot
    assert boot is not None and boot.app_compose is None and boot.event_log is not None
    node = appraise(issuer)
    assert node.dstack is not None and node.dstack.app_compose is None


def test_without_a_log_the_application_stays_at_home(agent: Agent) -> None:
    issuer = opened(agent)
    agent.answers["/GetQuote"] = (200, json.dumps({"quote": quote(DATA).hex()}).encode())
    boot = issuer.issue(DATA).boot
    assert boot is not None and boot.to_json() == {}


def test_no_event_log_asks_the_agent_for_nothing_more(agent: Agent) -> None:
    issuer = opened(agent, event_log=False)
    assert issuer.issue(DATA).boot is None
    assert {method for method, _ in agent.asked} == {"/GetQuote"}
    opened_by_name = open_issuer("dstack", device=agent.path, event_log=False)
    assert opened_by_name.issue(DATA).boot is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"tcb_info":1}', "tcb_info is not text"),
        (b'{"tcb_info":"["}', "Info"),
        (b'{"tcb_info":"[]"}', "tcb_info is no object"),
        (b'{"tcb_info":"{\\"app_compose\\":{}}"}', "app_compose is not text"),
    ],
)
def test_info_of_another_shape_is_refused(agent: Agent, body: bytes, reason: str) -> None:
    agent.answers["/Info"] = (200, body)
    with pytest.raises(IssuerError, match=reason):
        opened(agent)


def test_a_log_that_is_no_text_is_refused(agent: Agent) -> None:
    issuer = opened(agent)
    answer = {"quote": quote(DATA).hex(), "event_log": []}
    agent.answers["/GetQuote"] = (200, json.dumps(answer).encode())
    with pytest.raises(IssuerError, match="event_log is not text"):
        issuer.issue(DATA)


# --- bare TD guests -------------------------------------------------------------------------


LOG = ccel(ccel_events(), padding=b"\xff" * 4096)
REGISTERS = {k.replace("rtmr", "rt_mr"): bytes.fromhex(v) for k, v in rtmrs(LOG).items()}


def guest(provider: bytes = b"tdx_guest") -> InProcess:
    def make(inblob: bytes, _: int) -> tuple[bytes, bytes]:
        return attested.quote("tdx-v4", report_data=inblob, **REGISTERS), b""

    return InProcess(REPORTS, tsm_fake.Tsm(make, provider))


@pytest.fixture
def table(tmp_path: Path) -> Callable[[bytes], Path]:
    """What firmware left where Linux shows it."""

    def write(data: bytes) -> Path:
        path = tmp_path / "CCEL"
        path.write_bytes(data)
        return path

    return write


def test_a_bare_td_hands_out_its_firmwares_log_and_is_believed(
    table: Callable[[bytes], Path],
) -> None:
    issuer = TsmIssuer(
        collateral=attested.collateral("tdx"), files=guest(), ccel=table(LOG.write())
    )
    node = appraise(issuer)
    assert node.events is not None and node.events.secure_boot is True
    assert node.dstack is None


def test_the_rest_of_the_firmwares_area_is_left_out(table: Callable[[bytes], Path]) -> None:
    boot = read_ccel(table(LOG.write()))
    assert boot is not None and boot.ccel is not None
    assert len(boot.ccel) == len(LOG.write()) - 4096


def test_a_guest_without_a_log_hands_out_none(tmp_path: Path) -> None:
    assert read_ccel(tmp_path / "no-such-table") is None
    issuer = TsmIssuer(files=guest(), ccel=tmp_path / "no-such-table")
    assert issuer.issue(DATA).boot is None


def test_a_guest_told_to_keep_its_log_does(table: Callable[[bytes], Path]) -> None:
    assert TsmIssuer(files=guest()).issue(DATA).boot is None


@pytest.mark.parametrize("data", [b"", b"no log", bytes(64), LOG.write()[:100]])
def test_a_log_that_clients_would_refuse_stops_the_node(
    data: bytes, table: Callable[[bytes], Path]
) -> None:
    with pytest.raises(IssuerError, match="CCEL: no event log"):
        read_ccel(table(data))


def test_a_log_that_may_not_be_read_stops_the_node(tmp_path: Path) -> None:
    (tmp_path / "CCEL").mkdir()
    with pytest.raises(IssuerError, match="CCEL"):
        read_ccel(tmp_path / "CCEL")


def test_an_endless_log_is_not_read_to_its_end(table: Callable[[bytes], Path]) -> None:
    path = table(b"")
    with path.open("r+b") as f:
        f.truncate(1 << 30)
    with pytest.raises(IssuerError, match="more than"):
        read_ccel(path)
