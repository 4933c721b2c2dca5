"""Device issuers against fakes that behave as the kernel interfaces are documented to.

The fakes stand where `DeviceFiles` makes system calls (Gramine, configfs-tsm) and on a
real Unix socket (dstack). `DeviceFiles` itself is tested on real files and FIFOs; the same
fakes behind real system calls are in tests/integration/test_issuer_fakes.py.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import snp_pki
from fakes import gramine_fuse
from fakes import tsm as tsm_fake
from fakes.dstack import Agent, serving
from fakes.pseudo import InProcess

from attestation.collateral.snp import SnpEndorsements
from attestation.evidence import AttestationReport, CertificateTable, parse_quote
from attestation.evidence.snp import REPORT_BYTES
from attestation.evidence.snp_certs import ARK_GUID, ASK_GUID, VCEK_GUID, VLEK_GUID
from attestation.issuers import HARDWARE_ISSUERS, IssuerError, detect_issuer, dstack, open_issuer
from attestation.issuers.device import MAX_QUOTE_BYTES, DeviceError, DeviceFiles
from attestation.issuers.dstack import DstackIssuer
from attestation.issuers.gramine import DEVICE, GramineIssuer
from attestation.issuers.simulator import AmdAuthority, SimulatedPlatform, SimulatedSnp
from attestation.issuers.tsm import REPORTS, TsmIssuer
from attestation.verify.snp import verify_snp

MACHINE = SimulatedPlatform(seed=b"m" * 32, now=1_790_000_000)
COLLATERAL = MACHINE.collateral("sgx")
SNP = SimulatedSnp(
    seed=b"m" * 32,
    authority=AmdAuthority.of(snp_pki.rsa_key("ark"), snp_pki.rsa_key("ask")),
    now=1_790_000_000,
)
ENDORSEMENTS = SNP.endorsements()
REPORT_DATA = hashlib.sha512(b"report data").digest()


def sgx_quote(report_data: bytes) -> bytes:
    return MACHINE.sgx_quote({"mr_enclave": b"\x0e" * 32, "report_data": report_data})


def tdx_quote(report_data: bytes) -> bytes:
    return MACHINE.tdx_quote({"mr_td": b"\x0d" * 48, "report_data": report_data})


def snp_report(report_data: bytes, **more: Any) -> bytes:
    return SNP.report({"measurement": b"\x0a" * 48, "report_data": report_data, **more})


def report_data_of(quote: bytes) -> bytes:
    if len(quote) == REPORT_BYTES:
        return AttestationReport.read(quote).report_data
    return parse_quote(quote).body.report_data


def table(**documents: bytes) -> bytes:
    """A host's certificate table of these documents."""
    guids = {"vcek": VCEK_GUID, "vlek": VLEK_GUID, "ask": ASK_GUID, "ark": ARK_GUID}
    return CertificateTable.build((guids[k], v) for k, v in documents.items()).write()


WHOLE_TABLE = table(vcek=ENDORSEMENTS.vek, ask=ENDORSEMENTS.chain[0], ark=ENDORSEMENTS.chain[1])


class Attestation(gramine_fuse.Attestation):
    """Gramine's device over a simulated platform."""

    def __init__(self) -> None:
        super().__init__(sgx_quote)


class Tsm(tsm_fake.Tsm):
    """configfs-tsm of a TD; `quote` and `table` make what it gives out."""

    def __init__(self, provider: bytes = b"tdx_guest") -> None:
        super().__init__(lambda inblob, _: (self.quote(inblob), self.table), provider)
        self.quote: Callable[[bytes], bytes] = tdx_quote
        self.table = b""


class SnpTsm(Tsm):
    """configfs-tsm of an SNP guest."""

    def __init__(self) -> None:
        super().__init__(b"sev_guest")
        self.quote = snp_report
        self.table = WHOLE_TABLE


def eacces(_: bytes) -> bytes:
    raise PermissionError(errno.EACCES, "Permission denied")


# --- what holds for both kernel interfaces --------------------------------------


def gramine(fake: Attestation) -> GramineIssuer:
    return GramineIssuer(collateral=COLLATERAL, files=InProcess(DEVICE, fake))


def tsm(fake: Tsm) -> TsmIssuer:
    given = ENDORSEMENTS if isinstance(fake, SnpTsm) else COLLATERAL
    return TsmIssuer(collateral=given, files=InProcess(REPORTS, fake))


def snp(fake: Tsm) -> TsmIssuer:
    return TsmIssuer(files=InProcess(REPORTS, fake))


KINDS: Any = pytest.mark.parametrize(
    ("fake", "open_it", "make"),
    [(Attestation, gramine, sgx_quote), (Tsm, tsm, tdx_quote), (SnpTsm, tsm, snp_report)],
    ids=["gramine", "tsm-tdx", "tsm-snp"],
)


@KINDS
def test_a_quote_over_exactly_the_report_data(fake: Any, open_it: Any, make: Any) -> None:
    issuer = open_it(fake())
    evidence = issuer.issue(REPORT_DATA)
    assert evidence.quote == make(REPORT_DATA)
    assert evidence.tee_type == issuer.tee_type
    assert evidence.collateral is (ENDORSEMENTS if make is snp_report else COLLATERAL)
    assert not evidence.simulated
    assert not issuer.simulated


@KINDS
def test_the_measurement_is_known_from_the_start(fake: Any, open_it: Any, make: Any) -> None:
    expected = {"sgx": "0e" * 32, "tdx": "0d" * 48, "sev_snp": "0a" * 48}
    issuer = open_it(fake())
    assert issuer.measurement == expected[issuer.tee_type]


@KINDS
def test_zero_padding_of_the_device_buffer_is_removed(fake: Any, open_it: Any, make: Any) -> None:
    device = fake()
    device.quote = lambda data: make(data).ljust(8192, b"\0")
    assert open_it(device).issue(REPORT_DATA).quote == make(REPORT_DATA)


@KINDS
def test_other_bytes_after_the_quote_are_refused(fake: Any, open_it: Any, make: Any) -> None:
    device = fake()
    device.quote = lambda data: make(data) + b"\0\0\x01"
    with pytest.raises(IssuerError, match="3 bytes after the"):
        open_it(device)


@KINDS
def test_a_quote_over_other_report_data_is_refused(fake: Any, open_it: Any, make: Any) -> None:
    """Somebody else used the device between our write and our read, or the device lies."""
    device = fake()
    issuer = open_it(device)
    device.quote = lambda data: make(bytes(64))
    with pytest.raises(IssuerError, match="other report data"):
        issuer.issue(REPORT_DATA)


@KINDS
def test_what_is_no_quote_is_refused(fake: Any, open_it: Any, make: Any) -> None:
    device = fake()
    for answer in (b"", b"\x03\x00", make(bytes(64))[:-1]):
        device.quote = lambda data, answer=answer: answer
        with pytest.raises(IssuerError, match=r"returned no (quote|SEV-SNP report)"):
            open_it(device)


@KINDS
def test_a_quote_of_another_tee_is_refused(fake: Any, open_it: Any, make: Any) -> None:
    device = fake()
    device.quote = sgx_quote if make is tdx_quote else tdx_quote
    with pytest.raises(IssuerError, match=r"returned a quote of|bytes after the report"):
        open_it(device)


@KINDS
@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_that_a_device_would_pad_or_cut_never_reaches_it(
    fake: Any, open_it: Any, make: Any, size: int
) -> None:
    issuer = open_it(fake())
    with pytest.raises(IssuerError, match="64 bytes"):
        issuer.issue(bytes(size))


@KINDS
def test_many_threads_each_get_their_own_quote(fake: Any, open_it: Any, make: Any) -> None:
    device = fake()
    issuer = open_it(device)
    device.after_write = lambda *_: time.sleep(0.001)
    wanted = [hashlib.sha512(bytes([i])).digest() for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        quotes = list(pool.map(lambda data: issuer.issue(data).quote, wanted))
    assert [report_data_of(q) for q in quotes] == wanted


# --- Gramine ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"none", b"epid\n", b"", b"\xff"])
def test_gramine_without_dcap_is_refused(kind: bytes) -> None:
    device = Attestation()
    device.kind = kind
    with pytest.raises(IssuerError, match="attestation_type"):
        gramine(device)


def test_gramine_refusing_the_quote_at_open_is_an_issuer_error() -> None:
    device = Attestation()
    issuer = gramine(device)
    device.quote = eacces
    with pytest.raises(IssuerError, match="/dev/attestation/quote: Permission denied"):
        issuer.issue(REPORT_DATA)
    # The lock is free again.
    device.quote = sgx_quote
    assert issuer.issue(REPORT_DATA).quote == sgx_quote(REPORT_DATA)


def test_gramine_sealing_key_follows_mrenclave_and_is_not_the_devices_own() -> None:
    device = Attestation()
    issuer = gramine(device)
    key = issuer.sealing_key()
    assert len(key) == 32
    assert key == issuer.sealing_key()
    assert not key.startswith(b"e" * 16)
    device.keys["_sgx_mrenclave"] = b"f" * 16
    assert issuer.sealing_key() != key


@pytest.mark.parametrize("content", [b"", b"e" * 15, b"e" * 17])
def test_gramine_key_that_is_unset_or_odd_is_refused(content: bytes) -> None:
    device = Attestation()
    device.keys["_sgx_mrenclave"] = content
    with pytest.raises(IssuerError, match="_sgx_mrenclave"):
        gramine(device).sealing_key()


# --- configfs-tsm -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Tsm, SnpTsm])
def test_tsm_leaves_no_report_directory_behind(kind: type[Tsm]) -> None:
    device = kind()
    issuer = tsm(device)
    issuer.issue(REPORT_DATA)
    assert device.made == 3
    assert device.reports == {}
    device.quote = lambda _: b"junk"
    with pytest.raises(IssuerError):
        issuer.issue(REPORT_DATA)
    device.provider = b"other"
    with pytest.raises(IssuerError):
        issuer.issue(REPORT_DATA)
    assert device.reports == {}


@pytest.mark.parametrize("kind", [Tsm, SnpTsm])
def test_tsm_has_no_sealing_key(kind: type[Tsm]) -> None:
    assert tsm(kind()).sealing_key() is None


def test_tsm_refuses_unknown_providers_and_one_that_changes() -> None:
    with pytest.raises(IssuerError, match="arm_cca_guest"):
        tsm(Tsm(b"arm_cca_guest"))
    device = Tsm()
    issuer = tsm(device)
    device.provider = b"sev_guest"
    with pytest.raises(IssuerError, match="changed since"):
        issuer.issue(REPORT_DATA)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EWOULDBLOCK, errno.EINTR])
def test_tsm_tries_again_when_the_kernel_is_busy(code: int) -> None:
    device = Tsm()
    issuer = tsm(device)
    failures = [code, code]

    def busy(report_data: bytes) -> bytes:
        if failures:
            raise OSError(failures.pop(), "busy")
        return tdx_quote(report_data)

    device.quote = busy
    assert report_data_of(issuer.issue(REPORT_DATA).quote) == REPORT_DATA
    assert failures == []


def test_tsm_tries_again_when_the_generation_moved() -> None:
    device = Tsm()
    issuer = tsm(device)
    intrusions = [b"i" * 64]

    def intrude(report: tsm_fake.Report) -> None:
        if intrusions:
            report.inblob = intrusions.pop()
            report.generation += 1

    device.after_write = intrude
    assert report_data_of(issuer.issue(REPORT_DATA).quote) == REPORT_DATA


def test_tsm_gives_up_when_the_contention_does_not_end() -> None:
    device = Tsm()
    issuer = tsm(device)

    def intrude(report: tsm_fake.Report) -> None:
        report.generation += 1

    device.after_write = intrude
    with pytest.raises(IssuerError, match="still contended"):
        issuer.issue(REPORT_DATA)
    assert device.reports == {}


@pytest.mark.parametrize("code", [errno.EFBIG, errno.EIO, errno.ENXIO])
def test_tsm_does_not_retry_what_will_not_pass(code: int) -> None:
    device = Tsm()
    issuer = tsm(device)
    calls = []

    def fail(report_data: bytes) -> bytes:
        calls.append(report_data)
        raise OSError(code, os.strerror(code))

    device.quote = fail
    with pytest.raises(DeviceError) as caught:
        issuer.issue(REPORT_DATA)
    assert caught.value.errno == code
    assert len(calls) == 1


def test_tsm_refuses_a_generation_that_is_no_number() -> None:
    class Odd(InProcess):
        def read(self, path: Path, limit: int) -> bytes:
            return b"soon" if path.name == "generation" else super().read(path, limit)

    with pytest.raises(IssuerError, match="no number"):
        TsmIssuer(files=Odd(REPORTS, Tsm()))


# --- configfs-tsm, SEV-SNP -----------------------------------------------------------


def test_snp_report_goes_out_with_the_hosts_certificates() -> None:
    issuer = snp(SnpTsm())
    evidence = issuer.issue(REPORT_DATA)
    assert (issuer.tee_type, evidence.tee_type) == ("sev_snp", "sev_snp"), "ACI's name"
    assert evidence.collateral == SnpEndorsements(ENDORSEMENTS.vek, ENDORSEMENTS.chain)
    assert isinstance(evidence.collateral, SnpEndorsements)
    verified = verify_snp(evidence.quote, evidence.collateral, [SNP.root_der], SNP.now)
    assert verified.report_data == REPORT_DATA


@pytest.mark.parametrize(
    "given", [b"", table(ask=ENDORSEMENTS.chain[0]), table(vlek=ENDORSEMENTS.vek)]
)
def test_snp_host_without_the_keys_certificate_gives_no_endorsements(given: bytes) -> None:
    device = SnpTsm()
    device.table = given
    assert snp(device).issue(REPORT_DATA).collateral is None


@pytest.mark.parametrize("given", [b"x", WHOLE_TABLE[:-1], table(vcek=b"-----BEGIN nothing")])
def test_snp_table_that_cannot_be_read_is_refused_unless_the_operator_gave_his_own(
    given: bytes,
) -> None:
    device = SnpTsm()
    device.table = given
    with pytest.raises(IssuerError, match="certificates cannot be read"):
        snp(device)
    assert tsm(device).issue(REPORT_DATA).collateral is ENDORSEMENTS


def test_snp_report_signed_by_a_vlek_takes_the_tables_vlek() -> None:
    device = SnpTsm()
    device.quote = lambda data: snp_report(data, signing_key=1)
    device.table = table(vcek=b"\x30\x01", vlek=ENDORSEMENTS.vek)
    assert snp(device).issue(REPORT_DATA).collateral == SnpEndorsements(ENDORSEMENTS.vek)


def test_tsm_refuses_collateral_of_the_other_vendor() -> None:
    with pytest.raises(IssuerError, match="not for sev_snp"):
        TsmIssuer(collateral=COLLATERAL, files=InProcess(REPORTS, SnpTsm()))
    with pytest.raises(IssuerError, match="not for tdx"):
        TsmIssuer(collateral=ENDORSEMENTS, files=InProcess(REPORTS, Tsm()))


@pytest.mark.parametrize("floor", [0, 1, 3])
def test_snp_report_is_asked_for_at_the_lowest_level_this_guest_may_name(floor: int) -> None:
    """Under a service module the guest runs above VMPL 0, and the kernel's default is refused."""
    device = SnpTsm()
    device.privlevel_floor = floor
    device.report = lambda inblob, level: (snp_report(inblob, vmpl=level), WHOLE_TABLE)
    quote = snp(device).issue(REPORT_DATA).quote
    assert AttestationReport.read(quote).vmpl == floor


def test_snp_privilege_level_out_of_range_is_refused() -> None:
    device = SnpTsm()
    device.privlevel_floor = 4
    with pytest.raises(IssuerError, match="privlevel_floor: 4 is above 3"):
        snp(device)


def test_snp_kernel_without_privilege_levels_is_asked_for_none() -> None:
    class Without(InProcess):
        def read(self, path: Path, limit: int) -> bytes:
            if path.name == "privlevel_floor":
                raise DeviceError(path, OSError(errno.ENOENT, "No such file or directory"))
            return super().read(path, limit)

    issuer = TsmIssuer(files=Without(REPORTS, SnpTsm()))
    assert report_data_of(issuer.issue(REPORT_DATA).quote) == REPORT_DATA


def test_snp_privilege_level_that_cannot_be_read_is_an_error_and_not_a_default() -> None:
    class Broken(InProcess):
        def read(self, path: Path, limit: int) -> bytes:
            if path.name == "privlevel_floor":
                raise DeviceError(path, OSError(errno.EIO, "Input/output error"))
            return super().read(path, limit)

    with pytest.raises(DeviceError, match="Input/output error"):
        TsmIssuer(files=Broken(REPORTS, SnpTsm()))


def test_snp_certificates_of_a_report_that_somebody_replaced_are_not_taken() -> None:
    """A write between reading the report and its table makes the kernel begin again; so do we."""
    device = SnpTsm()
    issuer = snp(device)
    intrusions = [table(vcek=b"\x30\x00")]

    class Between(InProcess):
        def read(self, path: Path, limit: int) -> bytes:
            if path.name == "auxblob" and intrusions:
                report = device.reports[path.parent.name]
                report.inblob, report.generation = b"i" * 64, report.generation + 1
                device.table = intrusions.pop()
                content = super().read(path, limit)
                device.table = WHOLE_TABLE
                return content
            return super().read(path, limit)

    issuer = TsmIssuer(files=Between(REPORTS, device))
    evidence = issuer.issue(REPORT_DATA)
    assert evidence.collateral == SnpEndorsements(ENDORSEMENTS.vek, ENDORSEMENTS.chain)
    assert intrusions == []


# --- dstack -------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with serving(tmp_path / "dstack.sock", lambda data, _: tdx_quote(data)) as server:
        yield server


def test_dstack_quotes_exactly_the_report_data(agent: Agent) -> None:
    issuer = DstackIssuer(agent.path, COLLATERAL)
    evidence = issuer.issue(REPORT_DATA)
    assert evidence.quote == tdx_quote(REPORT_DATA)
    assert evidence.collateral is COLLATERAL
    assert (evidence.tee_type, evidence.simulated) == ("tdx", False)
    assert issuer.measurement == "0d" * 48
    assert agent.asked[-1] == ("/GetQuote", {"report_data": REPORT_DATA.hex()})


def test_dstack_sealing_key_is_derived_from_the_applications(agent: Agent) -> None:
    issuer = DstackIssuer(agent.path)
    key = issuer.sealing_key()
    assert len(key) == 32
    assert key == issuer.sealing_key()
    method, asked = agent.asked[-1]
    assert (method, asked["path"]) == ("/GetKey", "adyton/sealing/v1")
    assert key != hashlib.sha256(b"adyton/sealing/v1").digest()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b'{"error":"no quote"}', "answered 500"),
        (302, b"{}", "answered 302"),
        (200, b"not json", "not answer in JSON"),
        (200, b"[]", "no object"),
        (200, b"{}", "not hex"),
        (200, b'{"quote":1,"key":1}', "not hex"),
        (200, b'{"quote":"zz","key":"zz"}', "not hex"),
        (200, b'{"quote":"00","key":"00"}', "no quote|1 bytes"),
    ],
)
def test_dstack_answers_of_another_shape_are_refused(
    agent: Agent, status: int, body: bytes, reason: str
) -> None:
    issuer = DstackIssuer(agent.path)
    agent.answers = {"/GetQuote": (status, body), "/GetKey": (status, body)}
    with pytest.raises(IssuerError, match=reason):
        issuer.issue(REPORT_DATA)
    with pytest.raises(IssuerError, match=reason):
        issuer.sealing_key()


def test_dstack_quote_over_other_report_data_is_refused(agent: Agent) -> None:
    issuer = DstackIssuer(agent.path)
    agent.answers["/GetQuote"] = (200, json.dumps({"quote": tdx_quote(bytes(64)).hex()}).encode())
    with pytest.raises(IssuerError, match="other report data"):
        issuer.issue(REPORT_DATA)
    with pytest.raises(IssuerError, match="64 bytes"):
        issuer.issue(b"short")


def test_dstack_ignores_proxies_named_in_the_environment(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert DstackIssuer(agent.path).measurement == "0d" * 48


def test_dstack_agent_that_hangs_up_or_stalls_is_an_issuer_error(agent: Agent) -> None:
    issuer = DstackIssuer(agent.path, timeout_s=0.2)
    release = threading.Event()
    answer = agent.answer

    def stall(method: str, body: bytes) -> tuple[int, bytes]:
        release.wait(10)
        return answer(method, body)

    agent.answer = stall  # type: ignore[method-assign]
    try:
        with pytest.raises(IssuerError, match="GetQuote"):
            issuer.issue(REPORT_DATA)
    finally:
        release.set()


# --- opening by name ------------------------------------------------------------------


@pytest.mark.parametrize("name", HARDWARE_ISSUERS)
def test_a_missing_device_is_named_and_nothing_falls_back(name: str, tmp_path: Path) -> None:
    with pytest.raises(IssuerError, match="no-such-device"):
        open_issuer(name, device=tmp_path / "no-such-device")


@pytest.mark.parametrize("name", ["simulator", "", "auto", "TSM"])
def test_other_names_are_refused_also_the_simulators(name: str) -> None:
    with pytest.raises(IssuerError, match="no hardware issuer"):
        open_issuer(name)


def test_opening_dstack_by_name(agent: Agent) -> None:
    issuer = open_issuer("dstack", device=agent.path, collateral=COLLATERAL)
    assert issuer.name == "dstack"
    assert issuer.issue(REPORT_DATA).collateral is COLLATERAL


@pytest.mark.parametrize("name", ["gramine", "dstack"])
def test_amds_endorsements_do_not_go_out_with_intels_quotes(name: str, tmp_path: Path) -> None:
    with pytest.raises(IssuerError, match="is for SEV-SNP"):
        open_issuer(name, device=tmp_path, collateral=ENDORSEMENTS)


# --- detecting ------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A machine whose / is `tmp_path`; calling it gives it a device."""
    # Paths of sockets are short: the agent listens elsewhere and is linked to.
    with TemporaryDirectory(prefix="adyton-") as folder, ExitStack() as agents:

        def add(kind: str) -> None:
            if kind == "gramine":
                (tmp_path / "dev/attestation").mkdir(parents=True)
                (tmp_path / "dev/attestation/attestation_type").write_bytes(b"dcap")
            elif kind == "tsm":
                (tmp_path / "sys/kernel/config/tsm/report").mkdir(parents=True)
            else:
                server = socket.socket(socket.AF_UNIX)
                agents.enter_context(server)
                server.bind(f"{folder}/agent")
                place = tmp_path / kind.removeprefix("/")
                place.parent.mkdir(parents=True)
                place.symlink_to(f"{folder}/agent")

        yield add


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        (["gramine"], "gramine"),
        (["tsm"], "tsm"),
        (["/var/run/dstack.sock"], "dstack"),
        (["/run/dstack/dstack.sock"], "dstack"),
        (["tsm", "/var/run/dstack.sock"], "dstack"),
        (["tsm", "/run/dstack.sock", "gramine"], "gramine"),
    ],
)
def test_the_innermost_of_a_machines_devices_is_chosen(
    machine: Callable[[str], None], tmp_path: Path, devices: list[str], found: str
) -> None:
    for device in devices:
        machine(device)
    assert detect_issuer(tmp_path) == found


def test_a_machine_without_a_tee_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(IssuerError) as e:
        detect_issuer(tmp_path)
    for name in ("/dev/attestation", "dstack.sock", "/sys/kernel/config/tsm/report"):
        assert name in str(e.value)
    assert "simulat" not in str(e.value)


def test_what_only_has_a_devices_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "dev/attestation").mkdir(parents=True)
    (tmp_path / "var/run").mkdir(parents=True)
    (tmp_path / "var/run/dstack.sock").touch()
    (tmp_path / "sys/kernel/config/tsm").mkdir(parents=True)
    (tmp_path / "sys/kernel/config/tsm/report").touch()
    with pytest.raises(IssuerError, match="no TEE"):
        detect_issuer(tmp_path)


def test_dstack_without_a_named_socket_tries_the_usual_places(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dstack, "SOCKETS", (tmp_path / "absent", agent.path))
    assert DstackIssuer().measurement == "0d" * 48


# --- the system calls -------------------------------------------------------------------


def test_a_write_is_one_call_and_truncates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"x" * 100)
    DeviceFiles().write(path, b"ab")
    assert path.read_bytes() == b"ab" + b"x" * 98
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    DeviceFiles().write(fifo, b"y" * 64)
    assert os.read(reader, 4096) == b"y" * 64
    os.close(reader)


def test_a_short_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value"
    path.touch()
    monkeypatch.setattr(os, "write", lambda *_: 3)
    with pytest.raises(IssuerError, match="took 3 of 64"):
        DeviceFiles().write(path, bytes(64))


def test_reading_takes_pieces_until_the_end_and_no_more_than_the_limit(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def feed() -> None:
        with fifo.open("wb", buffering=0) as file:
            for _ in range(3):
                file.write(b"z" * 10)
                time.sleep(0.002)

    with ThreadPoolExecutor(1) as pool:
        feeding = pool.submit(feed)
        assert DeviceFiles().read(fifo, 30) == b"z" * 30
        feeding.result()
    path = tmp_path / "large"
    path.write_bytes(bytes(MAX_QUOTE_BYTES + 1))
    with pytest.raises(IssuerError, match="more than"):
        DeviceFiles().read(path, MAX_QUOTE_BYTES)


def test_refusals_by_the_kernel_name_the_path_and_keep_the_number(tmp_path: Path) -> None:
    files = DeviceFiles()
    absent = tmp_path / "absent"
    for action in (
        lambda: files.read(absent, 1),
        lambda: files.write(absent, b"x"),
        lambda: files.make_directory(absent / "below"),
        lambda: files.remove_directory(absent),
    ):
        with pytest.raises(DeviceError, match="absent") as caught:
            action()
        assert caught.value.errno == errno.ENOENT
    assert not absent.exists()
    files.make_directory(absent)
    with pytest.raises(DeviceError):
        files.make_directory(absent)
    files.remove_directory(absent)
    assert not absent.exists()


@pytest.mark.tee
@pytest.mark.parametrize(
    ("name", "path"),
    [("gramine", DEVICE), ("tsm", REPORTS), ("dstack", Path("/var/run/dstack.sock"))],
)
def test_real_hardware_quotes_our_report_data(name: str, path: Path) -> None:
    if not path.exists():
        pytest.skip(f"this machine has no {path}")
    assert report_data_of(open_issuer(name).issue(REPORT_DATA).quote) == REPORT_DATA


def test_opening_one_issuer_imports_no_other() -> None:
    import subprocess

    code = (
        "import sys, attestation.issuers as i\n"
        "try: i.open_issuer('gramine', device=__import__('pathlib').Path('/nonexistent'))\n"
        "except i.IssuerError: pass\n"
        "loaded = [m for m in sys.modules if m.startswith('attestation.issuers.')]\n"
        "assert 'attestation.issuers.simulator' not in loaded, loaded\n"
        "assert 'httpx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
