"""Virtual TPMs of confidential VMs on Azure: hardware vouches for the key that signs quotes.

The paravisor makes the vTPM and its attestation key, and asks the hardware for a report over
runtime claims that name the key. So a quote counts as far as the paravisor does, whose
measurement is the hardware report's: a policy must pin that too, or anyone with a genuine
machine could vouch for a TPM of his own making.
Spec: OpenVMM, igvm_attest/get.rs; Microsoft Learn, "guest attestation design".
"""

from __future__ import annotations

import hmac
from typing import Final

from attestation.errors import VerificationError
from attestation.evidence.azure import AzureBundle
from attestation.evidence.hcl import SNP_VM_REPORT, TDX_VM_REPORT, HclReport
from attestation.evidence.tpm import TpmSignature
from attestation.verify.dcap_report import DcapReport
from attestation.verify.model import _SEAL
from attestation.verify.snp_report import SnpReport
from attestation.verify.tpm import TpmReport, verify_tpm
from attestation.verify.tpm_key import BoundKey, rsa_key

_KINDS: Final = {SNP_VM_REPORT: "sev-snp", TDX_VM_REPORT: "tdx"}
_PARAVISOR_VMPL: Final = 0


def vouched_key(hcl: HclReport, hardware: SnpReport | DcapReport) -> BoundKey:
    """The vTPM's key, which the runtime claims name and `hardware` was asked to report.

    `hardware` is the verified SNP report of `hcl`, or a verified TDX quote over the same
    claims. Raises MalformedEvidence when the claims name no key, and VerificationError:
    `report_type`, `vmpl`, `runtime_claims`, `key`.
    """
    if hardware.tee != _KINDS[hcl.report_type]:
        kind = _KINDS[hcl.report_type]
        raise VerificationError("report_type", f"{kind} in the HCL report, not {hardware.tee}")
    if isinstance(hardware, SnpReport) and hardware.report.vmpl != _PARAVISOR_VMPL:
        # At any other level the guest itself asked, over claims of its own.
        raise VerificationError("vmpl", f"{hardware.report.vmpl} is not the paravisor's")
    if not hmac.compare_digest(hardware.report_data, hcl.report_data):
        raise VerificationError("runtime_claims", "the hardware's report is not over these claims")
    jwk = hcl.attestation_key()
    return BoundKey(
        key=rsa_key(jwk.n, jwk.e),
        binding="hardware",
        root_sha256=hardware.root_sha256,
        not_before=hardware.endorsements_not_before,
        not_after=hardware.endorsements_not_after,
        hardware=hardware,
        seal=_SEAL,
    )


def verify_azure_vtpm(
    bundle: AzureBundle, hardware: SnpReport | DcapReport, now: int, *, nonce: bytes | None = None
) -> TpmReport:
    """The quote is by the vTPM of the confidential VM that `hardware` is the report of.

    `hardware` is what verification made of the SNP report in the bundle's HCL report, or of
    its TD quote. Pure. Raises as `vouched_key` and `verify_tpm` do.
    """
    key = vouched_key(HclReport.read(bundle.hcl_report), hardware)
    signature = TpmSignature.rsassa_sha256(bundle.signature)
    pcrs = dict(enumerate(bundle.pcrs))
    return verify_tpm(bundle.message, signature, pcrs, key, now, nonce=nonce)
