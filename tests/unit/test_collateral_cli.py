"""`adyton collateral`: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attested
import pytest
import snp_pki as amd
from fakes import collateral_server as fake
from fakes.collateral_server import CollateralServer
from fakes.kds import Kds

from adyton.cli import main
from attestation.collateral import fetch_snp
from attestation.collateral.bundle import Bundle, collateral_for
from attestation.collateral.http import Patience
from attestation.collateral.snp import SnpEndorsements
from attestation.issuers.simulator.pccs import Answer, SimulatedPccs
from attestation.issuers.simulator.platform import SimulatedPlatform
from attestation.verify.snp import verify_snp

PLATFORM = SimulatedPlatform(seed=attested.SEED, now=int(time.time()))
FMSPC = PLATFORM.fmspc.hex()


class Running:
    """A collateral server on a thread of its own, and the command line pointed at it."""

    def __init__(self, folder: Path, genuine: Callable[[str, str], Answer], capsys: Any) -> None:
        self.capsys = capsys
        self.folder = folder
        self.server = CollateralServer(genuine)
        self._up, self._down = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        self._up.wait(10)
        self.root = folder / "root.der"
        self.root.write_bytes(PLATFORM.root_der)
        self.out = folder / "out.json"
        self.quotes = {}
        for tee, quote in (("tdx", PLATFORM.tdx_quote({})), ("sgx", PLATFORM.sgx_quote({}))):
            self.quotes[tee] = folder / f"{tee}.bin"
            self.quotes[tee].write_bytes(quote)

    async def _serve(self) -> None:
        async with self.server:
            self._up.set()
            await self._down.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join()
        self._loop.close()

    def run(self, *arguments: object, url: bool = True, root: bool = True) -> tuple[int, str]:
        """(exit code, stdout)."""
        self.capsys.readouterr()
        extra = ["--url", self.server.url] if url else []
        extra += ["--root", str(self.root)] if root else []
        code = main(["collateral", *map(str, arguments), *extra])
        return code, self.capsys.readouterr().out

    def json(self, *arguments: object, **options: bool) -> tuple[int, dict[str, Any]]:
        code, out = self.run(*arguments, "--json", **options)
        assert out.count("\n") == 1
        return code, json.loads(out)


@pytest.fixture
def pccs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    running = Running(tmp_path, SimulatedPccs(attested.SEED).answer, capsys)
    yield running
    running.close()


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_fetch_writes_what_verify_quote_takes(pccs: Running, tee: str) -> None:
    code, found = pccs.json("fetch", pccs.quotes[tee], "--out", pccs.out)
    assert (code, found["verdict"]) == (0, "accept")
    assert [p["key"].partition("/")[0] for p in found["parts"]] == [
        "tcb-info",
        "qe-identity",
        "pck-crl",
        "root-crl",
    ]
    trust = ["--root", str(pccs.root), "--policy", "genuine"]
    where = ["verify-quote", str(pccs.quotes[tee]), "--collateral", str(pccs.out)]
    assert main([*where, *trust]) == 0


def test_fetch_prints_the_collateral_where_no_file_is_named(pccs: Running) -> None:
    code, out = pccs.run("fetch", pccs.quotes["tdx"])
    assert code == 0
    assert json.loads(out) == PLATFORM.collateral("tdx").to_json()


def test_fetch_tells_a_person_each_part(pccs: Running) -> None:
    code, out = pccs.run("fetch", pccs.quotes["tdx"], "--out", pccs.out)
    assert code == 0
    assert f"tcb-info/tdx/{FMSPC}/standard" in out
    assert "number 17" in out


def test_early_levels_are_asked_for_by_name(pccs: Running) -> None:
    assert pccs.json("fetch", pccs.quotes["tdx"], "--early", "--out", pccs.out)[0] == 0
    assert "update=early" in pccs.server.requests[0]


def test_offline_uses_the_cache_alone(pccs: Running) -> None:
    cache = pccs.folder / "cache"
    fetch = ["fetch", pccs.quotes["tdx"], "--cache", cache, "--out", pccs.out]
    code, found = pccs.json(*fetch, "--offline", url=False)
    assert (code, found["error"]) == (6, "CollateralUnavailable")
    assert pccs.json(*fetch)[0] == 0
    pccs.server.requests.clear()
    assert pccs.json(*fetch, "--offline", url=False)[0] == 0
    assert pccs.server.requests == []


def test_a_bundle_serves_every_platform_in_it(pccs: Running) -> None:
    quotes = [pccs.quotes["tdx"], pccs.quotes["sgx"]]
    code, found = pccs.json("bundle", *quotes, "--for", f"tdx:{FMSPC}:platform", "--out", pccs.out)
    assert (code, len(found["parts"])) == (0, 6)
    for tee in ("tdx", "sgx"):
        found = collateral_for(pccs.out.read_bytes(), pccs.quotes[tee].read_bytes())
        assert found == PLATFORM.collateral(tee)
    code, out = pccs.run("bundle", "--for", f"SGX:{FMSPC.upper()}:platform", "--out", pccs.out)
    assert code == 0
    assert "usable until" in out


def test_show_describes_a_bundle(pccs: Running) -> None:
    pccs.run("bundle", *pccs.quotes.values(), "--out", pccs.out)
    code, shown = pccs.json("show", pccs.out, url=False)
    assert (code, shown["form"], shown["usable"], len(shown["parts"])) == (0, "bundle", True, 6)
    code, out = pccs.run("show", pccs.out, url=False)
    assert code == 0
    assert "days left" in out
    code, shown = pccs.json("show", pccs.out, "--at", 0, url=False)
    assert (code, shown["usable"]) == (0, False)
    code, out = pccs.run("show", pccs.out, url=False, root=False)
    assert code == 0
    assert "not trusted" in out


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"{}", b'{"format":"x"}', b"[[[["])
def test_show_says_what_is_not_collateral(pccs: Running, content: bytes) -> None:
    pccs.out.write_bytes(content)
    code, found = pccs.json("show", pccs.out, url=False)
    assert (code, found["error"]) == (6, "CollateralError")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fetch", "{tdx}", "--url", "http://example.com"], 2),
        (["fetch", "{tdx}", "--offline"], 2),
        (["fetch", "{tdx}", "--offline", "--cache", "{folder}/c", "--url", "https://x.example"], 2),
        (["fetch", "/nowhere"], 2),
        (["bundle", "--out", "{folder}/x"], 2),
        (["bundle", "--for", "tdx", "--out", "{folder}/x"], 2),
        (["bundle", "--for", "tdx:00:platform", "--out", "{folder}/x"], 2),
        (["fetch", "{root}", "--offline", "--cache", "{folder}/c"], 3),
        (["fetch", "{tdx}", "--url", "http://127.0.0.1:1", "--tls-ca", "{tdx}"], 6),
    ],
)
def test_mistakes_have_their_exit_codes(pccs: Running, arguments: list[str], code: int) -> None:
    words = {"tdx": pccs.quotes["tdx"], "folder": pccs.folder, "root": pccs.root}
    assert pccs.run(*(a.format(**words) for a in arguments), url=False)[0] == code


def test_what_nobody_signed_is_not_written(pccs: Running) -> None:
    code, found = pccs.json("fetch", pccs.quotes["tdx"], "--out", pccs.out, root=False)
    assert (code, found["verdict"]) == (6, "reject")
    assert "not trusted" in found["reason"]
    assert not pccs.out.exists()


def test_a_silent_service_is_told_of_when_the_cache_stands_in(
    pccs: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = ["fetch", pccs.quotes["tdx"], "--cache", pccs.folder / "c", "--out", pccs.out]
    assert pccs.json(*fetch)[0] == 0
    pccs.server.on("/", fake.status(503, ("retry-after", "9999")))
    later = time.time() + 2 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    code, found = pccs.json(*fetch)
    assert code == 0
    assert "asks to wait 9999 s" in found["from_cache_because"]
    assert "from the cache" in pccs.run(*fetch)[1]


def test_endorsements_of_an_snp_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: float(amd.NOW))
    monkeypatch.setattr(fetch_snp, "KDS_PATIENCE", Patience())
    running = Running(tmp_path, Kds().answer, capsys)
    try:
        running.root.write_bytes(amd.ark())
        report, vlek = tmp_path / "report.bin", tmp_path / "vlek.der"
        report.write_bytes(amd.report())
        code, found = running.json("fetch", report, "--out", running.out)
        assert (code, [p["key"].split("/")[0] for p in found["parts"]]) == (
            0,
            ["snp-crl", "snp-vcek"],
        )
        fetched = SnpEndorsements.from_json(json.loads(running.out.read_text()))
        assert verify_snp(amd.report(), fetched, [amd.ark()], amd.NOW)
        assert running.json("bundle", report, "--out", running.out)[0] == 0
        bundle = Bundle.from_json(json.loads(running.out.read_text()))
        assert bundle.endorsements_for(amd.report()).chain == fetched.chain
        assert running.json("show", running.out, url=False)[1]["usable"]
        report.write_bytes(amd.report("vlek"))
        vlek.write_bytes(amd.vek("vlek"))
        assert running.json("fetch", report, "--out", running.out)[0] == 6
        fetch = ["fetch", report, "--endorsement", vlek, "--product", "Milan"]
        assert running.json(*fetch, "--out", running.out)[0] == 0
    finally:
        running.close()
