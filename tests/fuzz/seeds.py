"""Where fuzzing starts: healthy inputs of every kind, made by our own issuers and writers."""

from __future__ import annotations

import json


def quotes() -> list[bytes]:
    import attested

    return [attested.quote(kind) for kind in attested.KINDS]


def snp_reports() -> list[bytes]:
    import snp_pki

    return [snp_pki.report(version=version) for version in range(2, 6)]


def snp_endorsements() -> list[bytes]:
    import snp_pki

    return [json.dumps(snp_pki.endorsements().to_json()).encode()]


def snp_certificates() -> list[bytes]:
    import snp_pki

    from attestation.evidence.snp_certs import ARK_GUID, VCEK_GUID, CertificateTable

    named = [(VCEK_GUID, snp_pki.vek()), (ARK_GUID, snp_pki.ark())]
    return [CertificateTable.build(named).write(), bytes(24)]


def nitro_documents() -> list[bytes]:
    import nitro_pki

    return [nitro_pki.document(), b"\xd2" + nitro_pki.document()]


def nvidia_evidence() -> list[bytes]:
    import nvidia_pki

    return [nvidia_pki.evidence(), nvidia_pki.switch_evidence()]


def rims() -> list[bytes]:
    import nvidia_pki

    return [nvidia_pki.driver_rim(), nvidia_pki.rim_xml().encode()]


def eats() -> list[bytes]:
    import nvidia_pki

    return [nvidia_pki.bundle()]


def event_logs() -> list[bytes]:
    import eventlogs

    from attestation.evidence.eventlog_json import RtmrEventLog

    events = (eventlogs.runtime("app-id", b"\1" * 20), eventlogs.runtime("system-ready"))
    return [eventlogs.ccel(eventlogs.ccel_events()).write(), RtmrEventLog(events).write()]


def tpm_quotes() -> list[bytes]:
    import tpm_device

    return [tpm_device.quoted().write()]


def tpm_signatures() -> list[bytes]:
    import tpm_device

    keys = (tpm_device.ak(), tpm_device.rsa_ak())
    return [tpm_device.signed(b"quote", key).write() for key in keys]


def tpm_publics() -> list[bytes]:
    import tpm_device

    return [tpm_device.public_area().write(), tpm_device.public_area(tpm_device.rsa_ak()).write()]


def hcl_reports() -> list[bytes]:
    import tpm_device

    return [tpm_device.hcl().write()]


def azure_bundles() -> list[bytes]:
    import tpm_device

    return [json.dumps(tpm_device.bundle_json()).encode()]


def dstack_attestations() -> list[bytes]:
    import attested
    import eventlogs

    from attestation.evidence.dstack_attestation import DstackAttestation
    from attestation.evidence.eventlog_json import RtmrEventLog

    events = RtmrEventLog((eventlogs.runtime("app-id", b"\1" * 20),))
    whole = DstackAttestation(attested.quote("tdx-v4"), events, bytes(64), "{}")
    return [whole.write(), DstackAttestation(b"quote", events, bytes(64), "{}").write()]


def dstack_documents() -> list[bytes]:
    from attestation.canonical import jcs

    compose = {"manifest_version": 2, "name": "n", "runner": "docker-compose", "kms_enabled": True}
    return [
        b"\0" + jcs(compose),
        b'\1{"name":"kms","id":"3059ab"}',
        b'\2{"spec_version":1,"os_image_hash":"' + b"ab" * 32 + b'","cpu_count":1}',
    ]


def certificates() -> list[bytes]:
    from ratls_peers import der_of, issued

    return [der_of(issued("tdx")), der_of(issued("sgx"))]


def certificate_evidence() -> list[bytes]:
    from ratls_peers import ec_key, evidence_for, spki_of

    return [evidence_for(spki_of(ec_key(1)))]


def certificate_endorsements() -> list[bytes]:
    import attested

    from attestation.ratls.endorsements import write_endorsements

    return [write_endorsements(attested.collateral("tdx"))]


def introductions() -> list[bytes]:
    import attested
    from ratls_peers import der_of, issued

    from attestation.ratls.introduction import Introduction

    return [Introduction(der_of(issued()), attested.collateral("tdx")).write()]


def sigstructs() -> list[bytes]:
    import manifest_inputs

    from attestation.manifest.measure import measure, parse_manifest
    from attestation.manifest.sigstruct import parse_date, sign_sigstruct, unsigned_sigstruct

    measured = measure(manifest_inputs.TINY_MANIFEST, manifest_inputs.libpal())
    document = parse_manifest(manifest_inputs.TINY_MANIFEST)
    unsigned = unsigned_sigstruct(document, measured.mr_enclave, parse_date("2026-01-02"))
    return [sign_sigstruct(unsigned, manifest_inputs.signing_key()).write()]


def programs() -> list[bytes]:
    import manifest_inputs

    return [manifest_inputs.libpal()]


def collaterals() -> list[bytes]:
    import attested

    return [json.dumps(attested.collateral(tee).to_json()).encode() for tee in ("tdx", "sgx")]


def reports() -> list[bytes]:
    import attested

    return [json.dumps(attested.report()).encode()]


def policies() -> list[bytes]:
    from importlib import resources

    folder = resources.files("attestation.policy").joinpath("builtin")
    return [folder.joinpath(f"{name}.yaml").read_bytes() for name in ("strict", "genuine")]


def one_of_each() -> list[bytes]:
    makers = (snp_reports, nitro_documents, nvidia_evidence, eats, event_logs, tpm_quotes)
    return [*quotes()[:2], *(make()[0] for make in makers), *certificates()[:1], *hcl_reports()]
