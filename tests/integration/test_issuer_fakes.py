"""Issuers through real system calls: fake devices mounted with FUSE, dstack on its socket.

What only a kernel shows: a value stored when a descriptor closes, an error at open, a short
read, a device that goes away. dstack-sdk drives the same agent as our issuer does.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import snp_pki
from fakes import gramine_fuse
from fakes import tsm as tsm_fake
from fakes.dstack import APP_ID, COMPOSE_HASH, Agent, serving
from fakes.fuse import mounted, unavailable

from attestation.collateral.snp import SnpEndorsements
from attestation.evidence import CertificateTable, parse_quote
from attestation.evidence.snp_certs import ARK_GUID, ASK_GUID, VCEK_GUID
from attestation.issuers import IssuerError, open_issuer
from attestation.issuers.simulator import AmdAuthority, SimulatedPlatform, SimulatedSnp
from attestation.verify.snp import verify_snp

MACHINE = SimulatedPlatform(seed=b"m" * 32, now=1_790_000_000)
REPORT_DATA = hashlib.sha512(b"report data").digest()
REASON = unavailable()
needs_fuse = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def sgx_quote(report_data: bytes) -> bytes:
    return MACHINE.sgx_quote({"mr_enclave": b"\x0e" * 32, "report_data": report_data})


def tdx_quote(report_data: bytes, rt_mr3: bytes = bytes(48)) -> bytes:
    fields = {"mr_td": b"\x0d" * 48, "report_data": report_data, "rt_mr3": rt_mr3}
    return MACHINE.tdx_quote(fields)


def report_data_of(quote: bytes) -> bytes:
    return parse_quote(quote).body.report_data


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def write(path: Path, data: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)


# --- Gramine ----------------------------------------------------------------------


@pytest.fixture
def gramine(tmp_path: Path) -> Iterator[tuple[Path, gramine_fuse.Attestation]]:
    device = gramine_fuse.Attestation(sgx_quote)
    with mounted(tmp_path, device) as path:
        yield path, device


@needs_fuse
def test_gramine_quotes_through_system_calls(gramine: Any) -> None:
    path, _ = gramine
    issuer = open_issuer("gramine", device=path)
    evidence = issuer.issue(REPORT_DATA)
    assert evidence.quote == sgx_quote(REPORT_DATA)
    assert issuer.measurement == "0e" * 32
    assert issuer.sealing_key() == open_issuer("gramine", device=path).sealing_key()


@needs_fuse
def test_gramine_device_behaves_as_documented(gramine: Any) -> None:
    """The fake itself: without these semantics the tests around it would show nothing."""
    path, device = gramine
    value = path / "user_report_data"
    assert write(value, b"ab") == 2
    assert device.report_data == b"ab" + bytes(62), "short is zero-padded"
    assert write(value, b"c" * 100) == 100
    assert device.report_data == b"c" * 64, "long is silently cut"
    assert value.read_bytes() == b"", "a fresh open reads nothing"
    assert report_data_of((path / "quote").read_bytes()) == b"c" * 64
    opened = os.open(path / "quote", os.O_RDONLY)
    write(value, b"d" * 64)
    assert report_data_of(os.read(opened, 8192)) == b"c" * 64, "made at open, not at read"
    os.close(opened)
    assert (path / "keys" / "default").read_bytes() == b"", "an unset key reads empty"
    assert write(path / "keys" / "default", b"k" * 16) == 16
    assert (path / "keys" / "default").read_bytes() == b"k" * 16
    for name in ("quote", "keys/_sgx_mrenclave"):
        with pytest.raises(PermissionError):
            os.open(path / name, os.O_WRONLY)
    assert names(path / "keys") == ["_sgx_mrenclave", "_sgx_mrsigner", "default"]


@needs_fuse
def test_gramine_refusal_at_open_and_missing_quote_are_issuer_errors(gramine: Any) -> None:
    path, device = gramine
    issuer = open_issuer("gramine", device=path)

    def refuse(_: bytes) -> bytes:
        raise PermissionError(13, "no quoting enclave")

    device.quote = refuse
    with pytest.raises(IssuerError, match="quote: Permission denied"):
        issuer.issue(REPORT_DATA)
    device.kind = b"none"
    with pytest.raises(IssuerError, match=r"sgx\.remote_attestation"):
        open_issuer("gramine", device=path)


@needs_fuse
def test_gramine_threads_never_quote_each_others_report_data(gramine: Any) -> None:
    path, _ = gramine
    issuers = [open_issuer("gramine", device=path) for _ in range(2)]
    wanted = [hashlib.sha512(bytes([i])).digest() for i in range(24)]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(issuers[i % 2].issue, data) for i, data in enumerate(wanted)]
    assert [report_data_of(job.result().quote) for job in jobs] == wanted


# --- configfs-tsm -------------------------------------------------------------------


@pytest.fixture
def tsm(tmp_path: Path) -> Iterator[tuple[Path, tsm_fake.Tsm]]:
    device = tsm_fake.Tsm(lambda inblob, _: (tdx_quote(inblob), b""))
    with mounted(tmp_path, device) as path:
        yield path, device


@needs_fuse
def test_tsm_quotes_through_system_calls_and_cleans_up(tsm: Any) -> None:
    path, device = tsm
    issuer = open_issuer("tsm", device=path)
    assert issuer.issue(REPORT_DATA).quote == tdx_quote(REPORT_DATA)
    assert issuer.measurement == "0d" * 48
    assert device.made == 3
    assert names(path) == []


@needs_fuse
def test_configfs_behaves_as_documented(tsm: Any) -> None:
    """The fake itself, as above."""
    path, device = tsm
    report = path / "r"
    report.mkdir()
    with pytest.raises(FileExistsError):
        report.mkdir()
    assert names(report) == ["generation", "inblob", "outblob", "provider"]
    with pytest.raises(OSError, match="Invalid argument"):
        (report / "outblob").read_bytes()
    with pytest.raises(OSError, match="File too large"):
        write(report / "inblob", bytes(65))
    assert (report / "generation").read_text() == "0\n"
    descriptor = os.open(report / "inblob", os.O_WRONLY)
    os.write(descriptor, REPORT_DATA)
    assert (report / "generation").read_text() == "0\n", "stored at close, not at write"
    os.close(descriptor)
    assert (report / "generation").read_text() == "1\n"
    assert report_data_of((report / "outblob").read_bytes()) == REPORT_DATA
    with pytest.raises(PermissionError):
        os.open(report / "inblob", os.O_RDONLY)
    with pytest.raises(PermissionError):
        os.open(report / "outblob", os.O_WRONLY)
    device.report = lambda *_: (bytes(tsm_fake.OUTBLOB_MAX + 1), b"")
    write(report / "inblob", bytes(64))
    with pytest.raises(OSError, match="File too large"):
        (report / "outblob").read_bytes()
    report.rmdir()
    assert names(path) == []


@needs_fuse
def test_a_write_that_the_kernel_drops_at_close_is_noticed(tsm: Any) -> None:
    """EBUSY at close(2) of a binary attribute reaches nobody; the generation tells."""
    path, device = tsm
    issuer = open_issuer("tsm", device=path)
    drops = [True, True]

    def busy(_: tsm_fake.Report) -> None:
        if drops and drops.pop():
            raise OSError(16, "busy")

    device.before_store = busy
    assert report_data_of(issuer.issue(REPORT_DATA).quote) == REPORT_DATA
    assert drops == []


@needs_fuse
@pytest.mark.parametrize("error", [errno.EBUSY, errno.EWOULDBLOCK, errno.EINTR])
def test_a_busy_kernel_is_asked_again(tsm: Any, error: int) -> None:
    path, device = tsm
    issuer = open_issuer("tsm", device=path)
    busy = [error, error]

    def report(inblob: bytes, _: int) -> tuple[bytes, bytes]:
        if busy:
            raise OSError(busy.pop(), "busy")
        return tdx_quote(inblob), b""

    device.report = report
    assert report_data_of(issuer.issue(REPORT_DATA).quote) == REPORT_DATA
    assert busy == []


@needs_fuse
def test_tsm_threads_each_have_their_own_report(tsm: Any) -> None:
    path, device = tsm
    issuer = open_issuer("tsm", device=path)
    wanted = [hashlib.sha512(bytes([i])).digest() for i in range(24)]
    with ThreadPoolExecutor(6) as pool:
        quotes = list(pool.map(lambda data: issuer.issue(data).quote, wanted))
    assert [report_data_of(q) for q in quotes] == wanted
    assert device.reports == {}


@needs_fuse
def test_a_provider_that_is_unloaded_is_an_issuer_error(tsm: Any) -> None:
    path, device = tsm
    issuer = open_issuer("tsm", device=path)
    device.provider = None
    with pytest.raises(IssuerError, match="No such device or address"):
        issuer.issue(REPORT_DATA)
    assert device.reports == {}


@needs_fuse
def test_snp_report_and_certificates_through_system_calls(tmp_path: Path) -> None:
    machine = SimulatedSnp(
        seed=b"m" * 32,
        authority=AmdAuthority.of(snp_pki.rsa_key("ark"), snp_pki.rsa_key("ask")),
        now=1_790_000_000,
    )
    endorsements = machine.endorsements()
    documents = zip(
        (VCEK_GUID, ASK_GUID, ARK_GUID), (endorsements.vek, *endorsements.chain), strict=True
    )
    table = CertificateTable.build(documents).write()

    def report(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        return machine.report({"report_data": inblob, "vmpl": privlevel}), table

    device = tsm_fake.Tsm(report, b"sev_guest")
    device.privlevel_floor = 2
    with mounted(tmp_path, device) as path:
        evidence = open_issuer("tsm", device=path).issue(REPORT_DATA)
    assert evidence.collateral == SnpEndorsements(endorsements.vek, endorsements.chain)
    assert isinstance(evidence.collateral, SnpEndorsements)
    verified = verify_snp(evidence.quote, evidence.collateral, [machine.root_der], machine.now)
    assert verified.report_data == REPORT_DATA
    assert verified.report.vmpl == 2


# --- dstack -------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with serving(tmp_path / "dstack.sock", tdx_quote) as agent:
        yield agent


def test_dstack_quotes_over_its_socket(agent: Agent) -> None:
    issuer = open_issuer("dstack", device=agent.path)
    quote: Any = parse_quote(issuer.issue(REPORT_DATA).quote)
    assert quote.body.report_data == REPORT_DATA
    assert quote.body.rt_mr3 == agent.rt_mr3


def test_dstack_sdk_drives_the_same_agent(agent: Agent) -> None:
    """The fake is what the platform's own client believes an agent is."""
    sdk = pytest.importorskip("dstack_sdk")
    client = sdk.DstackClient(str(agent.path))
    answer = client.get_quote(REPORT_DATA)
    assert (
        answer.decode_quote() == open_issuer("dstack", device=agent.path).issue(REPORT_DATA).quote
    )
    assert answer.replay_rtmrs()[3] == agent.rt_mr3.hex()
    client.emit_event("release", b"2")
    quote: Any = parse_quote(client.get_quote(REPORT_DATA).decode_quote())
    assert quote.body.rt_mr3 == agent.rt_mr3
    key = client.get_key("adyton/sealing/v1", "sealing")
    assert len(key.decode_key()) == 32
    info = client.info()
    assert (info.app_id, info.tcb_info.compose_hash) == (APP_ID, COMPOSE_HASH)
    tls = client.get_tls_key(subject="node")
    assert "PRIVATE KEY" in tls.key and len(tls.certificate_chain) == 2
    assert client.is_reachable()


def test_dstack_sdk_drives_the_older_agents_names(agent: Agent) -> None:
    sdk = pytest.importorskip("dstack_sdk")
    with pytest.warns(DeprecationWarning):
        client = sdk.TappdClient(str(agent.path))
    with pytest.warns(DeprecationWarning):
        quote = client.tdx_quote(REPORT_DATA, "raw")
    assert report_data_of(quote.decode_quote()) == REPORT_DATA
    with pytest.warns(DeprecationWarning):
        assert "PRIVATE KEY" in client.derive_key("/", "node").key
    assert client.info().app_id == APP_ID
