"""A node stays registered: in time, after renewals, restarts and refusals, and never by force."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from gateway_fakes import fake_node

from attestation.issuers.base import IssuedEvidence, IssuerError
from attestation.issuers.simulator import MeasuredState, SimulatorIssuer
from attestation.keyset import Keyset
from attestation.onchain.client import NodeRecord
from attestation.onchain.errors import NotProvable
from attestation.onchain.faults import ChainError, ContractRefused, RpcUnreachable, SendUncertain
from attestation.onchain.quote import Proof, prove
from attestation.onchain.registration import Registration
from attestation.onchain.rpc import Block
from attestation.onchain.sender import Mined
from attestation.statement import report_data
from enclave import keys as keys_module
from enclave.keys import NodeKeys
from gateway import cli
from gateway.chain import ChainRegistry
from gateway.errors import StartError
from gateway.metrics import Metrics
from gateway.registrar import ChainMetrics, Registrar
from gateway.settings import ChainChoice

T0 = 1_790_000_000
LIFETIME = 9000
ADDRESS = "0x" + "ab" * 20
SECRET = "c5" * 32


def keys(**changes: Any) -> NodeKeys:
    given = {"names": ("localhost",), "subject": None, "lifetime_s": 86400, "now": T0}
    return keys_module.generate(**{**given, "simulated": True, **changes})


@dataclass
class FakeChain:
    """A registry whose chain's time the test sets. `failure` is raised by what it names.

    `seats` is how many are left, None where the operator wants none.
    """

    now: int = T0
    lifetime: int = LIFETIME
    records: dict[str, NodeRecord] = field(default_factory=dict)
    registered: list[str] = field(default_factory=list)
    failure: tuple[str, Exception] | None = None
    looks: int = 0
    seats: int | None = None
    seated: list[str] = field(default_factory=list)

    def _may(self, what: str) -> None:
        if self.failure is not None and self.failure[0] in (what, "all"):
            raise self.failure[1]

    def latest_block(self) -> Block:
        self._may("block")
        self.looks += 1
        return Block(self.now, self.now.to_bytes(32, "big"), self.now, 1)

    def nonce(self, block: Block) -> str:
        return block.hash.hex()

    def standing(self, signer: str) -> NodeRecord | None:
        self._may("standing")
        record = self.records.get(signer)
        return record if record is not None and self.now < record.expiry else None

    def register(self, keyset: Keyset, evidence: IssuedEvidence, block: Block) -> Mined:
        self._may("register")
        assert evidence.quote == report_data(keyset.digest, self.nonce(block))
        entry = keyset.receipt_key("evm-1")
        assert entry is not None
        signer = "0x" + entry.public_key
        self.records[signer] = NodeRecord(self.now, self.now, self.now + self.lifetime)
        self.registered.append(signer)
        return Mined("0x" + "11" * 32, block.number, block.hash, 21000, None)

    def seat(self, signer: str) -> bool | None:
        if self.seats is None:
            return None
        self._may("seat")
        assert self.standing(signer) is not None, "only a registered node has a seat"
        if signer not in self.seated and self.seats:
            self.seats -= 1
            self.seated.append(signer)
        return signer in self.seated

    def end_epoch(self) -> None:
        self.records.clear()
        self.seated.clear()


class Desk:
    """A registrar on a fake chain, glancing when the test says so."""

    def __init__(self, chain: FakeChain | None = None) -> None:
        self.chain = chain or FakeChain()
        self.keys = keys()
        self.collateral: object = None
        self.time = 0.0
        self.quote_failure: Exception | None = None
        self.all_metrics = Metrics()
        self.registrar = Registrar(
            self.chain,
            ChainMetrics(self.all_metrics),
            keys=lambda: self.keys,
            issue=self._issue,
            collateral=lambda: self.collateral,
            stopping=threading.Event(),
            clock=lambda: self.time,
        )

    def _issue(self, data: bytes) -> IssuedEvidence:
        if self.quote_failure is not None:
            raise self.quote_failure
        return IssuedEvidence("tdx", data, None, simulated=True)

    def pass_time(self, seconds: float, step: float = 2.0) -> None:
        """Glance as the thread does while this time goes by, here and on the chain."""
        end = self.time + seconds
        while self.time < end:
            self.time += step
            self.chain.now += int(step)
            self.registrar.glance()

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.registrar.metrics.state)

    def metric(self, name: str) -> float:
        value = self.all_metrics.registry.get_sample_value(*_sample(name))
        assert value is not None
        return value


def _sample(name: str) -> tuple[str, dict[str, str]]:
    name, _, outcome = name.partition(":")
    return name, {"outcome": outcome} if outcome else {}


UNTIL = "adyton_chain_registered_until_seconds"
FAILED = "adyton_chain_registrations_total:failed"
REGISTERED = "adyton_chain_registrations_total:registered"


def test_a_new_node_is_registered_at_once_and_says_so() -> None:
    desk = Desk()
    assert desk.state == {"state": "starting", "failures": 0}
    desk.registrar.glance()
    assert desk.chain.registered == [desk.keys.evm_address]
    assert desk.state == {
        "state": "registered",
        "signer": desk.keys.evm_address,
        "registered_until": T0 + LIFETIME,
        "failures": 0,
    }
    assert (desk.metric(UNTIL), desk.metric(REGISTERED)) == (T0 + LIFETIME, 1)


def test_it_is_renewed_when_a_third_is_left_and_not_before() -> None:
    desk = Desk()
    desk.registrar.glance()
    desk.pass_time(LIFETIME * 2 / 3 - 10)
    assert len(desk.chain.registered) == 1
    desk.pass_time(20)
    assert len(desk.chain.registered) == 2
    assert desk.metric(UNTIL) > T0 + LIFETIME


@pytest.mark.parametrize("lifetime", [60, 300, LIFETIME])
def test_it_never_lapses_however_short_a_registration_is(lifetime: int) -> None:
    desk = Desk(FakeChain(lifetime=lifetime))
    desk.registrar.glance()
    for _ in range(400):
        desk.pass_time(2)
        assert desk.chain.standing(desk.keys.evm_address) is not None


def test_what_does_not_get_longer_is_not_paid_for_without_end() -> None:
    """The end stays where the collateral on the chain puts it, however often one registers."""
    desk = Desk()
    fixed = T0 + 10 * 86400
    desk.chain.lifetime = fixed - T0

    real = desk.chain.register

    def register(*args: Any) -> Mined:
        desk.chain.lifetime = fixed - desk.chain.now
        return real(*args)

    desk.chain.register = register  # type: ignore[method-assign]
    desk.registrar.glance()
    desk.pass_time(10 * 86400 - 60, step=30.0)
    assert 5 < len(desk.chain.registered) < 16


def test_a_restarted_node_finds_its_registration() -> None:
    first = Desk()
    first.registrar.glance()
    second = Desk(first.chain)
    second.keys = first.keys
    second.registrar.glance()
    assert len(first.chain.registered) == 1
    assert second.state["state"] == "registered" and second.metric(UNTIL) == T0 + LIFETIME


def test_a_chain_whose_clock_is_behind_is_not_paid_again_and_again() -> None:
    desk = Desk(FakeChain(now=T0 - 10 * 365 * 86400))
    desk.registrar.glance()
    desk.pass_time(LIFETIME / 2)
    assert len(desk.chain.registered) == 1


def test_new_keys_are_registered_within_seconds() -> None:
    desk = Desk()
    desk.registrar.glance()
    desk.keys = keys()
    desk.pass_time(2)
    assert desk.chain.registered[-1] == desk.keys.evm_address
    assert len(desk.chain.registered) == 2


def test_new_collateral_renews_also_after_failures() -> None:
    desk = Desk()
    desk.registrar.glance()
    desk.collateral = "newer"
    desk.chain.failure = ("register", RpcUnreachable("silence"))
    desk.pass_time(10)
    assert len(desk.chain.registered) == 1 and desk.state["failures"] >= 1
    assert desk.state["state"] == "registered", "the old registration still counts"
    desk.chain.failure = None
    desk.pass_time(60)
    assert len(desk.chain.registered) == 2 and desk.state["failures"] == 0
    desk.pass_time(600)
    assert len(desk.chain.registered) == 2


def test_a_policy_that_ends_its_epoch_is_noticed() -> None:
    desk = Desk()
    desk.registrar.glance()
    desk.chain.records.clear()
    desk.chain.failure = ("register", ContractRefused("MeasurementNotAllowed"))
    desk.pass_time(602)
    assert desk.state["state"] == "not_registered"
    assert desk.state["problem"] == "MeasurementNotAllowed"
    assert desk.metric(UNTIL) == 0 and desk.metric(FAILED) >= 1


@pytest.mark.parametrize(
    "failure",
    [
        ("block", RpcUnreachable("silence")),
        ("standing", ChainError("nonsense")),
        ("register", ContractRefused("TcbInfoExpired", (1,))),
        ("register", SendUncertain("0x11", 1, "slow")),
        ("register", NotProvable("quote.seam", "no")),
        ("all", ZeroDivisionError("a mistake of ours")),
    ],
)
def test_failures_are_retried_ever_more_rarely(failure: tuple[str, Exception]) -> None:
    desk = Desk()
    desk.chain.failure = failure
    desk.pass_time(4 * 3600, step=5.0)
    assert 8 < desk.metric(FAILED) < 30
    desk.chain.failure = None
    desk.pass_time(901)
    assert desk.state["state"] == "registered" and desk.state["failures"] == 0


def test_a_machine_without_evidence_is_a_failure_too() -> None:
    desk = Desk()
    desk.quote_failure = IssuerError("busy")
    desk.registrar.glance()
    assert desk.state["problem"] == "IssuerError"
    desk.quote_failure = None
    desk.pass_time(6)
    assert desk.state["state"] == "registered"


def test_mined_but_not_counted_is_no_success() -> None:
    desk = Desk()
    desk.chain.lifetime = 0
    desk.registrar.glance()
    assert desk.state["state"] == "not_registered" and desk.metric(FAILED) == 1


def test_stopping_ends_it_also_while_it_waits_for_the_chain() -> None:
    desk = Desk()
    stopping = desk.registrar._stopping
    entered = threading.Event()

    def waiting() -> Block:
        entered.set()
        stopping.wait(30)
        raise ChainError("the node is stopping")

    desk.chain.latest_block = waiting  # type: ignore[method-assign]
    desk.registrar.start()
    assert entered.wait(10)
    desk.registrar.stop()
    desk.registrar._thread.join(10)
    assert not desk.registrar._thread.is_alive()
    assert desk.metric(FAILED) == 0


# --- seats -------------------------------------------------------------------------------


def test_a_seat_is_taken_once_after_registering() -> None:
    desk = Desk(FakeChain(seats=3))
    desk.registrar.glance()
    assert desk.chain.seated == [desk.keys.evm_address] and desk.state["seated"] is True
    desk.pass_time(LIFETIME)
    assert len(desk.chain.registered) == 2 and desk.chain.seats == 2


def test_a_node_that_wants_no_seat_says_nothing_of_one() -> None:
    desk = Desk()
    desk.registrar.glance()
    assert "seated" not in desk.state


def test_a_seat_is_taken_again_after_the_epoch_ended() -> None:
    desk = Desk(FakeChain(seats=3))
    desk.registrar.glance()
    desk.chain.end_epoch()
    desk.pass_time(602)
    assert len(desk.chain.registered) == 2
    assert desk.chain.seated == [desk.keys.evm_address] and desk.state["seated"] is True


def test_new_keys_take_a_seat_of_their_own() -> None:
    desk = Desk(FakeChain(seats=3))
    desk.registrar.glance()
    desk.keys = keys()
    desk.pass_time(2)
    assert desk.chain.seated[-1] == desk.keys.evm_address and desk.chain.seats == 1


def test_no_seat_left_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="adyton")
    desk = Desk(FakeChain(seats=0))
    desk.registrar.glance()
    desk.pass_time(1300)
    assert desk.state["state"] == "registered" and desk.state["seated"] is False
    assert [r.getMessage() for r in caplog.records].count("chain_seats_taken") == 1
    desk.chain.seats = 1
    desk.pass_time(602)
    assert desk.state["seated"] is True


@pytest.mark.parametrize(
    "failure",
    [RpcUnreachable("silence"), ContractRefused("SeatTaken"), SendUncertain("0x1", 1, "")],
)
def test_a_seat_that_fails_leaves_the_registration_alone(failure: Exception) -> None:
    desk = Desk(FakeChain(seats=1, failure=("seat", failure)))
    desk.registrar.glance()
    assert desk.state["state"] == "registered" and desk.state["seated"] is False
    assert (desk.metric(FAILED), desk.metric(REGISTERED)) == (0, 1)
    desk.chain.failure = None
    desk.pass_time(602)
    assert desk.state["seated"] is True and len(desk.chain.registered) == 1


# --- what the contracts are sent ---------------------------------------------------------


@dataclass
class FakeClient:
    """RegistryClient, without a chain. Refuses platforms it has not seen in full."""

    registry: str = ADDRESS
    sent: list[Registration] = field(default_factory=list)
    refusal: ContractRefused | None = None
    seats: list[str] = field(default_factory=list)
    room: int = 1

    @property
    def rpc(self) -> Any:
        return type("Rpc", (), {"chain_id": 31337})

    def platform_of(self, proof: Proof) -> bytes:
        return proof.registered_platform if self.sent else proof.platform

    def is_seated(self, signer: str, policy: str) -> bool:
        return signer in self.seats

    def take_seat(self, signer: str, policy: str) -> Mined | None:
        if len(self.seats) == self.room:
            return None
        self.seats.append(signer)
        return Mined("0x11", 1, bytes(32), 1, None)

    def register(self, registration: Registration, policy: str) -> Mined:
        assert policy == "0x" + "cd" * 20
        if self.refusal is not None:
            raise self.refusal
        if registration.platform[:1] == b"\x01" and not self.sent:
            raise ContractRefused("PlatformUnknown")
        self.sent.append(registration)
        return Mined("0x11", 1, bytes(32), 1, None)


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_a_registration_is_of_this_keyset_registry_and_block(tee: str) -> None:
    client = FakeClient()
    registry = ChainRegistry(client, "0x" + "cd" * 20)  # type: ignore[arg-type]
    issuer = SimulatorIssuer(tee, b"\x07" * 32, MeasuredState(*[bytes(32)] * 3))
    node, block = keys(), Block(7, b"\x22" * 32, T0, 1)
    evidence = issuer.issue(report_data(node.keyset.digest, registry.nonce(block)))
    for _ in range(2):
        registry.register(node.keyset, evidence, block)
    whole, short = client.sent
    proof = prove(evidence.quote, evidence.collateral)  # type: ignore[arg-type]
    assert (whole.platform, short.platform) == (proof.platform, proof.registered_platform)
    for sent in client.sent:
        assert (sent.signer, sent.block_number) == (node.evm_address, 7)
        assert sent.quote == proof.quote
    with pytest.raises(NotProvable, match="another keyset, registry or block"):
        registry.register(node.keyset, evidence, Block(8, b"\x23" * 32, T0, 1))
    client.refusal = ContractRefused("MeasurementNotAllowed")
    with pytest.raises(ContractRefused, match="MeasurementNotAllowed"):
        registry.register(node.keyset, evidence, block)
    bare = IssuedEvidence(tee, evidence.quote, None, simulated=True)
    with pytest.raises(NotProvable, match="collateral"):
        registry.register(node.keyset, bare, block)


def test_a_seat_is_taken_only_where_one_is_wanted_and_missing() -> None:
    client = FakeClient()
    plain = ChainRegistry(client, ADDRESS)  # type: ignore[arg-type]
    assert plain.seat("0x1") is None and client.seats == []
    wanting = ChainRegistry(client, ADDRESS, seated=True)  # type: ignore[arg-type]
    assert wanting.seat("0x1") is True and wanting.seat("0x1") is True
    assert client.seats == ["0x1"] and wanting.seat("0x2") is False


# --- starting ------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "gas.key"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    yield path


def choice(file: Path, **changes: Any) -> ChainChoice:
    given = {"rpc": "http://127.0.0.1:9/provider-key", "registry": ADDRESS, "policy": ADDRESS}
    return ChainChoice(**{**given, "key_file": file, **changes})


def test_neither_key_nor_url_is_shown(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="adyton")
    chosen = choice(key_file)
    ChainRegistry.open(chosen, "tdx", threading.Event())
    said = "".join(str(vars(record)) for record in caplog.records) + repr(chosen)
    assert "127.0.0.1" in said and SECRET not in said and "provider-key" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"registry": "0x12"}, "--registry"),
        ({"policy": "0xAb" + "ab" * 19}, "checksum"),
        ({"rpc": "ftp://host"}, "http"),
        ({"key_file": Path("/nowhere/key")}, "/nowhere/key"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(
    key_file: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(StartError, match=said):
        ChainRegistry.open(choice(key_file, **changes), "tdx", threading.Event())


def test_a_key_that_others_can_read_is_refused(key_file: Path) -> None:
    key_file.chmod(0o640)
    with pytest.raises(StartError, match="others may read it") as refused:
        ChainRegistry.open(choice(key_file), "tdx", threading.Event())
    assert SECRET not in str(refused.value)


def test_evidence_no_contract_checks_is_told_at_the_start(key_file: Path) -> None:
    with pytest.raises(StartError, match="sgx and tdx, not sev_snp"):
        ChainRegistry.open(choice(key_file), "sev_snp", threading.Event())


def test_missing_libraries_are_told_at_the_start(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.chain.find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"eth-account.*onchain"):
        ChainRegistry.open(choice(key_file), "tdx", threading.Event())


def test_what_signs_transactions_leaves_the_recursion_limit_alone(key_file: Path) -> None:
    """Else a client's deeply nested JSON would overrun the stack and kill the node."""
    program = (
        "import sys, threading; from pathlib import Path\n"
        "from gateway.chain import ChainRegistry; from gateway.settings import ChainChoice\n"
        f"c = ChainChoice('http://x', '{ADDRESS}', '{ADDRESS}', Path({str(key_file)!r}))\n"
        "ChainRegistry.open(c, 'tdx', threading.Event())\n"
        "assert 'py_ecc' in sys.modules\n"
        "print(sys.getrecursionlimit())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "1000\n", done.stderr


@pytest.mark.parametrize(
    "given",
    [["--chain", "http://x"], ["--registry", ADDRESS], ["--chain-key", "/k"], ["--chain-seat"]],
)
def test_half_a_chain_is_a_usage_error(tmp_path: Path, given: list[str]) -> None:
    words = ["serve", "--tee", "simulator", "--state-dir", str(tmp_path), *given]
    done = CliRunner().invoke(cli.main, words)
    assert done.exit_code == 2 and "go together" in done.output


def test_the_environment_names_a_chain_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("gateway.serve.run", lambda settings, **_: given.update(s=settings))
    environment = {
        "ADYTON_CHAIN": "https://rpc.example/secret",
        "ADYTON_REGISTRY": ADDRESS,
        "ADYTON_MEASUREMENT_POLICY": "0x" + "cd" * 20,
        "ADYTON_CHAIN_KEY": "/run/secrets/gas",
        "ADYTON_CHAIN_SEAT": "1",
    }
    done = CliRunner().invoke(cli.main, ["serve", "--tee", "simulator"], env=environment)
    assert done.exit_code == 0, done.output
    assert given["s"].chain == ChainChoice(
        "https://rpc.example/secret",
        ADDRESS,
        "0x" + "cd" * 20,
        Path("/run/secrets/gas"),
        take_seat=True,
    )
    assert "secret@" not in repr(given["s"]) and "rpc.example" not in repr(given["s"])


# --- in a node -----------------------------------------------------------------------------


async def test_a_node_serves_whether_or_not_its_chain_does(tmp_path: Path, key_file: Path) -> None:
    async with fake_node(tmp_path / "state", chain=choice(key_file)) as fake:
        ready = await fake.client.get("/readyz")
        assert ready.json() == {"status": "ready"}
        fake.node.registrar = fake.node.make_registrar()
        assert fake.node.registrar is not None
        fake.node.registrar.glance()  # nobody answers at that port
        ready = await fake.client.get("/readyz")
        assert ready.status_code == 200 and ready.json()["status"] == "ready"
        assert ready.json()["chain"]["failures"] == 1
        fake.supervisor.ready = False
        stuck = await fake.client.get("/readyz")
        assert stuck.status_code == 503 and stuck.json()["chain"]["state"] == "starting"
        metrics = (await fake.client.get("/metrics")).text
        assert 'adyton_chain_registrations_total{outcome="failed"} 1.0' in metrics
        assert UNTIL + " 0.0" in metrics
        assert SECRET not in metrics + json.dumps(ready.json())


async def test_a_node_without_chain_says_nothing_of_one(tmp_path: Path) -> None:
    async with fake_node(tmp_path / "state") as fake:
        assert fake.node.make_registrar() is None
        assert (await fake.client.get("/readyz")).json() == {"status": "ready"}
        assert "adyton_chain" not in (await fake.client.get("/metrics")).text
