"""What is fuzzed: every reader of bytes that somebody else wrote.

A target is a reader and the errors it may raise; anything else that escapes is a finding.
Readers that mirror a writer must also write back exactly what they read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from attestation.errors import AttestationError, CollateralError, MalformedEvidence

Reader = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Target:
    """`read` may raise only `errors`. `seeds` are inputs to begin with, made by our own code."""

    read: Reader
    errors: tuple[type[Exception], ...] = (MalformedEvidence,)
    seeds: Callable[[], list[bytes]] = field(default=list)
    max_len: int = 16 << 10

    def run(self, data: bytes) -> None:
        """One input. Whatever leaves this function is a finding."""
        try:
            self.read(data)
        except self.errors:
            return


class NotWrittenBack(AssertionError):
    """A reader and its writer disagree about the same bytes."""


def _mirrored(read: Reader) -> Reader:
    def both(data: bytes) -> None:
        written = read(data).write()
        if written != data:
            raise NotWrittenBack(f"{data.hex()} was written back as {written.hex()}")

    return both


# --- readers, imported when their target runs -----------------------------------------------


def _quote(data: bytes) -> Any:
    from attestation.evidence import parse_quote

    return parse_quote(data)


def _snp(data: bytes) -> Any:
    from attestation.evidence.snp import AttestationReport

    return AttestationReport.read(data)


def _snp_certificates(data: bytes) -> Any:
    from attestation.evidence.snp_certs import CertificateTable

    return CertificateTable.read(data)


def _nitro(data: bytes) -> Any:
    from attestation.evidence.nitro import NitroDocument

    return NitroDocument.read(data)


def _nvidia(data: bytes) -> Any:
    from attestation.evidence.nvidia import NvidiaEvidence

    return NvidiaEvidence.read(data)


def _event_log(data: bytes) -> Any:
    from attestation.evidence.eventlog_json import parse_event_log

    return parse_event_log(data)


def _collateral(data: bytes) -> Any:
    from attestation.canonical import loads_strict
    from attestation.collateral.model import Collateral
    from attestation.verify.endorsements import read_endorsements

    return read_endorsements(Collateral.from_json(loads_strict(data)))


def _policy(data: bytes) -> Any:
    from attestation.policy.load import _checked, _parse

    return _checked(_parse(data))


def _report(data: bytes) -> Any:
    from attestation.canonical import loads_strict
    from attestation.policy import load_policy
    from attestation.report import appraise_report

    return appraise_report(
        loads_strict(data),
        nonce=None,
        roots=(),
        policy=load_policy("genuine"),
        now=1_780_000_000,
    )


def _receipt(data: bytes) -> Any:
    from attested import keyset

    from attestation.canonical import loads_strict
    from attestation.receipts import verify_receipt

    return verify_receipt(loads_strict(data), keyset())


def _kind(data: bytes) -> Any:
    from attestation.evidence.kind import kind_of

    return kind_of(data)


def _explained(data: bytes) -> Any:
    from adyton.cli.explain import explain_bytes

    return explain_bytes(data).to_json()


# --- seeds --------------------------------------------------------------------------------------


def _quotes() -> list[bytes]:
    import attested

    return [attested.quote(kind) for kind in attested.KINDS]


def _documents(make: Callable[[], Any]) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        import json

        return [json.dumps(make()).encode()]

    return seeds


def _a_collateral() -> Any:
    import attested

    return attested.collateral("tdx").to_json()


def _a_report() -> Any:
    import attested

    return attested.report()


DOCUMENT = 64 << 10
A_POLICY = b"version: 1\nname: x\ntcb: {statuses: [UpToDate]}\nmeasurements: {}\n"

TARGETS: dict[str, Target] = {
    "quote": Target(_mirrored(_quote), seeds=_quotes),
    "snp": Target(_mirrored(_snp), max_len=2048),
    "snp_certificates": Target(_mirrored(_snp_certificates)),
    "nitro": Target(_nitro),
    "nvidia": Target(_nvidia),
    "event_log": Target(_event_log),
    "collateral": Target(
        _collateral,
        (MalformedEvidence, CollateralError),
        _documents(_a_collateral),
        DOCUMENT,
    ),
    "policy": Target(
        _policy, seeds=lambda: [b"version: 1\nname: x\ntcb: {statuses: [UpToDate]}\n"]
    ),
    "report": Target(_report, (AttestationError,), _documents(_a_report), DOCUMENT),
    "receipt": Target(_receipt, (AttestationError,)),
    "kind": Target(_kind, (), _quotes),
    "explain": Target(_explained, (), _quotes),
}
