"""Azure's HCL report and bundles: one layout, one vTPM key, and no bytes unexplained."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from typing import Any

import attested
import pytest
import tpm_device
from tpm_device import bundle, bundle_json, claims, hcl, jwk, rsa_ak

from attestation.errors import MalformedEvidence
from attestation.evidence.azure import AzureBundle
from attestation.evidence.hcl import TDX_VM_REPORT, HclReport

RAW = hcl().write()
TD_QUOTE = attested.quote("tdx-v4")
_REQUEST_DATA = 32 + 1184


def refused(data: bytes) -> str:
    with pytest.raises(MalformedEvidence) as e:
        HclReport.read(data)
    return e.value.field


def at(offset: int, value: int) -> bytes:
    return RAW[:offset] + value.to_bytes(4, "little") + RAW[offset + 4 :]


def test_fields_are_what_the_paravisor_wrote() -> None:
    report = HclReport.read(RAW)
    assert report == hcl()
    assert (report.version, report.report_type, report.padding) == (2, 2, 164)
    assert report.runtime_claims == claims()
    assert report.claims["vm-configuration"]["secure-boot"] is True
    assert report.hardware_report == hcl().hardware_report
    assert report.write() == RAW


@pytest.mark.parametrize(("kind", "name"), [(1, "sha256"), (2, "sha384"), (3, "sha512")])
def test_report_data_is_the_digest_of_the_claims_then_zeros(kind: int, name: str) -> None:
    digest = hashlib.new(name, claims()).digest()
    assert hcl(hash_type=kind).report_data == digest + bytes(64 - len(digest))


def test_tdx_reports_are_shorter_and_padded_with_zeros() -> None:
    report = replace(hcl(), report_type=TDX_VM_REPORT, hardware_report=b"t" * 1024)
    assert HclReport.read(report.write()) == report
    with pytest.raises(MalformedEvidence, match="padding"):
        HclReport.read(replace(report, hardware_report=b"t" * 1025).write())


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0, 0, "hcl.header.signature"),
        (4, 0, "hcl.header.version"),
        (4, 3, "hcl.header.version"),
        (8, 0, "hcl.report_size"),
        (12, 1, "hcl.header.request_type"),
        (20, 1, "hcl.header.reserved"),
        (28, 1, "hcl.header.reserved"),
        (_REQUEST_DATA, 0, "hcl.data_size"),
        (_REQUEST_DATA + 4, 2, "hcl.request_version"),
        (_REQUEST_DATA + 8, 1, "hcl.report_type"),
        (_REQUEST_DATA + 8, 3, "hcl.report_type"),
        (_REQUEST_DATA + 12, 0, "hcl.hash_type"),
        (_REQUEST_DATA + 12, 4, "hcl.hash_type"),
        (_REQUEST_DATA + 16, 1, "hcl.data_size"),
        (_REQUEST_DATA + 16, 2**32 - 1, "hcl.variable_data_size"),
        (len(RAW) - 4, 1, "hcl.padding"),
    ],
)
def test_every_field_is_held_to_its_values(offset: int, value: int, field: str) -> None:
    assert refused(at(offset, value)) == field


def test_status_is_kept() -> None:
    assert HclReport.read(at(16, 7)).status == 7


def test_the_vtpms_key_is_the_one_with_its_name() -> None:
    numbers = rsa_ak().public_key().public_numbers()
    key = hcl().attestation_key()
    assert (key.kid, key.n, key.e) == ("HCLAkPub", numbers.n, numbers.e)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        {},
        "HCLAkPub",
        [jwk("HCLEkPub")],
        [jwk("hclakpub")],
        [jwk(), jwk()],
        ["HCLAkPub"],
        [jwk() | {"kty": "EC"}],
        [jwk() | {"n": None}],
        [jwk() | {"n": ""}],
        [jwk() | {"n": "A"}],
        [jwk() | {"n": "AQAB="}],
        [jwk() | {"n": "+/+/"}],
        [jwk() | {"n": "A" * 1025}],
        [jwk() | {"e": 65537}],
    ],
)
def test_claims_without_exactly_one_readable_key_are_refused(keys: Any) -> None:
    with pytest.raises(MalformedEvidence) as e:
        hcl(claims(keys)).attestation_key()
    assert e.value.field.startswith("hcl.claims.keys")


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"keys":1,"keys":2}', b"\xff", b'{"keys":NaN}', b"[" * 5000]
)
def test_claims_are_one_json_object(text: bytes) -> None:
    with pytest.raises(MalformedEvidence, match=r"hcl\.claims"):
        hcl(text).attestation_key()


# Bundles.


def read(document: Any) -> AzureBundle:
    return AzureBundle.read(json.dumps(document).encode())


def bundle_refused(document: Any) -> str:
    with pytest.raises(MalformedEvidence) as e:
        read(document)
    return e.value.field


@pytest.mark.parametrize("version", [0, 1, 2])
def test_bundles_of_every_version_say_the_same(version: int) -> None:
    assert read(bundle_json(version=version)) == replace(bundle(), version=version)


def test_base64_may_be_of_either_alphabet_and_padded() -> None:
    document = bundle_json()
    for name in ("hcl_report", "vcek"):
        text = document[name].replace("-", "+").replace("_", "/")
        document[name] = text + "=" * (-len(text) % 4) + "\n"
    assert read(document) == bundle()


def test_tdx_bundles_carry_a_quote_instead_of_a_certificate() -> None:
    document = bundle_json()
    del document["vcek"]
    document["td_quote"] = tpm_device.base64url(TD_QUOTE)
    assert read(document) == replace(bundle(), vcek=None, td_quote=TD_QUOTE)
    older = bundle_json(version=0)
    del older["vcek"]
    older["td_quote"] = list(TD_QUOTE)
    assert read(older).td_quote == TD_QUOTE


@pytest.mark.parametrize("zeros", [1, 70, 1000])
def test_zeros_that_azure_puts_behind_a_td_quote_are_no_part_of_it(zeros: int) -> None:
    document = bundle_json()
    del document["vcek"]
    padded = TD_QUOTE + bytes(zeros)
    assert read(document | {"td_quote": tpm_device.base64url(padded)}).td_quote == TD_QUOTE
    odd = padded + b"\1"
    assert read(document | {"td_quote": tpm_device.base64url(odd)}).td_quote == odd
    with pytest.raises(MalformedEvidence, match="quote"):
        read(document | {"td_quote": tpm_device.base64url(TD_QUOTE[:-1])})


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("version", 3, "version"),
        ("version", True, "version"),
        ("version", "1", "version"),
        ("hcl_report", None, "hcl_report"),
        ("hcl_report", [1], "hcl_report"),
        ("hcl_report", "!", "hcl_report"),
        ("hcl_report", "é", "hcl_report"),
        ("hcl_report", "A" * 40_000, "hcl_report"),
        ("tpm_quote", [], "quote"),
        ("vcek", None, "vcek"),
        ("vcek", "A", "vcek"),
        ("report", [], "hcl_report"),
        ("quote", {}, "tpm_quote"),
        ("td_quote", "AA", "vcek"),
    ],
)
def test_bundle_members_are_held_to_their_form(name: str, value: Any, field: str) -> None:
    assert bundle_refused(bundle_json() | {name: value}) == f"azure.{field}"


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("message", None, "message"),
        ("message", "0", "message"),
        ("message", "0G", "message"),
        ("message", "00" * 16385, "message"),
        ("signature", [1], "signature"),
        ("pcrs", None, "pcrs"),
        ("pcrs", ["00" * 32] * 23, "pcrs"),
        ("pcrs", ["00" * 32] * 25, "pcrs"),
        ("pcrs", ["00" * 32] * 23 + ["00" * 20], "pcrs"),
        ("pcrs", ["00" * 32] * 23 + [None], "pcrs.23"),
    ],
)
def test_quote_members_are_held_to_their_form(name: str, value: Any, field: str) -> None:
    document = copy.deepcopy(bundle_json())
    document["tpm_quote"][name] = value
    assert bundle_refused(document) == f"azure.quote.{field}"


@pytest.mark.parametrize(
    "value", [None, "00", [256], [-1], [True], [1.0], ["1"], [0] * 16385, {"0": 1}]
)
def test_lists_of_bytes_are_just_that(value: Any) -> None:
    assert bundle_refused(bundle_json(version=0) | {"report": value}) == "azure.hcl_report"


@pytest.mark.parametrize("value", ["", "AAAA", "-----BEGIN CERTIFICATE-----", 1])
def test_older_certificates_are_one_pem(value: Any) -> None:
    assert bundle_refused(bundle_json(version=0) | {"vcek": value}) == "azure.vcek"
    twice = bundle_json(version=0)["vcek"] * 2
    assert bundle_refused(bundle_json(version=0) | {"vcek": twice}) == "azure.vcek"


@pytest.mark.parametrize("name", ["hcl_report", "tpm_quote", "vcek"])
def test_bundles_are_complete(name: str) -> None:
    document = {k: v for k, v in bundle_json().items() if k != name}
    assert bundle_refused(document) == f"azure.{name}"


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b'{"a":1,"a":1}', b" " * 2**18 + b"{}"])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        AzureBundle.read(data)
