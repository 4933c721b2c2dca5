"""Who may connect: the appraised, in time, up to a number, and nobody an inspection let by."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any

import grpc
import pytest
from attested import NOW
from cryptography import x509
from ratls_peers import (
    appraise,
    appraised,
    der_of,
    ec_key,
    forge,
    interoperable,
    issued,
    wanting,
)

from enclave.ratls import PeerBook, PeerRefused, client_context, peer_of, server_context
from enclave.ratls_grpc import PeerGuard, secure_channel

ONE, TWO = issued(number=1), issued(number=2)


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


def test_a_peer_is_known_by_its_very_certificate() -> None:
    book = PeerBook(Clock())
    peer = appraised(ONE)
    book.admit(peer)
    assert book.expect(der_of(ONE)) is peer
    for der in (der_of(TWO), der_of(issued(number=1)), b"", None):
        with pytest.raises(PeerRefused):
            book.expect(der)


def test_a_peer_is_known_while_its_appraisal_lasts() -> None:
    clock = Clock()
    book = PeerBook(clock)
    peer = appraised(ONE)
    book.admit(peer)
    version, _ = book.current()
    clock.now = peer.not_after
    assert book.current() == (version, (peer,))
    clock.now += 1
    assert book.current() == (version + 1, ())
    with pytest.raises(PeerRefused):
        book.expect(der_of(ONE))
    with pytest.raises(PeerRefused, match="ended"):
        book.admit(peer)
    clock.now = peer.certificate.not_before - 1
    with pytest.raises(PeerRefused):
        book.admit(peer)


def test_a_forgotten_key_is_gone_under_all_its_certificates() -> None:
    book = PeerBook(Clock())
    book.admit(appraised(ONE))
    book.admit(appraised(issued(number=1)))
    book.admit(appraised(TWO))
    version, _ = book.current()
    book.forget(appraised(ONE).spki_sha256)
    assert book.current() == (version + 1, (book.expect(der_of(TWO)),))
    book.forget("00" * 32)
    assert book.current()[0] == version + 1


def test_a_full_book_admits_nobody_new_until_somebody_leaves() -> None:
    clock = Clock()
    book = PeerBook(clock, limit=1)
    short = appraised(issued(number=3, not_after=NOW + 10))
    book.admit(short)
    book.admit(short)
    with pytest.raises(PeerRefused, match="already 1"):
        book.admit(appraised(TWO))
    clock.now = NOW + 11
    book.admit(appraised(TWO))


def test_nothing_secret_follows_from_an_inspection() -> None:
    inspected = appraised(ONE, policy=wanting(measurements="any", inspection_only=True))
    with pytest.raises(PeerRefused, match="inspects"):
        PeerBook(Clock()).admit(inspected)
    with pytest.raises(PeerRefused, match="inspects"):
        client_context(TWO, inspected, now=NOW)
    with pytest.raises(PeerRefused, match="inspects"):
        secure_channel("127.0.0.1:1", TWO, inspected, now=NOW)


def test_contexts_ask_for_a_certificate_and_trust_no_authority() -> None:
    book = PeerBook(Clock())
    for context in (client_context(ONE, appraised(TWO), now=NOW), server_context(ONE, book)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.cert_store_stats()["x509_ca"] == 0
    assert len(client_context(ONE, appraised(TWO), now=NOW).get_ca_certs()) == 0


def test_a_connection_without_tls_has_no_peer() -> None:
    with pytest.raises(PeerRefused):
        peer_of(None, PeerBook(Clock()))


async def test_grpc_needs_a_name_to_ask_for() -> None:
    names = (x509.UniformResourceIdentifier("urn:x"),)
    nameless = appraise(forge([interoperable(ec_key(1))], names=names))
    with pytest.raises(PeerRefused, match="no name"):
        secure_channel("127.0.0.1:1", TWO, nameless, now=NOW)


class Context:
    """A gRPC call's context, as far as the guard looks."""

    def __init__(self, *shown: bytes) -> None:
        self.shown = shown

    def auth_context(self) -> dict[str, Any]:
        return {"x509_pem_cert": self.shown} if self.shown else {}


def test_the_guard_names_the_caller_or_refuses() -> None:
    book = PeerBook(Clock())
    peer = appraised(ONE)
    book.admit(peer)
    guard = PeerGuard(book)
    pem = ssl.DER_cert_to_PEM_cert(der_of(ONE)).encode()
    assert guard.peer(Context(pem)) is peer
    for context in (Context(), Context(pem, pem)):
        with pytest.raises(PeerRefused, match="no certificate"):
            guard.peer(context)


async def test_the_guard_passes_unknown_methods_on_and_refuses_handlers_it_cannot_guard() -> None:
    guard = PeerGuard(PeerBook(Clock()))
    details: Any = None

    async def unknown(_: Any) -> None:
        return None

    async def synchronous(_: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    assert await guard.intercept_service(unknown, details) is None
    with pytest.raises(TypeError, match="not asynchronous"):
        await guard.intercept_service(synchronous, details)


def test_identities_do_not_print_their_keys() -> None:
    assert "key" not in repr(ONE).lower().replace("tlsidentity", "")
    assert replace(ONE, certificate=TWO.certificate).key is ONE.key
