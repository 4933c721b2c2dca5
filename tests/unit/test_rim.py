"""Signed reference values: XML that is what it was when signed, by who may sign, now."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nvidia_pki as pki
import pytest
from lxml import etree

from attestation.errors import CollateralError, VerificationError
from attestation.evidence.rim import MAX_RIM, RimMeasurement, parse_xml, read_rim
from attestation.verify.nvidia_rim import VerifiedRim, verify_rim

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
DS = "{http://www.w3.org/2000/09/xmldsig#}"
FORGED = b"\x66" * 48


def refused(step: str, xml: bytes | Callable[[], Any], **odd: Any) -> VerificationError:
    with pytest.raises(VerificationError) as e:
        xml() if callable(xml) else pki.rim(xml, **odd)
    assert e.value.step == step, e.value
    return e.value


def tree() -> Any:
    return etree.fromstring(pki.driver_rim())


# Reading.


def test_values_are_read_as_stated() -> None:
    rim = read_rim(pki.rim_xml(inactive=[20]).encode())
    assert (rim.product, rim.edition, rim.version, rim.tag_id) == ("GH100", "GPU", pki.DRIVER, "0f")
    assert list(rim.measurements) == list(range(20, 40))
    assert rim.measurements[21] == RimMeasurement(
        21, "Measurement_21", True, (pki.measurement(21),)
    )
    assert not rim.measurements[20].active


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a",
        b"<a/>",
        b"<a/>" + b" " * MAX_RIM,
        "<a/>".encode("utf-16"),
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b"<a>&undefined;</a>",
        b"<a>" * 17 + b"</a>" * 17,
        b"<a>" + b"<b/>" * 5000 + b"</a>",
        b"<a>" * 300 + b"</a>" * 300,
    ],
)
def test_xml_that_is_not_plain_and_small_is_refused(data: bytes) -> None:
    with pytest.raises(CollateralError, match="rim: "):
        read_rim(data)


def test_external_entities_are_never_opened(tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("top secret")
    xml = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]><a>&x;</a>'
    with pytest.raises(CollateralError) as e:
        parse_xml(xml.encode())
    assert "top secret" not in str(e.value)


GOOD = pki.rim_xml(indexes=[20])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<ns0:Meta", "<ns0:Meto"),
        ("<ns0:Payload>", '<ns0:Meta product="x"/><ns0:Payload>'),
        ('colloquialVersion="550.144.03" ', ""),
        ('product="GH100"', 'product=""'),
        ('tagId="0f" ', ""),
        ('active="True"', 'active="true"'),
        ('active="True" ', ""),
        ('index="20"', 'index="-1"'),
        ('index="20"', 'index="256"'),
        ('index="20"', 'index="99999"'),
        ('index="20"', 'index="\u0661"'),
        ('alternatives="1"', 'alternatives="0"'),
        ('alternatives="1"', 'alternatives="2"'),
        ('alternatives="1"', 'alternatives="257"'),
        ('Hash0="', 'Hash0="0'),
        ('Hash0="', 'Hash1="'),
        ('name="Measurement_20" ', ""),
        (
            '<ns0:Resource type="Note"/>',
            GOOD[GOOD.index("<ns0:Resource") : GOOD.index('<ns0:Resource type="Note"')],
        ),
    ],
)
def test_a_file_of_another_shape_is_refused(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(CollateralError, match="rim: "):
        read_rim(GOOD.replace(old, new).encode())


@pytest.mark.parametrize("module", ["lxml", "signxml"])
def test_a_missing_library_is_named_with_its_extra(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attestation.verify import nvidia_rim

    xml = pki.sign_rim(pki.rim_xml("1.2"))
    nvidia_rim._read_signed.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CollateralError, match=r"install adyton\[gpu\]"):
        pki.rim(xml)


# Verification.


def test_signed_values_hold() -> None:
    rim = pki.rim(pki.driver_rim(), revocation=pki.rim_revocation())
    assert rim.rim == read_rim(pki.driver_rim())
    assert (rim.endorsements_not_before, rim.endorsements_not_after) == (pki.START, pki.END)
    assert rim.revocation_checked
    assert not pki.rim(pki.driver_rim()).revocation_checked
    with pytest.raises(TypeError, match=r"by attestation\.verify only"):
        replace(rim, seal=object())
    assert isinstance(rim, VerifiedRim)


def test_a_changed_value_is_refused() -> None:
    xml = pki.driver_rim().replace(pki.measurement(21).hex().encode(), FORGED.hex().encode())
    refused("rim_signature", xml)


def test_a_changed_signature_is_refused() -> None:
    root = tree()
    value = root.find(f".//{DS}SignatureValue")
    value.text = ("A" if value.text[0] != "A" else "B") + value.text[1:]
    refused("rim_signature", etree.tostring(root))
    value.text = "!"
    refused("rim_signature", etree.tostring(root))


def test_signature_wrapping_gets_nothing_in() -> None:
    """A forged document around the genuine one, with the genuine signature inside."""
    forged = etree.fromstring(pki.rim_xml(values={21: (FORGED,)}).encode())
    forged.append(tree())
    refused("rim_signature", etree.tostring(forged))


def test_a_signature_over_a_part_chosen_by_id_is_refused() -> None:
    """Signed by the right key, but over one element: the rest would be anybody's."""
    xml = pki.rim_xml().replace('tagId="0f"', 'tagId="0f" Id="part"')
    signed = pki.sign_rim(xml, reference_uri="#part")
    refused("rim_signature", signed)


def test_a_second_signature_is_refused() -> None:
    root = tree()
    root.append(etree.fromstring(etree.tostring(root.find(f"{DS}Signature"))))
    refused("rim_signature", etree.tostring(root))


def test_an_unsigned_file_is_refused() -> None:
    refused("rim_signature", pki.rim_xml().encode())


def test_comments_do_not_split_what_was_signed() -> None:
    root = tree()
    root.find(f"{{{SWID}}}Payload").append(etree.Comment("not signed"))
    assert pki.rim(etree.tostring(root)).rim == read_rim(pki.driver_rim())


@pytest.mark.parametrize(
    "signer",
    [
        {"digest_algorithm": "sha256"},
        {"signature_algorithm": "ecdsa-sha256"},
        {"c14n_algorithm": "http://www.w3.org/2001/10/xml-exc-c14n#"},
    ],
)
def test_other_algorithms_are_refused(signer: dict[str, str]) -> None:
    refused("rim_signature", pki.sign_rim(pki.rim_xml(), signer=signer))


def test_a_hidden_transform_is_refused() -> None:
    root = tree()
    transforms = root.find(f".//{DS}Transforms")
    etree.SubElement(transforms, f"{DS}Transform", Algorithm=f"{DS[1:-1]}base64")
    refused("rim_signature", etree.tostring(root))


def test_what_signxml_refuses_for_other_reasons_is_refused() -> None:
    root = tree()
    info = root.find(f".//{DS}KeyInfo")
    etree.SubElement(info, f"{DS}Nonsense")
    etree.SubElement(root.find(f"{DS}Signature"), f"{DS}Nonsense")
    refused("rim_signature", etree.tostring(root))


def test_a_signer_under_another_root_is_refused() -> None:
    root = pki.issue("foreign rim root", None)
    foreign = pki.Chain((pki.issue("rim signer", root, ca=False, usage=("sign",)), root))
    refused("root", pki.sign_rim(pki.rim_xml(), foreign))


def test_a_foreign_key_beside_the_genuine_chain_is_refused() -> None:
    """The file carries NVIDIA's certificates, but somebody else signed."""
    chain = pki.rim_chain()
    thief = pki.Party(pki.key("thief"), chain.leaf.certificate)
    signed = pki.sign_rim(pki.rim_xml(), pki.Chain((thief, *chain.parties[1:])))
    refused("rim_signature", signed)


def test_a_device_vouches_for_no_firmware() -> None:
    """Where one set of roots holds both hierarchies, a GPU's key signs no reference values."""
    chain = pki.gpu_chain()
    signed = pki.sign_rim(pki.rim_xml(), chain)
    refused("rim_signer", lambda: verify_rim(signed, [chain.root], pki.NOW))


@pytest.mark.parametrize(
    ("now", "step"), [(pki.START - 1, "not_yet_valid"), (pki.END + 1, "expired")]
)
def test_a_signer_outside_its_time_is_refused(now: int, step: str) -> None:
    refused(step, pki.driver_rim(), now=now)


def test_a_revoked_signer_is_refused_and_one_on_hold_reported() -> None:
    from cryptography import x509
    from cryptography.x509 import ocsp

    leaf, family, root = pki.rim_chain().parties
    revoked = pki.ocsp_response(leaf, family, status=ocsp.OCSPCertStatus.REVOKED)
    refused("revoked", pki.driver_rim(), revocation=[revoked])
    hold = pki.crl(root, {family: x509.ReasonFlags.certificate_hold})
    rim = pki.rim(pki.driver_rim(), revocation=[hold])
    assert rim.held == (f"{family.certificate.serial_number:x}",)


@pytest.mark.parametrize("text", ["!", ""])
def test_certificates_that_are_not_base64_are_unreadable(text: str) -> None:
    root = tree()
    for element in root.iter(f"{DS}X509Certificate"):
        element.text = text
    with pytest.raises(CollateralError):
        pki.rim(etree.tostring(root))


def test_a_file_without_or_with_too_many_certificates_is_refused() -> None:
    root = tree()
    data = root.find(f".//{DS}X509Data")
    first = data[0]
    for element in list(data):
        data.remove(element)
    with pytest.raises(CollateralError, match="0 certificates"):
        pki.rim(etree.tostring(root))
    for _ in range(9):
        etree.SubElement(data, first.tag).text = first.text
    with pytest.raises(CollateralError, match="9 certificates"):
        pki.rim(etree.tostring(root))
