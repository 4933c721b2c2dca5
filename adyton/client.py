"""The OpenAI clients, on a transport that verifies the node before it sends anything.

    client = adyton.Client(base_url="https://node:8443", api_key=..., root="root.pem",
                           measurement="<96 hex>")
    client.chat.completions.create(...)

Everything the `openai` package offers over HTTP works unchanged. What it would do
around our transport (WebSockets, other credentials providers) is refused.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx2
import openai

from adyton.endpoint import Endpoint
from adyton.errors import UnsafeUrl
from adyton.evm import VerifiedEvmReceipt, require_libraries, verify_evm
from adyton.receipts import ReceiptLog, ReceiptMode, VerifiedReceipt
from adyton.transport import VerifyingTransport
from adyton.transport_async import AsyncVerifyingTransport
from adyton.trust import DEFAULT_MAX_AGE_S, Established, FileSource, RootSource, Trust

if TYPE_CHECKING:
    from attestation.policy import Policy
    from attestation.report import AttestedNode

NO_WEBSOCKETS: Final = "wss://websockets-are-not-attested.invalid"
"""WebSocket APIs dial by themselves, past the pinned transport; this name never resolves."""

ANONYMOUS: Final = "anonymous"
"""Sent when no key is given. OPENAI_API_KEY is never read: it belongs to someone else."""

_FOREIGN: Final = ("workload_identity", "provider", "data_residency")


def _endpoint(base_url: object) -> Endpoint:
    if not isinstance(base_url, str | httpx2.URL):
        raise UnsafeUrl("base_url is required: the https:// URL of the node")
    return Endpoint.parse(str(base_url))


def _options(options: dict[str, Any], endpoint: Endpoint, api_key: object) -> dict[str, Any]:
    """The arguments for the parent class: ours forced, those that would bypass us refused."""
    for name in _FOREIGN:
        if options.pop(name, None) is not None:
            raise TypeError(f"{name} is not for an attested node")
    options["websocket_base_url"] = NO_WEBSOCKETS
    options["base_url"] = endpoint.base_url
    if api_key is None:
        api_key = os.environ.get("ADYTON_API_KEY") or ANONYMOUS
    options["api_key"] = api_key
    return options


def _forget_environment(
    client: openai.OpenAI | openai.AsyncOpenAI, options: dict[str, Any]
) -> None:
    """Drop what the parent class took from OPENAI_* variables: those name another service."""
    client.admin_api_key = None
    client.organization = options.get("organization")
    client.project = options.get("project")


class HttpClient(httpx2.Client):
    """An httpx2 client on a `VerifyingTransport`: no proxies, no environment, no redirects."""

    def __init__(self, transport: VerifyingTransport) -> None:
        super().__init__(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=openai.DEFAULT_TIMEOUT,
        )
        self.verifying = transport


class AsyncHttpClient(httpx2.AsyncClient):
    """The asynchronous twin of `HttpClient`."""

    def __init__(self, transport: AsyncVerifyingTransport) -> None:
        super().__init__(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=openai.DEFAULT_TIMEOUT,
        )
        self.verifying = transport


class NodeView:
    """`client.adyton`: the node behind the client, and the receipts it has given."""

    def __init__(self, transport: VerifyingTransport) -> None:
        self._transport = transport

    @property
    def node(self) -> AttestedNode:
        """The verified node; verifies first when nothing fresh is established."""
        return self._transport.ensure().node

    @property
    def established(self) -> Established | None:
        """What is believed at this moment, without asking the node."""
        return self._transport.established

    @property
    def receipts(self) -> deque[VerifiedReceipt]:
        """The last verified receipts, oldest first."""
        return self._transport.receipts.kept

    def evm_receipt(self, which: VerifiedReceipt | str) -> VerifiedEvmReceipt:
        """The form of a verified receipt that a contract takes, checked against it.

        `which` is one of `receipts`, or the id of a receipt or response among them. Raises
        ReceiptError; LibraryMissing without adyton[onchain].
        """
        require_libraries()
        verified = self._transport.receipts.find(which)
        answer = self._transport.fetch_evm_receipt(verified)
        return verify_evm(answer.status, answer.body, verified)

    def verify(self) -> Established:
        """Verify the node now, under a fresh nonce."""
        return self._transport.verify()


class AsyncNodeView:
    """The asynchronous twin of `NodeView`."""

    def __init__(self, transport: AsyncVerifyingTransport) -> None:
        self._transport = transport

    @property
    def node(self) -> AttestedNode | None:
        """The verified node, or None before the first request or `verify()`."""
        established = self._transport.established
        return None if established is None else established.node

    @property
    def established(self) -> Established | None:
        return self._transport.established

    @property
    def receipts(self) -> deque[VerifiedReceipt]:
        """The last verified receipts, oldest first."""
        return self._transport.receipts.kept

    async def evm_receipt(self, which: VerifiedReceipt | str) -> VerifiedEvmReceipt:
        """The form of a verified receipt that a contract takes, checked against it.

        `which` is one of `receipts`, or the id of a receipt or response among them. Raises
        ReceiptError; LibraryMissing without adyton[onchain].
        """
        require_libraries()
        verified = self._transport.receipts.find(which)
        answer = await self._transport.fetch_evm_receipt(verified)
        return verify_evm(answer.status, answer.body, verified)

    async def verify(self) -> Established:
        """Verify the node now, under a fresh nonce."""
        return await self._transport.verify()


class Client(openai.OpenAI):
    """`openai.OpenAI` that talks to one verified node and to nobody else.

    `policy` is "strict", "genuine", a file, a mapping or a Policy; `measurement` pins
    the workload; `root`/`roots` replace the built-in production roots. With
    `verify_receipts` "each" (the default) or a callback, every answer to a prompt is
    checked against its signed receipt before its end is handed on; `receipt_dir` keeps
    a bundle of each, prompts and answers included unless `receipt_bodies` is False.
    `gpu_rims` (reference values) and `gpu_revocation` (OCSP responses, CRLs) are what GPUs
    are judged by, as bytes or paths.

    Raises AttestationError when the node, the channel or a receipt is refused.
    """

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL | None = None,
        api_key: str | Callable[[], str] | None = None,
        policy: Policy | str | Path | Mapping[str, Any] = "strict",
        root: RootSource | None = None,
        roots: Sequence[RootSource] | None = None,
        measurement: str | None = None,
        verify_receipts: ReceiptMode = "each",
        receipt_dir: str | Path | None = None,
        receipt_bodies: bool = True,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        gpu_rims: Sequence[FileSource] = (),
        gpu_rim_roots: Sequence[RootSource] | None = None,
        gpu_revocation: Sequence[FileSource] = (),
        http_client: httpx2.Client | None = None,
        **options: Any,
    ) -> None:
        endpoint = _endpoint(base_url)
        if http_client is None:
            trust = Trust.of(
                policy=policy,
                root=root,
                roots=roots,
                measurement=measurement,
                max_age_s=max_age_s,
                gpu_rims=gpu_rims,
                gpu_rim_roots=gpu_rim_roots,
                gpu_revocation=gpu_revocation,
            )
            folder = None if receipt_dir is None else Path(receipt_dir)
            log = ReceiptLog(verify_receipts, folder=folder, bodies=receipt_bodies)
            http_client = HttpClient(VerifyingTransport(endpoint, trust, log))
        elif not isinstance(http_client, HttpClient):
            raise TypeError("another http_client would bypass verification")
        self.adyton = NodeView(http_client.verifying)
        super().__init__(http_client=http_client, **_options(options, endpoint, api_key))
        _forget_environment(self, options)


class AsyncClient(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI` that talks to one verified node; arguments as for `Client`."""

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL | None = None,
        api_key: Any = None,
        policy: Policy | str | Path | Mapping[str, Any] = "strict",
        root: RootSource | None = None,
        roots: Sequence[RootSource] | None = None,
        measurement: str | None = None,
        verify_receipts: ReceiptMode = "each",
        receipt_dir: str | Path | None = None,
        receipt_bodies: bool = True,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        gpu_rims: Sequence[FileSource] = (),
        gpu_rim_roots: Sequence[RootSource] | None = None,
        gpu_revocation: Sequence[FileSource] = (),
        http_client: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> None:
        endpoint = _endpoint(base_url)
        if http_client is None:
            trust = Trust.of(
                policy=policy,
                root=root,
                roots=roots,
                measurement=measurement,
                max_age_s=max_age_s,
                gpu_rims=gpu_rims,
                gpu_rim_roots=gpu_rim_roots,
                gpu_revocation=gpu_revocation,
            )
            folder = None if receipt_dir is None else Path(receipt_dir)
            log = ReceiptLog(verify_receipts, folder=folder, bodies=receipt_bodies)
            http_client = AsyncHttpClient(AsyncVerifyingTransport(endpoint, trust, log))
        elif not isinstance(http_client, AsyncHttpClient):
            raise TypeError("another http_client would bypass verification")
        self.adyton = AsyncNodeView(http_client.verifying)
        super().__init__(http_client=http_client, **_options(options, endpoint, api_key))
        _forget_environment(self, options)
