"""Whom the client believes, and what it has established about one node. No sockets here.

ACI section 9.1, steps 1-3 and what the policy adds, are `attestation.appraise_report`;
step 6 (the channel) is here, because only the client saw the channel.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from adyton.endpoint import Endpoint
from adyton.errors import ChannelError, MalformedResponse, NodeRefused, PinMismatch
from adyton.pinning import spki_sha256
from attestation.canonical import loads_strict
from attestation.errors import CollateralError, MalformedEvidence

if TYPE_CHECKING:
    from attestation.keyset import Keyset
    from attestation.policy import Policy
    from attestation.report import AttestedNode

DEFAULT_MAX_AGE_S: Final = 900.0
"""How long a verified report is relied on before the node is asked again."""

MAX_REPORT_BYTES: Final = 4 << 20
MAX_RECEIPT_BYTES: Final = 1 << 20
MAX_DOCUMENT_BYTES: Final = 8 << 20

RootSource = bytes | str | Path
FileSource = bytes | str | Path


def fresh_nonce() -> str:
    """32 random bytes as 64 lowercase hex."""
    return secrets.token_hex(32)


def read_root(source: RootSource) -> bytes:
    """A trust root as DER, from bytes (DER or PEM) or the path of a file holding them."""
    from attestation.roots import load_root

    if isinstance(source, bytes):
        return load_root(source)
    try:
        return load_root(Path(source).read_bytes())
    except OSError as e:
        raise CollateralError(f"root {source}: {e.strerror or e}") from None


def read_document(source: FileSource) -> bytes:
    """The bytes themselves, or those of the file at a path. Raises CollateralError."""
    if isinstance(source, bytes):
        return source
    try:
        with Path(source).open("rb") as f:
            data = f.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as e:
        raise CollateralError(f"{source}: {e.strerror or e}") from None
    if len(data) > MAX_DOCUMENT_BYTES:
        raise CollateralError(f"{source}: longer than {MAX_DOCUMENT_BYTES} bytes")
    return data


@dataclass(frozen=True)
class Trust:
    """One relying party's standing decision: the roots it believes and the policy it applies.

    `gpu_rims` are reference values (NVIDIA's XML), believed under `gpu_rim_roots`;
    `gpu_revocation` OCSP responses and CRLs (DER). Only nodes that show GPUs are judged by
    them.
    """

    policy: Policy
    roots: tuple[bytes, ...]
    max_age_s: float = DEFAULT_MAX_AGE_S
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    gpu_rims: tuple[bytes, ...] = field(default=(), repr=False)
    gpu_rim_roots: tuple[bytes, ...] = field(default=(), repr=False)
    gpu_revocation: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls,
        *,
        policy: Policy | str | Path | Mapping[str, Any] = "strict",
        root: RootSource | None = None,
        roots: Sequence[RootSource] | None = None,
        measurement: str | None = None,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        clock: Callable[[], float] = time.time,
        gpu_rims: Sequence[FileSource] = (),
        gpu_rim_roots: Sequence[RootSource] | None = None,
        gpu_revocation: Sequence[FileSource] = (),
    ) -> Self:
        """Read the parts. Without a root the built-in production roots are believed.

        Naming roots replaces the built-in ones: a simulator is believed only where a
        person named its root, and there nothing else is. An empty list believes nobody.
        Reference values of GPUs are believed under `gpu_rim_roots`; where those are not
        named, under the named roots, else under NVIDIA's.
        """
        from attestation.policy import Policy as PolicyClass
        from attestation.policy import load_policy
        from attestation.roots import NVIDIA_RIM_ROOT, PRODUCTION_ROOTS

        loaded = policy if isinstance(policy, PolicyClass) else load_policy(policy)
        if measurement is not None:
            loaded = loaded.with_measurement(measurement)
        chosen: tuple[bytes, ...] = PRODUCTION_ROOTS
        rim_roots: tuple[bytes, ...] = (NVIDIA_RIM_ROOT,)
        if root is not None or roots is not None:
            named = (*(roots or ()), *(() if root is None else (root,)))
            chosen = rim_roots = tuple(read_root(r) for r in named)
        if gpu_rim_roots is not None:
            rim_roots = tuple(read_root(r) for r in gpu_rim_roots)
        return cls(
            policy=loaded,
            roots=chosen,
            max_age_s=max_age_s,
            clock=clock,
            gpu_rims=tuple(read_document(r) for r in gpu_rims),
            gpu_rim_roots=rim_roots,
            gpu_revocation=tuple(read_document(r) for r in gpu_revocation),
        )

    def appraise(self, report: Mapping[str, Any], *, nonce: str | None, now: int) -> AttestedNode:
        """The node behind `report` is one we want, at `now`. Raises as `appraise_report`."""
        from attestation.report import appraise_report

        return appraise_report(
            report,
            nonce=nonce,
            roots=self.roots,
            policy=self.policy,
            now=now,
            gpu_rims=self.gpu_rims,
            gpu_rim_roots=self.gpu_rim_roots,
            gpu_revocation=self.gpu_revocation,
        )


@dataclass(frozen=True)
class Established:
    """A node whose report verified over a channel that its own keyset lists.

    `report` is the document as served to us under `nonce`; `certificate_der` is the
    certificate seen on the channel that carried it. `verified_at` is monotonic seconds.
    """

    node: AttestedNode
    report: Mapping[str, Any]
    nonce: str
    certificate_der: bytes
    spki_sha256: str
    verified_at: float
    verified_at_unix: int

    @property
    def keyset(self) -> Keyset:
        return self.node.keyset

    @property
    def keyset_digest(self) -> str:
        return self.node.keyset.digest

    def is_stale(self, trust: Trust) -> bool:
        """True when the keyset has expired or the report is older than `trust` allows."""
        if trust.clock() >= self.keyset.not_after:
            return True
        return trust.monotonic() - self.verified_at >= trust.max_age_s

    def require_listed(self, host: str, certificate_der: bytes) -> None:
        """Raise PinMismatch unless the keyset lists this certificate's key for `host`."""
        seen = spki_sha256(certificate_der)
        if seen not in listed_spkis(self.keyset, host):
            raise PinMismatch(
                "channel",
                f"the TLS key of {host} (spki {seen}) is not in the attested keyset "
                f"{self.keyset_digest}: the connection does not end in the attested node",
            )


def listed_spkis(keyset: Keyset, host: str) -> frozenset[str]:
    """SPKI digests that may be pinned for `host`."""
    return frozenset(k.spki_sha256 for k in keyset.tls_public_keys if k.covers(host))


def parse_object(body: bytes, what: str) -> Mapping[str, Any]:
    """A JSON object from a node. Raises MalformedResponse for anything else."""
    try:
        document = loads_strict(body, what)
    except MalformedEvidence as e:
        raise MalformedResponse(e.field, e.detail, e.offset) from None
    if not isinstance(document, Mapping):
        raise MalformedResponse(what, "must be a JSON object")
    return document


def judge_report(
    trust: Trust,
    endpoint: Endpoint,
    *,
    status: int,
    body: bytes,
    nonce: str,
    certificate_der: bytes,
) -> Established:
    """Establish the node behind one answer of GET /v1/aci/attestation, or raise why not.

    Raises NodeRefused, MalformedResponse, and everything `appraise_report` raises; then
    ChannelError when the report verifies but describes a node other than the one at the
    far end of this connection (a relay in the middle can fetch a genuine report).
    """
    if status != 200:
        raise NodeRefused("attestation report", status)
    document = parse_object(body, "report")
    now = int(trust.clock())
    node = trust.appraise(document, nonce=nonce, now=now)
    established = Established(
        node=node,
        report=document,
        nonce=nonce,
        certificate_der=certificate_der,
        spki_sha256=spki_sha256(certificate_der),
        verified_at=trust.monotonic(),
        verified_at_unix=now,
    )
    try:
        established.require_listed(endpoint.host, certificate_der)
    except PinMismatch as e:
        raise ChannelError(e.step, e.detail) from None
    return established
