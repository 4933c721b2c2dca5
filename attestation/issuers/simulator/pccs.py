"""A PCCS and a KDS for the simulator's machines, to try fetching without a network.

They answer what Intel's service v4 and AMD's service answer: the same paths, parameters,
headers and status codes, with what the simulated vendors sign. As at a PCCS, CRLs are DER
with `encoding=der` and hex without. Plain ASGI; `serve` runs it under uvicorn.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote

from cryptography.hazmat.primitives.serialization import Encoding

from attestation.collateral.snp import SnpEndorsements
from attestation.issuers.simulator.amd import PRODUCT, AmdAuthority
from attestation.issuers.simulator.issuer import load_or_create_seed
from attestation.issuers.simulator.platform import EPOCH_S, SimulatedPlatform
from attestation.issuers.simulator.snp import SimulatedSnp

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SEED_FILE: Final = "simulator.seed"
AMD_FILE: Final = "simulator-amd.pem"
_JSON: Final = "application/json"
_CRL: Final = "application/pkix-crl"
_MAX_QUERY: Final = 2048


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GET is answered with; `chain` is (header name, PEM)."""

    status: int
    media: str = "text/plain"
    body: bytes = b""
    chain: tuple[str, str] | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        out = [
            (b"content-type", self.media.encode()),
            (b"content-length", str(len(self.body)).encode()),
        ]
        if self.chain is not None:
            out.append((self.chain[0].lower().encode(), quote(self.chain[1], safe="").encode()))
        return out


_BAD_REQUEST: Final = Answer(400, body=b"invalid parameter")
_NOT_FOUND: Final = Answer(404, body=b"no such collateral")


class SimulatedPccs:
    """The ASGI application that serves the collateral of `seed`'s machines.

    AMD's paths are there where `authority` is.
    """

    def __init__(
        self,
        seed: bytes,
        now: Callable[[], int] = lambda: int(time.time()),
        authority: AmdAuthority | None = None,
    ) -> None:
        self._seed = seed
        self._now = now
        self._kds = None if authority is None else SimulatedKds(seed, now, authority)
        self._platform = SimulatedPlatform(seed=seed, now=now())

    @property
    def platform(self) -> SimulatedPlatform:
        """The platform with collateral that is current now."""
        now = self._now()
        if now // EPOCH_S != self._platform.now // EPOCH_S:
            self._platform = SimulatedPlatform(seed=self._seed, now=now)
        return self._platform

    def answer(self, path: str, query: str) -> Answer:
        """What a GET of `path` with `query` gets."""
        tee, _, rest = path.lstrip("/").partition("/")
        if len(query) > _MAX_QUERY:
            return _NOT_FOUND
        if tee == "vcek" and self._kds is not None:
            return self._kds.answer(rest, query)
        return self._intel(tee, rest, query) if tee in ("sgx", "tdx") else _NOT_FOUND

    def _intel(self, tee: str, rest: str, query: str) -> Answer:
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        match rest:
            case "certification/v4/tcb":
                return self._tcb_info(tee, asked)
            case "certification/v4/qe/identity":
                return self._qe_identity(tee, asked)
            case "certification/v4/pckcrl" if tee == "sgx":
                return self._pck_crl(asked)
            case "certification/v4/rootcacrl" if tee == "sgx":
                crl = self.platform.collateral(tee).root_ca_crl
                return Answer(200, "text/html; charset=utf-8", crl.hex().encode())
            case _:
                return _NOT_FOUND

    def _tcb_info(self, tee: str, asked: dict[str, str]) -> Answer:
        fmspc = asked.get("fmspc", "")
        if len(fmspc) != 12 or asked.get("update", "standard") not in ("standard", "early"):
            return _BAD_REQUEST
        if fmspc.lower() != self.platform.fmspc.hex():
            return _NOT_FOUND
        c = self.platform.collateral(tee)
        body = _signed("tcbInfo", c.tcb_info, c.tcb_info_signature)
        return Answer(200, _JSON, body, ("TCB-Info-Issuer-Chain", c.tcb_info_issuer_chain))

    def _qe_identity(self, tee: str, asked: dict[str, str]) -> Answer:
        if asked.get("update", "standard") not in ("standard", "early"):
            return _BAD_REQUEST
        c = self.platform.collateral(tee)
        body = _signed("enclaveIdentity", c.qe_identity, c.qe_identity_signature)
        header = "SGX-Enclave-Identity-Issuer-Chain"
        return Answer(200, _JSON, body, (header, c.qe_identity_issuer_chain))

    def _pck_crl(self, asked: dict[str, str]) -> Answer:
        if asked.get("ca") not in ("platform", "processor"):
            return _BAD_REQUEST
        if asked["ca"] != "platform":
            return _NOT_FOUND
        c = self.platform.collateral("sgx")
        body = c.pck_crl if asked.get("encoding") == "der" else c.pck_crl.hex().encode()
        return Answer(200, _CRL, body, ("SGX-PCK-CRL-Issuer-Chain", c.pck_crl_issuer_chain))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            answer = self.answer(scope["path"], scope["query_string"].decode("latin-1"))
        else:
            answer = Answer(405, body=b"GET only")
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        )
        await send({"type": "http.response.body", "body": answer.body})


class SimulatedKds:
    """The one VCEK that the simulated AMD has issued to `seed`'s chip, its chain and its CRL."""

    def __init__(self, seed: bytes, now: Callable[[], int], authority: AmdAuthority) -> None:
        self._seed = seed
        self._now = now
        self._authority = authority
        self._made: tuple[SimulatedSnp, SnpEndorsements] | None = None

    def _current(self) -> tuple[SimulatedSnp, SnpEndorsements]:
        """The machine and its endorsements: made once an epoch, as signatures are salted."""
        now = self._now()
        if self._made is None or now // EPOCH_S != self._made[0].now // EPOCH_S:
            machine = SimulatedSnp(seed=self._seed, authority=self._authority, now=now)
            self._made = machine, machine.endorsements()
        return self._made

    def answer(self, rest: str, query: str) -> Answer:
        """What a GET of `/vcek/` and `rest` gets."""
        machine, made = self._current()
        prefix, _, what = rest.rpartition("/")
        if prefix != f"v1/{PRODUCT}":
            return _NOT_FOUND
        if what == "cert_chain":
            chain = "".join(
                c.public_bytes(Encoding.PEM).decode()
                for c in (self._authority.ask, self._authority.ark)
            )
            return Answer(200, "application/x-pem-file", chain.encode())
        if what == "crl" and made.crl is not None:
            return Answer(200, _CRL, made.crl)
        levels = machine.tcb.parts(PRODUCT)
        wanted = {
            "blSPL": levels.bootloader,
            "teeSPL": levels.tee,
            "snpSPL": levels.snp,
            "ucodeSPL": levels.microcode,
        }
        asked = {name: values[-1].lstrip("0") or "0" for name, values in parse_qs(query).items()}
        if what != machine.chip_id.hex() or asked != {n: str(v) for n, v in wanted.items()}:
            return _NOT_FOUND
        return Answer(200, "application/pkix-cert", made.vek)


def _signed(member: str, text: str, signature: bytes) -> bytes:
    return f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()


def serve(state_dir: Path, port: int, ready: Callable[[str, list[Path]], None]) -> None:
    """Serve the simulator whose seed is in `state_dir` on loopback until interrupted.

    `ready` gets the URL and the files of the roots once the port is bound: one for SGX and
    TDX, and one for SEV-SNP where the state has a simulated AMD. Port 0 takes a free one.
    """
    import socket

    import uvicorn

    seed = load_or_create_seed(state_dir / SEED_FILE)
    amd = state_dir / AMD_FILE
    authority = AmdAuthority.load_or_create(amd) if amd.exists() else None
    application = SimulatedPccs(seed, authority=authority)
    roots = {"pccs-root.der": application.platform.root_der}
    if authority is not None:
        roots["kds-root.der"] = authority.root_der
    for name, der in roots.items():
        (state_dir / name).write_bytes(der)
    with socket.create_server(("127.0.0.1", port)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ready(url, [(state_dir / name).absolute() for name in roots])
        config = uvicorn.Config(application, lifespan="off", log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
