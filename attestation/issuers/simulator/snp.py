"""A simulated SEV-SNP machine at one moment: its VCEK, its endorsements, its reports.

As in `platform`, every field has the value of a healthy machine and may be given another,
so that a test can build one that is genuine and yet odd.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from attestation.collateral.snp import SnpEndorsements
from attestation.evidence.snp import (
    ECDSA_P384_SHA384,
    SIGNED_BY_VCEK,
    SIGNED_BYTES,
    AttestationReport,
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    TcbVersion,
)
from attestation.issuers.base import IssuerError
from attestation.issuers.simulator import pki
from attestation.issuers.simulator.amd import AmdAuthority
from attestation.issuers.simulator.platform import Window

_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
_SCALAR_BYTES: Final = 72
HEALTHY_POLICY: Final = GuestPolicy(0x20133)
"""ABI 1.51 or later, no SMT, no debugging, no migration agent."""
HEALTHY_PLATFORM: Final = PlatformInfo(0b100100)
"""ECC memory, checked for aliases; no SMT."""
HEALTHY_TCB: Final = TcbVersion(bytes.fromhex("0a00000000001754"))
"""Boot loader 10, TEE 0, SNP 23, microcode 84."""
_FIRMWARE: Final = FirmwareVersion(1, 55, 40)
_GENOA: Final = (0x19, 0x11, 0x01)
"""Family, model, stepping."""


@dataclass(frozen=True, kw_only=True)
class SimulatedSnp:
    """A machine whose chip key comes from `seed` and whose certificates from `authority`.

    `now` chooses the CRL's window where none is given. `certified_tcb` and
    `certified_chip_id` are what the VCEK certificate says, where that is not the truth.
    """

    seed: bytes = field(repr=False)
    authority: AmdAuthority = field(repr=False)
    now: int

    version: int = 3
    tcb: TcbVersion = HEALTHY_TCB
    certified_tcb: TcbVersion | None = None
    certified_chip_id: bytes | None = None
    ask_revoked: bool = False
    crl_window: Window | None = None

    @property
    def chip_id(self) -> bytes:
        return pki.derive(self.seed, "snp chip id", 64)

    @property
    def root_der(self) -> bytes:
        """The ARK: what a verifier must be given by name to accept this machine."""
        return self.authority.root_der

    @cached_property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The VCEK: like AMD's, another one at every TCB."""
        wide = pki.derive(self.seed, f"snp vcek {self.tcb.raw.hex()}", 64)
        scalar = int.from_bytes(wide, "big") % (_P384_ORDER - 1) + 1
        return ec.derive_private_key(scalar, ec.SECP384R1())

    def endorsements(self) -> SnpEndorsements:
        """Everything a verifier of this machine's reports needs, signed."""
        vcek = self.authority.vcek(
            self.key.public_key(),
            self.certified_tcb or self.tcb,
            self.certified_chip_id or self.chip_id,
            int.from_bytes(pki.derive(self.seed, "snp vcek serial", 16), "big") | 1,
        )
        window = self.crl_window or Window.at(self.now)
        revoked = [self.authority.ask] if self.ask_revoked else []
        crl = self.authority.crl(window.start, window.end, revoked)
        return SnpEndorsements(vcek, self.authority.chain, crl)

    def report(self, fields: Mapping[str, Any]) -> bytes:
        """A signed report of `fields`, by their names in AttestationReport; the rest is healthy.

        Raises IssuerError on a field that is none, or has another size.
        """
        blank = self._blank()
        for name, value in fields.items():
            standing = getattr(blank, name, None)
            fits = isinstance(value, type(standing))
            if isinstance(standing, bytes):
                fits = isinstance(value, bytes) and len(value) == len(standing)
            if not fits:
                raise IssuerError(f"report: {name} does not hold {value!r}")
        unsigned = replace(blank, **fields)
        signature = self.key.sign(
            unsigned.write()[:SIGNED_BYTES],
            ec.ECDSA(hashes.SHA384(), deterministic_signing=True),
        )
        r, s = utils.decode_dss_signature(signature)
        return replace(
            unsigned,
            signature_r=r.to_bytes(_SCALAR_BYTES, "little"),
            signature_s=s.to_bytes(_SCALAR_BYTES, "little"),
        ).write()

    def _blank(self) -> AttestationReport:
        family, model, step = _GENOA if self.version >= 3 else (None, None, None)
        mitigations = 0 if self.version >= 5 else None
        return AttestationReport(
            version=self.version,
            guest_svn=0,
            policy=HEALTHY_POLICY,
            family_id=bytes(16),
            image_id=bytes(16),
            vmpl=0,
            signature_algo=ECDSA_P384_SHA384,
            current_tcb=self.tcb,
            platform_info=HEALTHY_PLATFORM,
            author_key_en=False,
            mask_chip_key=False,
            signing_key=SIGNED_BY_VCEK,
            report_data=bytes(64),
            measurement=hashlib.sha384(b"adyton simulator firmware").digest(),
            host_data=bytes(32),
            id_key_digest=bytes(48),
            author_key_digest=bytes(48),
            report_id=pki.derive(self.seed, "snp report id", 32),
            report_id_ma=b"\xff" * 32,
            reported_tcb=self.tcb,
            cpuid_fam_id=family,
            cpuid_mod_id=model,
            cpuid_step=step,
            chip_id=self.chip_id,
            committed_tcb=self.tcb,
            current_version=_FIRMWARE,
            committed_version=_FIRMWARE,
            launch_tcb=self.tcb,
            launch_mit_vector=mitigations,
            current_mit_vector=mitigations,
            signature_r=bytes(_SCALAR_BYTES),
            signature_s=bytes(_SCALAR_BYTES),
        )
