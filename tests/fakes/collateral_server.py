"""A PCCS over a real socket that can be told to misbehave, answer by answer.

It serves the simulator's collateral until a request matches a scripted `Fault`, which then
writes whatever it likes to the connection. Faults are named after what a client meets.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from attestation.issuers.simulator.pccs import Answer

Fault = Callable[[asyncio.StreamWriter, Answer], Awaitable[None]]
Genuine = Callable[[str, str], Answer]


def encode(answer: Answer, *extra: tuple[str, str], length: int | None = None) -> bytes:
    """`answer` as HTTP/1.1; `length` may lie about the body."""
    headers = [(n.decode(), v.decode()) for n, v in answer.headers if n != b"content-length"]
    headers += [("content-length", str(len(answer.body) if length is None else length)), *extra]
    head = "".join(f"{n}: {v}\r\n" for n, v in headers)
    return f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + answer.body


@dataclass
class Rule:
    """`fault` answers requests whose target contains `match`, `times` times (None: always)."""

    match: str
    fault: Fault
    times: int | None = None


class CollateralServer:
    """Listens on loopback while the context is open. `requests` are the targets asked for."""

    def __init__(self, genuine: Genuine, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.genuine = genuine
        self.rules: list[Rule] = []
        self.requests: list[str] = []
        self.url = ""

    def on(self, match: str, fault: Fault, times: int | None = None) -> None:
        """From now on `fault` answers what contains `match`."""
        self.rules.append(Rule(match, fault, times))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"{'http' if self._tls is None else 'https'}://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                target = head.split(" ")[1]
                self.requests.append(target)
                parts = urlsplit(target)
                answer = self.genuine(parts.path, parts.query)
                fault = self._fault(target)
                if fault is None:
                    writer.write(encode(answer))
                else:
                    await fault(writer, answer)
                await writer.drain()
                if fault is not None:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, as it may
        finally:
            writer.close()

    def _fault(self, target: str) -> Fault | None:
        for rule in self.rules:
            if rule.match in target and rule.times != 0:
                if rule.times is not None:
                    rule.times -= 1
                return rule.fault
        return None


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as e:
        if e.partial:
            raise
        return ""


# --- faults ------------------------------------------------------------------------------


def sends(data: bytes) -> Fault:
    """Exactly these bytes, then the connection closes."""

    async def fault(writer: asyncio.StreamWriter, _: Answer) -> None:
        writer.write(data)

    return fault


def changed(**fields: Any) -> Fault:
    """The genuine answer but for these fields of it."""

    async def fault(writer: asyncio.StreamWriter, answer: Answer) -> None:
        writer.write(encode(replace(answer, **fields)))

    return fault


def edited(edit: Callable[[Answer], Answer]) -> Fault:
    """What `edit` makes of the genuine answer."""

    async def fault(writer: asyncio.StreamWriter, answer: Answer) -> None:
        writer.write(encode(edit(answer)))

    return fault


def status(code: int, *extra: tuple[str, str]) -> Fault:
    """An error page with this status."""
    return sends(encode(Answer(code, body=b"no"), *extra))


async def drips(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """One byte now and then, forever within any read timeout."""
    data = encode(answer)
    for at in range(len(data)):
        writer.write(data[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0.02)


async def silence(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Nothing at all."""
    await asyncio.sleep(3600)


async def huge(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """A body that does not end, of a length nobody announced."""
    writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n\r\n")
    for _ in range(64):
        writer.write(b" " * 65536)
        await writer.drain()


async def truncated(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Half of the body, and the connection closes."""
    data = encode(answer)
    writer.write(data[: len(data) - len(answer.body) // 2])


async def closes(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """The connection closes without a word."""


async def bomb(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """100 MB of zeros, compressed, though identity was asked for."""
    body = gzip.compress(bytes(100 << 20), 1)
    writer.write(encode(replace(answer, body=body), ("content-encoding", "gzip")))


def chain_of(pem: str, count: int) -> Fault:
    """The genuine answer with `count` certificates in its issuer chain."""

    async def fault(writer: asyncio.StreamWriter, answer: Answer) -> None:
        assert answer.chain is not None
        many = (answer.chain[0], pem * count)
        writer.write(encode(replace(answer, chain=many)))

    return fault


def twice_the_chain(other: str) -> Fault:
    """The issuer chain's header comes twice, the second time with `other`."""

    async def fault(writer: asyncio.StreamWriter, answer: Answer) -> None:
        assert answer.chain is not None
        writer.write(encode(answer, (answer.chain[0], quote(other, safe=""))))

    return fault
