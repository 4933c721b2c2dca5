"""Whatever a node answers, the client returns what is proven or raises its own errors."""

from __future__ import annotations

import copy
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_node import CHAT, FakeNode, issuer, stream_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from adyton.bundle import Bundle
from adyton.endpoint import Endpoint
from adyton.errors import (
    ChannelError,
    MalformedResponse,
    ReceiptError,
    TruncatedStream,
    UnsafeUrl,
)
from adyton.pinning import spki_sha256
from adyton.receipts import Exchange, ReceiptLog
from adyton.trust import Established, Trust, judge_report
from attestation.errors import AttestationError, MalformedEvidence, VerificationError

NONCE = "5a" * 32
ENDPOINT = Endpoint.parse("https://127.0.0.1")
REQUEST = b'{"model":"m"}'

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> FakeNode:
    return FakeNode(tmp_path_factory.mktemp("node"), "node")


@pytest.fixture(scope="module")
def trust(node: FakeNode) -> Trust:
    now = time.time()
    return Trust.of(
        policy="strict", root=node.root, measurement=node.measurement, clock=lambda: now
    )


def judge(trust: Trust, node: FakeNode, body: bytes, status: int = 200) -> Established:
    return judge_report(
        trust,
        ENDPOINT,
        status=status,
        body=body,
        nonce=NONCE,
        certificate_der=node.tls.certificate_der,
    )


@pytest.fixture(scope="module")
def established(trust: Trust, node: FakeNode) -> Established:
    return judge(trust, node, node.report(NONCE))


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    out = [here] if here else []
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            out += paths(item, (*here, key))
    return out


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    out = copy.deepcopy(document)
    inner = out
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return out


def exchange(response: bytes = b"", **head: str) -> Exchange:
    made = Exchange(
        method="POST",
        path="/v1/chat/completions",
        base_path="/v1",
        request_body=REQUEST,
        authorization=None,
        check_receipt=True,
    )
    made.begin(200, {"x-receipt-id": f"r{1:030x}"} | head)
    made.feed(response)
    return made


# --- reports ---------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_report(trust: Trust, node: FakeNode, body: bytes) -> None:
    with pytest.raises(AttestationError):
        judge(trust, node, body)


@given(JSON)
def test_arbitrary_json_is_no_report(trust: Trust, node: FakeNode, document: Any) -> None:
    with pytest.raises(AttestationError):
        judge(trust, node, json.dumps(document).encode())


@settings(max_examples=300)
@given(st.data())
def test_report_with_one_value_replaced_is_refused_or_says_the_same(
    trust: Trust, node: FakeNode, established: Established, data: st.DataObject
) -> None:
    report = established.report
    path = data.draw(st.sampled_from(paths(report)))
    body = json.dumps(replaced(report, path, data.draw(JSON))).encode()
    try:
        again = judge(trust, node, body)
    except AttestationError:
        return
    # Only what nothing is concluded from may differ.
    assert again.keyset_digest == established.keyset_digest
    assert again.node.appraisal.report == established.node.appraisal.report


@given(st.integers(100, 599).filter(lambda s: s != 200))
def test_other_statuses_are_refused(trust: Trust, node: FakeNode, status: int) -> None:
    with pytest.raises(AttestationError):
        judge(trust, node, node.report(NONCE), status)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(ChannelError):
        spki_sha256(data)


# --- receipts --------------------------------------------------------------------


@given(st.integers(100, 599), st.binary(max_size=100) | JSON.map(lambda v: json.dumps(v).encode()))
def test_arbitrary_answers_are_no_receipt(
    established: Established, status: int, body: bytes
) -> None:
    with pytest.raises(ReceiptError):
        exchange().verify(status, body, established)


@settings(max_examples=300)
@given(st.data())
def test_receipt_with_one_value_replaced_is_refused(
    node: FakeNode, established: Established, data: st.DataObject
) -> None:
    node.receipts.clear()
    response = json.dumps(CHAT).encode()
    receipt_id = node.sign("/v1/chat/completions", REQUEST, response, None)
    receipt = node.receipts[receipt_id]
    good = exchange(response).verify(200, json.dumps(receipt).encode(), established)
    assert good.receipt.checked_request and good.receipt.checked_response
    path = data.draw(st.sampled_from(paths(receipt)))
    changed = replaced(receipt, path, data.draw(JSON))
    if changed == receipt and json.dumps(changed) == json.dumps(receipt):
        return
    with pytest.raises(ReceiptError):
        exchange(response).verify(200, json.dumps(changed).encode(), established)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_flipped_bit_of_the_answer_is_refused(
    node: FakeNode, established: Established, place: int, bit: int
) -> None:
    node.receipts.clear()
    response = bytearray(json.dumps(CHAT).encode())
    receipt_id = node.sign("/v1/chat/completions", REQUEST, bytes(response), None)
    response[place % len(response)] ^= 1 << bit
    with pytest.raises(ReceiptError) as caught:
        exchange(bytes(response)).verify(
            200, json.dumps(node.receipts[receipt_id]).encode(), established
        )
    assert caught.value.step == "response.returned"


# --- streams ---------------------------------------------------------------------


@given(st.lists(st.integers(0, 2000), max_size=30))
def test_however_a_stream_is_cut_into_reads_it_means_the_same(cuts: list[int]) -> None:
    whole = b"".join(stream_chunks())
    edges = [0, *sorted(c % len(whole) for c in cuts), len(whole)]
    made = exchange(**{"content-type": "text/event-stream"})
    passed = b"".join(made.feed(whole[a:b]) for a, b in pairwise(edges))
    assert b"[DONE]\n" not in passed
    made.end()
    assert passed + made.release() == whole
    assert made.release() == b""


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_streams_without_their_terminator_are_truncated(chunks: list[bytes]) -> None:
    made = exchange(**{"content-type": "text/event-stream"})
    for chunk in chunks:
        made.feed(chunk.replace(b"DONE", b""))
    with pytest.raises(TruncatedStream):
        made.end()


def test_done_inside_a_token_does_not_end_a_stream() -> None:
    made = exchange(**{"content-type": "text/event-stream"})
    made.feed(b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n')
    with pytest.raises(TruncatedStream):
        made.end()


# --- bundles ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(node: FakeNode, established: Established) -> Bundle:
    response = json.dumps(CHAT).encode()
    receipt_id = node.sign("/v1/chat/completions", REQUEST, response, None)
    return Bundle(
        report=established.report,
        nonce=NONCE,
        receipt=node.receipts[receipt_id],
        received_at=1,
        request_body=REQUEST,
        response_body=response,
    )


def test_bundle_survives_its_file(bundle: Bundle, tmp_path: Path) -> None:
    assert Bundle.load(bundle.save(tmp_path / "new")) == bundle


def test_bundle_without_bodies_holds_no_plaintext(established: Established, bundle: Bundle) -> None:
    from adyton.receipts import VerifiedReceipt

    verified = VerifiedReceipt(
        receipt_id="r",
        receipt=None,  # type: ignore[arg-type]
        document=bundle.receipt,
        established=established,
        request_body=b"the secret question",
        response_body=b"the secret answer",
    )
    kept = Bundle.of(verified, bodies=False).to_json()
    assert "request_b64" not in kept and "response_b64" not in kept
    assert Bundle.from_json(kept).request_body is None


@pytest.mark.parametrize("receipt_id", ["../x", "", "a/b", 7, None, "x" * 300])
def test_receipt_id_that_is_no_file_name_is_not_written(
    bundle: Bundle, tmp_path: Path, receipt_id: Any
) -> None:
    hostile = Bundle(bundle.report, NONCE, {"receipt_id": receipt_id})
    with pytest.raises(MalformedResponse):
        hostile.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@given(JSON)
def test_arbitrary_json_is_no_bundle(document: Any) -> None:
    with pytest.raises(MalformedResponse):
        Bundle.from_json(document)


@settings(max_examples=200)
@given(st.data())
def test_bundle_with_one_value_replaced_raises_only_our_errors(
    bundle: Bundle, trust: Trust, data: st.DataObject
) -> None:
    kept = json.loads(json.dumps(bundle.to_json()))
    changed = replaced(kept, data.draw(st.sampled_from(paths(kept))), data.draw(JSON))
    try:
        node, receipt = Bundle.from_json(changed).verify(trust, now=int(trust.clock()))
    except AttestationError:
        return
    assert node.keyset.digest == receipt.keyset_digest


def test_oversized_and_absent_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adyton.bundle.MAX_BUNDLE_BYTES", 10)
    big = tmp_path / "big"
    big.write_text(" " * 11)
    with pytest.raises(MalformedResponse):
        Bundle.load(big)
    with pytest.raises(OSError, match="No such file"):
        Bundle.load(tmp_path / "absent")


# --- settings --------------------------------------------------------------------


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda t: f"https://{t}"))
def test_arbitrary_text_is_an_https_origin_or_refused(url: str) -> None:
    try:
        endpoint = Endpoint.parse(url)
    except UnsafeUrl:
        return
    assert endpoint.base_url.startswith("https://") and endpoint.base_path.endswith("/v1")
    assert Endpoint.parse(endpoint.base_url) == endpoint


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://H.example", "https://h.example/v1"),
        ("https://h:443/", "https://h/v1"),
        ("https://h:8443/v1/", "https://h:8443/v1"),
        ("https://[::1]:9", "https://[::1]:9/v1"),
        ("https://h/api", "https://h/api/v1"),
    ],
)
def test_base_urls_are_normalised(url: str, base: str) -> None:
    assert Endpoint.parse(url).base_url == base


def test_receipt_mode_must_be_known() -> None:
    with pytest.raises(TypeError):
        ReceiptLog("sometimes", folder=None, bodies=False)  # type: ignore[arg-type]


def test_roots_are_read_from_bytes_and_files(tmp_path: Path) -> None:
    import ssl

    from adyton.trust import read_root
    from attestation.errors import CollateralError

    der = issuer().root_der
    pem = tmp_path / "root.pem"
    pem.write_text(ssl.DER_cert_to_PEM_cert(der))
    assert read_root(der) == read_root(pem) == read_root(str(pem)) == der
    with pytest.raises(CollateralError):
        read_root(tmp_path / "absent")
    with pytest.raises(CollateralError):
        read_root(b"no certificate")


def test_strict_trust_defaults_to_production_roots() -> None:
    from attestation.roots import PRODUCTION_ROOTS

    assert Trust.of().roots == tuple(PRODUCTION_ROOTS)
    assert Trust.of().policy.name == "strict"
    with pytest.raises(MalformedEvidence):
        Trust.of(measurement="12")


def test_errors_are_all_attestation_errors() -> None:
    import adyton.errors as errors

    kinds = [v for v in vars(errors).values() if isinstance(v, type)]
    assert len(kinds) > 5 and all(issubclass(k, AttestationError) for k in kinds)
    assert issubclass(ReceiptError, VerificationError)
