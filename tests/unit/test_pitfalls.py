"""Ways in which verifiers have failed in the field, where no other test tries them on ours.

docs/pitfalls.md lists all ten, with the tests of each.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import attested
import nvidia_pki
import pytest
import snp_pki
from attested import KINDS, NOW, platform, verify, with_collateral
from cryptography import x509

import attestation.policy
import attestation.verify
from attestation.collateral import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, VerificationError
from attestation.issuers.simulator import der, pki
from attestation.issuers.simulator.platform import SimulatedPlatform
from attestation.issuers.simulator.tcb import Standing
from attestation.verify.nras import verify_nras
from attestation.verify.nvidia_device import COMPOSITE_DEVICE_ID, DEVICE_INFO, TCB_INFO
from attestation.verify.snp import verify_snp
from attestation.x509 import read_certificate, read_crl

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
SEPT_VE_DISABLE = 1 << 28


def refused(step: str, call: Callable[[], Any]) -> VerificationError:
    with pytest.raises(VerificationError) as e:
        call()
    assert e.value.step == step, str(e.value)
    return e.value


# 1: success set before the last check.


def conclusions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function of ours that concludes something about evidence."""
    for package in (attestation.verify, attestation.policy):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(found.name)).items():
                if (
                    inspect.isfunction(value)
                    and value.__module__ == found.name
                    and name.startswith(("verify_", "check_", "evaluate"))
                ):
                    yield f"{found.name}.{name}", value


def words(annotation: str) -> list[str]:
    return re.findall(r"\w+", annotation)


def test_pitfall_1_verifiers_return_what_they_found_or_raise() -> None:
    """A flag can be set too early, or not looked at. There is none."""
    found = dict(conclusions())
    assert {"attestation.verify.dcap.verify_quote", "attestation.verify.snp.verify_snp"} <= set(
        found
    )
    assert len(found) >= 15
    for name, function in found.items():
        returned = str(inspect.signature(function).return_annotation)
        assert returned == "None" or not {"bool", "Any", "None"} & set(words(returned)), name


@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_1_a_revoked_level_ends_nothing_early(kind: str) -> None:
    """The field case: a revoked level returned at once, with success already set."""
    revoked = platform(tcb_standing=Standing("Revoked"))
    refused("revoked", lambda: verify(kind, of=revoked))
    collateral = attested.collateral(attested.tee_of(kind), revoked)
    unsigned = replace(collateral, tcb_info_signature=bytes(64))
    refused("tcb_info", lambda: verify(kind, of=revoked, endorsements=unsigned))


# 2: a status that nobody asked for.


@pytest.mark.parametrize("kind", ["tdx-v5-td15", "tdx-v5-td15ex"])
@pytest.mark.parametrize("svn", [bytes(16), bytes([7, 1]) + bytes(14)], ids=["all", "platform"])
def test_pitfall_2_the_current_tcb_of_a_td_counts_too(kind: str, svn: bytes) -> None:
    """The level at the TD's start is fine; that of the module which runs it now is none."""
    with pytest.raises(VerificationError, match="current TDX TCB"):
        verify(kind, tee_tcb_svn2=svn)


# 5: TDs that may move to another machine, or that another TD may change.


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(
    ("bit", "reason"),
    [(29, "migration"), (17, "SERVTD_EXT"), (4, "profiling"), (5, "profiling"), (6, "profiling")],
)
def test_pitfall_5_td_open_to_others_by_its_attributes(kind: str, bit: int, reason: str) -> None:
    closed = SEPT_VE_DISABLE.to_bytes(8, "little")
    assert verify(kind, td_attributes=closed).tcb_status == "UpToDate"
    opened = (SEPT_VE_DISABLE | 1 << bit).to_bytes(8, "little")
    with pytest.raises(VerificationError, match=reason):
        verify(kind, td_attributes=opened)


# 6: numbers cut to fewer bits than they have.


def resigned(tee: str, change: Callable[[dict[str, Any]], None]) -> Collateral:
    """Collateral whose TCB info was changed by whoever holds the signing key."""
    document = json.loads(attested.collateral(tee).tcb_info)
    change(document)
    text = json.dumps(document)
    signature = pki.sign_raw(platform().tcb_signing.key, text.encode())
    return with_collateral(tee, tcb_info=text, tcb_info_signature=signature)


@pytest.mark.parametrize("kind", ["sgx-v3", "tdx-v4", "tdx-v5-td15"])
@pytest.mark.parametrize("more", [0x100, 0xFF00])
def test_pitfall_6_pcesvn_is_compared_in_all_its_bits(kind: str, more: int) -> None:
    """Levels that ask for more than the platform has, equal to it in the low byte alone."""

    def ask(document: dict[str, Any]) -> None:
        for level in document["tcbLevels"]:
            level["tcb"]["pcesvn"] += more

    collateral = resigned(attested.tee_of(kind), ask)
    refused("tcb_level", lambda: verify(kind, endorsements=collateral))


# 9: a verdict of NVIDIA's service over nobody's nonce.


def test_pitfall_9_a_verdict_needs_a_nonce_unless_said_aloud() -> None:
    token, keys = nvidia_pki.bundle(), nvidia_pki.jwks()
    with pytest.raises(TypeError, match="nonce"):
        verify_nras(token, keys, nvidia_pki.ISSUER, nvidia_pki.NOW)  # type: ignore[call-arg]
    found = verify_nras(token, keys, nvidia_pki.ISSUER, nvidia_pki.NOW, nonce=None)
    assert not any(device.nonce_checked for device in found)


# 10: DER nested without end. A parser that calls itself would exhaust the stack, which in
# native code ends the process: that these tests end is what they show.


def nested(depth: int, innermost: bytes = b"") -> bytes:
    """SEQUENCEs within SEQUENCEs."""
    value = innermost
    for _ in range(depth):
        value = der.sequence(value)
    return value


DEEP = nested(50_000)
IN_A_CERTIFICATE = nested(1_800)
"""As deep as the longest certificate that is read of a PEM chain."""


def test_pitfall_10_nested_der_in_place_of_a_document() -> None:
    with pytest.raises(CollateralError, match="not a certificate"):
        read_certificate("leaf", DEEP)
    with pytest.raises(CollateralError, match="not a CRL"):
        read_crl("crl", DEEP)
    with pytest.raises(CollateralError):
        nvidia_pki.verify(revocation=[DEEP])


@pytest.mark.parametrize(
    "value",
    [
        IN_A_CERTIFICATE,
        der.sequence(der.sequence(der.oid("1.2.840.113741.1.13.1.1"), IN_A_CERTIFICATE)),
        der.sequence(der.sequence(der.oid("1.2.840.113741.1.13.1.2"), IN_A_CERTIFICATE)),
    ],
    ids=["whole", "ppid", "tcb"],
)
def test_pitfall_10_nested_der_in_a_pck_certificate(
    monkeypatch: pytest.MonkeyPatch, value: bytes
) -> None:
    extension = x509.UnrecognizedExtension(SGX_EXTENSION, value)
    monkeypatch.setattr(pki.PckFacts, "extension", lambda _: extension)
    odd = SimulatedPlatform(seed=attested.SEED, now=NOW)
    with pytest.raises(VerificationError):
        verify(of=odd, raw=attested.quote("tdx-v4", odd), endorsements=odd.collateral("tdx"))


@pytest.mark.parametrize("end", ["1", "2", "3.1", "4"])
def test_pitfall_10_nested_der_in_an_snp_signing_key(end: str) -> None:
    vek = snp_pki.vek(amd={end: IN_A_CERTIFICATE})
    chain = (snp_pki.intermediate("vcek", "Milan"), snp_pki.ark("Milan"))
    endorsements = SnpEndorsements(vek, chain, None)
    report, roots = snp_pki.report(), snp_pki.roots()
    refused("vek_extensions", lambda: verify_snp(report, endorsements, roots, snp_pki.NOW))


@pytest.mark.parametrize("extension", [COMPOSITE_DEVICE_ID, TCB_INFO])
def test_pitfall_10_nested_der_in_a_device_certificate(extension: x509.ObjectIdentifier) -> None:
    odd = x509.UnrecognizedExtension(extension, IN_A_CERTIFICATE)
    chain = nvidia_pki.chain(nvidia_pki.device_name(), odd)
    refused("device", lambda: nvidia_pki.verify(by=chain))


def test_pitfall_10_nested_der_in_a_device_name() -> None:
    name = x509.OtherName(DEVICE_INFO, IN_A_CERTIFICATE)
    chain = nvidia_pki.chain(x509.SubjectAlternativeName([name]))
    refused("device", lambda: nvidia_pki.verify(by=chain))
