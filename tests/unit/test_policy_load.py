"""A policy file means one thing, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from attestation.errors import MalformedEvidence
from attestation.policy import Policy, load_policy
from attestation.policy.load import BUILTIN, schema

MINIMAL = {"version": 1, "name": "mine"}
FULL: dict[str, Any] = {
    "version": 1,
    "name": "everything",
    "description": "Every field once.",
    "inspection_only": False,
    "tcb": {
        "statuses": ["UpToDate", "SWHardeningNeeded"],
        "advisories": {"allow": ["INTEL-SA-00615"], "refuse": ["INTEL-SA-00614"]},
        "min_evaluation_data_number": 17,
        "max_collateral_age_s": 86400,
    },
    "measurements": {
        "tdx": [{"mr_td": "ab" * 48, "rt_mr1": "cd" * 48}, {"mr_td": "ef" * 48}],
        "sgx": [{"mr_enclave": "ab" * 32, "config_id": "cd" * 64}],
    },
    "tdx": {
        "td_attributes": {"mask": "ff" * 8, "value": "0000001000000000"},
        "xfam": {"mask": "00" * 8, "value": "00" * 8},
        "min_tee_tcb_svn": "07" + "00" * 15,
        "dangerous_allow_custom_seam": True,
    },
    "sgx": {
        "attributes": {"mask": "ff" * 16, "value": "05" + "00" * 15},
        "mr_signer": ["ab" * 32],
        "isv_prod_id": [1, 2],
        "min_isv_svn": 3,
    },
    "platform": {"smt": "deny", "dynamic_platform": "allow", "cached_keys": "deny"},
    "dangerous_allow_unbound_report_data": True,
    "key_custody": ["sealed"],
    "source_provenance": {
        "required": True,
        "repo_url": "https://example.com/repo",
        "repo_commit": "ab" * 20,
        "image_digest": "sha256:" + "ab" * 32,
    },
    "roots": ["ab" * 32],
}


def test_every_field_of_a_file_is_read(tmp_path: Path) -> None:
    as_json, as_yaml = tmp_path / "p.json", tmp_path / "p.yaml"
    as_json.write_text(json.dumps(FULL))
    as_yaml.write_text(yaml.safe_dump(FULL))
    policy = load_policy(FULL)
    assert policy == load_policy(as_json) == load_policy(str(as_yaml))
    assert policy.tcb.statuses == ("UpToDate", "SWHardeningNeeded")
    assert policy.tcb.allowed_advisories == {"INTEL-SA-00615"}
    assert policy.tcb.refused_advisories == {"INTEL-SA-00614"}
    assert policy.tcb.min_evaluation_data_number == 17
    assert policy.tcb.max_collateral_age_s == 86400
    assert policy.measurements is not None
    assert [dict(m) for m in policy.measurements["tdx"]] == FULL["measurements"]["tdx"]
    assert policy.tdx.td_attributes is not None
    assert policy.tdx.min_tee_tcb_svn[0] == 7
    assert policy.tdx.dangerous_allow_custom_seam
    assert policy.sgx.isv_prod_id == (1, 2)
    assert policy.sgx.mr_signer == ("ab" * 32,)
    assert policy.sgx.min_isv_svn == 3
    assert policy.denied_flags == ("cached_keys", "smt")
    assert policy.dangerous_allow_unbound_report_data
    assert policy.key_custody == ("sealed",)
    assert policy.source.required
    assert policy.roots == {"ab" * 32}


def test_what_a_file_leaves_out_refuses() -> None:
    policy = load_policy(MINIMAL)
    assert policy == Policy(name="mine")
    assert policy.measurements == {}, "no workload is wanted until one is named"
    assert policy.tcb.statuses == ("UpToDate",)
    assert policy.tcb.max_collateral_age_s == 30 * 86400
    assert policy.key_custody == ("generated", "sealed")
    assert not policy.inspection_only
    assert not policy.dangerous_allow_unbound_report_data
    assert not policy.tdx.dangerous_allow_custom_seam


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_policies_satisfy_the_published_schema(name: str) -> None:
    path = Path(load_policy.__code__.co_filename).parent / f"builtin/{name}.yaml"
    assert load_policy(path) == load_policy(name)
    assert load_policy(name).name == name


def test_only_genuine_is_for_inspection() -> None:
    assert load_policy("genuine").inspection_only
    assert load_policy("genuine").measurements is None
    assert not load_policy("strict").inspection_only
    assert load_policy("strict") == Policy(
        name="strict", description=load_policy("strict").description
    )


def test_the_schema_is_itself_valid_and_closed() -> None:
    Draft202012Validator.check_schema(schema())

    def objects(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, list):
            return [o for item in node for o in objects(item)]
        if not isinstance(node, dict):
            return []
        found = [o for item in node.values() for o in objects(item)]
        return [*found, node] if node.get("type") == "object" else found

    described = objects(schema())
    assert len(described) > 8
    assert all(o["additionalProperties"] is False for o in described)


def test_every_switch_that_weakens_looks_dangerous() -> None:
    weak = {k for k, v in FULL.items() if v is True} | {
        k for k, v in FULL["tdx"].items() if v is True
    }
    assert weak
    assert all(name.startswith("dangerous_") for name in weak)


def with_member(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(FULL))
    node = document
    *parents, last = path.split(".")
    for name in parents:
        node = node[name]
    node[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("version", "1"),
        ("version", True),
        ("name", ""),
        ("name", "line\nbreak"),
        ("name", None),
        ("surprise", 1),
        ("tcb.surprise", 1),
        ("tcb.statuses", []),
        ("tcb.statuses", ["Revoked"]),
        ("tcb.statuses", ["uptodate"]),
        ("tcb.statuses", "UpToDate"),
        ("tcb.advisories.refuse", ["SA-1"]),
        ("tcb.min_evaluation_data_number", -1),
        ("tcb.min_evaluation_data_number", 1.5),
        ("tcb.max_collateral_age_s", float("nan")),
        ("tcb.max_collateral_age_s", float("inf")),
        ("tcb.max_collateral_age_s", True),
        ("measurements", "none"),
        ("measurements.tdx", [{}]),
        ("measurements.tdx", [{"mr_td": "AB" * 48}]),
        ("measurements.tdx", [{"mr_td": "ab" * 32}]),
        ("measurements.tdx", [{"mr_td": int("1" * 96)}]),
        ("measurements.tdx", [{"rt_mr0": "ab" * 48}]),
        ("measurements.tdx", [{"mr_td": "ab" * 48, "rt_mr4": "ab" * 48}]),
        ("measurements.sgx", [{"mr_signer": "ab" * 32}]),
        ("measurements.snp", []),
        ("tdx.xfam", {"mask": "ff" * 8}),
        ("tdx.min_tee_tcb_svn", "07"),
        ("tdx.dangerous_allow_custom_seam", "yes"),
        ("sgx.min_isv_svn", 65536),
        ("sgx.mr_signer", []),
        ("platform.smt", "maybe"),
        ("dangerous_allow_unbound_report_data", 1),
        ("key_custody", []),
        ("key_custody", ["borrowed"]),
        ("source_provenance.repo_commit", "main"),
        ("source_provenance.image_digest", "ab" * 32),
        ("roots", []),
    ],
)
def test_field_out_of_the_schema_is_named(path: str, value: Any) -> None:
    with pytest.raises(MalformedEvidence) as e:
        load_policy(with_member(path, value))
    assert e.value.field.startswith("policy")


def test_any_measurement_needs_a_policy_for_inspection() -> None:
    with pytest.raises(MalformedEvidence, match="inspection_only"):
        load_policy({**MINIMAL, "measurements": "any"})
    assert load_policy({**MINIMAL, "measurements": "any", "inspection_only": True})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version: 1\nname: a\nname: b\n", "duplicate key 'name'"),
        ("version: 1\nname: a\ntcb: {statuses: [UpToDate], statuses: [OutOfDate]}\n", "duplicate"),
        ('{"version": 1, "name": "a", "name": "b"}', "duplicate"),
        ("version: 1\nname: &a mine\ndescription: *a\n", "alias"),
        ("a: &a [1]\nb: {<<: *a}\n", "alias"),
        ("version: 1\n1: x\n", "not a string"),
        ("? [1, 2]\n: x\n", "not YAML|not a string"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("version: 1\nname: a\n---\nversion: 1\n", "not YAML"),
        ("name: [", "not YAML"),
        ("name: \x00", "not YAML"),
        ("[" * 1000, "not YAML"),
        ("when: 2026-13-45\n", "not YAML"),
        ("", "is not of type 'object'"),
        ("just words", "is not of type 'object'"),
        ("- a\n- b\n", "is not of type 'object'"),
        ('{"version": NaN}', "not JSON"),
        ("#" * ((1 << 18) + 1), "longer than"),
    ],
)
def test_text_with_two_meanings_or_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(MalformedEvidence, match=reason):
        load_policy(path)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(MalformedEvidence, match="UTF-8"):
        load_policy(path)


def test_missing_file_is_an_os_error_not_a_policy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_policy(tmp_path / "absent.yaml")


def test_a_measurement_is_pinned_for_every_tee_whose_registers_have_its_length() -> None:
    policy = load_policy("strict").with_measurement("AB" * 48).with_measurement("cd" * 32)
    assert policy.measurements == {
        "tdx": ({"mr_td": "ab" * 48},),
        "sev-snp": ({"measurement": "ab" * 48},),
        "nitro": ({"pcr0": "ab" * 48},),
        "sgx": ({"mr_enclave": "cd" * 32},),
    }
    assert load_policy("strict").measurements == {}, "the policy it came from is unchanged"


def test_measurements_add_up_as_alternatives() -> None:
    policy = load_policy("strict").with_measurement("ab" * 48).with_measurement("cd" * 48)
    assert policy.measurements is not None
    assert len(policy.measurements["tdx"]) == 2


def test_pinning_under_genuine_stops_accepting_anything() -> None:
    assert load_policy("genuine").with_measurement("ab" * 48).measurements is not None


@pytest.mark.parametrize(
    "value", ["", "ab", "zz" * 48, "ab" * 33, "ab" * 47 + "a", "é" * 96, "ab " * 48]
)
def test_measurement_of_no_tee_is_refused(value: str) -> None:
    with pytest.raises(MalformedEvidence, match="measurement"):
        load_policy("strict").with_measurement(value)


def test_the_example_in_the_reference_is_a_policy(tmp_path: Path) -> None:
    reference = (Path(__file__).parents[2] / "docs/spec/policy.md").read_text()
    example = tmp_path / "example.yaml"
    example.write_text(reference.partition("```yaml\n")[2].partition("```")[0])
    policy = load_policy(example)
    assert policy.name == "production"
    assert policy.denied_flags == ("cached_keys",)


def test_the_reference_names_every_field_of_the_schema() -> None:
    reference = (Path(__file__).parents[2] / "docs/spec/policy.md").read_text()
    for name, member in schema()["properties"].items():
        assert name in reference
        for inner in member.get("properties", {}):
            assert inner in reference, f"{name}.{inner}"
