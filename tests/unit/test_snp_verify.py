"""SEV-SNP verification, attack by attack: each is refused at the step that names it.

Pitfall 8 of other verifiers has four tests here or beside: the signing-key type, a VCEK
without HWID, the privilege level, and report data (tests/unit/test_snp_policy.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import snp_pki as pki
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from snp_pki import DAY, NOW

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.evidence.snp import (
    FirmwareVersion,
    GuestPolicy,
    TcbVersion,
)
from attestation.verify.model import SIMULATOR_MARK
from attestation.verify.snp import verify_snp
from attestation.verify.snp_report import SnpReport

P384_ORDER = 2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def verify(
    report: bytes | None = None,
    endorsements: SnpEndorsements | None = None,
    *,
    roots: tuple[bytes, ...] | None = None,
    now: int = NOW,
) -> SnpReport:
    return verify_snp(
        report or pki.report(),
        endorsements or pki.endorsements(),
        pki.roots() if roots is None else roots,
        now,
    )


def chain_with(kind: str = "vcek", product: str = "Milan", **parts: Any) -> SnpEndorsements:
    """The healthy endorsements with `vek`, `ca`, `ark` or `crl` replaced."""
    ca = parts.get("ca") or pki.intermediate(kind, product)
    root = parts.get("ark") or pki.ark(product)
    return SnpEndorsements(parts.get("vek") or pki.vek(kind, product), (ca, root), parts.get("crl"))


def refused(step: str, match: str | None = None, **inputs: Any) -> None:
    with pytest.raises(VerificationError, match=match) as e:
        verify(**inputs)
    assert e.value.step == step


@pytest.mark.parametrize("kind", pki.KINDS)
@pytest.mark.parametrize("product", pki.PRODUCTS)
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_healthy_report_is_what_the_chip_said(kind: str, product: str, version: int) -> None:
    raw = pki.report(kind, product, version)
    report = verify(raw, pki.endorsements(kind, product))
    assert report.report.write() == raw
    assert (report.tee, report.product, report.signing_key) == ("sev-snp", product, kind)
    assert report.debug is False
    assert report.tcb_status is None
    assert report.report_data == pki.REPORT_DATA
    assert report.measurement == "a5" * 48
    assert report.measurements["host_data"] == "00" * 32
    assert report.chip == (pki.chip_id(product) if kind == "vcek" else None)
    assert report.csp_id == (pki.CSP_ID if kind == "vlek" else None)
    assert report.reported_tcb == pki.LEVELS[product]
    assert report.revocation_checked is True
    assert report.simulated is False
    facts = report.facts()
    assert facts["product"] == product
    assert facts["tcb"]["reported"]["fmc"] == pki.LEVELS[product].fmc
    assert facts["guest_policy"]["smt"] is True
    assert facts["platform_info"]["alias_check_complete"] is True
    assert facts["mitigations"]["launch"] == (3 if version == 5 else None)


def test_windows_bound_all_that_was_used() -> None:
    report = verify()
    assert (report.endorsements_not_before, report.endorsements_not_after) == (NOW - DAY, NOW + DAY)
    unchecked = verify(endorsements=chain_with())
    assert unchecked.revocation_checked is False
    assert unchecked.endorsements_not_after == NOW + 30 * DAY


def test_the_mark_of_a_simulator_is_in_signed_host_data() -> None:
    marked = verify(pki.report(host_data=SIMULATOR_MARK.ljust(32, b"\0")))
    assert marked.simulated is True


def test_nobody_else_makes_a_report() -> None:
    fields = {n: getattr(verify(), n) for n in ("report", "product", "chip", "csp_id")}
    levels = dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"))
    with pytest.raises(TypeError, match=r"attestation\.verify only"):
        SnpReport(
            **fields,
            **levels,  # type: ignore[arg-type]
            signing_key="vcek",
            revocation_checked=True,
            verified_at=NOW,
            endorsements_not_before=0,
            endorsements_not_after=0,
            root_sha256="",
            seal=None,
        )


# The report's own words.


@pytest.mark.parametrize("algorithm", [0, 2, 2**32 - 1])
def test_unknown_signature_algorithm(algorithm: int) -> None:
    refused("signature_algo", report=pki.report(signature_algo=algorithm))


@pytest.mark.parametrize("signing_key", [2, 6, 7])
def test_unsigned_report_or_reserved_signing_key(signing_key: int) -> None:
    refused("signing_key", "neither", report=pki.report(signing_key=signing_key))


def test_pitfall_8_signing_key_type_is_not_ignored() -> None:
    # The key and its certificate are right; the report says another kind of key signed.
    refused("signing_key", "says vlek", report=pki.report(signing_key=1))
    lying = pki.report("vlek", signing_key=0, chip_id=pki.chip_id())
    refused("signing_key", "says vcek", report=lying, endorsements=pki.endorsements("vlek"))


def test_debug_guest() -> None:
    refused("debug", report=pki.report(policy=GuestPolicy(0x30000 | 1 << 19)))


@pytest.mark.parametrize("vmpl", [4, 0xFFFFFFFF])
def test_report_that_no_guest_asked_for(vmpl: int) -> None:
    refused("vmpl", report=pki.report(vmpl=vmpl))


@pytest.mark.parametrize("bits", [0, 0x10000, 0x30000 | 1 << 26, 0x30000 | 1 << 63])
def test_reserved_policy_bits(bits: int) -> None:
    with pytest.raises(MalformedEvidence, match="policy"):
        verify(pki.report(policy=GuestPolicy(bits)))


@pytest.mark.parametrize(
    "offset",
    [0x4C, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x200, 0x208, 0x29F, 0x330, 0x49F],
)
def test_non_zero_reserved_bytes(offset: int) -> None:
    raw = bytearray(pki.report())
    raw[offset] = 1
    signed = pki.sign(bytes(raw), pki.ec_key("vcek")) if offset < 0x2A0 else bytes(raw)
    with pytest.raises(MalformedEvidence, match="reserved"):
        verify(signed)


@pytest.mark.parametrize("product", ["Milan", "Turin"])
@pytest.mark.parametrize("field", ["current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"])
def test_reserved_tcb_bytes(product: str, field: str) -> None:
    raw = bytearray(pki.tcb(pki.LEVELS[product]).raw)
    raw[4] = 1
    report = pki.report("vcek", product, **{field: TcbVersion(bytes(raw))})
    with pytest.raises(MalformedEvidence, match=r"report\.tcb"):
        verify(report, pki.endorsements("vcek", product))


# The signature.


@pytest.mark.parametrize("scalar", ["signature_r", "signature_s"])
@pytest.mark.parametrize("value", [0, P384_ORDER, P384_ORDER + 1, 2**384, 2**576 - 1])
def test_r_or_s_out_of_range(scalar: str, value: int) -> None:
    report = pki.parsed_report()
    signed = replace(report, signature_r=b"\1".ljust(72, b"\0"), signature_s=b"\1".ljust(72, b"\0"))
    odd = replace(signed, **{scalar: value.to_bytes(72, "little")})
    refused("signature", "1 to n - 1", report=odd.write())


def test_big_endian_r_and_s() -> None:
    raw = pki.report()
    r, s = raw[0x2A0 : 0x2A0 + 48][::-1], raw[0x2E8 : 0x2E8 + 48][::-1]
    refused("signature", report=raw[:0x2A0] + r + bytes(24) + s + raw[0x318:])


def test_report_signed_by_another_chips_key() -> None:
    refused("signature", report=pki.report(key=pki.ec_key("another chip")))


@pytest.mark.parametrize("offset", [0x50, 0x90, 0xC0, 0x1A0, 0x180, 0x29F - 0xA8])
def test_flipped_signed_bit(offset: int) -> None:
    raw = bytearray(pki.report())
    raw[offset] ^= 1
    refused("signature", "not made by", report=bytes(raw))


# The chip and its firmware.


def test_report_of_another_chip() -> None:
    refused("chip_id", report=pki.report(chip_id=b"\x01" * 64))


def test_chip_identity_that_differs_in_its_padding() -> None:
    report = pki.report("vcek", "Turin", chip_id=pki.chip_id("Turin")[:-1] + b"\1")
    refused("chip_id", report=report, endorsements=pki.endorsements("vcek", "Turin"))


def test_zero_chip_id_counts_only_where_the_report_says_masked() -> None:
    refused("chip_id", report=pki.report(chip_id=bytes(64)))
    masked = verify(pki.report(chip_id=bytes(64), mask_chip_key=True))
    assert masked.chip == pki.chip_id()
    assert masked.measurements["chip_id"] == "00" * 64
    refused("chip_id", report=pki.report(chip_id=b"\x01" * 64, mask_chip_key=True))


def test_vlek_speaks_for_whatever_chip_the_report_states() -> None:
    report = verify(pki.report("vlek", chip_id=b"\x07" * 64), pki.endorsements("vlek"))
    assert report.chip == b"\x07" * 64


def test_pitfall_8_vcek_without_hwid_does_not_skip_the_chip_check() -> None:
    nameless = chain_with(vek=pki.vek(without=["4"]))
    refused("vek_extensions", "hwID: missing", endorsements=nameless)


@pytest.mark.parametrize("index", [0, 1, 6, 7])
@pytest.mark.parametrize("step", [-1, 1])
def test_reported_tcb_other_than_the_keys(index: int, step: int) -> None:
    raw = bytearray(pki.tcb(pki.LEVELS["Milan"]).raw)
    raw[index] = (raw[index] + step) % 256
    top = TcbVersion(bytes([255, 255, 0, 0, 0, 0, 255, 255]))
    odd = pki.report(reported_tcb=TcbVersion(bytes(raw)), committed_tcb=top, current_tcb=top)
    refused("tcb", "the key is for", report=odd)


def test_fmc_level_counts_on_turin() -> None:
    raw = bytearray(pki.tcb(pki.LEVELS["Turin"]).raw)
    raw[0] += 1
    high = TcbVersion(bytes(raw))
    odd = pki.report("vcek", "Turin", reported_tcb=high, committed_tcb=high, current_tcb=high)
    refused("tcb", report=odd, endorsements=pki.endorsements("vcek", "Turin"))


@pytest.mark.parametrize("index", [0, 6, 7])
def test_committed_below_reported_or_above_current(index: int) -> None:
    level = pki.tcb(pki.LEVELS["Milan"]).raw
    lower, higher = bytearray(level), bytearray(level)
    lower[index] -= 1
    higher[index] += 1
    refused("tcb", "out of order", report=pki.report(committed_tcb=TcbVersion(bytes(lower))))
    refused("tcb", "out of order", report=pki.report(committed_tcb=TcbVersion(bytes(higher))))


def test_firmware_may_run_ahead_of_what_is_committed_but_not_behind() -> None:
    ahead = pki.report(current_version=FirmwareVersion(1, 56, 0))
    assert verify(ahead).report.current_version > FirmwareVersion(1, 55, 29)
    refused("tcb", "newer", report=pki.report(current_version=FirmwareVersion(1, 55, 28)))


def test_processor_that_is_not_the_keys_product() -> None:
    refused("product", report=pki.report(cpuid_mod_id=0x11))
    refused("product", "None", report=pki.report(cpuid_fam_id=0x17))


def test_siena_has_genoas_root() -> None:
    named = {"2": asn1.encode_der(asn1.IA5String("Siena"))}
    siena = chain_with("vcek", "Genoa", vek=pki.vek("vcek", "Genoa", amd=named))
    assert verify(pki.report("vcek", "Genoa", cpuid_mod_id=0xA0), siena).product == "Genoa"


# The signing key's certificate.


def der(value: Any) -> bytes:
    return asn1.encode_der(value)


@pytest.mark.parametrize("kind", pki.KINDS)
@pytest.mark.parametrize("end", ["1", "2", "3.1", "3.2", "3.3", "3.8"])
def test_extension_that_every_key_needs_is_missing(kind: str, end: str) -> None:
    bare = chain_with(kind, vek=pki.vek(kind, without=[end]))
    refused("vek_extensions", "missing", endorsements=bare)


@pytest.mark.parametrize("end", ["4", "5", "6", "7"])
def test_reserved_levels_may_be_absent_but_not_set(end: str) -> None:
    assert verify(endorsements=chain_with(vek=pki.vek(without=[f"3.{end}"])))
    odd = chain_with(vek=pki.vek(amd={f"3.{end}": der(1)}))
    refused("vek_extensions", "reserved", endorsements=odd)


@pytest.mark.parametrize(
    ("end", "value", "match"),
    [
        ("1", der(1), "structVersion"),
        ("1", b"\x02\x02\x00\x00", "not the DER"),
        ("2", der(asn1.IA5String("Rome-B0")), "no known product"),
        ("2", b"\x0c\x08Milan-B0", "not the DER"),
        ("3.1", der(256), "not a byte"),
        ("3.1", der(-1), "not a byte"),
        ("3.1", b"\x02\x01\x04\x00", "not the DER"),
        ("3.1", b"", "not the DER"),
        ("3.1", b"\x02\x81\x01\x04", "not the DER"),
        ("3.9", der(1), "fmcSPL"),
        ("4", bytes(64), "not the identity"),
        ("4", b"\x01" * 63, "not the DER"),
        ("4", der(b"\x01" * 63), "not the identity"),
        ("5", der(asn1.IA5String(pki.CSP_ID)), "does not belong"),
    ],
)
def test_odd_extension_of_a_vcek(end: str, value: bytes, match: str) -> None:
    odd = chain_with(vek=pki.vek(amd={end: value}))
    refused("vek_extensions", match, endorsements=odd)


@pytest.mark.parametrize(
    ("end", "value", "match"),
    [
        ("4", b"\x01" * 64, "does not belong"),
        ("5", der(asn1.IA5String("")), "names no provider"),
        ("5", der(asn1.IA5String("x" * 257)), "names no provider"),
        ("5", der(asn1.IA5String("a\nb")), "names no provider"),
        ("5", der("UTF-8"), "not the DER"),
    ],
)
def test_odd_extension_of_a_vlek(end: str, value: bytes, match: str) -> None:
    odd = chain_with("vlek", vek=pki.vek("vlek", amd={end: value}))
    refused("vek_extensions", match, endorsements=odd)


def test_vlek_without_its_provider() -> None:
    refused(
        "vek_extensions",
        "cspID: missing",
        endorsements=chain_with("vlek", vek=pki.vek("vlek", without=["5"])),
    )


def test_turin_key_without_fmc_level() -> None:
    bare = chain_with("vcek", "Turin", vek=pki.vek("vcek", "Turin", without=["3.9"]))
    refused("vek_extensions", "fmcSPL: missing", endorsements=bare)


def test_hwid_wrapped_in_an_octet_string_is_the_same_chip() -> None:
    wrapped = chain_with(vek=pki.vek(amd={"4": der(pki.chip_id())}))
    assert verify(endorsements=wrapped).chip == pki.chip_id()


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP521R1])
def test_vcek_on_another_curve(curve: type[ec.EllipticCurve]) -> None:
    key = pki.ec_key("odd", curve)
    refused("chain", "P-384", endorsements=chain_with(vek=pki.vek(key=key)))


def test_vcek_with_an_rsa_key() -> None:
    refused("chain", "P-384", endorsements=chain_with(vek=pki.vek(key=pki.rsa_key("other"))))


def test_vcek_that_is_a_ca() -> None:
    ca = chain_with(vek=pki.vek(more=pki.ca_extensions()))
    refused("chain", "a CA", endorsements=ca)


def test_vcek_that_may_not_sign() -> None:
    usage = pki.ca_extensions(ca=False)
    refused("chain", "may not sign reports", endorsements=chain_with(vek=pki.vek(more=usage)))


def test_vcek_that_says_it_may_sign_and_is_no_ca() -> None:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    off = dict.fromkeys(
        (*names, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
    )
    more = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.KeyUsage(digital_signature=True, **off), True),
    ]
    assert verify(endorsements=chain_with(vek=pki.vek(more=more)))


def test_critical_extension_nobody_understands() -> None:
    odd = chain_with(vek=pki.vek(more=[(UNKNOWN, True)]))
    refused("chain", r"critical extension 1\.2\.3\.4", endorsements=odd)
    assert verify(endorsements=chain_with(vek=pki.vek(more=[(UNKNOWN, False)])))
    odd_ca = chain_with(ca=pki.intermediate(more=((UNKNOWN, True),)))
    refused("chain", "critical", endorsements=odd_ca)


def test_certificate_for_something_else() -> None:
    stranger = chain_with(vek=pki.vek(subject="SEV-CEK"))
    refused("chain", "neither SEV-VCEK nor SEV-VLEK", endorsements=stranger)


# The chain.


def test_rsa_pkcs1_instead_of_pss() -> None:
    scheme = padding.PKCS1v15()
    refused("chain", "RSASSA-PSS", endorsements=chain_with(vek=pki.vek(scheme=scheme)))
    refused("chain", "RSASSA-PSS", endorsements=chain_with(ca=pki.intermediate(scheme=scheme)))


@pytest.mark.parametrize(
    ("scheme", "hashed"),
    [
        (padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 48), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
    ],
)
def test_pss_with_other_parameters(scheme: Any, hashed: hashes.HashAlgorithm) -> None:
    odd = chain_with(vek=pki.vek(scheme=scheme, hashed=hashed))
    refused("chain", endorsements=odd)


def test_intermediate_with_an_elliptic_key() -> None:
    key = pki.ec_key("small ca")
    ca = pki.intermediate(key=key)
    leaf = pki.vek(signer=key, scheme=None)
    refused("chain", "RSA-4096", endorsements=chain_with(vek=leaf, ca=ca))


def test_intermediate_with_a_short_rsa_key() -> None:
    key = rsa.generate_private_key(65537, 1024)
    ca = pki.intermediate(key=key)
    leaf = pki.vek(signer=key)
    refused("chain", "RSA-4096", endorsements=chain_with(vek=leaf, ca=ca))


def test_vcek_signed_by_nobody_in_the_chain() -> None:
    forged = chain_with(vek=pki.vek(signer=pki.rsa_key("other")))
    refused("chain", "not signed by ask", endorsements=forged)


def test_intermediate_signed_by_somebody_else() -> None:
    forged = chain_with(ca=pki.intermediate(signer=pki.rsa_key("other")))
    refused("chain", "not signed by ark", endorsements=forged)


def test_chain_of_another_product() -> None:
    swapped = chain_with(ca=pki.intermediate("vcek", "Genoa"), ark=pki.ark("Genoa"))
    refused("chain", "0 certificates", endorsements=swapped)


def test_ask_and_asvk_swapped() -> None:
    refused("chain", "0 certificates", endorsements=chain_with(ca=pki.intermediate("vlek")))
    refused("chain", endorsements=chain_with("vlek", ca=pki.intermediate("vcek")))


def test_vcek_issued_by_the_key_for_vleks() -> None:
    crossed = pki.vek(issuer="SEV-VLEK-Milan", signer=pki.rsa_key("asvk"))
    refused(
        "chain", "not SEV-Milan", endorsements=chain_with(vek=crossed, ca=pki.intermediate("vlek"))
    )


def test_vlek_dressed_up_as_vcek() -> None:
    # A provider's key, renamed: it names no chip, so it cannot stand for one.
    crossed = pki.vek("vlek", subject="SEV-VCEK", issuer="SEV-Milan", signer=pki.rsa_key("ask"))
    refused("vek_extensions", "does not belong in a VCEK", endorsements=chain_with(vek=crossed))


def test_product_of_the_key_is_not_the_chains() -> None:
    crossed = pki.vek("vcek", "Genoa", issuer="SEV-Milan")
    refused("chain", "not SEV-Genoa", endorsements=chain_with(vek=crossed))


def test_order_of_the_chain_does_not_matter_but_its_content_does() -> None:
    healthy = pki.endorsements()
    backwards = replace(healthy, chain=tuple(reversed(healthy.chain)))
    assert verify(endorsements=backwards)
    doubled = replace(healthy, chain=(*healthy.chain, *healthy.chain, pki.intermediate("vlek")))
    assert verify(endorsements=doubled)
    refused("chain", "0 certificates", endorsements=replace(healthy, chain=(pki.ark(),)))
    other = pki.intermediate(serial=4711)
    refused("chain", "2 certificates", endorsements=replace(healthy, chain=(*healthy.chain, other)))


def test_chain_of_a_hundred_certificates() -> None:
    with pytest.raises(CollateralError, match="100 certificates"):
        SnpEndorsements(pki.vek(), (pki.intermediate(),) * 100)


def test_vcek_straight_from_the_root() -> None:
    short = SnpEndorsements(pki.vek(issuer="ARK-Milan", signer=pki.rsa_key("ark")), (pki.ark(),))
    refused("chain", "0 certificates", endorsements=short)


@pytest.mark.parametrize("odd", [{"ca": False}, {"cert_sign": False}])
def test_intermediate_that_may_not_issue(odd: dict[str, Any]) -> None:
    extra = {"path_length": None} if odd == {"ca": False} else {}
    refused("chain", "ask", endorsements=chain_with(ca=pki.intermediate(**odd, **extra)))


def test_intermediate_without_constraints() -> None:
    bare = pki.certificate("SEV-Milan", "ARK-Milan", pki.rsa_key("ask"), pki.rsa_key("ark"), [])
    refused("chain", "not a CA", endorsements=chain_with(ca=bare))


# The root.


def test_untrusted_root() -> None:
    stranger = pki.ark(key="other")
    ca = pki.intermediate(signer=pki.rsa_key("other"))
    refused("root", "not trusted", endorsements=chain_with(ca=ca, ark=stranger))
    refused("root", "not trusted", endorsements=chain_with(), roots=pki.roots()[1:])


def test_no_root_is_trusted_by_default() -> None:
    bare = SnpEndorsements(pki.vek(), (pki.intermediate(),))
    refused("root", "no trusted root", endorsements=bare, roots=())


def test_chain_may_leave_the_root_out() -> None:
    assert verify(endorsements=SnpEndorsements(pki.vek(), (pki.intermediate(),)))


@pytest.mark.parametrize("first", [True, False])
def test_two_trusted_roots_of_one_name_are_told_apart_by_signature(first: bool) -> None:
    pair = (pki.ark(), pki.ark(key="other"))
    report = verify(roots=pair if first else pair[::-1])
    assert report.root_sha256 == verify().root_sha256


def test_foreign_root_of_a_trusted_name_in_the_chain() -> None:
    refused("root", endorsements=chain_with(ark=pki.ark(key="other")))


@pytest.mark.parametrize(
    ("odd", "match"),
    [
        ({"ca": False}, "not a CA"),
        ({"path_length": 0}, "path length"),
        ({"cert_sign": False}, "may not sign certificates"),
        ({"signer": "other"}, "not signed by ark"),
        ({"scheme": padding.PKCS1v15()}, "RSASSA-PSS"),
    ],
)
def test_trusted_root_that_is_no_root_key(odd: dict[str, Any], match: str) -> None:
    if "signer" in odd:
        odd = {"signer": pki.rsa_key(odd["signer"])}
    root = pki.ark(**odd)
    refused("chain", match, endorsements=chain_with(ark=root), roots=(root,))


# Time.


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (NOW - 30 * DAY - 1, "not_yet_valid"),
        (NOW + 30 * DAY + 1, "expired"),
        (0, "not_yet_valid"),
        (NOW + 3650 * DAY, "expired"),
    ],
)
def test_clock_outside_the_certificates(now: int, step: str) -> None:
    refused(step, endorsements=chain_with(), now=now)


@pytest.mark.parametrize("now", [NOW - 30 * DAY, NOW + 30 * DAY])
def test_both_ends_of_a_window_are_inside(now: int) -> None:
    assert verify(endorsements=chain_with(), now=now).verified_at == now


@pytest.mark.parametrize("part", ["vek", "ca", "ark"])
def test_each_certificate_can_expire(part: str) -> None:
    make = {"vek": pki.vek, "ca": pki.intermediate, "ark": pki.ark}[part]
    old = make(not_after=NOW - 1)
    roots = (old,) if part == "ark" else pki.roots()
    refused("expired", endorsements=chain_with(**{part: old}), roots=roots)


# Revocation.


def test_stale_and_future_revocation_lists() -> None:
    refused("expired", "crl", endorsements=chain_with(crl=pki.crl(next_update=NOW - 1)))
    future = pki.crl(last_update=NOW + 60)
    refused("not_yet_valid", "crl", endorsements=chain_with(crl=future))


@pytest.mark.parametrize(
    ("kind", "serial", "name"),
    [("vcek", 65537, "ask"), ("vlek", 65537, "asvk"), ("vlek", 1, "vek"), ("vcek", 65536, "ark")],
)
def test_revoked(kind: str, serial: int, name: str) -> None:
    listed = chain_with(kind, crl=pki.crl([99, serial]))
    refused("revoked", name, endorsements=listed)


@pytest.mark.parametrize(
    ("odd", "match"),
    [
        ({"signer": "other"}, "not signed by the root"),
        ({"issuer": "ARK-Genoa"}, "not from the root"),
        ({"scheme": padding.PKCS1v15()}, "RSASSA-PSS"),
        ({"hashed": hashes.SHA256()}, "SHA-384"),
        ({"more": [(x509.DeltaCRLIndicator(1), True)]}, "critical"),
    ],
)
def test_revocation_list_that_is_not_the_roots(odd: dict[str, Any], match: str) -> None:
    if "signer" in odd:
        odd = {"signer": pki.rsa_key(odd["signer"])}
    if odd.get("hashed"):
        odd["scheme"] = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    refused("crl", match, endorsements=chain_with(crl=pki.crl(**odd)))


def test_revocation_list_of_a_root_that_may_not_issue_one() -> None:
    root = pki.ark(crl_sign=False)
    odd = chain_with(ark=root, crl=pki.crl())
    refused("crl", "not from the root", endorsements=odd, roots=(root,))


# Documents that cannot be read.


@pytest.mark.parametrize("part", ["vek", "ca", "ark", "crl"])
@pytest.mark.parametrize("data", [b"\x30", b"\x30\x80" * 4000, b"\x30\x84\xff\xff\xff\xff", b"x"])
def test_der_that_is_no_document(part: str, data: bytes) -> None:
    with pytest.raises(CollateralError):
        verify(endorsements=chain_with(**{part: data}))


@pytest.mark.parametrize("cut", [1, 40, 700])
def test_cut_certificate(cut: int) -> None:
    with pytest.raises(CollateralError, match="vek"):
        verify(endorsements=chain_with(vek=pki.vek()[:-cut]))


def test_bytes_after_a_certificate() -> None:
    with pytest.raises(CollateralError, match="vek"):
        verify(endorsements=chain_with(vek=pki.vek() + b"\0"))


def test_certificate_whose_length_is_not_minimal() -> None:
    body = pki.vek()
    assert body[:2] == b"\x30\x82"
    with pytest.raises(CollateralError, match="vek"):
        verify(endorsements=chain_with(vek=b"\x30\x83\x00" + body[2:]))


def test_extension_that_occurs_twice() -> None:
    """Readers that take the first and readers that take the last would see two chips."""
    twice = pki.vek()
    one = bytes.fromhex("2b060104019c78010301")
    other = bytes.fromhex("2b060104019c78010302")
    assert twice.count(one) == 1
    with pytest.raises(CollateralError, match="uplicate"):
        verify(endorsements=chain_with(vek=twice.replace(other, one)))


def test_certificate_of_version_1() -> None:
    body = bytearray(pki.vek())
    assert body[8:13] == b"\xa0\x03\x02\x01\x02"
    del body[8:13]
    for at in (2, 6):
        body[at : at + 2] = (int.from_bytes(body[at : at + 2]) - 5).to_bytes(2)
    refused("chain", "not X.509 version 3", endorsements=chain_with(vek=bytes(body)))


def unused_bits(der: bytes) -> bytes:
    """`der` with one bit of its signature declared unused, which the signature covers not."""
    assert der[-513] == 0
    return der[:-513] + b"\x01" + der[-512:]


def even(make: Any) -> bytes:
    """The first document made whose signature ends in a zero bit; the salt is random."""
    while (der := make())[-1] & 1:
        pass
    return der


def test_second_encoding_of_one_certificate_or_list() -> None:
    vek, crl = even(pki.vek), even(pki.crl)
    assert verify(endorsements=chain_with(vek=vek, crl=crl))
    refused("chain", "whole number", endorsements=chain_with(vek=unused_bits(vek)))
    refused("crl", "not signed", endorsements=chain_with(crl=unused_bits(crl)))


def test_list_with_an_extension_that_does_not_parse() -> None:
    number = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.20"), b"\xff")
    with pytest.raises(CollateralError, match="crl: cannot be read"):
        verify(endorsements=chain_with(crl=pki.crl(more=[(number, False)])))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", pki.KINDS)
def test_serial_number_0_which_amd_gives_every_key_is_nothing_to_warn_of(kind: str) -> None:
    signer = pki.rsa_key("ask" if kind == "vcek" else "asvk")
    version, serial = bytes.fromhex("a003020102"), bytes.fromhex("020101")
    zero = pki.resigned(pki.vek(kind), version + serial, version + bytes.fromhex("020100"), signer)
    own = chain_with(kind, vek=zero, crl=pki.crl([99]))
    assert verify(pki.report(kind), own).revocation_checked
