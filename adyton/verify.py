"""Establishing a node once, without keeping a connection: fetch its report and judge it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adyton.endpoint import Endpoint
from adyton.fetch import afetch_report, fetch_report
from adyton.trust import (
    Established,
    FileSource,
    RootSource,
    Trust,
    fresh_nonce,
    judge_report,
)

if TYPE_CHECKING:
    from attestation.policy import Policy


def establish(endpoint: Endpoint, trust: Trust) -> Established:
    """The node at `endpoint`, verified under a fresh nonce, or the reason it is refused."""
    nonce = fresh_nonce()
    answer = fetch_report(endpoint, nonce)
    return judge_report(
        trust,
        endpoint,
        status=answer.status,
        body=answer.body,
        nonce=nonce,
        certificate_der=answer.certificate_der,
    )


async def aestablish(endpoint: Endpoint, trust: Trust) -> Established:
    """The asynchronous twin of `establish`."""
    nonce = fresh_nonce()
    answer = await afetch_report(endpoint, nonce)
    return judge_report(
        trust,
        endpoint,
        status=answer.status,
        body=answer.body,
        nonce=nonce,
        certificate_der=answer.certificate_der,
    )


def verify_node(
    url: str,
    *,
    policy: Policy | str | Path | Mapping[str, Any] = "strict",
    root: RootSource | None = None,
    roots: Sequence[RootSource] | None = None,
    measurement: str | None = None,
    gpu_rims: Sequence[FileSource] = (),
    gpu_rim_roots: Sequence[RootSource] | None = None,
    gpu_revocation: Sequence[FileSource] = (),
) -> Established:
    """Verify the node at `url` now. Raises AttestationError, its kind saying why it is refused.

    Arguments as for `adyton.Client`.
    """
    trust = Trust.of(
        policy=policy,
        root=root,
        roots=roots,
        measurement=measurement,
        gpu_rims=gpu_rims,
        gpu_rim_roots=gpu_rim_roots,
        gpu_revocation=gpu_revocation,
    )
    return establish(Endpoint.parse(url), trust)


def pinned_context(established: Established) -> ssl.SSLContext:
    """A TLS context that trusts exactly the verified node's certificate, and nothing else.

    For clients that know nothing of attestation: give it to `httpx2.Client(verify=...)`
    and the unmodified `openai` package talks to the verified key only. Such a client
    does not notice an expiring keyset and checks no receipt.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The one certificate is the anchor, so the name it carries adds nothing.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(established.certificate_der))
    return context
