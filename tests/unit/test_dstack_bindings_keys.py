"""The signature chain of a dstack key: each hop, and each way of breaking one.

Recovery and Keccak come from optional libraries. Where these are installed the chain of
dstack's own simulator is checked with them; the logic around them is tested with stand-ins
in any case.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.evidence.dstack import KeyRelease
from attestation.verify.dstack_keys import ReleasedKey, verify_key_release

APP_ID = bytes(range(20))
APP, KMS, OTHER, DERIVED = (ec.derive_private_key(n, ec.SECP256K1()) for n in (5, 6, 7, 8))
KNOWN: dict[bytes, bytes] = {}


def public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def fake_keccak(*, digest_bits: int, data: bytes) -> Any:
    assert digest_bits == 256
    return SimpleNamespace(digest=lambda: hashlib.sha3_256(data).digest())


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """r || s || id; the stand-in for recovery looks the signer up by the signature."""
    digest = hashlib.sha3_256(message).digest()
    r, s = decode_dss_signature(
        key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True))
    )
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + b"\0"
    KNOWN[signature + digest] = public(key)
    return signature


class FakePublicKey:
    def __init__(self, compressed: bytes) -> None:
        self.compressed = compressed

    @classmethod
    def from_signature_and_message(
        cls, signature: bytes, digest: bytes, hasher: None
    ) -> FakePublicKey:
        """As libsecp256k1: another message gives another key, or none at all."""
        if signature + digest not in KNOWN:
            raise ValueError("failed to recover ECDSA public key")
        return cls(KNOWN[signature + digest])

    def format(self, compressed: bool) -> bytes:
        assert compressed
        return self.compressed


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Crypto", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "Crypto.Hash", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "Crypto.Hash.keccak", SimpleNamespace(new=fake_keccak))
    monkeypatch.setitem(sys.modules, "coincurve", SimpleNamespace(PublicKey=FakePublicKey))


def release(
    app: ec.EllipticCurvePrivateKey = APP,
    kms: ec.EllipticCurvePrivateKey = KMS,
    app_id: bytes = APP_ID,
    purpose: str = "receipts",
) -> KeyRelease:
    key = public(DERIVED)
    by_app = sign(app, f"{purpose}:{key.hex()}".encode())
    by_kms = sign(kms, b"dstack-kms-issued:" + app_id + public(APP))
    return KeyRelease(key, purpose, (by_app, by_kms))


def refused(chain: KeyRelease, step: str, roots: tuple[bytes, ...] = (public(KMS),)) -> None:
    with pytest.raises(VerificationError) as e:
        verify_key_release(chain, APP_ID, roots)
    assert e.value.step == step


@pytest.mark.usefixtures("libraries")
class TestChain:
    def test_an_honest_chain_names_every_key(self) -> None:
        key = verify_key_release(release(), APP_ID, (public(OTHER), public(KMS)))
        assert key.public_key == public(DERIVED).hex()
        assert key.app_public_key == public(APP).hex()
        assert key.kms_public_key == public(KMS).hex()
        assert (key.purpose, key.app_id) == ("receipts", APP_ID.hex())
        with pytest.raises(TypeError, match="made by"):
            replace(key, seal=object())
        assert isinstance(key, ReleasedKey)

    def test_a_kms_nobody_trusts_is_refused(self) -> None:
        refused(release(kms=OTHER), "kms_root")
        refused(release(), "kms_root", ())

    def test_a_key_given_to_another_application_is_refused(self) -> None:
        refused(release(app_id=bytes(20)), "kms_root")

    def test_a_key_signed_by_another_application_is_refused(self) -> None:
        refused(release(app=OTHER), "kms_root")

    def test_a_signature_for_another_purpose_or_key_is_refused(self) -> None:
        refused(replace(release(), purpose="signing"), "key_signature")
        refused(replace(release(), public_key=public(OTHER)), "key_signature")

    def test_signatures_swapped_are_refused(self) -> None:
        honest = release()
        refused(replace(honest, chain=(honest.chain[1], honest.chain[0])), "key_signature")

    def test_roots_that_are_no_keys_sign_nothing(self) -> None:
        refused(release(), "kms_root", (b"\x02" + b"\xff" * 32, public(KMS)[1:], b""))

    def test_a_kms_signature_of_zeros_is_refused(self) -> None:
        honest = release()
        refused(replace(honest, chain=(honest.chain[0], bytes(65))), "kms_root")


@pytest.mark.parametrize(("missing", "named"), [("coincurve", "coincurve"), ("Crypto", "pycrypto")])
def test_a_missing_library_is_an_outage_and_not_a_forgery(
    libraries: None, monkeypatch: pytest.MonkeyPatch, missing: str, named: str
) -> None:
    absent = "Crypto.Hash.keccak" if missing == "Crypto" else missing
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(CollateralError, match=named):
        verify_key_release(release(), APP_ID, (public(KMS),))


@pytest.mark.parametrize(
    "odd",
    [
        {"public_key": b"short"},
        {"chain": (bytes(65),)},
        {"chain": (bytes(65), bytes(64))},
        {"purpose": "p" * 257},
    ],
    ids=str,
)
def test_a_release_of_another_shape_is_malformed(odd: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidence):
        replace(release(), **odd)


def test_the_chain_of_dstacks_simulator_holds() -> None:
    """Keys that dstack publishes in sdk/simulator/appkeys.json; its tests name the same."""
    coincurve = pytest.importorskip("coincurve")
    keccak = pytest.importorskip("Crypto.Hash.keccak")
    app = coincurve.PrivateKey(
        bytes.fromhex("d6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d")
    )
    by_kms = bytes.fromhex(
        "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e59"
        "4d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500"
    )
    app_key = "02818494263695e8839122dbd88e281d7380622999df4e60a14befa0f2d096fc7c"
    kms_key = "0321529e458424ab1f710a3a57ec4dad2fb195ddca572f7469242ba6c7563085b6"
    app_id = bytes.fromhex(SIMULATOR_APP_ID)
    key = public(DERIVED)
    digest = keccak.new(digest_bits=256, data=f"test-purpose:{key.hex()}".encode()).digest()
    chain = (app.sign_recoverable(digest, hasher=None), by_kms)
    got = verify_key_release(
        KeyRelease(key, "test-purpose", chain), app_id, (bytes.fromhex(kms_key),)
    )
    assert (got.app_public_key, got.kms_public_key) == (app_key, kms_key)


SIMULATOR_APP_ID = "5bb4ff9a3837357f19dc176407a5709c62eb6c56"
