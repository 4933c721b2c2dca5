"""Fetching over a real socket, from a service that is slow, broken or lying."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import attested
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fakes import collateral_server as fake
from fakes.collateral_server import CollateralServer

from attestation.collateral.cache import Cache
from attestation.collateral.errors import CollateralRolledBack, CollateralUnavailable
from attestation.collateral.http import Fetcher, Patience
from attestation.collateral.item import Platform
from attestation.collateral.model import Collateral
from attestation.collateral.pcs import PcsClient
from attestation.collateral.source import CollateralSource, Obtained
from attestation.errors import CollateralError
from attestation.issuers.simulator.pccs import Answer, SimulatedPccs
from attestation.issuers.simulator.platform import DAY_S, SimulatedPlatform, Window
from attestation.verify import verify_quote

NOW = attested.NOW
ROOTS = [attested.platform().root_der]
TDX = Platform("tdx", attested.platform().fmspc.hex(), "platform")
QUICK = Patience(connect_s=2, read_s=0.5, total_s=3, attempts=3, backoff_s=0.01)


class Pccs(SimulatedPccs):
    """The simulator's PCCS with a platform of the test's choice."""

    def __init__(self, of: SimulatedPlatform) -> None:
        super().__init__(attested.SEED, lambda: NOW)
        self.of = of

    @property
    def platform(self) -> SimulatedPlatform:
        return self.of


@pytest.fixture
async def server() -> AsyncIterator[CollateralServer]:
    async with CollateralServer(Pccs(attested.platform()).answer) as server:
        yield server


async def obtain(
    server: CollateralServer,
    *,
    patience: Patience = QUICK,
    cache: Path | None = None,
    now: int = NOW,
    renew: bool = False,
) -> Obtained[Collateral]:
    async with Fetcher(patience) as fetcher:
        kept = None if cache is None else Cache(cache)
        source = CollateralSource(PcsClient(fetcher, server.url), roots=ROOTS, cache=kept)
        return await source.collateral(TDX, now, renew=renew)


def serve(server: CollateralServer, **odd: object) -> None:
    """From now on the server has the collateral of a platform that differs in `odd`."""
    server.genuine = Pccs(attested.platform(**odd)).answer


# --- what works --------------------------------------------------------------------------


async def test_fetched_collateral_is_the_served_one_and_verifies_a_quote(
    server: CollateralServer,
) -> None:
    got = (await obtain(server)).value
    assert got == attested.collateral("tdx")
    assert verify_quote(attested.quote("tdx-v4"), got, ROOTS, NOW).tcb_status == "UpToDate"
    assert len(server.requests) == 4


async def test_a_fresh_cache_asks_nobody(server: CollateralServer, tmp_path: Path) -> None:
    first = await obtain(server, cache=tmp_path / "c")
    server.requests.clear()
    second = await obtain(server, cache=tmp_path / "c", now=NOW + 60)
    assert second.value == first.value
    assert server.requests == []


async def test_a_day_later_the_service_is_asked_again(
    server: CollateralServer, tmp_path: Path
) -> None:
    first = await obtain(server, cache=tmp_path / "c")
    assert first.due_at == NOW + DAY_S
    server.requests.clear()
    await obtain(server, cache=tmp_path / "c", now=NOW + DAY_S)
    assert len(server.requests) == 4


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
async def test_a_passing_error_is_tried_again(server: CollateralServer, code: int) -> None:
    server.on("/tcb", fake.status(code), times=2)
    assert (await obtain(server)).value == attested.collateral("tdx")
    assert sum("/tcb" in r for r in server.requests) == 3


async def test_a_connection_that_closes_once_is_opened_again(server: CollateralServer) -> None:
    server.on("/qe/identity", fake.closes, times=1)
    assert (await obtain(server)).value == attested.collateral("tdx")


async def test_retry_after_is_kept_to(server: CollateralServer) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server.on("/tcb", fake.status(429, ("retry-after", "7")), times=1)
    async with Fetcher(QUICK, sleep=sleep, jitter=lambda: 1.0) as fetcher:
        source = CollateralSource(PcsClient(fetcher, server.url), roots=ROOTS)
        await source.collateral(TDX, NOW)
    assert waits == [7.0]


@pytest.mark.parametrize("text", ["soon", "-5", "Fri, 99 Dec 2099", "1" * 400, "\u0663"])
async def test_a_retry_after_that_is_none_is_not_kept_to(
    server: CollateralServer, text: str
) -> None:
    head = f"HTTP/1.1 503 X\r\nretry-after: {text}\r\ncontent-length: 0\r\n\r\n"
    server.on("/tcb", fake.sends(head.encode()), times=1)
    if text.startswith("11"):
        with pytest.raises(CollateralUnavailable, match="asks to wait"):
            await obtain(server)
    else:
        assert (await obtain(server)).value == attested.collateral("tdx")


async def test_waits_double_and_vary(server: CollateralServer) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server.on("/tcb", fake.status(503))
    patience = replace(QUICK, attempts=5, backoff_s=1.0, longest_wait_s=3.0)
    async with Fetcher(patience, sleep=sleep, jitter=lambda: 0.0) as fetcher:
        with pytest.raises(CollateralUnavailable, match="HTTP 503, 5 times"):
            await fetcher.get(server.url + "/tcb", "tcb-info")
    assert waits == [0.5, 1.0, 1.5, 1.5]


async def test_requests_keep_their_distance_where_a_service_limits_rates(
    server: CollateralServer,
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with Fetcher(replace(QUICK, spacing_s=1000.0), sleep=sleep) as fetcher:
        for _ in range(3):
            await fetcher.get(server.url + "/sgx/certification/v4/rootcacrl", "root-crl")
    assert len(waits) == 2
    assert all(w > 900 for w in waits)


# --- a service that does not answer -------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param(fake.drips, "no answer in", id="drips one byte at a time"),
        pytest.param(fake.silence, "ReadTimeout|no answer", id="says nothing"),
        pytest.param(fake.closes, "3 times", id="closes the connection"),
        pytest.param(fake.truncated, "not HTTP as it should be", id="cuts the body"),
        pytest.param(fake.status(500), "HTTP 500, 3 times", id="fails every time"),
        pytest.param(
            fake.status(429, ("retry-after", "86400")), "asks to wait 86400 s", id="wants a day"
        ),
        pytest.param(
            fake.status(503, ("retry-after", "Fri, 31 Dec 2099 23:59:59 GMT")),
            "asks to wait",
            id="wants decades",
        ),
        pytest.param(
            fake.sends(b"HTTP/1.1 200 X\r\nbad header\r\n\r\n"), "not HTTP", id="bad header"
        ),
        pytest.param(fake.sends(b"\x16\x03\x01 what?\r\n\r\n"), "not HTTP", id="is not HTTP"),
        pytest.param(
            fake.sends(b"HTTP/1.1 200 X\r\nx: " + b"y" * 300_000 + b"\r\n\r\n"),
            "not HTTP",
            id="headers without end",
        ),
    ],
)
async def test_no_answer_is_unavailable(
    server: CollateralServer, fault: fake.Fault, says: str
) -> None:
    server.on("/tcb", fault)
    with pytest.raises(CollateralUnavailable, match=says):
        await obtain(server, patience=replace(QUICK, total_s=1.5))


async def test_nobody_listens() -> None:
    async with Fetcher(QUICK) as fetcher:
        with pytest.raises(CollateralUnavailable, match="root-crl"):
            await fetcher.get("http://127.0.0.1:1/", "root-crl")


async def test_without_network_what_is_cached_serves_until_it_expires(
    server: CollateralServer, tmp_path: Path
) -> None:
    first = await obtain(server, cache=tmp_path / "c")
    server.on("/", fake.status(503))
    server.requests.clear()
    later = await obtain(server, cache=tmp_path / "c", now=NOW + 3 * DAY_S)
    assert later.value == first.value
    assert later.silent is not None
    assert len(server.requests) == QUICK.attempts  # one silence is enough for the whole set
    with pytest.raises(CollateralUnavailable, match=r"cached: tcb-info: expired at 20"):
        await obtain(server, cache=tmp_path / "c", now=first.not_after + 1)


def self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for 127.0.0.1 under a certificate that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pccs")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "tls.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


async def test_tls_is_verified_and_a_private_issuer_can_be_named(tmp_path: Path) -> None:
    context, path = self_signed(tmp_path)
    async with CollateralServer(Pccs(attested.platform()).answer, tls=context) as server:
        with pytest.raises(CollateralUnavailable, match="certificate verify failed"):
            await obtain(server)
        assert server.requests == []
        async with Fetcher(QUICK, tls_ca=path) as fetcher:
            source = CollateralSource(PcsClient(fetcher, server.url), roots=ROOTS)
            assert (await source.collateral(TDX, NOW)).value == attested.collateral("tdx")


def test_what_is_no_certificate_cannot_be_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(CollateralError, match="not certificates"):
        Fetcher(tls_ca=tmp_path / "x")


# --- a service that answers wrongly ---------------------------------------------------------


def flipped(answer: Answer) -> Answer:
    """The last hex digit of the signature differs."""
    at = answer.body.rindex(b'"') - 1
    other = b"1" if answer.body[at : at + 1] == b"0" else b"0"
    return replace(answer, body=answer.body[:at] + other + answer.body[at + 1 :])


def reordered(answer: Answer) -> Answer:
    """The same JSON value with other spacing: not the text that was signed."""
    return replace(answer, body=answer.body.replace(b'"version":3', b'"version": 3'))


HTML = b"<html><body>Please log in to the airport Wi-Fi</body></html>"
STRANGER = SimulatedPlatform(seed=b"s" * 32, now=NOW)


@pytest.mark.parametrize(
    ("where", "fault", "says"),
    [
        pytest.param(
            "/tcb",
            fake.status(301, ("location", "https://evil.example/")),
            "redirects elsewhere",
            id="redirects",
        ),
        pytest.param("/tcb", fake.status(404), "HTTP 404", id="has none"),
        pytest.param("/tcb", fake.status(401), "HTTP 401", id="wants credentials"),
        pytest.param("/tcb", fake.changed(media="image/png"), "not JSON", id="wrong content type"),
        pytest.param(
            "/tcb", fake.changed(media="text/html", body=HTML), "not JSON", id="HTML page"
        ),
        pytest.param("/tcb", fake.changed(body=HTML), "tcb-info", id="HTML called JSON"),
        pytest.param("/pckcrl", fake.changed(body=HTML), "pck-crl: not a CRL", id="HTML for a CRL"),
        pytest.param("/rootcacrl", fake.changed(body=b""), "empty", id="empty body"),
        pytest.param("/tcb", fake.huge, "longer than 1048576", id="huge body"),
        pytest.param("/tcb", fake.bomb, "compressed", id="gzip bomb"),
        pytest.param("/tcb", fake.changed(chain=None), "no header", id="no issuer chain"),
        pytest.param(
            "/tcb",
            fake.chain_of(attested.platform().tcb_signing.pem, 9),
            "9 certificates",
            id="chain of 9",
        ),
        pytest.param(
            "/tcb",
            fake.changed(chain=("TCB-Info-Issuer-Chain", STRANGER.tcb_signing.pem)),
            "not signed by a trusted root",
            id="signer of a stranger",
        ),
        pytest.param(
            "/tcb",
            fake.changed(
                chain=("TCB-Info-Issuer-Chain", STRANGER.tcb_signing.pem + STRANGER.root.pem)
            ),
            "which is not trusted",
            id="root of a stranger",
        ),
        pytest.param(
            "/tcb",
            fake.twice_the_chain(STRANGER.tcb_signing.pem),
            "came 2 times",
            id="two issuer chains",
        ),
        pytest.param("/tcb", fake.edited(flipped), "does not hold", id="signature flipped"),
        pytest.param("/qe/", fake.edited(flipped), "does not hold", id="QE signature flipped"),
        pytest.param("/tcb", fake.edited(reordered), "does not hold", id="JSON written anew"),
    ],
)
async def test_a_wrong_answer_is_refused_even_when_a_good_one_is_cached(
    server: CollateralServer, tmp_path: Path, where: str, fault: fake.Fault, says: str
) -> None:
    good = await obtain(server, cache=tmp_path / "c")
    server.on(where, fault)
    with pytest.raises(CollateralError, match=says) as refused:
        await obtain(server, cache=tmp_path / "c", renew=True)
    assert not isinstance(refused.value, CollateralUnavailable)
    server.rules.clear()
    server.on("/", fake.status(503))
    still = await obtain(server, cache=tmp_path / "c", now=NOW + DAY_S)
    assert still.value == good.value


async def test_chains_of_a_hundred_certificates_are_not_read(server: CollateralServer) -> None:
    """httpcore stops at its own bound for headers before ours is asked."""
    server.on("/tcb", fake.chain_of(attested.platform().tcb_signing.pem, 100))
    with pytest.raises(CollateralError):
        await obtain(server)


async def test_of_another_platform(server: CollateralServer) -> None:
    other = Pccs(attested.platform(tcb_info_fmspc=bytes.fromhex("00906ed50000")))
    server.genuine = other.answer
    with pytest.raises(CollateralError, match=r"tcb-info\.fmspc: asked for 00ad70000000"):
        await obtain(server)


async def test_sgx_instead_of_tdx(server: CollateralServer) -> None:
    genuine = server.genuine
    server.genuine = lambda path, query: genuine(path.replace("/tdx/", "/sgx/"), query)
    with pytest.raises(CollateralError, match=r"tcb-info\.id: asked for TDX, got 'SGX'"):
        await obtain(server)


async def test_the_root_crl_in_place_of_the_pck_crl(server: CollateralServer) -> None:
    crl = attested.collateral("tdx").root_ca_crl
    server.on("/pckcrl", fake.changed(body=crl))
    with pytest.raises(CollateralError, match="not signed by the head"):
        await obtain(server)


async def test_a_signer_whom_the_root_revoked(server: CollateralServer) -> None:
    serve(server, tcb_signing_revoked=True)
    with pytest.raises(CollateralError, match="tcb-info: its signer is revoked"):
        await obtain(server)


# --- time and rollback -------------------------------------------------------------------------


OLDER = Window(NOW - 20 * DAY_S, NOW + 10 * DAY_S)
NEWER = Window(NOW - DAY_S, NOW + 29 * DAY_S)


async def test_expired_collateral_is_refused(server: CollateralServer) -> None:
    serve(server, tcb_info_window=Window(NOW - 60 * DAY_S, NOW - 30 * DAY_S))
    with pytest.raises(CollateralError, match="tcb-info: expired"):
        await obtain(server)


async def test_collateral_of_the_future_is_refused(server: CollateralServer) -> None:
    serve(server, crl_window=Window(NOW + DAY_S, NOW + 30 * DAY_S))
    with pytest.raises(CollateralError, match="pck-crl: not valid before"):
        await obtain(server)


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        pytest.param(
            {"tcb_info_window": NEWER}, {"tcb_info_window": OLDER}, id="an older TCB info"
        ),
        pytest.param(
            {"tcb_evaluation_number": 18}, {"tcb_evaluation_number": 17}, id="a lower number"
        ),
        pytest.param(
            {"qe_identity_window": NEWER}, {"qe_identity_window": OLDER}, id="an older QE identity"
        ),
        pytest.param({"crl_window": NEWER}, {"crl_window": OLDER}, id="an older CRL"),
    ],
)
@pytest.mark.parametrize("emptied", [False, True], ids=["cache kept", "items deleted"])
async def test_rollback_is_refused_and_remembered_across_restarts(
    server: CollateralServer,
    tmp_path: Path,
    newer: dict[str, Any],
    older: dict[str, Any],
    emptied: bool,
) -> None:
    serve(server, **newer)
    await obtain(server, cache=tmp_path / "c")
    if emptied:
        for path in (tmp_path / "c").glob("item_*"):
            path.unlink()
    serve(server, **older)
    with pytest.raises(CollateralRolledBack, match="rolled back"):
        await obtain(server, cache=tmp_path / "c", renew=True)
    serve(server, **newer)
    await obtain(server, cache=tmp_path / "c", renew=True)


async def test_without_a_cache_rollback_is_noticed_while_the_source_lives(
    server: CollateralServer,
) -> None:
    serve(server, tcb_evaluation_number=18)
    async with Fetcher(QUICK) as fetcher:
        source = CollateralSource(PcsClient(fetcher, server.url), roots=ROOTS)
        await source.collateral(TDX, NOW)
        serve(server, tcb_evaluation_number=17)
        with pytest.raises(CollateralRolledBack):
            await source.collateral(TDX, NOW)


async def test_a_newer_one_by_another_process_wins_a_race(
    server: CollateralServer, tmp_path: Path
) -> None:
    """This process got an older answer, and meanwhile another one stored a newer."""
    serve(server, crl_window=OLDER)
    other = Pccs(attested.platform(crl_window=NEWER)).answer

    async def meanwhile(writer: asyncio.StreamWriter, answer: Answer) -> None:
        async with CollateralServer(other) as second:
            await obtain(second, cache=tmp_path / "c")
        writer.write(fake.encode(answer))

    server.on("/pckcrl", meanwhile, times=1)
    got = await obtain(server, cache=tmp_path / "c")
    assert got.value.pck_crl == attested.platform(crl_window=NEWER).collateral("tdx").pck_crl


async def test_the_clock_going_back_is_noticed(server: CollateralServer, tmp_path: Path) -> None:
    """Expired collateral does not come back to life by setting the clock."""
    serve(server, tcb_info_window=OLDER)
    await obtain(server, cache=tmp_path / "c")
    serve(server, tcb_info_window=NEWER)
    await obtain(server, cache=tmp_path / "c", renew=True)
    serve(server, tcb_info_window=OLDER)
    with pytest.raises(CollateralError, match="clock: it is"):
        await obtain(server, cache=tmp_path / "c", now=NEWER.start - 1)


async def test_a_cache_from_the_future_is_asked_for_again(
    server: CollateralServer, tmp_path: Path
) -> None:
    await obtain(server, cache=tmp_path / "c", now=NOW + 600)
    server.requests.clear()
    await obtain(server, cache=tmp_path / "c", now=NOW)
    assert len(server.requests) == 4


async def test_many_tasks_share_a_cache(server: CollateralServer, tmp_path: Path) -> None:
    work = partial(obtain, server, cache=tmp_path / "c", renew=True)
    found = await asyncio.gather(*(work(now=NOW + random.randint(0, 5)) for _ in range(8)))
    assert {f.value for f in found} == {attested.collateral("tdx")}
