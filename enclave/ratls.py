"""RA-TLS from the inside: certificates that carry this machine's evidence, and channels
between nodes that each end appraised.

A channel needs two steps, because no TLS library of ours asks before it trusts. First each
side gets the other's certificate, over any channel, and appraises it. Then both open TLS
where the only thing trusted is that one certificate: it is its own root and may sign
nothing else, so the handshake proves the key and admits no other. docs/spec/ratls.md.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.issuers.base import Issuer
from attestation.ratls import AttestedPeer, Claims, TaggedEvidence
from attestation.ratls.extension import (
    EVIDENCE_OID,
    LEGACY_OID,
    TAG_OF_TEE,
    legacy_report_data,
)
from enclave import tls
from enclave.errors import EnclaveError

MAX_PEERS: Final = 1024


class PeerRefused(EnclaveError):  # noqa: N818 - reads as the fact it states
    """The other end showed no certificate, or one that was not appraised or is no longer good."""


def issue_certificate(
    issuer: Issuer,
    key: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...],
    now: int,
    not_after: int,
    simulated: bool,
    custody: str | None = None,
    nonce: bytes | None = None,
) -> x509.Certificate:
    """A self-signed certificate of `key` that carries evidence over that key.

    Always the interoperable extension; on SGX Gramine's legacy one too, which holds a quote
    of its own, since the two bind the key differently. `custody` and `nonce` go into the
    claims. Raises IssuerError, or EnclaveError where this evidence has no place in
    certificates.
    """
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    claims = Claims.build(spki, nonce=nonce, custody=custody)
    tag = TAG_OF_TEE.get(issuer.tee_type)
    if tag is None:
        raise EnclaveError(f"certificates have no form for {issuer.tee_type} evidence")
    issued = issuer.issue(claims.report_data)
    evidence = TaggedEvidence(tag, issued.quote, claims)
    extensions = [_extension(EVIDENCE_OID, evidence.write())]
    if issuer.tee_type == "sgx":
        legacy = issuer.issue(legacy_report_data(spki))
        extensions.append(_extension(LEGACY_OID, legacy.quote))
    return tls.self_signed(
        key,
        names=names,
        now=now,
        not_after=not_after,
        simulated=simulated,
        extensions=extensions,
    )


def _extension(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


class PeerBook:
    """Appraised peers, by certificate, while their appraisal lasts. Thread-safe.

    `clock` is Unix seconds. `version` changes whenever `peers` would.
    """

    def __init__(self, clock: Callable[[], int], limit: int = MAX_PEERS) -> None:
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._peers: dict[bytes, AttestedPeer] = {}
        self._version = 0

    def admit(self, peer: AttestedPeer) -> None:
        """`peer` may connect from now on. Raises PeerRefused when it may not, or we are full."""
        check_peer(peer, self._clock())
        with self._lock:
            self._drop_expired()
            if len(self._peers) >= self._limit and peer.certificate.der not in self._peers:
                raise PeerRefused(f"already {self._limit} peers")
            self._peers[peer.certificate.der] = peer
            self._version += 1

    def forget(self, spki_sha256: str) -> None:
        """No certificate of this key may connect or ask again."""
        with self._lock:
            gone = [der for der, peer in self._peers.items() if peer.spki_sha256 == spki_sha256]
            for der in gone:
                del self._peers[der]
            self._version += bool(gone)

    def current(self) -> tuple[int, tuple[AttestedPeer, ...]]:
        """The version, and who may connect now."""
        with self._lock:
            self._drop_expired()
            return self._version, tuple(self._peers.values())

    def expect(self, der: bytes | None) -> AttestedPeer:
        """The peer that showed this certificate. Raises PeerRefused."""
        with self._lock:
            self._drop_expired()
            peer = None if der is None else self._peers.get(der)
        if peer is None:
            raise PeerRefused("the certificate shown is not an appraised peer's")
        return peer

    def _drop_expired(self) -> None:
        now = self._clock()
        kept = {der: peer for der, peer in self._peers.items() if _in_time(peer, now)}
        self._version += len(kept) != len(self._peers)
        self._peers = kept


def _in_time(peer: AttestedPeer, now: int) -> bool:
    return peer.certificate.not_before <= now <= peer.not_after


def check_peer(peer: AttestedPeer, now: int) -> None:
    """Something secret may be said to `peer` at `now`. Raises PeerRefused."""
    if peer.appraisal.inspection_only:
        raise PeerRefused("the policy only inspects: nothing secret should follow from it")
    if not _in_time(peer, now):
        raise PeerRefused(f"the appraisal of the peer ended at {peer.not_after}")


def client_context(identity: tls.TlsIdentity, peer: AttestedPeer, *, now: int) -> ssl.SSLContext:
    """A context whose handshake succeeds with `peer` and nobody else, showing `identity`.

    Any HTTP client can use it. Host names are not compared: the certificate is the peer.
    Raises PeerRefused.
    """
    check_peer(peer, now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _harden(context)
    context.load_verify_locations(cadata=peer.certificate.der)
    tls.load_identity(context, identity)
    return context


def server_context(identity: tls.TlsIdentity, book: PeerBook) -> ssl.SSLContext:
    """A context whose handshake succeeds with whoever stands in `book` at that moment.

    After the handshake, `peer_of` says who it was.
    """
    chosen: list[tuple[int, ssl.SSLContext]] = []

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # A failure here ends the handshake; without this call nobody is trusted at all.
        version, peers = book.current()
        if not chosen or chosen[-1][0] != version:
            chosen[:] = [(version, _trusting(identity, peers))]
        connection.context = chosen[-1][1]

    context = _trusting(identity, ())
    context.sni_callback = choose
    return context


def _trusting(identity: tls.TlsIdentity, peers: tuple[AttestedPeer, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    # A resumed session would show a certificate that is perhaps no longer in the book.
    context.num_tickets = 0
    for peer in peers:
        context.load_verify_locations(cadata=peer.certificate.der)
    tls.load_identity(context, identity)
    return context


def _harden(context: ssl.SSLContext) -> None:
    """TLS 1.3, a certificate from the other end, and that certificate its own root."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])


def peer_of(connection: ssl.SSLObject | ssl.SSLSocket | None, book: PeerBook) -> AttestedPeer:
    """Who is at the other end of this connection now. Raises PeerRefused.

    A connection outlives an appraisal: ask again for each request.
    """
    return book.expect(None if connection is None else connection.getpeercert(binary_form=True))


async def observe(host: str, port: int, *, timeout_s: float = 10.0) -> bytes:
    """The certificate (DER) that a TLS server shows, to be appraised. Nothing is sent.

    Raises PeerRefused when there is no such server or it shows none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError) as e:
        raise PeerRefused(f"{host}:{port}: {type(e).__name__}, no certificate") from None
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    if not der:
        raise PeerRefused(f"{host}:{port} showed no certificate")
    return bytes(der)
