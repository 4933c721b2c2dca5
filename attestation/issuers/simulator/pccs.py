"""A PCCS for the simulator's platform, so that fetching can be tried without a network.

It answers what Intel's service v4 answers: the same paths, parameters, headers and status
codes, with collateral the simulated platform signs. As there, CRLs are DER with
`encoding=der` and hex without. Plain ASGI; `serve` runs it under uvicorn.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote

from attestation.issuers.simulator.issuer import load_or_create_seed
from attestation.issuers.simulator.platform import EPOCH_S, SimulatedPlatform

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SEED_FILE: Final = "simulator.seed"
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
    """The ASGI application that serves the collateral of `seed`'s platform."""

    def __init__(self, seed: bytes, now: Callable[[], int] = lambda: int(time.time())) -> None:
        self._seed = seed
        self._now = now
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
        if tee not in ("sgx", "tdx") or len(query) > _MAX_QUERY:
            return _NOT_FOUND
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


def _signed(member: str, text: str, signature: bytes) -> bytes:
    return f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()


def serve(state_dir: Path, port: int, ready: Callable[[str, bytes], None]) -> None:
    """Serve the simulator whose seed is in `state_dir` on loopback until interrupted.

    `ready` gets the URL and the root (DER) once the port is bound. Port 0 takes a free one.
    """
    import socket

    import uvicorn

    application = SimulatedPccs(load_or_create_seed(state_dir / SEED_FILE))
    with socket.create_server(("127.0.0.1", port)) as listener:
        ready(f"http://127.0.0.1:{listener.getsockname()[1]}", application.platform.root_der)
        config = uvicorn.Config(application, lifespan="off", log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
