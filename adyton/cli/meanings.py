"""What each field of evidence means, in a sentence a person can use.

Keyed by the field's own name, or by its kind and name where two formats use one name for
two things. Bits are spelt out, because a hexadecimal mask explains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MEANINGS: Final[dict[str, str]] = {
    # Quote header and signature (Intel, DCAP quoting library API)
    "version": "version of the format",
    "attestation_key_type": "algorithm of the attestation key: 2 is ECDSA over P-256",
    "tee_type": "which TEE made the report: 0 is SGX, 0x81 is TDX",
    "qe_svn": "security version of the quoting enclave (SGX quotes)",
    "pce_svn": "security version of the provisioning certification enclave (SGX quotes)",
    "qe_vendor_id": "who made the quoting enclave; Intel's is 939a7233f79c4ca9940a0db3957f0607",
    "user_data": "first 16 bytes identify the platform to its owner",
    "body_type": "layout of the body that follows",
    "body_size": "its size in bytes",
    "signature_data_size": "bytes of signature data that follow the body",
    "signature.signature": "attestation key's ECDSA signature (r, s) over header and body",
    "attestation_key": "public half of the attestation key (x, y)",
    "certification_data_type": "what vouches for the attestation key: 5 a PCK chain, 6 a QE report",
    "certification_data_size": "its size in bytes",
    "certification_data": "PCK certificate chain, PEM, leaf first",
    "qe_report": "the quoting enclave's own report, signed with the PCK key",
    "qe_report_signature": "PCK key's ECDSA signature over the QE report",
    "qe_auth_data_size": "bytes of authentication data",
    "qe_auth_data": "hashed with the attestation key into the QE report's report_data",
    # SGX
    "cpu_svn": "security version of CPU and microcode, one byte a component",
    "misc_select": "extra state saved when the enclave is interrupted",
    "isv_ext_prod_id": "extended product id, set by the signer",
    "attributes": "enclave attributes: flags, then XFRM (CPU features)",
    "mr_enclave": "SHA-256 of the enclave's code and data as it was built: which program runs",
    "mr_signer": "SHA-256 of the key that signed the enclave",
    "config_id": "identity of the configuration the enclave was started with",
    "isv_prod_id": "product id, set by the signer",
    "isv_svn": "security version of the enclave, set by the signer",
    "config_svn": "security version of the configuration",
    "isv_family_id": "family id, set by the signer",
    "report_data": "chosen by the workload: here stands the hash of its keys and your nonce",
    # TDX
    "tee_tcb_svn": "security versions of the TDX module and its loader",
    "mr_seam": "SHA-384 of the TDX module",
    "mr_signer_seam": "who signed the TDX module; zero is Intel",
    "seam_attributes": "attributes of the TDX module; zero for Intel's production module",
    "td_attributes": "attributes of the TD: debug, migration, performance counters",
    "xfam": "CPU features the TD may use",
    "mr_td": "SHA-384 of the TD's initial memory: which firmware it started with",
    "mr_config_id": "configuration identity, set by whoever started the TD",
    "mr_owner": "identity of the TD's owner, as set at start",
    "mr_owner_config": "owner's configuration, as set at start",
    "rt_mr0": "measured at run time: virtual firmware's configuration",
    "rt_mr1": "measured at run time: boot loader, kernel",
    "rt_mr2": "measured at run time: kernel command line, initrd",
    "rt_mr3": "measured at run time: what the guest's own software extends",
    "tee_tcb_svn2": "security versions the TDX module has been updated to since the TD started",
    "mr_service_td": "service TDs bound to this TD, which could reach into it",
    # SEV-SNP (AMD 56860)
    "guest_svn": "security version of the guest, set by its owner",
    "policy": "what the guest's owner allowed at launch",
    "family_id": "family id, set by the guest's owner",
    "image_id": "image id, set by the guest's owner",
    "vmpl": "privilege level the report was asked from; 0 is the highest",
    "signature_algo": "signature algorithm: 1 is ECDSA P-384 with SHA-384",
    "current_tcb": "security versions of the firmware running now",
    "platform_info": "what is switched on in this machine",
    "key_info": "bit 0 author key, bit 1 chip id masked, bits 2-4 signing key (0 VCEK, 1 VLEK)",
    "measurement": "SHA-384 of the guest's initial memory: which firmware it started with",
    "host_data": "32 bytes the host gave at launch",
    "id_key_digest": "SHA-384 of the key that signed the guest's identity block",
    "author_key_digest": "SHA-384 of the key that signed that key",
    "report_id": "random id of this guest",
    "report_id_ma": "report id of its migration agent; all ones is none",
    "reported_tcb": "security versions the host wants the report to be judged by",
    "cpuid_fam_id": "CPU family (combined)",
    "cpuid_mod_id": "CPU model (combined)",
    "cpuid_step": "CPU stepping",
    "chip_id": "which chip this is; zero where the host masked it",
    "committed_tcb": "firmware versions that cannot be rolled back below",
    "launch_tcb": "firmware versions when the guest was launched or imported",
    "launch_mit_vector": "mitigations in force at launch",
    "current_mit_vector": "mitigations in force now",
    "signature_r": "ECDSA r, little-endian",
    "signature_s": "ECDSA s, little-endian",
    # TPM 2.0 (TCG, part 2)
    "magic": "says that the TPM itself made this structure: 0xff544347",
    "type": "what is attested: 0x8018 is a quote of PCRs",
    "qualified_signer": "name of the attestation key",
    "extra_data": "chosen by whoever asked: the nonce",
    "clock": "milliseconds the TPM has run",
    "reset_count": "how often the TPM was reset",
    "restart_count": "how often it was resumed",
    "safe": "whether the clock may have gone back",
    "firmware_version": "vendor's firmware version",
    "pcr_select": "which PCRs are in the digest, one bit each",
    "pcr_digest": "digest over the values of the selected PCRs",
    # Event logs (TCG PC Client Platform Firmware Profile)
    "pcr_index": "register that was extended",
    "event_type": "what kind of thing was measured",
    "digest_count": "digests of this event, one a hash algorithm",
    "algorithm_id": "hash algorithm: 4 SHA-1, 0xb SHA-256, 0xc SHA-384, 0xd SHA-512",
    "digest": "what the register was extended with",
    "event_size": "bytes of event data",
    "event": "event data; trustworthy only where its hash is the digest",
    # AWS Nitro (attestation document specification)
    "module_id": "which enclave of which instance",
    "nitro.digest": "hash algorithm of the registers",
    "timestamp_ms": "when the document was made, in milliseconds since 1970",
    "pcrs.0": "SHA-384 of the enclave image: which program runs; zero in debug mode",
    "pcrs.1": "SHA-384 of kernel and boot ramdisk",
    "pcrs.2": "SHA-384 of the application, without boot ramdisk",
    "pcrs.3": "SHA-384 of the parent instance's IAM role",
    "pcrs.4": "SHA-384 of the parent instance's id",
    "pcrs.8": "SHA-384 of the certificate that signed the enclave image",
    "cabundle": "certificates from AWS's root down to the issuer",
    "certificate": "certificate of the key that signed this document",
    "nitro.public_key": "chosen by the enclave: a key of its own",
    "nitro.user_data": "chosen by the enclave; here stands the hash of its keys",
    "nitro.nonce": "chosen by whoever asked",
    # NVIDIA (SPDM 1.1, DSP0274)
    "nonce": "random bytes against replay",
    "active": "whether this reference value is to be compared",
    "tag_id": "name of this set of reference values",
    "measres": "NVIDIA's verdict on the measurements",
    "secboot": "whether the device booted only signed firmware",
    "dbgstat": "whether debugging is possible",
    "eat_nonce": "the nonce the evidence was made for",
    "spki_sha256": "SHA-256 of the certificate's public key",
    "pubkey_hash": "hash of the key the evidence is for",
    "slot_id": "certificate slot asked for",
    "number_of_blocks": "measurement blocks in the answer",
    "measurement_value": "one measurement of firmware or configuration",
    "opaque_data": "NVIDIA's own fields: versions, project, chip",
    "trailing": "bytes after the evidence, which nobody signed",
    "rest": "bytes after the evidence, which nobody signed",
}

Bits = dict[int, str]
_SGX_FLAGS: Final[Bits] = {
    0: "initialised",
    1: "DEBUG: memory can be read from outside",
    2: "64-bit",
    4: "may use the provisioning key",
    5: "may use the launch token key",
    7: "key separation and sharing",
    10: "AEX notify",
}
_TD_FLAGS: Final[Bits] = {
    0: "DEBUG: memory can be read from outside",
    27: "linear-address separation",
    28: "EPT violations do not become #VE",
    29: "MIGRATABLE: a migration TD may move it",
    30: "protection keys",
    31: "key locker",
    63: "performance monitoring",
}
_SNP_POLICY: Final[Bits] = {
    16: "SMT allowed",
    18: "MIGRATION AGENT allowed",
    19: "DEBUG: the host may decrypt memory",
    20: "single socket only",
    21: "CXL allowed",
    22: "AES-256-XTS required",
    23: "RAPL must be off",
    24: "ciphertext hiding required",
    25: "page swap disabled",
}
_SNP_PLATFORM: Final[Bits] = {
    0: "SMT on",
    1: "TSME on",
    2: "ECC memory",
    3: "RAPL off",
    4: "ciphertext hiding on",
    5: "memory alias check passed",
    7: "TIO on",
}


def _bits(value: int, names: Bits) -> str:
    """The names of the bits that are set."""
    return ", ".join(text for bit, text in names.items() if value >> bit & 1) or "none set"


def _first_u64(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


_SPELLED: Final[dict[str, Callable[[bytes], str]]] = {
    "attributes": lambda d: _bits(_first_u64(d), _SGX_FLAGS),
    "td_attributes": lambda d: _bits(_first_u64(d), _TD_FLAGS),
    "policy": lambda d: f"firmware ABI {d[1]}.{d[0]} or later, {_bits(_first_u64(d), _SNP_POLICY)}",
    "platform_info": lambda d: _bits(_first_u64(d), _SNP_PLATFORM),
}


def meaning(name: str, data: bytes) -> str:
    """What the field called `name` (dotted, outermost first) means, its bits spelt out.

    Empty where nothing is known of it. Reserved fields say so.
    """
    parts = name.split(".")
    leaf = parts[-1]
    if "reserved" in leaf:
        return "reserved, zero"
    told = MEANINGS.get(".".join(parts[-2:])) or MEANINGS.get(leaf, "")
    spelled = _SPELLED.get(leaf)
    return f"{told}: {spelled(data)}" if spelled and len(data) >= 8 else told
