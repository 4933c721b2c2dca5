"""One simulated machine at one moment: its certificates, its collateral, its quotes.

Every field has the value of a healthy platform and may be given another, so that a test
can build one that is genuine and yet odd: out of date, revoked, without a flag, issued
for another time. Forged bytes are not made here; tests flip those themselves.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Final

from attestation.collateral.model import Collateral
from attestation.evidence.tdx import TdReport10, TdReport15
from attestation.issuers.simulator import pki, tcb
from attestation.issuers.simulator.quote import Fields, Quoter, sgx_body, td_body

DAY_S: Final = 86_400
EPOCH_S: Final = 30 * DAY_S
CERTIFICATES_FROM: Final = 1_735_689_600  # 2025-01-01T00:00:00Z
CERTIFICATES_UNTIL: Final = 2_366_841_600  # 2045-01-01T00:00:00Z
PRODUCTION_ATTRIBUTES: Final = bytes.fromhex("0500000000000000e700000000000000")
"""SGX INIT and MODE64BIT without DEBUG, then XFRM."""
SEPT_VE_DISABLE: Final = bytes.fromhex("0000001000000000")
_AS_IT_IS: Final[Fields] = MappingProxyType({})
_QE_ATTRIBUTES: Final = bytes.fromhex("1500000000000000e700000000000000")


@dataclass(frozen=True, slots=True)
class Window:
    """From when until when something issued counts, Unix seconds."""

    start: int
    end: int

    @classmethod
    def at(cls, now: int) -> Window:
        """The collateral window at `now`: 30-day epochs, so that one epoch has one set of bytes.

        It opens a day before its epoch, for clocks that are behind, and closes 60 days
        after the epoch's start, so at least 30 days are always left.
        """
        epoch = now - now % EPOCH_S
        return cls(epoch - DAY_S, epoch + 2 * EPOCH_S)


def _constant(role: str, algorithm: str = "sha384") -> bytes:
    return hashlib.new(algorithm, f"adyton simulator {role}".encode()).digest()


@dataclass(frozen=True, kw_only=True)
class SimulatedPlatform:
    """A platform whose every secret comes from `seed` (32 bytes or more).

    `now` only chooses collateral windows that are not given. `tcb_info_pceid` and
    `tcb_info_fmspc` default to the certificate's.
    """

    seed: bytes = field(repr=False)
    now: int

    fmspc: bytes = bytes.fromhex("00ad70000000")
    pceid: bytes = bytes(2)
    cpu_svn: bytes = bytes([8, 8, 3, 3, 255, 255, 1, 0]) + bytes(8)
    pce_svn: int = 13
    dynamic_platform: bool | None = False
    cached_keys: bool | None = False
    smt_enabled: bool | None = False

    tcb_info_fmspc: bytes | None = None
    tcb_info_pceid: bytes | None = None
    tcb_standing: tcb.Standing = tcb.HEALTHY
    tdx_module_standing: tcb.Standing = tcb.HEALTHY
    qe_standing: tcb.Standing = tcb.HEALTHY
    tcb_evaluation_number: int = 17

    tee_tcb_svn: bytes = bytes([7, 1, 6]) + bytes(13)
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)

    qe_attributes: bytes = _QE_ATTRIBUTES
    qe_auth_data: bytes = bytes(range(32))

    pck_revoked: bool = False
    pck_ca_revoked: bool = False
    tcb_signing_revoked: bool = False

    certificates: Window = Window(CERTIFICATES_FROM, CERTIFICATES_UNTIL)
    crl_window: Window | None = None
    tcb_info_window: Window | None = None
    qe_identity_window: Window | None = None

    # --- the hierarchy ----------------------------------------------------------

    @cached_property
    def _authority(self) -> pki.Authority:
        return pki.Authority(self.seed, self.certificates.start, self.certificates.end)

    @cached_property
    def root(self) -> pki.Party:
        return self._authority.issue(
            "root", "Simulated SGX Root CA (adyton-simulator)", None, path_length=1
        )

    @cached_property
    def pck_ca(self) -> pki.Party:
        # Verifiers tell the two PCK CAs apart by the word "Platform" in the issuer's name.
        return self._authority.issue(
            "pck-ca", "Simulated SGX PCK Platform CA", self.root, path_length=0
        )

    @cached_property
    def tcb_signing(self) -> pki.Party:
        return self._authority.issue(
            "tcb-signing", "Simulated SGX TCB Signing", self.root, ca=False
        )

    @cached_property
    def pck(self) -> pki.Party:
        facts = pki.PckFacts(
            ppid=pki.derive(self.seed, "ppid", 16),
            cpu_svn=self.cpu_svn,
            pce_svn=self.pce_svn,
            pceid=self.pceid,
            fmspc=self.fmspc,
            platform_instance_id=pki.derive(self.seed, "platform instance", 16),
            dynamic_platform=self.dynamic_platform,
            cached_keys=self.cached_keys,
            smt_enabled=self.smt_enabled,
        )
        return self._authority.issue(
            "pck",
            "Simulated SGX PCK Certificate",
            self.pck_ca,
            ca=False,
            crl="pckcrl?ca=platform&encoding=der",
            extension=facts.extension(),
        )

    @property
    def root_der(self) -> bytes:
        """The trust anchor: what a verifier must be given by name to accept this platform."""
        return self.root.der

    # --- collateral --------------------------------------------------------------

    def collateral(self, tee: str) -> Collateral:
        """Everything a verifier of this platform's `tee` quotes needs, signed."""
        tcb_info = self._tcb_info(tee)
        identity = tcb.qe_identity(
            self._issued(self.qe_identity_window),
            tee,
            self._quoting_enclave(tee),
            self.qe_standing,
        )
        crl = self.crl_window or Window.at(self.now)
        root_revokes = [
            party
            for party, revoked in (
                (self.pck_ca, self.pck_ca_revoked),
                (self.tcb_signing, self.tcb_signing_revoked),
            )
            if revoked
        ]
        pck_revokes = [self.pck] if self.pck_revoked else []
        signing_chain = self.tcb_signing.pem + self.root.pem
        sign = self.tcb_signing.key
        return Collateral(
            pck_crl_issuer_chain=self.pck_ca.pem + self.root.pem,
            root_ca_crl=self._authority.revoke(self.root, root_revokes, crl.start, crl.end),
            pck_crl=self._authority.revoke(self.pck_ca, pck_revokes, crl.start, crl.end),
            tcb_info_issuer_chain=signing_chain,
            tcb_info=tcb_info,
            tcb_info_signature=pki.sign_raw(sign, tcb_info.encode()),
            qe_identity_issuer_chain=signing_chain,
            qe_identity=identity,
            qe_identity_signature=pki.sign_raw(sign, identity.encode()),
        )

    def _issued(self, window: Window | None) -> tcb.Issued:
        chosen = window or Window.at(self.now)
        return tcb.Issued(chosen.start, chosen.end, self.tcb_evaluation_number)

    def _tcb_info(self, tee: str) -> str:
        module = tcb.TdxModule(
            tee_tcb_svn=self.tee_tcb_svn,
            mr_signer_seam=self.mr_signer_seam,
            seam_attributes=self.seam_attributes,
            standing=self.tdx_module_standing,
        )
        return tcb.tcb_info(
            self._issued(self.tcb_info_window),
            fmspc=self.fmspc if self.tcb_info_fmspc is None else self.tcb_info_fmspc,
            pceid=self.pceid if self.tcb_info_pceid is None else self.tcb_info_pceid,
            cpu_svn=self.cpu_svn,
            pce_svn=self.pce_svn,
            standing=self.tcb_standing,
            tdx=module if tee == "tdx" else None,
        )

    # --- quotes --------------------------------------------------------------------

    def _quoting_enclave(self, tee: str) -> tcb.QuotingEnclave:
        return tcb.QuotingEnclave(
            mr_enclave=_constant(f"{tee} quoting enclave", "sha256"),
            mr_signer=_constant("quoting enclave signer", "sha256"),
            attributes=self.qe_attributes,
            misc_select=0,
            isv_prod_id=2 if tee == "tdx" else 1,
            isv_svn=8,
        )

    def _quoter(self, tee: str) -> Quoter:
        qe = self._quoting_enclave(tee)
        key = pki.derive_key(self.seed, f"{tee} attestation")
        bound = hashlib.sha256(pki.public_raw(key) + self.qe_auth_data).digest()
        report = sgx_body(
            {
                "cpu_svn": self.cpu_svn,
                "misc_select": qe.misc_select,
                "attributes": qe.attributes,
                "mr_enclave": qe.mr_enclave,
                "mr_signer": qe.mr_signer,
                "isv_prod_id": qe.isv_prod_id,
                "isv_svn": qe.isv_svn,
                "report_data": bound + bytes(32),
            }
        )
        return Quoter(
            attestation_key=key,
            qe_report=report,
            qe_report_signature=pki.sign_raw(self.pck.key, report.write()),
            auth_data=self.qe_auth_data,
            chain=(self.pck.pem + self.pck_ca.pem + self.root.pem).encode("ascii"),
            qe_id=pki.derive(self.seed, "qe id", 16),
            qe_svn=qe.isv_svn,
            pce_svn=self.pce_svn,
        )

    @cached_property
    def _sgx_quoter(self) -> Quoter:
        return self._quoter("sgx")

    @cached_property
    def _tdx_quoter(self) -> Quoter:
        return self._quoter("tdx")

    def sgx_quote(self, fields: Fields, *, header: Fields = _AS_IT_IS) -> bytes:
        """A version 3 quote over a body of `fields`; the rest is this platform's."""
        base = {"cpu_svn": self.cpu_svn, "attributes": PRODUCTION_ATTRIBUTES}
        return self._sgx_quoter.sgx(sgx_body({**base, **fields}), header)

    def tdx_quote(
        self,
        fields: Fields,
        *,
        version: int = 4,
        body: type[TdReport10] = TdReport10,
        header: Fields = _AS_IT_IS,
    ) -> bytes:
        """A version 4 or 5 quote over a body of `fields`; version 5 may take later bodies."""
        base = {
            "tee_tcb_svn": self.tee_tcb_svn,
            "mr_seam": _constant("TDX module"),
            "mr_signer_seam": self.mr_signer_seam,
            "seam_attributes": self.seam_attributes,
            "td_attributes": SEPT_VE_DISABLE,
            "xfam": bytes.fromhex("e718060000000000"),
            "rt_mr0": _constant("firmware"),
        }
        if issubclass(body, TdReport15):
            base["tee_tcb_svn2"] = self.tee_tcb_svn
        return self._tdx_quoter.tdx(version, td_body({**base, **fields}, body), header)
