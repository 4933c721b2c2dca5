"""Each way a verifier has been fooled, tried on ours, with the step that stops it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import attested
import dcap_qvl
import pytest
from attested import KINDS, NOW, flip, platform, verify, with_collateral

from attestation.collateral import Collateral
from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.evidence import CertificationData, parse_quote
from attestation.issuers.simulator import pki
from attestation.issuers.simulator.platform import SimulatedPlatform, Window
from attestation.issuers.simulator.tcb import Standing
from attestation.roots import INTEL_SGX_ROOT, PRODUCTION_ROOTS
from attestation.verify import DcapReport, verify_quote

DAY = 86400
OTHER = platform(seed=b"another platform of another maker")


def refused(step: str, **arguments: Any) -> VerificationError:
    with pytest.raises(VerificationError) as e:
        verify(**arguments)
    assert e.value.step == step, str(e.value)
    return e.value


def recertified(kind: str, certification: CertificationData) -> bytes:
    quote = parse_quote(attested.quote(kind))
    signature = dataclasses.replace(quote.signature, certification=certification)
    return dataclasses.replace(quote, signature=signature).write()


@pytest.mark.parametrize("kind", KINDS)
def test_genuine_quote_of_each_format_verifies(kind: str) -> None:
    report = verify(kind)
    assert report.tee == attested.tee_of(kind)
    assert report.report_data == attested.REPORT_DATA
    assert report.tcb_status == report.platform_tcb_status == report.qe_tcb_status == "UpToDate"
    assert report.advisory_ids == ()
    assert report.tcb_eval_data_number == 17
    assert report.fmspc == "00ad70000000"
    assert report.pce_id == "0000"
    assert report.endorsements_not_before <= NOW <= report.endorsements_not_after
    assert report.collateral_issued <= NOW
    assert report.measurement == report.measurements["mr_enclave" if kind == "sgx-v3" else "mr_td"]
    assert not report.debug
    assert (report.smt, report.dynamic_platform, report.cached_keys) == (False, False, False)


def test_registers_carry_the_vendors_names() -> None:
    assert {"mr_td", "rt_mr3", "td_attributes", "mr_signer_seam"} <= verify().measurements.keys()
    assert "mr_service_td" not in verify().measurements
    assert "mr_service_td" in verify("tdx-v5-td15").measurements
    assert {"mr_enclave", "mr_signer", "config_id"} <= verify("sgx-v3").measurements.keys()


def test_the_same_inputs_give_the_same_report() -> None:
    assert verify() == verify()


def test_simulated_evidence_says_so_whatever_its_root() -> None:
    assert verify(mr_owner_config=b"adyton-simulator".ljust(48, b"\0")).simulated
    assert verify("sgx-v3", config_id=b"adyton-simulator".ljust(64, b"\0")).simulated
    assert not verify().simulated
    assert not verify("sgx-v3").simulated


def test_unstated_platform_flags_are_unknown_not_false() -> None:
    odd = platform(smt_enabled=True, dynamic_platform=None)
    report = verify(of=odd)
    assert (report.smt, report.dynamic_platform, report.cached_keys) == (True, None, False)


# --- header, length, lifecycle -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_quoting_enclave_of_another_vendor_is_refused(kind: str) -> None:
    refused("header.qe_vendor_id", kind=kind, raw=flip(attested.quote(kind), 12 * 8))


@pytest.mark.parametrize("kind", KINDS)
def test_attestation_key_of_another_type_is_refused(kind: str) -> None:
    refused("header.attestation_key_type", kind=kind, raw=flip(attested.quote(kind), 2 * 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [b"\0", b"\x01", bytes(100), b"evil payload"])
def test_unexplained_trailing_bytes_are_refused(kind: str, tail: bytes) -> None:
    raw = attested.quote(kind)
    size = len(raw) + len(tail)
    while size % 1024 == 0 or size % 8000 == 0 or size == 5006:
        tail += b"\0"
        size += 1
    refused("quote.trailing", kind=kind, raw=raw + tail)


@pytest.mark.parametrize("size", [5006, 8000, 8192, 16384])
def test_zeros_of_a_whole_device_buffer_are_explained(size: int) -> None:
    report = verify(raw=attested.quote("tdx-v4").ljust(size, b"\0"))
    assert len(report.quote.trailing) == size - len(attested.quote("tdx-v4"))


@pytest.mark.parametrize("size", [5006, 8000, 8192])
def test_anything_but_zeros_in_a_device_buffer_is_refused(size: int) -> None:
    padded = attested.quote("tdx-v4").ljust(size, b"\0")
    refused("quote.trailing", raw=padded[:-1] + b"\x01")


def test_debug_enclave_is_refused() -> None:
    debug = bytes.fromhex("0700000000000000e700000000000000")
    refused("debug", kind="sgx-v3", attributes=debug)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_debug_td_is_refused(kind: str) -> None:
    refused("debug", kind=kind, td_attributes=bytes.fromhex("0100001000000000"))


def test_reserved_td_attributes_are_refused() -> None:
    refused("td_attributes", td_attributes=bytes.fromhex("0001001000000000"))


def test_td_that_takes_exceptions_on_pending_pages_is_refused() -> None:
    refused("td_attributes", td_attributes=bytes(8))


@pytest.mark.parametrize(
    ("kind", "register"),
    [
        ("tdx-v5-td15", "mr_service_td"),
        ("tdx-v5-td15ex", "mr_service_td"),
        ("tdx-v5-td15ex", "init_service_td_hash"),
        ("tdx-v5-td15ex", "cur_service_td_hash"),
    ],
)
def test_td_with_a_service_td_is_refused(kind: str, register: str) -> None:
    refused("service_td", kind=kind, **{register: b"\x01" * 48})


# --- signatures ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_changed_report_data_breaks_the_signature(kind: str) -> None:
    raw = attested.quote(kind)
    at = len(parse_quote(raw).signed) - 64
    if kind.startswith("tdx-v5-"):
        at = 54 + 520
    refused("isv_signature", kind=kind, raw=flip(raw, at * 8))


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_attestation_key_is_refused(kind: str) -> None:
    raw = attested.quote(kind)
    key_at = len(parse_quote(raw).signed) + 4 + 64
    refused("qe_report", kind=kind, raw=flip(raw, key_at * 8))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_signature_is_refused(kind: str) -> None:
    raw = attested.quote(kind)
    at = len(parse_quote(raw).signed) + 4
    refused("isv_signature", kind=kind, raw=raw[:at] + bytes(64) + raw[at + 64 :])


def test_qe_report_signed_by_another_platform_is_refused() -> None:
    ours, theirs = (
        parse_quote(attested.quote("tdx-v4")),
        parse_quote(attested.quote("tdx-v4", OTHER)),
    )
    mixed = dataclasses.replace(
        theirs,
        signature=dataclasses.replace(theirs.signature, certification=ours.signature.certification),
    )
    refused("qe_report", raw=mixed.write())


def test_debug_quoting_enclave_is_refused() -> None:
    odd = platform(qe_attributes=bytes.fromhex("1700000000000000e700000000000000"))
    refused("qe_report", of=odd, endorsements=attested.collateral("tdx"))


@pytest.mark.parametrize("size", [0, 64])
def test_qe_authentication_data_of_another_size_is_refused(size: int) -> None:
    refused("qe_report", of=platform(qe_auth_data=b"x" * size))


# --- roots and chains --------------------------------------------------------------------------


def test_simulated_evidence_never_passes_under_production_roots() -> None:
    with pytest.raises(VerificationError) as e:
        verify_quote(attested.quote("tdx-v4"), attested.collateral("tdx"), PRODUCTION_ROOTS, NOW)
    assert e.value.step == "root"
    assert INTEL_SGX_ROOT in PRODUCTION_ROOTS


def test_no_roots_trust_nothing() -> None:
    with pytest.raises(VerificationError) as e:
        verify_quote(attested.quote("tdx-v4"), attested.collateral("tdx"), [], NOW)
    assert e.value.step == "root"


def test_the_right_root_is_found_among_several() -> None:
    roots = [INTEL_SGX_ROOT, OTHER.root_der, platform().root_der]
    report = verify_quote(attested.quote("tdx-v4"), attested.collateral("tdx"), roots, NOW)
    assert report.root_sha256 == verify().root_sha256


def rootless(of: SimulatedPlatform) -> Collateral:
    """Collateral whose chains leave their root out, as they may."""
    return dataclasses.replace(
        of.collateral("tdx"),
        tcb_info_issuer_chain=of.tcb_signing.pem,
        qe_identity_issuer_chain=of.tcb_signing.pem,
        pck_crl_issuer_chain=of.pck_ca.pem,
    )


def test_chains_that_leave_the_root_out_are_tried_under_each_trusted_one() -> None:
    raw, roots = attested.quote("tdx-v4"), [OTHER.root_der, platform().root_der]
    report = verify_quote(raw, rootless(platform()), roots, NOW)
    assert report.root_sha256 == verify().root_sha256
    with pytest.raises(VerificationError):
        verify_quote(raw, rootless(platform()), [OTHER.root_der], NOW)


def test_genuine_collateral_of_another_maker_is_refused() -> None:
    e = refused("root", endorsements=attested.collateral("tdx", OTHER))
    assert "not trusted" in e.detail


def test_pck_chain_of_another_maker_is_refused() -> None:
    with pytest.raises(VerificationError) as e:
        verify_quote(
            attested.quote("tdx-v4", OTHER), attested.collateral("tdx"), [platform().root_der], NOW
        )
    assert e.value.step == "root"


def test_pck_chain_without_root_of_another_maker_is_refused() -> None:
    chain = (OTHER.pck.pem + OTHER.pck_ca.pem).encode()
    refused("chain", raw=recertified("tdx-v4", CertificationData(5, chain)))


@pytest.mark.parametrize("kind", ["tdx-v4", "sgx-v3"])
def test_quote_without_pck_chain_needs_one_in_the_collateral(kind: str) -> None:
    raw = recertified(kind, CertificationData(1, bytes(36)))
    refused("pck_chain", kind=kind, raw=raw)
    p = platform()
    chain = p.pck.pem + p.pck_ca.pem + p.root.pem
    supplied = with_collateral(attested.tee_of(kind), pck_certificate_chain=chain)
    assert verify(kind, raw=raw, endorsements=supplied).tcb_status == "UpToDate"


def test_pck_chain_of_another_maker_in_the_collateral_is_refused() -> None:
    chain = OTHER.pck.pem + OTHER.pck_ca.pem + OTHER.root.pem
    refused("root", endorsements=with_collateral("tdx", pck_certificate_chain=chain))


@pytest.mark.parametrize("pem", [b"", b"no certificates", b"\0"])
def test_embedded_chain_that_is_none_is_refused(pem: bytes) -> None:
    refused("pck_chain", raw=recertified("tdx-v4", CertificationData(5, pem)))


def test_signing_chain_that_is_really_the_pck_ca_is_refused() -> None:
    p = platform()
    swapped = with_collateral("tdx", tcb_info_issuer_chain=p.pck_ca.pem + p.root.pem)
    refused("chain", endorsements=swapped)


def test_root_swapped_inside_the_quote_is_refused_though_nothing_needs_it() -> None:
    p = platform()
    chain = (p.pck.pem + p.pck_ca.pem + OTHER.root.pem).encode()
    refused("root", raw=recertified("tdx-v4", CertificationData(5, chain)))


def test_certificate_slipped_behind_the_root_is_refused() -> None:
    p = platform()
    chain = (p.pck.pem + p.pck_ca.pem + p.root.pem + OTHER.root.pem).encode()
    refused("root", raw=recertified("tdx-v4", CertificationData(5, chain)))


def test_pck_chain_may_leave_its_root_out() -> None:
    p = platform()
    chain = (p.pck.pem + p.pck_ca.pem).encode()
    assert verify(raw=recertified("tdx-v4", CertificationData(5, chain)))


# --- revocation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["pck_revoked", "pck_ca_revoked", "tcb_signing_revoked"])
@pytest.mark.parametrize("kind", ["tdx-v4", "sgx-v3"])
def test_revoked_certificate_is_refused_by_name(kind: str, who: str) -> None:
    refused("revoked", kind=kind, of=platform(**{who: True}))


def test_crl_of_another_maker_hides_no_revocation() -> None:
    foreign = attested.collateral("tdx", OTHER)
    refused("pck_crl", endorsements=with_collateral("tdx", pck_crl=foreign.pck_crl))
    refused("root_crl", endorsements=with_collateral("tdx", root_ca_crl=foreign.root_ca_crl))


def test_crl_of_the_wrong_issuer_hides_no_revocation() -> None:
    crl = attested.collateral("tdx").root_ca_crl
    refused("pck_crl", endorsements=with_collateral("tdx", pck_crl=crl))


def test_pck_crl_of_another_ca_under_the_same_root_hides_no_revocation() -> None:
    p = platform()
    root_crl = attested.collateral("tdx").root_ca_crl
    swapped = with_collateral("tdx", pck_crl=root_crl, pck_crl_issuer_chain=p.root.pem)
    refused("pck_crl", endorsements=swapped)


def test_issuer_chain_that_did_not_sign_the_crl_is_refused() -> None:
    chain = OTHER.pck_ca.pem + platform().root.pem
    refused("pck_crl", endorsements=with_collateral("tdx", pck_crl_issuer_chain=chain))


# --- TCB -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["tcb_standing", "qe_standing", "tdx_module_standing"])
def test_revoked_tcb_is_refused_wherever_it_stands(part: str) -> None:
    refused("revoked", of=platform(**{part: Standing("Revoked")}))


def test_revoked_tcb_is_refused_even_if_the_library_lets_it_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = dcap_qvl.QuoteVerifier

    class Lenient:
        def __init__(self, root: bytes) -> None:
            self._real = real(root)

        def verify_with_policy(self, *arguments: Any) -> Any:
            claims = json.loads(self._real.verify_with_policy(*arguments).to_json())
            claims["qe"]["tcb_level"]["tcbStatus"] = "Revoked"

            class Claims:
                def to_json(self) -> str:
                    return json.dumps(claims)

            return Claims()

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Lenient)
    refused("revoked")


@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"])
def test_tcb_status_and_advisories_reach_the_report(status: str) -> None:
    report = verify(of=platform(tcb_standing=Standing(status, ("INTEL-SA-00614",))))
    assert report.tcb_status == report.platform_tcb_status == status
    assert report.advisory_ids == ("INTEL-SA-00614",)


def test_out_of_date_quoting_enclave_or_module_is_merged_into_the_status() -> None:
    assert verify(of=platform(qe_standing=Standing("OutOfDate"))).tcb_status == "OutOfDate"
    assert verify(of=platform(tdx_module_standing=Standing("OutOfDate"))).tcb_status == "OutOfDate"


@pytest.mark.parametrize("status", ["Nonsense", "", "uptodate"])
def test_unknown_tcb_status_is_refused(status: str) -> None:
    refused("tcb_info", of=platform(tcb_standing=Standing(status)))
    refused("qe_identity", of=platform(qe_standing=Standing(status)))


def test_status_that_no_tcb_info_may_state_is_refused() -> None:
    refused("tcb_level", of=platform(tcb_standing=Standing("TDRelaunchAdvised")))


def test_svn_below_every_level_is_refused() -> None:
    refused("tcb_level", tee_tcb_svn=bytes(16))


def test_one_low_svn_among_high_ones_is_refused() -> None:
    svn = bytearray(platform().tee_tcb_svn)
    svn[2] -= 1
    refused("tcb_level", tee_tcb_svn=bytes(svn))


def resigned(change: Callable[[dict[str, Any]], None]) -> Collateral:
    """Collateral whose TCB info was changed by whoever holds the signing key."""
    document = json.loads(attested.collateral("tdx").tcb_info)
    change(document)
    text = json.dumps(document)
    signature = pki.sign_raw(platform().tcb_signing.key, text.encode())
    return with_collateral("tdx", tcb_info=text, tcb_info_signature=signature)


def test_resigning_alone_changes_nothing() -> None:
    assert verify(endorsements=resigned(lambda d: None)).tcb_status == "UpToDate"


@pytest.mark.parametrize("components", ["sgxtcbcomponents", "tdxtcbcomponents"])
@pytest.mark.parametrize("count", [0, 1, 15, 17])
def test_truncated_svn_comparison_never_passes(components: str, count: int) -> None:
    def truncate(document: dict[str, Any]) -> None:
        for level in document["tcbLevels"]:
            level["tcb"][components] = [{"svn": 0}] * count

    refused("tcb_level", endorsements=resigned(truncate))


def test_tcb_info_without_levels_matches_nothing() -> None:
    refused("tcb_level", endorsements=resigned(lambda d: d.update(tcbLevels=[])))


@pytest.mark.parametrize("change", [{"id": "SGX"}, {"version": 2}])
def test_tcb_info_for_the_other_tee_or_an_old_version_is_refused(change: dict[str, Any]) -> None:
    refused("tcb_info", endorsements=resigned(lambda d: d.update(change)))


def test_tdx_tcb_info_that_names_no_module_is_refused() -> None:
    refused("tdx_module", endorsements=resigned(lambda d: d.pop("tdxModule")))


@pytest.mark.parametrize("kind", ["tdx-v4", "sgx-v3"])
def test_pceid_of_another_platform_is_refused(kind: str) -> None:
    refused("pceid", kind=kind, of=platform(tcb_info_pceid=b"\x01\x00"))


@pytest.mark.parametrize("kind", ["tdx-v4", "sgx-v3"])
def test_fmspc_of_another_platform_is_refused(kind: str) -> None:
    refused("fmspc", kind=kind, of=platform(tcb_info_fmspc=b"\x01" * 6))


def test_module_signed_by_somebody_else_is_refused() -> None:
    refused("tdx_module", mr_signer_seam=b"\x01" * 48)


def test_module_with_other_seam_attributes_is_refused() -> None:
    refused("tdx_module", seam_attributes=b"\x01" + bytes(7))


def test_collateral_for_the_other_tee_is_refused() -> None:
    refused("qe_identity", endorsements=attested.collateral("sgx"))
    mixed = with_collateral(
        "tdx",
        tcb_info=attested.collateral("sgx").tcb_info,
        tcb_info_signature=attested.collateral("sgx").tcb_info_signature,
    )
    refused("tcb_info", endorsements=mixed)


def test_lower_of_two_evaluation_numbers_counts() -> None:
    older = attested.collateral("tdx", platform(tcb_evaluation_number=12))
    rolled_back = with_collateral(
        "tdx", qe_identity=older.qe_identity, qe_identity_signature=older.qe_identity_signature
    )
    assert verify(endorsements=rolled_back).tcb_eval_data_number == 12


# --- collateral: unsigned, stale, rolled back, unreadable -----------------------------------------


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_status_upgraded_by_hand_breaks_the_signature(part: str) -> None:
    stale = attested.collateral(
        "tdx",
        platform(tcb_standing=Standing("OutOfDate"), qe_standing=Standing("OutOfDate")),
    )
    text = getattr(stale, part).replace("OutOfDate", "UpToDate")
    refused(part, endorsements=dataclasses.replace(stale, **{part: text}))


@pytest.mark.parametrize("part", ["tcb_info_signature", "qe_identity_signature"])
def test_signature_of_nothing_is_refused(part: str) -> None:
    refused(
        part.removesuffix("_signature"), endorsements=with_collateral("tdx", **{part: bytes(64)})
    )


WINDOWS = ("crl_window", "tcb_info_window", "qe_identity_window", "certificates")


@pytest.mark.parametrize("what", WINDOWS)
def test_each_part_of_the_collateral_expires(what: str) -> None:
    odd = platform(**{what: Window(NOW - 2 * DAY, NOW - 1)})
    refused("expired", of=odd)
    # A CRL is no longer current in the second its successor is due.
    last = NOW - 2 if what == "crl_window" else NOW - 1
    assert verify(of=odd, now=last).tcb_status == "UpToDate"
    refused("expired", of=odd, now=last + 1)


@pytest.mark.parametrize("what", WINDOWS)
def test_each_part_of_the_collateral_begins(what: str) -> None:
    odd = platform(**{what: Window(NOW + 1, NOW + DAY)})
    refused("not_yet_valid", of=odd)
    assert verify(of=odd, now=NOW + 1).tcb_status == "UpToDate"


@pytest.mark.parametrize("now", [-1, 0, 2**32, 2**70])
def test_absurd_clocks_are_refused(now: int) -> None:
    with pytest.raises(VerificationError) as e:
        verify(now=now)
    assert e.value.step in {"not_yet_valid", "expired"}


def test_expired_pck_certificate_under_current_collateral_is_refused() -> None:
    expired = platform(certificates=Window(NOW - 2 * DAY, NOW - 1))
    p = platform()
    chain = (expired.pck.pem + p.pck_ca.pem + p.root.pem).encode()
    refused("expired", raw=recertified("tdx-v4", CertificationData(5, chain)))


def edit(member: str, change: Callable[[dict[str, Any]], None]) -> Collateral:
    document = json.loads(getattr(attested.collateral("tdx"), member))
    change(document)
    return with_collateral("tdx", **{member: json.dumps(document)})


UNREADABLE: dict[str, Collateral] = {
    "tcb_info is not JSON": with_collateral("tdx", tcb_info="{"),
    "tcb_info is a list": with_collateral("tdx", tcb_info="[]"),
    "tcb_info names a member twice": with_collateral("tdx", tcb_info='{"a":1,"a":1}'),
    "tcb_info.issueDate": edit("tcb_info", lambda d: d.pop("issueDate")),
    "tcb_info.nextUpdate": edit("tcb_info", lambda d: d.update(nextUpdate="tomorrow")),
    "tcb_info.issueDate without zone": edit(
        "tcb_info", lambda d: d.update(issueDate="2026-01-01T00:00:00")
    ),
    "tcb_info.fmspc": edit("tcb_info", lambda d: d.update(fmspc=7)),
    "tcb_info.pceId": edit("tcb_info", lambda d: d.pop("pceId")),
    "qe_identity": with_collateral("tdx", qe_identity=""),
    "pck_crl": with_collateral("tdx", pck_crl=b"\x30\x00"),
    "root_ca_crl": with_collateral("tdx", root_ca_crl=b""),
    "pck_crl nested without end": with_collateral("tdx", pck_crl=b"\x30\x80" * 50_000),
    "tcb_info nested without end": with_collateral("tdx", tcb_info="[" * 50_000),
    "tcb_info_issuer_chain": with_collateral("tdx", tcb_info_issuer_chain=""),
    "qe_identity_issuer_chain": with_collateral(
        "tdx",
        qe_identity_issuer_chain="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ),
    "pck_crl_issuer_chain": with_collateral("tdx", pck_crl_issuer_chain=platform().root.pem * 9),
    "collateral with a lone surrogate": with_collateral("tdx", pck_crl_issuer_chain="\ud800"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_unreadable_collateral_is_named(what: str) -> None:
    with pytest.raises(CollateralError) as e:
        verify(endorsements=UNREADABLE[what])
    assert str(e.value).startswith(what.split()[0])


def test_crl_that_never_ends_is_refused() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    # cryptography will not build one, so the member is taken out of a real one's bytes.
    real = x509.load_der_x509_crl(attested.collateral("tdx").pck_crl)
    assert isinstance(real.signature_hash_algorithm, hashes.SHA256)
    der = bytearray(real.public_bytes(_der()))
    update = real.next_update_utc
    assert update is not None
    stated = b"\x17\x0d" + update.strftime("%y%m%d%H%M%SZ").encode()
    at = der.index(stated)
    del der[at : at + len(stated)]
    der[2:4] = (int.from_bytes(der[2:4], "big") - len(stated)).to_bytes(2, "big")
    tbs = 4
    if der[tbs + 1] == 0x82:
        size = int.from_bytes(der[tbs + 2 : tbs + 4], "big") - len(stated)
        der[tbs + 2 : tbs + 4] = size.to_bytes(2, "big")
    else:
        der[tbs + 2] -= len(stated)
    with pytest.raises(CollateralError, match="next update"):
        verify(endorsements=with_collateral("tdx", pck_crl=bytes(der)))


def _der() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def test_not_a_quote_is_malformed_before_anything_else_is_read() -> None:
    with pytest.raises(MalformedEvidence):
        verify(raw=b"", endorsements=UNREADABLE["pck_crl"])


# --- what comes out -------------------------------------------------------------------------------


def test_nobody_else_can_make_a_verified_report() -> None:
    report = verify()
    values = {f.name: getattr(report, f.name) for f in dataclasses.fields(report) if f.init}
    with pytest.raises(TypeError, match=r"attestation\.verify only"):
        DcapReport(**values, seal=object())
    with pytest.raises(TypeError):
        DcapReport(**values)
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(report, merged_tcb_status="UpToDate")


def test_a_verified_report_cannot_be_changed() -> None:
    report = verify()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.merged_tcb_status = "UpToDate"  # type: ignore[misc]
    with pytest.raises(TypeError):
        report.measurements["mr_td"] = "00"  # type: ignore[index]
