"""Intel's service and PCCS: what is asked, and how their differing answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import attested
import pytest

from attestation.collateral.http import Reply, base_url, check_url
from attestation.collateral.item import Item, Key, Kind, Platform
from attestation.collateral.pcs import INTEL_PCS, INTEL_ROOT_CRL, PcsClient
from attestation.collateral.platform import platform_of
from attestation.errors import CollateralError, MalformedEvidence
from attestation.evidence import parse_quote
from attestation.evidence.signature import CertificationData
from attestation.issuers.simulator.pccs import Answer, SimulatedPccs

APP = SimulatedPccs(attested.SEED, lambda: attested.NOW)
FMSPC = attested.platform().fmspc.hex()
TDX = Platform("tdx", FMSPC, "platform")
KEYS = TDX.keys


class Canned:
    """A fetcher that answers from the simulator's PCCS, with headers and bodies edited."""

    def __init__(self, headers: Sequence[tuple[str, str]] | None = None, body: bytes | None = None):
        self.headers, self.body = headers, body
        self.asked: list[str] = []

    async def get(self, url: str, what: str, *, limit: int = 0) -> Reply:
        self.asked.append(url)
        path, _, query = url.partition("example")[2].partition("?")
        answer = APP.answer(path, query)
        headers = [(n.decode(), v.decode()) for n, v in answer.headers]
        return Reply(
            url,
            headers if self.headers is None else self.headers,
            answer.body if self.body is None else self.body,
        )


async def fetch(key: Key, canned: Canned | None = None) -> Item:
    return await PcsClient(canned or Canned(), "https://pccs.example").fetch(key)


@pytest.mark.parametrize("kind", attested.KINDS)
def test_a_quote_says_which_collateral_it_needs(kind: str) -> None:
    assert platform_of(attested.quote(kind)) == replace(TDX, tee=attested.tee_of(kind))


def test_a_quote_without_its_certificate_does_not() -> None:
    quote = parse_quote(attested.quote("sgx-v3"))
    bare = replace(quote.signature, certification=CertificationData(1, bytes(36)))
    with pytest.raises(CollateralError, match="no PCK certificate chain"):
        platform_of(replace(quote, signature=bare).write())


def swapped(pem: str) -> bytes:
    quote = parse_quote(attested.quote("sgx-v3"))
    certification = CertificationData(5, pem.encode())
    signature = replace(quote.signature, certification=certification)
    return replace(quote, signature=signature).write()


def test_certificates_that_are_no_pck() -> None:
    p = attested.platform()
    with pytest.raises(CollateralError, match="no SGX extension"):
        platform_of(swapped(p.tcb_signing.pem))
    with pytest.raises(CollateralError, match="pck_chain"):
        platform_of(swapped("nothing"))
    odd = attested.platform().pck
    extension = odd.certificate.extensions[-1].value
    other = attested.platform()._authority.issue(
        "pck", "PCK", p.root, ca=False, extension=extension
    )
    with pytest.raises(CollateralError, match="neither the platform nor the processor CA"):
        platform_of(swapped(other.pem))
    with pytest.raises(MalformedEvidence):
        platform_of(b"no quote")


async def test_what_is_asked_of_a_pccs() -> None:
    canned = Canned()
    early = replace(TDX, update="early")
    for key in (*KEYS, early.keys[0]):
        await fetch(key, canned)
    api = "https://pccs.example"
    assert canned.asked == [
        f"{api}/tdx/certification/v4/tcb?fmspc=00AD70000000&update=standard",
        f"{api}/tdx/certification/v4/qe/identity?update=standard",
        f"{api}/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        f"{api}/sgx/certification/v4/rootcacrl",
        f"{api}/tdx/certification/v4/tcb?fmspc=00AD70000000&update=early",
    ]


async def test_intels_own_root_crl_is_on_another_host() -> None:
    canned = Canned(body=b"\x30\x00")
    item = await PcsClient(canned, INTEL_PCS).fetch(KEYS[3])
    assert canned.asked == [INTEL_ROOT_CRL]
    assert item.content == b"\x30\x00"


async def test_kinds_the_service_does_not_have() -> None:
    with pytest.raises(CollateralError, match="snp-crl: not something"):
        await fetch(Key(Kind.SNP_CRL, "vcek/milan"))


async def test_the_simulators_answers_give_its_collateral() -> None:
    c = attested.collateral("tdx")
    tcb_info, qe_identity, pck_crl, root_crl = [await fetch(key) for key in KEYS]
    assert (tcb_info.content.decode(), tcb_info.signature) == (c.tcb_info, c.tcb_info_signature)
    assert qe_identity.content.decode() == c.qe_identity
    assert (pck_crl.content, pck_crl.issuer_chain) == (c.pck_crl, c.pck_crl_issuer_chain)
    assert root_crl.content == c.root_ca_crl  # which came as hex


@pytest.mark.parametrize(
    "name", ["tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"], ids=["v4", "v3"]
)
async def test_header_names_of_both_versions(name: str) -> None:
    (chain,) = [v.decode() for n, v in answer("tcb").headers if n == b"tcb-info-issuer-chain"]
    item = await fetch(KEYS[0], Canned([(name, chain)]))
    assert item.issuer_chain == attested.collateral("tdx").tcb_info_issuer_chain


def answer(what: str) -> Answer:
    return APP.answer(f"/tdx/certification/v4/{what}", f"fmspc={FMSPC}")


@pytest.mark.parametrize("hexed", [False, True])
async def test_crls_come_as_der_or_hex(hexed: bool) -> None:
    der = attested.collateral("tdx").pck_crl
    item = await fetch(KEYS[2], Canned(body=der.hex().upper().encode() + b"\n" if hexed else der))
    assert item.content == der


async def test_the_signed_text_is_taken_as_it_stands() -> None:
    """Whatever spacing, order and escapes the service chose are what it signed."""
    text = r'{ "a" : [1, {"signature":"x"}], "b":"}\",{" , "c": 1.50e+1 }'
    for body in (
        f'{{"tcbInfo":{text},"signature":"00ff"}}',
        f' {{ "signature" : "00FF" ,\n"tcbInfo"\t: {text} }} ',
    ):
        item = await fetch(KEYS[0], Canned(headers(), body.encode()))
        assert item.content.decode() == text
        assert item.signature == b"\x00\xff"


def headers() -> list[tuple[str, str]]:
    return [(n.decode(), v.decode()) for n, v in answer("tcb").headers]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"tcbInfo":{}}',
        b'{"tcbInfo":{},"signature":"00","more":1}',
        b'{"tcbInfo":{},"tcbInfo":{},"signature":"00"}',
        b'{"tcbInfo":{},"signature":7}',
        b'{"tcbInfo":{},"signature":"0"}',
        b'{"tcbInfo":{},"signature":""}',
        b'{"enclaveIdentity":{},"signature":"00"}',
        b'{"tcbInfo":' + b"[" * 100_000 + b"]" * 100_000 + b',"signature":"00"}',
        b'{"tcbInfo":{},"signature":"\\ud800"}',
    ],
)
async def test_bodies_that_are_no_signed_document(body: bytes) -> None:
    with pytest.raises(CollateralError, match="tcb-info"):
        await fetch(KEYS[0], Canned(headers(), body))


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        ("", "0 certificates"),
        ("hello", "0 certificates"),
        ("%ff%fe", "0 certificates"),
        ("x" * 70_000, "longer than 65536"),
        (attested.platform().root.pem * 9, "9 certificates"),
    ],
)
async def test_issuer_chains_that_are_none(chain: str, says: str) -> None:
    with pytest.raises(CollateralError, match=says):
        await fetch(KEYS[0], Canned([("tcb-info-issuer-chain", chain)]))


async def test_text_around_certificates_does_not_survive() -> None:
    pem = attested.collateral("tdx").tcb_info_issuer_chain
    noisy = [("tcb-info-issuer-chain", f"# comment %0A{pem} trailing".replace("\n", "%0A"))]
    assert (await fetch(KEYS[0], Canned(noisy))).issuer_chain == pem


# --- URLs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("https://pccs.example", "https://pccs.example"),
        ("https://pccs.example/", "https://pccs.example"),
        ("https://pccs.example:8081/sgx/certification/v4/", "https://pccs.example:8081"),
        ("https://pccs.example/tdx/certification/v4", "https://pccs.example"),
        ("https://host.example/pccs", "https://host.example/pccs"),
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("http://[::1]:8081", "http://[::1]:8081"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_services_by_url(given: str, base: str) -> None:
    assert base_url(given) == base


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pccs.example",
        "http://pccs.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1@evil.example",
        "http://2130706433",
        "https://user:password@pccs.example",
        "https://user@pccs.example",
        "https://",
        "https://pccs.example/#fragment",
        "https://pccs.example/?a=b",
        "https://pccs.example:99999",
        "https://[::1",
        "https://pccs.example/a b",
        "https://pccs.example/\r\nx: y",
        "https://pccs.éxample",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "https://pccs.example/" + "x" * 3000,
    ],
)
def test_urls_that_are_not_asked(url: str) -> None:
    with pytest.raises(CollateralError, match="url: "):
        base_url(url)


def test_items_have_queries() -> None:
    assert check_url("https://pccs.example/?a=b")


# --- the simulator's own service -------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/tdx/certification/v4/tcb", "fmspc=00ad70000000", 200),
        ("/sgx/certification/v4/tcb", "fmspc=00AD70000000&update=early", 200),
        ("/tdx/certification/v4/tcb", "", 400),
        ("/tdx/certification/v4/tcb", "fmspc=00ad70000000&update=never", 400),
        ("/tdx/certification/v4/tcb", "fmspc=00ad70000001", 404),
        ("/sgx/certification/v4/qe/identity", "", 200),
        ("/sgx/certification/v4/qe/identity", "update=never", 400),
        ("/sgx/certification/v4/pckcrl", "ca=platform&encoding=der", 200),
        ("/sgx/certification/v4/pckcrl", "ca=processor", 404),
        ("/sgx/certification/v4/pckcrl", "", 400),
        ("/tdx/certification/v4/pckcrl", "ca=platform", 404),
        ("/sgx/certification/v4/rootcacrl", "", 200),
        ("/sgx/certification/v4/rootcacrl", "x" * 3000, 404),
        ("/", "", 404),
        ("/../../etc/passwd", "", 404),
    ],
)
def test_the_simulators_service_answers_as_the_real_one(path: str, query: str, status: int) -> None:
    assert APP.answer(path, query).status == status


async def test_the_simulators_service_as_asgi() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    path = "/sgx/certification/v4/rootcacrl"
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b""}
    await APP(scope, None, send)
    assert sent[0]["status"] == 200
    assert bytes.fromhex(sent[1]["body"].decode()) == attested.collateral("sgx").root_ca_crl
    await APP({**scope, "method": "POST"}, None, send)
    assert sent[2]["status"] == 405
    await APP({"type": "lifespan"}, None, send)
    assert len(sent) == 4


def test_the_simulators_service_follows_the_calendar() -> None:
    now = attested.NOW
    app = SimulatedPccs(attested.SEED, lambda: now)
    first = app.platform.collateral("tdx")
    now += 60 * 86400
    assert app.platform.collateral("tdx") != first
    assert app.platform.root_der == attested.platform().root_der
