"""Properties of everything that reads collateral, and of the signatures it stands on."""

from __future__ import annotations

import json
from dataclasses import replace

import attested
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collateral.bundle import Bundle, read_collateral_file
from attestation.collateral.check import check_item
from attestation.collateral.describe import describe
from attestation.collateral.item import Item, Key, Kind, Platform, split_collateral
from attestation.collateral.pcs import _signed_text, pem_chain
from attestation.collateral.seen import Seen
from attestation.errors import CollateralError

NOW = attested.NOW
ROOTS = [attested.platform().root_der]
TDX = Platform("tdx", attested.platform().fmspc.hex(), "platform")
ITEMS = split_collateral(attested.collateral("tdx"), TDX)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner)
    ),
    max_leaves=8,
)
SUBJECT = st.from_regex(r"[a-z0-9-]{1,9}(/[a-z0-9-]{1,9}){0,3}", fullmatch=True)
ITEM = st.builds(
    Item,
    key=st.builds(Key, st.sampled_from(Kind), SUBJECT),
    content=st.binary(max_size=64),
    signature=st.binary(max_size=64),
    issuer_chain=st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
)


@given(ITEM)
def test_items_survive_writing(item: Item) -> None:
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item
    assert Key.parse(str(item.key)) == item.key


@given(st.lists(ITEM, max_size=5, unique_by=lambda item: item.key), st.none() | st.integers())
def test_bundles_survive_writing(items: list[Item], at: int | None) -> None:
    bundle = Bundle.of(items, at)
    assert read_collateral_file(json.dumps(bundle.to_json()).encode()) == bundle


@given(ITEM)
def test_no_random_item_is_accepted_or_crashes(item: Item) -> None:
    with pytest.raises(CollateralError):
        check_item(item, ROOTS, NOW)


@given(JSON | st.fixed_dictionaries({"format": st.text(), "items": JSON, "vek": JSON}))
def test_arbitrary_json_raises_only_our_errors(document: object) -> None:
    data = json.dumps(document).encode()
    for read in (
        lambda: read_collateral_file(data),
        lambda: describe(data, ROOTS, NOW),
        lambda: Seen.from_json(document),
        lambda: Item.from_json(document),
    ):
        with pytest.raises(CollateralError):
            read()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for read in (
        lambda: read_collateral_file(data),
        lambda: describe(data, ROOTS, NOW),
        lambda: _signed_text("tcb-info", data, "tcbInfo"),
        lambda: pem_chain("tcb-info", data.decode("latin-1")),
    ):
        with pytest.raises(CollateralError):
            read()


@given(
    JSON,
    st.binary(min_size=1, max_size=64),
    st.booleans(),
    st.sampled_from([None, 0, 1, 3]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")]),
    st.booleans(),
)
def test_the_signed_text_is_the_exact_slice(
    value: object,
    signature: bytes,
    signature_first: bool,
    indent: int | None,
    separators: tuple[str, str],
    ascii_only: bool,
) -> None:
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only)
    comma, colon = separators
    members = [f'"tcbInfo"{colon}{text}', f'"signature"{colon}"{signature.hex()}"']
    body = "{" + comma.join(members[::-1] if signature_first else members) + " }\n"
    try:
        found = _signed_text("tcb-info", body.encode(), "tcbInfo")
    except CollateralError as e:
        assert "duplicate" in str(e) or "number" in str(e)
    else:
        assert found == (text, signature)


@pytest.mark.parametrize("index", range(4), ids=["tcb-info", "qe-identity", "pck-crl", "root-crl"])
@settings(max_examples=60)
@given(data=st.data())
def test_any_flipped_bit_of_a_signed_document_is_refused(index: int, data: st.DataObject) -> None:
    item = ITEMS[index]
    bit = data.draw(st.integers(0, len(item.content) * 8 - 1))
    changed = bytearray(item.content)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CollateralError):
        check_item(replace(item, content=bytes(changed)), ROOTS, NOW)


@settings(max_examples=60)
@given(st.integers(0, 511))
def test_any_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    changed = bytearray(ITEMS[0].signature)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CollateralError, match="tcb-info signature"):
        check_item(replace(ITEMS[0], signature=bytes(changed)), ROOTS, NOW)


@settings(max_examples=60)
@given(st.integers(0, len(ITEMS[0].content) - 1))
def test_a_cut_document_is_refused(size: int) -> None:
    for item in ITEMS[:2]:
        cut = item.content[: min(size, len(item.content) - 1)]
        with pytest.raises(CollateralError):
            check_item(replace(item, content=cut), ROOTS, NOW)
