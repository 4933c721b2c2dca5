"""The node's keys survive a restart, are replaced in time, and never lie in the clear."""

from __future__ import annotations

import copy
import json
import pickle
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from attestation.canonical import jcs
from attestation.issuers.base import IssuedEvidence, IssuerError
from attestation.keyset import Keyset
from attestation.onchain.receipt import EvmReceipt, recover
from attestation.receipts import sign_receipt
from enclave import keys as keys_module
from enclave.errors import EnclaveError, SealingError
from enclave.keys import KEYS_FILE, NodeKeys, load_or_create
from enclave.sealing import Sealer
from enclave.tls import subject_names

NOW = 1_790_000_000
WORDS = EvmReceipt(*(bytes([i]) * 32 for i in range(7)), served_at=NOW)
DAY = 86_400


@dataclass
class FakeIssuer:
    """An issuer whose sealing key the test chooses."""

    key: bytes | None = b"k" * 32
    simulated: bool = True
    name: str = "fake"
    tee_type: str = "tdx"
    measurement: str = "00" * 48

    def issue(self, report_data: bytes) -> IssuedEvidence:
        raise IssuerError("the keys ask for no evidence")

    def sealing_key(self) -> bytes | None:
        return self.key


def load(state: Path, issuer: FakeIssuer | None = None, **changes: Any) -> NodeKeys:
    arguments: dict[str, Any] = {"hostnames": (), "lifetime_s": 10 * DAY, "now": NOW, **changes}
    return load_or_create(state, issuer or FakeIssuer(), **arguments)


def names_in(state: Path) -> list[str]:
    return sorted(p.name for p in state.iterdir() if p.is_file() and p.name != ".keys.lock")


def test_a_restart_keeps_the_keys(tmp_path: Path) -> None:
    first = load(tmp_path, subject="node", hostnames=["Node.Example."])
    again = load(tmp_path, subject="node", hostnames=["node.example"], now=NOW + DAY)
    assert again.keyset.digest == first.keyset.digest
    assert again.certificate == first.certificate
    assert again.custody == "sealed"
    assert again.warnings == ()
    payload = {"receipt_id": "r"}
    assert again.sign_receipt(payload) == first.sign_receipt(payload)
    assert again.evm_address == first.evm_address
    assert again.sign_evm(WORDS) == first.sign_evm(WORDS)


def test_the_keyset_lists_what_the_node_uses(tmp_path: Path) -> None:
    node = load(tmp_path, subject="node")
    keyset = node.keyset
    assert keyset.subject == "node"
    assert keyset.not_after == NOW + 10 * DAY
    assert keyset.e2ee_public_keys == ()
    entry, evm = keyset.receipt_signing_keys
    assert (entry.key_id, entry.algo) == ("receipt-1", "ed25519")
    assert (evm.key_id, evm.algo) == ("evm-1", "eip712-secp256k1")
    assert node.evm_address == "0x" + evm.public_key and len(evm.public_key) == 40
    assert node.sign_receipt({"a": 1}) == sign_receipt({"a": 1}, "receipt-1", node._receipt_key)
    spki = node.certificate.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    (pin,) = keyset.tls_public_keys
    assert pin.spki_sha256 == sha256(spki).hexdigest()
    assert pin.covers("anything.example")


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "other"},
        {"hostnames": ["other.example"]},
        {"now": NOW + 8 * DAY},
        {"now": NOW + 11 * DAY},
        {"now": NOW - 2 * 3600},
        {"lifetime_s": DAY},
        {"renew": True},
    ],
    ids=[
        "subject",
        "hostname",
        "fifth-left",
        "expired",
        "clock-went-back",
        "shorter-lifetime",
        "renewed",
    ],
)
def test_keys_that_no_longer_serve_are_replaced(tmp_path: Path, changes: Any) -> None:
    first = load(tmp_path)
    second = load(tmp_path, **changes)
    assert second.keyset.digest != first.keyset.digest
    assert second.keyset.receipt_signing_keys != first.keyset.receipt_signing_keys
    assert second.keyset.tls_public_keys != first.keyset.tls_public_keys
    assert second.generation == first.generation + 1
    assert second.warnings == ()


@pytest.mark.parametrize(
    "changes", [{"now": NOW + 8 * DAY - 1}, {"now": NOW - 3600}, {"lifetime_s": 30 * DAY}]
)
def test_keys_that_still_serve_are_kept(tmp_path: Path, changes: Any) -> None:
    first = load(tmp_path)
    assert load(tmp_path, **changes).keyset.digest == first.keyset.digest


def test_renewal_is_due_in_the_last_fifth(tmp_path: Path) -> None:
    node = load(tmp_path)
    assert not node.renewal_due(NOW + 8 * DAY - 1)
    assert node.renewal_due(NOW + 8 * DAY)


def test_every_keyset_document_is_kept(tmp_path: Path) -> None:
    digests = {load(tmp_path, subject=s).keyset.digest for s in ("a", "b", "c")}
    kept = list((tmp_path / "keysets").iterdir())
    assert {f"sha256:{p.stem}" for p in kept} == digests
    for path in kept:
        keyset = Keyset.from_json(json.loads(path.read_bytes()))
        assert keyset.digest == f"sha256:{path.stem}"
        assert path.read_bytes() == jcs(keyset.document)


def test_without_a_sealing_key_nothing_secret_is_kept(tmp_path: Path) -> None:
    issuer = FakeIssuer(key=None)
    first, second = load(tmp_path, issuer), load(tmp_path, issuer)
    assert first.custody == second.custody == "generated"
    assert first.keyset.digest != second.keyset.digest
    assert names_in(tmp_path) == []
    assert len(list((tmp_path / "keysets").iterdir())) == 2


def test_a_platform_without_a_sealing_key_leaves_sealed_keys_alone(tmp_path: Path) -> None:
    load(tmp_path)
    sealed = (tmp_path / KEYS_FILE).read_bytes()
    node = load(tmp_path, FakeIssuer(key=None))
    assert node.custody == "generated"
    assert "left alone" in node.warnings[0]
    assert (tmp_path / KEYS_FILE).read_bytes() == sealed


def test_another_measurement_gets_new_keys_and_a_warning(tmp_path: Path) -> None:
    first = load(tmp_path)
    sealed = (tmp_path / KEYS_FILE).read_bytes()
    second = load(tmp_path, FakeIssuer(key=b"n" * 32))
    assert second.keyset.digest != first.keyset.digest
    assert "keys.age.1.stale" in second.warnings[0]
    assert (tmp_path / "keys.age.1.stale").read_bytes() == sealed
    third = load(tmp_path, FakeIssuer(key=b"o" * 32))
    assert "keys.age.2.stale" in third.warnings[0]
    assert names_in(tmp_path) == ["keys.age", "keys.age.1.stale", "keys.age.2.stale"]
    # The old node's file still opens when it is put back.
    (tmp_path / "keys.age.1.stale").replace(tmp_path / KEYS_FILE)
    assert load(tmp_path).keyset.digest == first.keyset.digest


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_tampered_file_is_moved_aside_not_used_and_not_overwritten(
    tmp_path: Path, damage: str
) -> None:
    first = load(tmp_path)
    path = tmp_path / KEYS_FILE
    sealed = path.read_bytes()
    damaged = {
        "flip": sealed[:-1] + bytes([sealed[-1] ^ 1]),
        "cut": sealed[:-20],
        "empty": b"",
        "foreign": Sealer(b"x" * 32).seal("adyton.node-keys.v1", b"{}"),
    }[damage]
    path.write_bytes(damaged)
    second = load(tmp_path)
    assert second.keyset.digest != first.keyset.digest
    assert len(second.warnings) == 1
    assert (tmp_path / "keys.age.1.stale").read_bytes() == damaged


def _content(**changes: Any) -> bytes:
    node = keys_module.generate(
        names=subject_names(()), subject=None, lifetime_s=DAY, now=NOW, simulated=True
    )
    document = json.loads(keys_module._dump(node))
    return jcs({**document, **changes})


OTHER_TLS = keys_module.generate(
    names=(), subject=None, lifetime_s=DAY, now=NOW, simulated=False
)._tls_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b"{}",
        _content(generation="x"),
        _content(receipt_key="00"),
        _content(receipt_key=None),
        _content(tls_key="00"),
        _content(tls_key=OTHER_TLS.hex()),
        _content(
            tls_key="302e020100300506032b657004220420" + "11" * 32,
        ),
        _content(evm_key="00"),
        _content(evm_key="00" * 32),
        _content(evm_key="11" * 32),
        _content(certificate="00"),
        _content(keyset={}),
    ],
)
def test_a_sealed_file_of_another_shape_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    Sealer(b"k" * 32).write(tmp_path / KEYS_FILE, "adyton.node-keys.v1", content)
    assert "keys.age.1.stale" in load(tmp_path).warnings[0]


def test_keys_sealed_before_there_was_an_evm_key_are_kept_aside_and_said_to_be(
    tmp_path: Path,
) -> None:
    """The identity changes where a person can read it, and the old one can be put back."""
    document = json.loads(_content())
    del document["evm_key"]
    document["keyset"]["receipt_signing_keys"].pop()
    old = Sealer(b"k" * 32).seal("adyton.node-keys.v1", jcs(document))
    (tmp_path / KEYS_FILE).write_bytes(old)
    node = load(tmp_path)
    (warning,) = node.warnings
    assert "keys.age.1.stale, keys are new" in warning and "a version" in warning
    assert (tmp_path / "keys.age.1.stale").read_bytes() == old
    assert load(tmp_path).keyset.digest == node.keyset.digest


def test_every_key_has_one_role(tmp_path: Path) -> None:
    node = load(tmp_path)
    receipt = node._receipt_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    channel = node._tls_key.private_numbers().private_value.to_bytes(32, "big")
    assert len({receipt, channel, node._evm_key}) == 3
    assert recover(WORDS, node.sign_evm(WORDS)) == node.evm_address


def test_an_unreadable_file_stops_the_node_and_stays(tmp_path: Path) -> None:
    """A disk that fails to read is no reason to give the node another identity."""
    (tmp_path / KEYS_FILE).mkdir()
    with pytest.raises(SealingError, match=r"keys\.age"):
        load(tmp_path)
    assert (tmp_path / KEYS_FILE).is_dir()


def test_a_state_directory_that_cannot_be_made_is_a_sealing_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SealingError, match="file"):
        load(tmp_path / "file")


def test_a_file_that_cannot_be_moved_aside_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / KEYS_FILE
    path.write_bytes(b"damaged")

    def refuse(*_: object) -> Path:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SealingError, match="cannot be moved aside"):
        load(tmp_path)
    assert path.read_bytes() == b"damaged"


def test_a_failing_device_stops_the_node(tmp_path: Path) -> None:
    class Broken(FakeIssuer):
        def sealing_key(self) -> bytes | None:
            raise IssuerError("no such device")

    with pytest.raises(IssuerError):
        load(tmp_path, Broken())
    assert names_in(tmp_path) == []


def test_no_private_key_reaches_the_disk_or_a_repr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    written: list[bytes] = []
    load_chain = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, certfile: str, **options: Any) -> None:
        written.append(Path(certfile).read_bytes())
        assert Path(certfile).stat().st_mode & 0o777 == 0o600
        load_chain(self, certfile, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    node = load(tmp_path / "state")
    node.tls_context()
    secrets = [
        node._receipt_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()),
        node._tls_key.private_numbers().private_value.to_bytes(32, "big"),
        node._evm_key,
    ]
    written += [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    written.append(repr(node).encode())
    assert list(temporary.iterdir()) == []
    assert any(b"ENCRYPTED PRIVATE KEY" in w for w in written)
    for secret in secrets:
        for content in written:
            assert secret not in content
            assert secret.hex().encode() not in content


def test_keys_are_not_pickled_or_copied(tmp_path: Path) -> None:
    node = load(tmp_path)
    with pytest.raises(TypeError, match="private keys"):
        pickle.dumps(node)
    with pytest.raises(TypeError, match="private keys"):
        copy.copy(node)


@pytest.mark.parametrize("simulated", [True, False])
def test_the_certificate_says_simulated_where_it_is(tmp_path: Path, simulated: bool) -> None:
    node = load(tmp_path, FakeIssuer(simulated=simulated))
    subject = node.certificate.subject.rfc4514_string()
    assert ("SIMULATED" in subject) == simulated
    assert "CN=adyton" in subject


def test_the_certificate_covers_its_names_for_its_lifetime(tmp_path: Path) -> None:
    node = load(tmp_path, hostnames=["Node.Example", "10.1.2.3", "[fe80::1]"])
    names = node.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "node.example"}
    addresses = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "::1", "10.1.2.3", "fe80::1"}
    assert node.certificate.not_valid_after_utc.timestamp() == node.keyset.not_after
    assert node.certificate.not_valid_before_utc.timestamp() == NOW - 3600


@pytest.mark.parametrize("name", ["", "a b", "exämple.org", "-x.org", "a/b", "x" * 254, "a..b\n"])
def test_a_bad_hostname_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EnclaveError, match="no DNS name"):
        load(tmp_path, hostnames=[name])


def test_a_senseless_lifetime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnclaveError, match="at least 60 s"):
        load(tmp_path, lifetime_s=0)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes | None, str | None]:
    """What the client sees: the peer's certificate (DER) and the protocol agreed on."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname="localhost") as connection:
            return connection.getpeercert(True), connection.selected_alpn_protocol()
    finally:
        thread.join()


def client_context(node: NodeKeys) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=node.certificate_pem)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_ordinary_clients_connect_and_see_the_listed_key(tmp_path: Path) -> None:
    import time  # the certificate has to be valid for OpenSSL's clock

    node = load(tmp_path, now=int(time.time()))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = client_context(node)
        client.minimum_version = client.maximum_version = version
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        seen, protocol = handshake(node.tls_context(), client)
        assert seen == node.certificate.public_bytes(Encoding.DER)
        assert protocol == "http/1.1"


def test_tls_1_1_and_weak_ciphers_are_refused(tmp_path: Path) -> None:
    node = load(tmp_path)
    context = node.tls_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for cipher in context.get_ciphers():
        assert cipher["aead"]
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("AES128-SHA")
    with pytest.raises(ssl.SSLError):
        handshake(context, client)


STARTER = """
import pathlib, sys
from tests.unit.test_keys import load
print(load(pathlib.Path(sys.argv[1])).keyset.digest)
"""


def test_two_nodes_starting_at_once_agree_on_the_keys(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    running = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    digests = {process.communicate(timeout=60)[0] for process in running}
    assert len(digests) == 1
    assert digests.pop().startswith("sha256:")
