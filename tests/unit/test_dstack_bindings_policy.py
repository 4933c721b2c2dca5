"""The policy section `dstack`: each rule refuses what it names, and nothing it does not prove."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import attested
import pytest
from eventlogs import rtmr3
from test_dstack_bindings import CHECKSUMS, COMPOSE_HASH, boot, judge, report_of, vm_config

from attestation.canonical import sha256_hex
from attestation.errors import MalformedEvidence
from attestation.policy import load_policy
from attestation.policy.dstack import DstackPolicy, dstack_findings
from attestation.verify.dstack import DstackFacts
from attestation.verify.dstack_keys import ReleasedKey
from attestation.verify.model import _SEAL

EVENTS = boot()
REPORT = report_of(EVENTS)
CHOSEN = boot(app_id=b"\x07" * 20)


def section(**members: Any) -> DstackPolicy:
    return load_policy({"version": 1, "name": "dstack", "dstack": members}).dstack


def fields(facts: DstackFacts, report: Any = None, /, **members: Any) -> list[str]:
    members = {"dangerous_allow_any_os_image": True, **members}
    found = dstack_findings(report or REPORT, facts, section(**members))
    return [f.field for f in found]


def test_no_guest_is_wanted_unless_something_is_asked() -> None:
    assert list(dstack_findings(REPORT, None, DstackPolicy())) == []
    weaker = section(dangerous_allow_any_os_image=True)
    assert list(dstack_findings(REPORT, None, weaker)) == []
    for members in ({"required": True}, {"app_ids": ["00" * 20]}):
        found = list(dstack_findings(REPORT, None, section(**members)))
        assert [f.field for f in found] == ["dstack"]


def test_everything_wanted_is_found() -> None:
    key = ReleasedKey(
        public_key="02" + "00" * 32,
        purpose="p",
        app_id="",
        app_public_key="",
        kms_public_key="03" + "11" * 32,
        seal=_SEAL,
    )
    facts = replace(judge(EVENTS, vm_config=vm_config()), released_key=key, seal=_SEAL)
    assert not fields(
        facts,
        required=True,
        dangerous_allow_any_os_image=False,
        app_ids=[COMPOSE_HASH[:20].hex()],
        compose_hashes=[COMPOSE_HASH.hex()],
        os_image_hashes=[sha256_hex(CHECKSUMS)],
        instance_ids=["06" * 20],
        key_providers=[{"name": "tpm"}, {"name": "kms", "id": "3059ab"}],
        kms_root_public_keys=["03" + "11" * 32],
    )


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"app_ids": ["00" * 20]}, "dstack.app_id"),
        ({"compose_hashes": ["00" * 32]}, "dstack.compose_hash"),
        ({"instance_ids": ["00" * 20]}, "dstack.instance_id"),
        ({"os_image_hashes": ["00" * 32]}, "dstack.os_image_hash"),
        ({"key_providers": [{"name": "local-sgx"}]}, "dstack.key_provider"),
        ({"key_providers": [{"name": "kms", "id": "00"}]}, "dstack.key_provider"),
        ({"kms_root_public_keys": ["02" + "00" * 32]}, "dstack.kms_root_public_key"),
    ],
    ids=str,
)
def test_what_is_not_listed_is_refused(members: dict[str, Any], field: str) -> None:
    assert fields(judge(EVENTS), **members) == [field]


def test_an_image_that_only_host_or_kms_name_is_not_proven() -> None:
    from eventlogs import runtime

    named = [*boot(system_ready=None), runtime("os-image-hash", b"\x08" * 32)]
    events = [*named, runtime("system-ready")]
    assert rtmr3(events) != rtmr3(named)
    facts = judge(events, vm_config='{"os_image_hash": "%s"}' % ("08" * 32))
    found = list(dstack_findings(report_of(events), facts, section(os_image_hashes=["08" * 32])))
    assert [(f.field, f.actual) for f in found] == [("dstack.os_image_hash", "not proven")]


@pytest.mark.parametrize(
    "members", [{"required": True}, {"compose_hashes": [COMPOSE_HASH.hex()]}], ids=str
)
def test_what_an_unknown_image_measured_is_not_believed(members: dict[str, Any]) -> None:
    """RTMR3 is written by the operating system: any other one could write the same."""
    facts = judge(EVENTS, vm_config=vm_config())
    found = list(dstack_findings(REPORT, facts, section(**members)))
    assert [(f.field, f.actual) for f in found] == [("dstack.os_image_hash", facts.os_image_hash)]
    bare = list(dstack_findings(REPORT, judge(EVENTS), section(**members)))
    assert [f.actual for f in bare] == ["not proven"]
    assert not list(dstack_findings(REPORT, facts, DstackPolicy()))


def test_a_guest_without_a_key_provider_satisfies_no_pin() -> None:
    events = boot(key_provider=None)
    found = fields(judge(events), report_of(events), key_providers=[{"name": "none"}])
    assert found == ["dstack.key_provider"]


def test_an_app_id_somebody_chose_needs_more_than_itself() -> None:
    facts, report = judge(CHOSEN), report_of(CHOSEN)
    pinned = {"app_ids": ["07" * 20]}
    assert fields(facts, report, **pinned) == ["dstack.compose_hash"]
    assert not fields(facts, report, **pinned, compose_hashes=[COMPOSE_HASH.hex()])
    assert not fields(facts, report, **pinned, key_providers=[{"name": "kms"}])
    without = boot(app_id=b"\x07" * 20, key_provider=None)
    assert fields(judge(without), report_of(without), **pinned) == ["dstack.compose_hash"]


def test_facts_of_another_report_are_refused() -> None:
    assert fields(judge(EVENTS), report_of(CHOSEN)) == ["dstack.mr_aggregated"]
    assert fields(judge(EVENTS), attested.verify("sgx-v3")) == ["dstack.mr_aggregated"]


@pytest.mark.parametrize(
    "members",
    [
        {"app_ids": []},
        {"app_ids": ["0x" + "00" * 20]},
        {"compose_hashes": ["00"]},
        {"key_providers": [{"id": "00"}]},
        {"key_providers": [{"name": "other"}]},
        {"kms_root_public_keys": ["04" + "00" * 32]},
        {"other": True},
    ],
    ids=str,
)
def test_a_section_of_another_shape_is_malformed(members: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidence):
        section(**members)
