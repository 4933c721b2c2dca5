"""A script can tell from the exit code what a contract held against what it was given."""

from __future__ import annotations

import json

import pytest

from adyton.cli.chain_refusals import code_of, hints_of
from adyton.cli.failures import exit_code_of, failure_of
from attestation.onchain.errors import NotProvable
from attestation.onchain.faults import AccountError, ContractRefused, RpcUnreachable, SendUncertain


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("CrlExpired", 6),
        ("KeyUnknown", 6),
        ("P256VerifierMissing", 6),
        ("BlockTooOld", 6),
        ("MeasurementNotAllowed", 5),
        ("NodeUnknown", 5),
        ("TdIsDebug", 5),
        ("OwnableUnauthorizedAccount", 5),
        ("KeysetExpired", 5),
        ("SeatTaken", 5),
        ("NodeExpired", 5),
        ("CrlOutdated", 6),
        ("QuoteTruncated", 3),
        ("DerOverrun", 3),
        ("CompactGoesOn", 3),
        ("KeysetBracketUnexpected", 3),
        ("QuoteVersionUnsupported", 3),
        ("QuoteSignatureInvalid", 4),
        ("SerialRevoked", 4),
        ("TcbRevoked", 4),
        ("ReportDataMismatch", 4),
        ("CommitmentMismatch", 4),
    ],
)
def test_refusals_have_the_exit_codes_of_the_design(name: str, code: int) -> None:
    assert code_of(ContractRefused(name))[0] == code == exit_code_of(ContractRefused(name))[0]


@pytest.mark.parametrize("name", ["", "0x12345678", "Error", "SomethingNew"])
def test_a_refusal_nobody_thought_of_is_no_outage(name: str) -> None:
    assert code_of(ContractRefused(name))[0] == 4


def test_stale_collateral_says_who_may_mend_it() -> None:
    assert any("anyone" in hint for hint in hints_of(ContractRefused("TcbInfoExpired")))
    assert hints_of(ContractRefused("QuoteSignatureInvalid")) == ()


def test_the_json_form_has_name_and_arguments() -> None:
    refused = ContractRefused("NodeUnknown", ("0x" + "11" * 20, b"\x5a" * 32, 7))
    told = json.loads(json.dumps(failure_of(refused).to_json()))
    assert told["contract_error"] == "NodeUnknown"
    assert told["arguments"] == ["0x" + "11" * 20, "0x" + "5a" * 32, "7"]


def test_other_failures_have_theirs() -> None:
    assert exit_code_of(RpcUnreachable("silent"))[0] == 6
    assert exit_code_of(SendUncertain("0x" + "11" * 32, 0, "silent"))[0] == 6
    assert exit_code_of(AccountError("no key"))[0] == 2
    assert exit_code_of(NotProvable("quote", "too new"))[0] == 5
