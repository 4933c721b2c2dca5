"""Every JSON document we read: total, exact, and indifferent to how it was served."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import attested
import pytest
import yaml
from attested import NONCE, NOW, SIGNING_KEY, platform
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.canonical import digest, jcs, loads_strict, sha256_hex
from attestation.collateral import Collateral
from attestation.errors import AttestationError, CollateralError, MalformedEvidence
from attestation.keyset import KeyEntry, Keyset, TlsKey
from attestation.policy import load_policy
from attestation.policy.load import _parse
from attestation.receipts import (
    receipt_payload,
    request_received,
    response_returned,
    sign_receipt,
    verify_receipt,
)
from attestation.report import appraise_report
from attestation.roots import load_root
from attestation.statement import report_data, statement

safe_integers = st.integers(-(2**53) + 1, 2**53 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.none() | st.booleans() | safe_integers | texts
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
anything = st.recursive(
    scalars | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)
hex64 = st.binary(min_size=32, max_size=32).map(bytes.hex)


# --- canonical JSON ---------------------------------------------------------------------------


@given(value=documents)
def test_canonical_form_reads_back_and_is_stable(value: Any) -> None:
    form = jcs(value)
    assert loads_strict(form) == value
    assert jcs(loads_strict(form)) == form


@given(value=documents, indent=st.sampled_from([None, 0, 2]))
def test_canonical_form_does_not_depend_on_the_encoding(value: Any, indent: int | None) -> None:
    for ascii_only in (True, False):
        served = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
        assert jcs(loads_strict(served)) == jcs(value)


@given(data=st.binary(max_size=200) | st.text(max_size=200))
def test_arbitrary_text_raises_only_our_errors(data: bytes | str) -> None:
    try:
        value = loads_strict(data, "doc")
    except MalformedEvidence as e:
        assert e.field == "doc"
    else:
        assert loads_strict(json.dumps(value)) == value


@given(value=anything)
def test_values_without_a_canonical_form_raise_only_our_errors(value: Any) -> None:
    try:
        jcs(value)
    except MalformedEvidence as e:
        assert e.field == "json"


# --- keyset and statement ---------------------------------------------------------------------

entries = st.builds(KeyEntry, key_id=texts, algo=texts, public_key=hex64)
pins = st.builds(TlsKey, spki_sha256=hex64, domain=st.none() | texts)
keysets = st.builds(
    Keyset.build,
    subject=st.none() | texts,
    not_after=st.integers(0, 2**40),
    receipt_signing_keys=st.lists(entries, max_size=3, unique_by=lambda k: k.key_id).map(tuple),
    e2ee_public_keys=st.lists(
        st.builds(KeyEntry, key_id=texts, algo=texts, public_key=texts), max_size=2
    ).map(tuple),
    tls_public_keys=st.lists(pins, max_size=3).map(tuple),
)


@given(keys=keysets)
def test_keyset_reads_back_with_the_same_digest(keys: Keyset) -> None:
    served = json.dumps(dict(keys.document), indent=2)
    read = Keyset.from_json(loads_strict(served))
    assert read == keys
    assert read.digest == keys.digest == digest(jcs(keys.document))


@given(value=anything | st.fixed_dictionaries({"not_after": anything}))
def test_arbitrary_json_is_no_keyset(value: Any) -> None:
    with pytest.raises(MalformedEvidence):
        Keyset.from_json(value)


MEMBERS = ("subject", "not_after", "receipt_signing_keys", "e2ee_public_keys", "tls_public_keys")


@given(member=st.sampled_from(MEMBERS), value=anything)
def test_keyset_with_one_odd_member_raises_only_our_errors(member: str, value: Any) -> None:
    document = {**attested.keyset().document, member: value}
    with contextlib.suppress(MalformedEvidence):
        assert Keyset.from_json(document).digest.startswith("sha256:")


@given(keyset_digest=hex64, nonce=st.none() | hex64)
def test_statement_is_its_own_canonical_form(keyset_digest: str, nonce: str | None) -> None:
    text = statement(f"sha256:{keyset_digest}", nonce)
    assert jcs(loads_strict(text)) == text
    assert report_data(f"sha256:{keyset_digest}", nonce)[:32].hex() == sha256_hex(text)


# --- collateral -------------------------------------------------------------------------------

COLLATERAL = attested.collateral("tdx")
COLLATERAL_FIELDS = tuple(COLLATERAL.to_json())


@given(
    fields=st.fixed_dictionaries(
        {
            "pck_crl_issuer_chain": texts,
            "root_ca_crl": st.binary(max_size=9),
            "pck_crl": st.binary(max_size=9),
            "tcb_info_issuer_chain": texts,
            "tcb_info": texts,
            "tcb_info_signature": st.binary(max_size=9),
            "qe_identity_issuer_chain": texts,
            "qe_identity": texts,
            "qe_identity_signature": st.binary(max_size=9),
            "pck_certificate_chain": st.none() | texts,
        }
    )
)
def test_collateral_reads_back(fields: Any) -> None:
    collateral = Collateral(**fields)
    assert Collateral.from_json(json.loads(json.dumps(collateral.to_json()))) == collateral


@given(value=anything)
def test_arbitrary_json_is_no_collateral(value: Any) -> None:
    with pytest.raises(CollateralError):
        Collateral.from_json(value)


@given(member=st.sampled_from(COLLATERAL_FIELDS), value=st.text(max_size=40))
@settings(max_examples=100)
def test_collateral_with_one_odd_member_raises_only_our_errors(member: str, value: str) -> None:
    with pytest.raises(AttestationError):
        odd = Collateral.from_json({**COLLATERAL.to_json(), member: value})
        attested.verify(endorsements=odd)


@given(member=st.sampled_from(COLLATERAL_FIELDS), data=st.data())
@settings(max_examples=120)
def test_any_flipped_bit_of_the_collateral_is_refused(member: str, data: Any) -> None:
    """In what is signed; a PEM chain may be spelt in several ways."""
    value = getattr(COLLATERAL, member)
    raw = value.encode() if isinstance(value, str) else value
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    flipped = attested.flip(raw, bit)
    if isinstance(value, str):
        try:
            odd = replace(COLLATERAL, **{member: flipped.decode()})
        except UnicodeDecodeError:
            return
    else:
        odd = replace(COLLATERAL, **{member: flipped})
    try:
        report = attested.verify(endorsements=odd)
    except AttestationError:
        return
    assert member.endswith("_chain")
    assert (report.quote, report.tcb_status) == (attested.verify().quote, "UpToDate")


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_no_root(data: bytes) -> None:
    with pytest.raises(CollateralError):
        load_root(data)


# --- policy -----------------------------------------------------------------------------------


@given(value=anything)
def test_arbitrary_json_is_no_policy(value: Any) -> None:
    document = value if isinstance(value, dict) else {"version": 1, "name": "x", "tcb": value}
    try:
        policy = load_policy(document)
    except MalformedEvidence as e:
        assert e.field.startswith("policy")
    else:
        assert policy.name == "x"


@given(
    data=st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "ignore"))
)
@settings(max_examples=200)
def test_arbitrary_bytes_are_no_policy_file(data: bytes) -> None:
    try:
        document = _parse(data)
    except MalformedEvidence as e:
        assert e.field == "policy"
    else:
        assert document is None or isinstance(document, (dict, list, str, int, float)) or document


@given(
    tdx=st.lists(st.binary(min_size=48, max_size=48).map(bytes.hex), max_size=3),
    age=st.integers(0, 2**32 - 1),
    deny=st.sets(st.sampled_from(["smt", "dynamic_platform", "cached_keys"])),
)
def test_policy_means_the_same_in_yaml_and_json(tdx: list[str], age: int, deny: set[str]) -> None:
    document = {
        "version": 1,
        "name": "p",
        "measurements": {"tdx": [{"mr_td": m} for m in tdx]},
        "tcb": {"max_collateral_age_s": age},
        "platform": dict.fromkeys(deny, "deny"),
    }
    policy = load_policy(document)
    assert load_policy(_parse(yaml.safe_dump(document).encode())) == policy
    assert load_policy(_parse(json.dumps(document).encode())) == policy
    assert policy.tcb.max_collateral_age_s == age
    assert set(policy.denied_flags) == deny


# --- receipts and reports ---------------------------------------------------------------------

KEYSET = attested.keyset()


def receipt(request: bytes, response: bytes, **members: Any) -> dict[str, Any]:
    payload = receipt_payload(
        receipt_id="r",
        chat_id=None,
        model=None,
        keyset_digest=KEYSET.digest,
        endpoint="/v1/completions",
        method="POST",
        served_at=NOW,
        events=[request_received(sha256_hex(request)), response_returned(sha256_hex(response))],
    )
    return sign_receipt({**payload, **members}, "receipt-1", SIGNING_KEY)


@given(request=st.binary(max_size=50), response=st.binary(max_size=50), extra=documents)
def test_signed_receipt_survives_any_encoding(request: bytes, response: bytes, extra: Any) -> None:
    document = receipt(request, response, extra=extra)
    served = loads_strict(json.dumps(document, indent=3))
    read = verify_receipt(served, KEYSET, request_body=request, response_body=response)
    assert read.checked_request
    assert read.checked_response


@given(body=st.binary(min_size=1, max_size=50), data=st.data())
def test_any_flipped_bit_of_a_body_is_refused(body: bytes, data: Any) -> None:
    document = receipt(body, body)
    other = attested.flip(body, data.draw(st.integers(0, len(body) * 8 - 1)))
    for bodies in ({"request_body": other}, {"response_body": other}):
        with pytest.raises(AttestationError):
            verify_receipt(document, KEYSET, **bodies)


@given(data=st.data())
def test_any_flipped_bit_of_a_signed_receipt_is_refused(data: Any) -> None:
    form = jcs(receipt(b"request", b"response"))
    bit = data.draw(st.integers(0, len(form) * 8 - 1))
    with pytest.raises(AttestationError):
        verify_receipt(loads_strict(attested.flip(form, bit)), KEYSET)


@given(value=anything)
def test_arbitrary_json_is_no_receipt(value: Any) -> None:
    with pytest.raises(AttestationError):
        verify_receipt(value, KEYSET)


@given(member=st.sampled_from(sorted(receipt(b"", b""))), value=anything)
def test_receipt_with_one_odd_signed_member_raises_only_our_errors(member: str, value: Any) -> None:
    try:
        document = receipt(b"", b"", **{member: value})
        verify_receipt({**document, member: value}, KEYSET)
    except AttestationError:
        pass
    else:
        # What may be chosen freely: names, and a time before the keyset expires.
        assert member in {"receipt_id", "chat_id", "model", "endpoint", "method", "served_at"}


REPORT = attested.report()
PATHS = tuple(
    f"{prefix}{name}"
    for prefix, node in (
        ("", REPORT),
        ("attestation.", REPORT["attestation"]),
        ("attestation.evidence.", REPORT["attestation"]["evidence"]),
        ("attestation.evidence.collateral.", REPORT["attestation"]["evidence"]["collateral"]),
        ("attestation.workload_keyset.", REPORT["attestation"]["workload_keyset"]),
    )
    for name in node
)
FREE = {
    "service_capabilities",
    "attestation.evidence.simulated",
    "attestation.evidence.key_custody",
    "attestation.source_provenance",
}


def appraise(document: Any) -> Any:
    return appraise_report(
        document,
        nonce=NONCE,
        roots=[platform().root_der],
        policy=load_policy("genuine"),
        now=NOW,
    )


@given(value=anything)
def test_arbitrary_json_is_no_report(value: Any) -> None:
    with pytest.raises(AttestationError):
        appraise(value)


@given(path=st.sampled_from(PATHS), value=anything)
@settings(max_examples=80)
def test_report_with_one_odd_member_raises_only_our_errors(path: str, value: Any) -> None:
    document = attested.changed(REPORT, path, value)
    try:
        appraise(document)
    except AttestationError:
        return
    assert path in FREE or document == REPORT


def test_the_unchanged_report_is_accepted() -> None:
    assert appraise(REPORT).fresh
