"""Reference values count when they are signed by whom the policy names, and not otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attested
import pytest
from attested import NOW
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.canonical import jcs
from attestation.errors import MalformedEvidence, PolicyError, VerificationError
from attestation.policy import evaluate, load_policy
from attestation.policy.reference import (
    PURPOSE,
    Release,
    read_reference,
    select,
    sign_reference,
    verify_reference,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
MR_TD, MR_ENCLAVE = "ab" * 48, "cd" * 32


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def release(version: str = "1.0", mr_td: str = MR_TD, not_after: int | None = None) -> Release:
    pinned = {"tdx": ({"mr_td": mr_td},), "sgx": ({"mr_enclave": MR_ENCLAVE},)}
    return Release("adyton", version, MappingProxyType(pinned), not_after)


SIGNED = sign_reference([release(), release("1.1", "ef" * 48, NOW + 10)], [KEY])


def policy_file(folder: Path, data: bytes = SIGNED, **section: Any) -> Path:
    (folder / "values.json").write_bytes(data)
    values = {"file": "values.json", "public_keys": [public(KEY).hex()], **section}
    path = folder / "policy.json"
    path.write_text(json.dumps({"version": 1, "name": "mine", "reference_values": values}))
    return path


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(SIGNED), **fields}).encode()


# --- the file ---------------------------------------------------------------------------------


def test_what_was_signed_is_read() -> None:
    found = verify_reference(SIGNED, [public(OTHER), public(KEY)])
    assert [r.label for r in found] == ["adyton@1.0", "adyton@1.1"]
    assert dict(found[0].measurements["sgx"][0]) == {"mr_enclave": MR_ENCLAVE}
    assert [r.not_after for r in found] == [None, NOW + 10]
    assert found == read_reference(SIGNED)


def test_signing_twice_gives_the_same_bytes_in_any_order() -> None:
    again = sign_reference([release("1.1", "ef" * 48, NOW + 10), release()], [KEY])
    assert again == SIGNED


def test_the_signature_is_over_the_canonical_form_without_signatures() -> None:
    document = json.loads(SIGNED)
    signature = document.pop("signatures")[0]
    assert document["purpose"] == PURPOSE
    KEY.public_key().verify(bytes.fromhex(signature["value"]), jcs(document))


def test_layout_of_the_file_does_not_matter_but_its_content_does() -> None:
    assert verify_reference(changed(), [public(KEY)])
    document = json.loads(SIGNED)
    document["releases"][0]["measurements"]["sgx"][0]["mr_enclave"] = "00" * 32
    with pytest.raises(VerificationError) as caught:
        verify_reference(json.dumps(document).encode(), [public(KEY)])
    assert caught.value.step == "reference_values.signature"


def test_an_unsigned_file_is_refused() -> None:
    with pytest.raises(VerificationError) as caught:
        verify_reference(changed(signatures=[]), [public(KEY)])
    assert caught.value.step == "reference_values.unsigned"


def test_a_file_signed_by_somebody_else_is_refused() -> None:
    with pytest.raises(VerificationError) as caught:
        verify_reference(SIGNED, [public(OTHER)])
    assert caught.value.step == "reference_values.key"


def test_a_key_of_ours_under_another_algorithm_is_not_ours() -> None:
    signatures = [{**json.loads(SIGNED)["signatures"][0], "algo": "ed448"}]
    with pytest.raises(VerificationError) as caught:
        verify_reference(changed(signatures=signatures), [public(KEY)])
    assert caught.value.step == "reference_values.key"


def test_of_several_signers_one_trusted_one_is_enough() -> None:
    both = sign_reference([release()], [KEY, OTHER])
    for key in (KEY, OTHER):
        assert verify_reference(both, [public(key)])


def test_a_broken_signature_beside_a_good_one_by_a_trusted_key_is_refused() -> None:
    good = json.loads(SIGNED)["signatures"][0]
    bad = {**good, "value": "00" * 64}
    with pytest.raises(VerificationError, match="signature"):
        verify_reference(changed(signatures=[good, bad]), [public(KEY)])


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "reference_values"),
        (b"[]", "reference_values"),
        (b"{", "reference_values"),
        (b" " * ((4 << 20) + 1), "reference_values"),
        (changed(purpose="other"), "reference_values.purpose"),
        (changed(version=2), "reference_values.version"),
        (changed(releases=[]), "reference_values.releases"),
        (changed(more=1), "reference_values"),
        (changed(signatures=[{}] * 17), "reference_values.signatures"),
        (changed(releases=[json.loads(SIGNED)["releases"][0]] * 2), "reference_values.releases"),
    ],
)
def test_what_is_no_reference_file_is_malformed(data: bytes, field: str) -> None:
    with pytest.raises(MalformedEvidence) as caught:
        verify_reference(data, [public(KEY)])
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize(
    "measurements",
    [{}, {"tdx": [{}]}, {"tdx": [{"mr_td": "AB" * 48}]}, {"toaster": []}, {"sgx": "any"}, "any"],
)
def test_measurements_have_the_shape_they_have_in_a_policy(measurements: Any) -> None:
    releases = [{"name": "a", "version": "1", "measurements": measurements}]
    with pytest.raises(MalformedEvidence, match="reference_values"):
        verify_reference(changed(releases=releases), [public(KEY)])


def test_nothing_malformed_is_ever_signed() -> None:
    with pytest.raises(MalformedEvidence):
        sign_reference([release(mr_td="short")], [KEY])
    with pytest.raises(MalformedEvidence, match="twice"):
        sign_reference([release(), release()], [KEY])


def test_releases_are_chosen_by_name_or_version_and_must_be_there() -> None:
    releases = read_reference(SIGNED)
    assert select(releases, None) == releases
    assert select(releases, ["adyton"]) == releases
    assert select(releases, ["adyton@1.1"]) == releases[1:]
    with pytest.raises(MalformedEvidence, match=r"adyton@2\.0 is not in the file"):
        select(releases, ["adyton", "adyton@2.0"])


# --- in a policy ------------------------------------------------------------------------------


def test_a_policy_file_finds_its_reference_values_beside_itself(tmp_path: Path) -> None:
    policy = load_policy(policy_file(tmp_path))
    assert [r.label for r in policy.references] == ["adyton@1.0", "adyton@1.1"]
    only = load_policy(policy_file(tmp_path, releases=["adyton@1.0"]))
    assert [r.label for r in only.references] == ["adyton@1.0"]


def test_a_mapping_names_them_by_an_absolute_path_only(tmp_path: Path) -> None:
    document = json.loads(policy_file(tmp_path).read_text())
    with pytest.raises(MalformedEvidence, match="relative to no policy file"):
        load_policy(document)
    document["reference_values"]["file"] = str(tmp_path / "values.json")
    assert load_policy(document).references


def test_a_file_that_cannot_be_read_is_no_empty_list(tmp_path: Path) -> None:
    for name in ("missing.json", ".", "nul\0byte"):
        with pytest.raises(MalformedEvidence) as caught:
            load_policy(policy_file(tmp_path, file=name))
        assert caught.value.field == "policy.reference_values.file"


def test_a_wrong_key_in_the_policy_refuses_the_policy(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="none of the keys"):
        load_policy(policy_file(tmp_path, public_keys=[public(OTHER).hex()]))


def test_a_policy_without_keys_is_malformed(tmp_path: Path) -> None:
    with pytest.raises(MalformedEvidence, match="public_keys"):
        load_policy(policy_file(tmp_path, public_keys=[]))


def judged(releases: list[Release], now: int = NOW, **pinned: Any) -> Any:
    """A genuine quote of the test platform, under a policy with these reference values."""
    report = attested.verify("tdx-v4")
    policy = load_policy({"version": 1, "name": "mine", **pinned})
    policy = replace(policy, references=tuple(releases))
    return evaluate(report, policy, report_data=attested.REPORT_DATA, now=now)


def mine() -> str:
    return attested.verify("tdx-v4").measurement


def test_a_published_measurement_counts_as_if_pinned() -> None:
    assert judged([release("0.9"), release(mr_td=mine())]).policy_name == "mine"


def test_published_and_pinned_measurements_join() -> None:
    pinned = {"tdx": [{"mr_td": mine()}]}
    assert judged([release()], measurements=pinned)
    assert judged([release(mr_td=mine())], measurements={"tdx": [{"mr_td": "00" * 48}]})


def test_an_unpublished_measurement_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        judged([release()])
    assert [f.field for f in caught.value.findings] == ["measurements.tdx.mr_td"]


def test_a_release_past_its_end_no_longer_counts_and_the_refusal_says_so() -> None:
    assert judged([release(mr_td=mine(), not_after=NOW)])
    with pytest.raises(PolicyError) as caught:
        judged([release("1.2"), release(mr_td=mine(), not_after=NOW - 1)])
    assert [f.field for f in caught.value.findings] == [
        "measurements.tdx.mr_td",
        "reference_values",
    ]
    assert "adyton@1.0" in caught.value.findings[1].actual


def test_an_old_release_that_was_never_this_one_is_not_mentioned() -> None:
    with pytest.raises(PolicyError) as caught:
        judged([release(not_after=1)])
    assert [f.field for f in caught.value.findings] == ["measurements.tdx.mr_td"]


def test_a_measurement_that_still_counts_elsewhere_counts() -> None:
    old = release(mr_td=mine(), not_after=NOW - 1)
    assert judged([old, release("1.1", mine())])
    assert judged([old], measurements={"tdx": [{"mr_td": mine()}]})


# --- Sigstore ---------------------------------------------------------------------------------

SIGSTORE = {
    "bundle": "values.json.sigstore",
    "identity": "https://example.com/release.yml@refs/tags/v1",
    "issuer": "https://token.actions.githubusercontent.com",
}


def test_a_sigstore_bundle_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MalformedEvidence) as caught:
        load_policy(policy_file(tmp_path, sigstore=SIGSTORE))
    assert caught.value.field == "policy.reference_values.sigstore.bundle"


@pytest.mark.parametrize("bundle", [b"", b"{}", b"[]", b"null", b"\xff", b'{"mediaType": 1}'])
def test_bytes_that_are_no_bundle_are_malformed(tmp_path: Path, bundle: bytes) -> None:
    (tmp_path / "values.json.sigstore").write_bytes(bundle)
    with pytest.raises(MalformedEvidence, match=r"sigstore\.bundle"):
        load_policy(policy_file(tmp_path, sigstore=SIGSTORE))


class FakeVerifier:
    """Stands where sigstore-python's verifier does, and notes what it is asked."""

    def __init__(self, fails: Exception | None) -> None:
        self.fails, self.asked = fails, []  # type: ignore[var-annotated]

    def verify_artifact(self, data: bytes, bundle: object, policy: Any) -> None:
        self.asked.append((data, bundle, policy._identity, policy._issuer._value))
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def with_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from attestation.policy import sigstore_bundle

    monkeypatch.setattr(sigstore_bundle.Bundle, "from_json", lambda raw: raw)
    (tmp_path / "values.json.sigstore").write_bytes(b"the bundle")
    return tmp_path


def test_the_bundle_is_verified_over_the_very_file_for_this_identity_and_issuer(
    with_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attestation.policy import sigstore_bundle

    verifier = FakeVerifier(None)
    monkeypatch.setattr(sigstore_bundle, "_verifier", lambda root: verifier)
    assert load_policy(policy_file(with_bundle, sigstore=SIGSTORE)).references
    assert verifier.asked == [(SIGNED, b"the bundle", SIGSTORE["identity"], SIGSTORE["issuer"])]


def test_a_bundle_that_does_not_verify_refuses_the_policy(
    with_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sigstore.errors import VerificationError as SigstoreRefusal

    from attestation.policy import sigstore_bundle

    verifier = FakeVerifier(SigstoreRefusal("another identity"))
    monkeypatch.setattr(sigstore_bundle, "_verifier", lambda root: verifier)
    with pytest.raises(VerificationError, match="another identity") as caught:
        load_policy(policy_file(with_bundle, sigstore=SIGSTORE))
    assert caught.value.step == "reference_values.sigstore"


def test_the_roots_are_the_packages_own_or_a_named_files(
    with_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attestation.policy import sigstore_bundle

    given: list[bytes] = []

    def read_root(path: str) -> object:
        given.append(Path(path).read_bytes())
        return object()

    monkeypatch.setattr(sigstore_bundle.TrustedRoot, "from_file", read_root)
    monkeypatch.setattr(sigstore_bundle, "Verifier", lambda trusted_root: FakeVerifier(None))
    (with_bundle / "root.json").write_bytes(b"my root")
    load_policy(policy_file(with_bundle, sigstore={**SIGSTORE, "trusted_root": "root.json"}))
    load_policy(policy_file(with_bundle, sigstore=SIGSTORE))
    assert given[0] == b"my root"
    assert b"fulcio" in given[1]


def test_a_trusted_root_that_is_none_is_malformed(with_bundle: Path) -> None:
    (with_bundle / "root.json").write_bytes(b"{}")
    with pytest.raises(MalformedEvidence, match=r"sigstore\.trusted_root"):
        load_policy(policy_file(with_bundle, sigstore={**SIGSTORE, "trusted_root": "root.json"}))


def test_the_packages_own_roots_can_be_read() -> None:
    from attestation.policy.sigstore_bundle import _verifier

    assert _verifier(None) is not None


def test_without_the_package_a_bundle_is_refused_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "attestation.policy.sigstore_bundle", None)
    (tmp_path / "values.json.sigstore").write_bytes(b"{}")
    with pytest.raises(VerificationError, match=r"adyton\[sigstore\]"):
        load_policy(policy_file(tmp_path, sigstore=SIGSTORE))
