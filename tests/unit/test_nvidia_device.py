"""Certificate paths and device identities: what a chain must be to speak for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nvidia_pki as pki
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestation.errors import CollateralError, VerificationError
from attestation.verify.nvidia_device import COMPOSITE_DEVICE_ID, DEVICE_INFO, TCB_INFO, read_device
from attestation.verify.nvidia_path import Link, verify_path


def refused(step: str, call: Callable[[], Any]) -> VerificationError:
    with pytest.raises(VerificationError) as e:
        call()
    assert e.value.step == step, e.value
    return e.value


def path(*parties: pki.Party, roots: list[bytes] | None = None) -> Any:
    given = [p.der for p in parties]
    return verify_path("chain", given, [parties[-1].der] if roots is None else roots)


def signer(issuer: pki.Party | None, **odd: Any) -> pki.Party:
    return pki.issue("signer", issuer, **{"ca": None, "usage": ("sign",)} | odd)


ROOT = pki.issue("path root", None)
MIDDLE = pki.issue("path middle", ROOT)


def test_the_root_may_be_left_out() -> None:
    leaf = signer(MIDDLE)
    whole, short = path(leaf, MIDDLE, ROOT), path(leaf, MIDDLE, roots=[ROOT.der])
    assert whole.root_sha256 == short.root_sha256
    other = pki.issue("other root", None)
    assert len(path(leaf, MIDDLE, roots=[other.der, ROOT.der]).links) == 3


def test_a_chain_of_100_certificates_is_not_walked() -> None:
    with pytest.raises(CollateralError, match="100 certificates"):
        verify_path("chain", [ROOT.der] * 100, [ROOT.der])
    with pytest.raises(CollateralError, match="cert_chain: 100 certificates"):
        read_device(ROOT.pem * 100, (ROOT.der,))
    with pytest.raises(CollateralError, match="longer than"):
        read_device(b"\n" * (1 << 18), (ROOT.der,))


def test_a_root_alone_signs_nothing() -> None:
    refused("chain", lambda: path(ROOT))


def test_certificates_after_the_root_are_refused() -> None:
    refused("chain", lambda: path(signer(ROOT), ROOT, MIDDLE, roots=[ROOT.der]))


def test_a_certificate_out_of_order_is_refused() -> None:
    refused("chain", lambda: path(MIDDLE, signer(MIDDLE), ROOT))


def test_a_name_without_the_key_is_refused() -> None:
    impostor = pki.Party(pki.key("impostor"), MIDDLE.certificate)
    refused("chain", lambda: path(signer(impostor), MIDDLE, ROOT))


def test_a_self_made_root_of_the_same_name_is_refused() -> None:
    forged = pki.issue("forged", None, common_name="path root")
    refused("root", lambda: path(signer(forged), forged, roots=[ROOT.der]))
    refused("root", lambda: path(signer(forged), roots=[ROOT.der]))


@pytest.mark.parametrize(
    "odd",
    [{"ca": False}, {"ca": None}, {"usage": ("sign",)}, {"usage": ()}],
)
def test_an_issuer_that_may_not_issue_is_refused(odd: dict[str, Any]) -> None:
    middle = pki.issue("path middle", ROOT, **{"usage": ("cert_sign",)} | odd)
    refused("chain", lambda: path(signer(middle), middle, ROOT))


def test_path_length_is_kept() -> None:
    short = pki.issue("short root", None, path_length=0)
    middle = pki.issue("short middle", short)
    refused("chain", lambda: path(signer(middle), middle, short))
    assert path(signer(short), short).leaf.certificate.der == signer(short).der


@pytest.mark.parametrize("odd", [{"ca": True}, {"usage": ("agree",)}, {"usage": ()}])
def test_a_leaf_that_is_no_signer_is_refused(odd: dict[str, Any]) -> None:
    refused("chain", lambda: path(signer(MIDDLE, **odd), MIDDLE, ROOT))


def test_weaker_curves_digests_and_other_keys_are_refused() -> None:
    refused("chain", lambda: path(signer(MIDDLE, curve=ec.SECP256R1()), MIDDLE, ROOT))
    refused("chain", lambda: path(signer(MIDDLE, digest=hashes.SHA256()), MIDDLE, ROOT))
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    builder = x509.CertificateBuilder(
        issuer_name=MIDDLE.certificate.subject,
        subject_name=pki.name("rsa"),
        public_key=own.public_key(),
        serial_number=7,
        not_valid_before=pki.at(pki.START),
        not_valid_after=pki.at(pki.END),
    )
    leaf = pki.Party(MIDDLE.key, builder.sign(MIDDLE.key, hashes.SHA384()))
    refused("chain", lambda: path(leaf, MIDDLE, ROOT))
    refused("chain", lambda: Link.read("rsa", leaf.der).key)


def test_a_signature_algorithm_nobody_knows_is_refused() -> None:
    """ecdsa-with-SHA384 becomes an algorithm that has no number; the DER still reads."""
    known, unknown = bytes.fromhex("06082a8648ce3d040303"), bytes.fromhex("06082a8648ce3d050303")
    for der in (signer(MIDDLE).der, MIDDLE.der):
        odd = der.replace(known, unknown)
        chain = [odd, MIDDLE.der] if der != MIDDLE.der else [signer(MIDDLE).der, odd]
        refused("chain", lambda chain=chain: verify_path("chain", [*chain, ROOT.der], [ROOT.der]))
        refused("root", lambda odd=odd: verify_path("chain", [odd], [ROOT.der, MIDDLE.der]))


def test_an_unreadable_certificate_or_root_is_named() -> None:
    with pytest.raises(CollateralError, match=r"chain\[0\]"):
        verify_path("chain", [b"\x30\x00"], [ROOT.der])
    with pytest.raises(CollateralError, match="root"):
        verify_path("chain", [signer(ROOT).der], [b"\x30\x00"])


def read(*extensions: x509.ExtensionType) -> Any:
    chain = pki.chain(*extensions)
    return read_device(chain.pem, (chain.root,))


def test_text_around_the_certificates_is_refused() -> None:
    chain = pki.gpu_chain()
    with pytest.raises(CollateralError, match="text outside"):
        read_device(b"GPU 0\n" + chain.pem, (chain.root,))


@pytest.mark.parametrize(
    ("product", "architecture"),
    [("GH100", "hopper"), ("GB100", "blackwell"), ("GB202", "blackwell"), ("LS_10", "ls10")],
)
def test_known_products_have_an_architecture(product: str, architecture: str) -> None:
    device = read(pki.device_name(f"NVIDIA:{product}:01"))
    assert (device.product, device.serial, device.architecture) == (product, "01", architecture)
    assert device.fwid is None


@pytest.mark.parametrize(
    "name", ["NVIDIA:XX100:01", "NVIDIA:GH100", "NVIDIA:GH100:", "AMD:GH100:01", ""]
)
def test_a_name_that_is_no_device_of_nvidias_is_refused(name: str) -> None:
    refused("device", lambda: read(pki.device_name(name)))


def other_names(*values: bytes) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.OtherName(DEVICE_INFO, v) for v in values])


def test_a_leaf_without_one_readable_device_name_is_refused() -> None:
    brom = pki.authorities()[0]
    refused("device", lambda: read(pki.composite(brom)))
    refused("device", lambda: read(x509.SubjectAlternativeName([x509.DNSName("gpu")])))
    refused("device", lambda: read(other_names(b"\x0c\x01a", b"\x0c\x01b")))
    refused("device", lambda: read(other_names(b"\x04\x01a")))


def test_both_layouts_state_the_firmware() -> None:
    name, brom = pki.device_name(), pki.authorities()[0]
    assert read(name, pki.composite(brom)).fwid == pki.FIRMWARE
    assert read(name, pki.tcb_info(pki.FIRMWARE, bytes(48))).fwid == pki.FIRMWARE
    assert read(name, pki.tcb_info()).fwid is None


def test_firmware_stated_in_two_ways_is_refused() -> None:
    both = (pki.composite(pki.authorities()[0]), pki.tcb_info(pki.FIRMWARE))
    refused("device", lambda: read(pki.device_name(), *both))


def test_the_legacy_layout_must_name_the_issuers_key() -> None:
    another = pki.Party(pki.key("another device"), ROOT.certificate)
    refused("device", lambda: read(pki.device_name(), pki.composite(another)))


@pytest.mark.parametrize(
    "extension",
    [
        pki.composite(
            pki.authorities()[0], algorithm=x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
        ),
        pki.composite(pki.authorities()[0], digest=b"\0" * 32),
        pki.tcb_info(b"\0" * 47),
        x509.UnrecognizedExtension(COMPOSITE_DEVICE_ID, b"\x30\x00"),
        x509.UnrecognizedExtension(TCB_INFO, b"\x30\x80\x00\x00"),
    ],
)
def test_a_firmware_digest_of_another_kind_is_refused(extension: Any) -> None:
    refused("device", lambda: read(pki.device_name(), extension))
