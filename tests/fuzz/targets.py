"""What is fuzzed: every reader of bytes that somebody else wrote.

A target is a reader and the errors it may raise; anything else that escapes is a finding.
Readers that mirror a writer must also write back exactly what they read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import seeds

from attestation.errors import (
    AttestationError,
    CollateralError,
    MalformedEvidence,
    VerificationError,
)

Reader = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Target:
    """`read` may raise only `errors`. `seeds` are inputs to begin with, made by our own code."""

    read: Reader
    seeds: Callable[[], list[bytes]]
    errors: tuple[type[Exception], ...] = (MalformedEvidence,)
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


def _tpm(data: bytes) -> Any:
    from attestation.evidence.tpm import TpmQuote

    return TpmQuote.read(data)


def _tpm_signature(data: bytes) -> Any:
    from attestation.evidence.tpm import TpmSignature

    return TpmSignature.read(data)


def _tpm_public(data: bytes) -> Any:
    from attestation.evidence.tpm_public import TpmPublic

    return TpmPublic.read(data)


def _hcl(data: bytes) -> Any:
    from attestation.evidence.hcl import HclReport

    return HclReport.read(data)


def _azure(data: bytes) -> Any:
    from attestation.evidence.azure import AzureBundle

    return AzureBundle.read(data)


def _rim(data: bytes) -> Any:
    from attestation.evidence.rim import read_rim

    return read_rim(data)


def _eat(data: bytes) -> Any:
    from attestation.evidence.nras import DetachedEat

    return DetachedEat.read(data)


def _dstack(data: bytes) -> Any:
    from attestation.evidence.dstack_attestation import DstackAttestation

    return DstackAttestation.read(data)


def _dstack_documents(data: bytes) -> Any:
    """The three documents of a guest: whichever the first byte chooses."""
    from attestation.evidence.dstack import AppCompose, KeyProviderInfo, VmConfig

    readers = (AppCompose.read, KeyProviderInfo.read, VmConfig.read)
    return readers[data[0] % len(readers)](data[1:]) if data else None


def _ratls(data: bytes) -> Any:
    from attestation.ratls import RaTlsCertificate, certificate_der

    return RaTlsCertificate.read(certificate_der(data))


def _ratls_evidence(data: bytes) -> Any:
    from attestation.ratls.extension import TaggedEvidence

    return TaggedEvidence.read(data)


def _ratls_endorsements(data: bytes) -> Any:
    from attestation.ratls.endorsements import read_endorsements

    return read_endorsements(data)


def _introduction(data: bytes) -> Any:
    from attestation.ratls.introduction import Introduction

    return Introduction.read(data)


def _described(data: bytes) -> Any:
    from attestation.collateral.describe import describe

    return describe(data, (), 1_780_000_000)


def _sigstruct(data: bytes) -> Any:
    from attestation.manifest.sigstruct import Sigstruct

    return Sigstruct.read(data)


def _elf(data: bytes) -> Any:
    from attestation.manifest.elf import read_program

    return read_program(data, "libpal.so")


def _snp_endorsements(data: bytes) -> Any:
    from attestation.canonical import loads_strict
    from attestation.collateral.snp import SnpEndorsements

    return SnpEndorsements.from_json(loads_strict(data))


def _collateral_file(data: bytes) -> Any:
    from attestation.collateral.bundle import read_collateral_file

    return read_collateral_file(data)


def _collateral(data: bytes) -> Any:
    from attestation.canonical import loads_strict
    from attestation.collateral.model import Collateral
    from attestation.verify.endorsements import read_endorsements

    return read_endorsements(Collateral.from_json(loads_strict(data)))


def _policy(data: bytes) -> Any:
    from attestation.policy.load import _checked, _parse

    return _checked(_parse(data), None)


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


ENDORSEMENTS = (MalformedEvidence, CollateralError)
ANY = (AttestationError,)
DOCUMENT = 64 << 10

TARGETS: dict[str, Target] = {
    "quote": Target(_mirrored(_quote), seeds.quotes),
    "snp": Target(_mirrored(_snp), seeds.snp_reports, max_len=2048),
    "snp_certificates": Target(_mirrored(_snp_certificates), seeds.snp_certificates),
    "snp_endorsements": Target(_snp_endorsements, seeds.snp_endorsements, ENDORSEMENTS, DOCUMENT),
    "nitro": Target(_nitro, seeds.nitro_documents),
    "nvidia": Target(_nvidia, seeds.nvidia_evidence),
    "rim": Target(_rim, seeds.rims, ENDORSEMENTS),
    "eat": Target(_eat, seeds.eats),
    "event_log": Target(_event_log, seeds.event_logs),
    "tpm": Target(_mirrored(_tpm), seeds.tpm_quotes, max_len=2048),
    "tpm_signature": Target(_mirrored(_tpm_signature), seeds.tpm_signatures, max_len=2048),
    "tpm_public": Target(_mirrored(_tpm_public), seeds.tpm_publics, max_len=2048),
    "hcl": Target(_hcl, seeds.hcl_reports),
    "azure": Target(_azure, seeds.azure_bundles, max_len=DOCUMENT),
    "dstack": Target(_mirrored(_dstack), seeds.dstack_attestations),
    "dstack_documents": Target(_dstack_documents, seeds.dstack_documents),
    "ratls": Target(_ratls, seeds.certificates, (*ENDORSEMENTS, VerificationError)),
    "ratls_evidence": Target(_ratls_evidence, seeds.certificate_evidence),
    "ratls_endorsements": Target(
        _ratls_endorsements, seeds.certificate_endorsements, ENDORSEMENTS, DOCUMENT
    ),
    "introduction": Target(_introduction, seeds.introductions, ENDORSEMENTS, DOCUMENT),
    "described": Target(_described, seeds.collaterals, ENDORSEMENTS, DOCUMENT),
    "sigstruct": Target(_mirrored(_sigstruct), seeds.sigstructs, max_len=4096),
    "elf": Target(_elf, seeds.programs),
    "collateral": Target(_collateral, seeds.collaterals, ENDORSEMENTS, DOCUMENT),
    "collateral_file": Target(_collateral_file, seeds.collaterals, ENDORSEMENTS, DOCUMENT),
    "policy": Target(_policy, seeds.policies),
    "report": Target(_report, seeds.reports, ANY, DOCUMENT),
    "receipt": Target(_receipt, seeds.reports, ANY),
    "kind": Target(_kind, seeds.one_of_each, ()),
    "explain": Target(_explained, seeds.one_of_each, ()),
}
