"""Keeping a quote verifier's collateral current: what it has, what it lacks, and in what order.

Anyone may do this: what counts is Intel's signature and the order of dates, so a push can
add nothing that Intel did not sign, and be repeated to no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from attestation.collateral.model import Collateral
from attestation.errors import CollateralError, VerificationError
from attestation.onchain.artifacts import artifact
from attestation.onchain.deploy import point
from attestation.onchain.faults import ChainError
from attestation.onchain.pki import issuer_id
from attestation.onchain.qe import QeIdentity
from attestation.onchain.rpc import Rpc
from attestation.onchain.sender import Mined, Sender
from attestation.onchain.tcb import TcbInfo
from attestation.x509 import Certificate, Crl, read_certificate, read_chain, read_crl

VERIFIER: Final = "QuoteVerifier"
_ROOT: Final = 1
"""A role of keys in contracts/src/collateral/Pki.sol."""
_LAST: Final = (1 << 32) - 1
"""The last second that a record of a CRL has room for."""


class State(StrEnum):
    """How what is stored compares with what could be."""

    CURRENT = "current"
    MISSING = "missing"
    EXPIRED = "expired"
    OLDER = "older"
    """It counts, but the document at hand would count for longer or is a later one."""
    OUTDATED = "outdated"
    """The root has revoked something since it was stored: it must be submitted again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One part of the collateral as it stands; `until` is Unix seconds, None when missing."""

    part: str
    state: State
    until: int | None

    @property
    def due(self) -> bool:
        return self.state is not State.CURRENT


@dataclass(frozen=True, slots=True)
class Pushed:
    """A part that was brought up to date, why, and by what transaction."""

    before: Standing
    mined: Mined


class _Part(Protocol):
    def standing(self, store: CollateralClient, now: int) -> Standing: ...

    def calldata(self) -> bytes: ...


class CollateralClient:
    """One quote verifier's collateral. `sender` is needed only to push."""

    def __init__(self, rpc: Rpc, verifier: str, sender: Sender | None = None) -> None:
        self.rpc, self.verifier, self._sender = rpc, verifier, sender

    def read(self, function: str, *arguments: Any) -> Any:
        return self.rpc.read(VERIFIER, self.verifier, function, *arguments)

    def standings(self, document: Collateral, root: bytes | None = None) -> list[Standing]:
        """Every part of `document`, in the order of pushing, as the verifier has it now.

        `root` (DER) is for documents whose chains leave it out. Raises VerificationError
        when the verifier trusts another root, CollateralError for a damaged document.
        """
        now = self.rpc.block().time
        return [part.standing(self, now) for part in self._parts(document, root)]

    def push(
        self,
        document: Collateral,
        root: bytes | None = None,
        told: Callable[[Pushed], None] = lambda _: None,
    ) -> list[Pushed]:
        """The verifier has all of `document`; exactly what was due is sent, in order.

        Each part is looked at when its turn comes: a root CRL that revokes something makes
        what came before it outdated. Raises ContractRefused, NotProvable, and as `standings`.
        """
        if self._sender is None:
            raise ChainError("pushing collateral needs an account that pays for the transactions")
        done = []
        for part in self._parts(document, root):
            before = part.standing(self, self.rpc.block().time)
            if before.due:
                pushed = Pushed(before, self._sender.send(self.verifier, part.calldata()))
                done.append(pushed)
                told(pushed)
        return done

    def _parts(self, document: Collateral, root: bytes | None) -> Iterator[_Part]:
        """The parts in an order in which each finds what it rests on."""
        anchor = self._anchor(document, root)
        ca = _head("pck_crl_issuer_chain", document.pck_crl_issuer_chain)
        signer = _head("tcb_info_issuer_chain", document.tcb_info_issuer_chain)
        qe_signer = _head("qe_identity_issuer_chain", document.qe_identity_issuer_chain)
        yield _CertificatePart("root certificate", anchor)
        yield _CrlPart("root CRL", anchor, document.root_ca_crl)
        yield _CertificatePart("PCK CA certificate", ca)
        yield _CrlPart("PCK CRL", ca, document.pck_crl)
        yield _CertificatePart("TCB signing certificate", signer)
        if qe_signer.der != signer.der:
            yield _CertificatePart("QE identity signing certificate", qe_signer)
        yield _tcb_info(document, signer)
        yield _qe_identity(document, qe_signer)

    def _anchor(self, document: Collateral, root: bytes | None) -> Certificate:
        """The root certificate, of the one key that this verifier trusts."""
        trusted = self.read("rootId")
        names = ("tcb_info_issuer_chain", "pck_crl_issuer_chain", "qe_identity_issuer_chain")
        found = [c for n in names for c in read_chain(n, getattr(document, n).encode())]
        if root is not None:
            found.append(read_certificate("root", root))
        for certificate in found:
            if certificate.is_ca and _id(certificate) == trusted:
                return certificate
        raise VerificationError(
            "root", f"the verifier trusts the root of id 0x{trusted.hex()}, which is not here"
        )


def _id(certificate: Certificate) -> bytes:
    """What the contracts know this certificate's key by."""
    return issuer_id(*point(certificate))


def _head(name: str, pem: str) -> Certificate:
    return read_chain(name, pem.encode())[0]


def _call(function: str, *arguments: object) -> bytes:
    return artifact(VERIFIER).interface.call(function, *arguments)


def _gone(until: int, now: int) -> State:
    return State.EXPIRED if until < now else State.OUTDATED


@dataclass(frozen=True)
class _CertificatePart:
    name: str
    certificate: Certificate

    def standing(self, store: CollateralClient, now: int) -> Standing:
        role, until, current = store.read("keyOf", _id(self.certificate))
        if role == 0:
            return Standing(self.name, State.MISSING, None)
        if not current:
            return Standing(self.name, _gone(until, now), until)
        offered = self.certificate.window.not_after
        if role != _ROOT:
            _, root_until, _ = store.read("keyOf", store.read("rootId"))
            offered = min(offered, root_until)
        return Standing(self.name, State.OLDER if offered > until else State.CURRENT, until)

    def calldata(self) -> bytes:
        return _call("addCertificate", self.certificate.der)


@dataclass(frozen=True)
class _CrlPart:
    name: str
    issuer: Certificate
    der: bytes

    @property
    def crl(self) -> Crl:
        return read_crl(self.name, self.der)

    def standing(self, store: CollateralClient, now: int) -> Standing:
        issued, until, _, current = store.read("crlOf", _id(self.issuer))
        if until == 0:
            return Standing(self.name, State.MISSING, None)
        if not current:
            return Standing(self.name, _gone(until, now), until)
        offered = self.crl.window
        better = offered.not_before > issued or (
            offered.not_before == issued and self._until(store) > until
        )
        return Standing(self.name, State.OLDER if better else State.CURRENT, until)

    def _until(self, store: CollateralClient) -> int:
        """When it would end if it were submitted now: no later than its issuer's certificate."""
        _, key_until, _ = store.read("keyOf", _id(self.issuer))
        return int(min(self.crl.window.not_after, key_until, _LAST))

    def calldata(self) -> bytes:
        return _call("updateCrl", self.der, *point(self.issuer))


@dataclass(frozen=True)
class _TextPart:
    """A text Intel signs; `getter` answers for `subject`, `setter` takes `compact`."""

    name: str
    getter: str
    subject: tuple[object, ...]
    setter: str
    compact: bytes
    issue_date: int
    next_update: int
    evaluation: int
    signature: bytes
    signer: Certificate

    def standing(self, store: CollateralClient, now: int) -> Standing:
        stored = store.read(self.getter, *self.subject)
        until = stored["expiry"]
        if until == 0:
            return Standing(self.name, State.MISSING, None)
        if not stored["current"]:
            return Standing(self.name, _gone(until, now), until)
        kept = (stored["issueDate"], stored["tcbEvaluationDataNumber"])
        offered = (self.issue_date, self.evaluation)
        better = offered > kept or (offered == kept and self._until(store) > until)
        return Standing(self.name, State.OLDER if better else State.CURRENT, until)

    def _until(self, store: CollateralClient) -> int:
        """When it would end if it were submitted now: with its signer or with the root's CRL."""
        _, key_until, _ = store.read("keyOf", _id(self.signer))
        _, crl_until, _, _ = store.read("crlOf", store.read("rootId"))
        return int(min(self.next_update, key_until, crl_until))

    def calldata(self) -> bytes:
        if len(self.signature) != 64:
            raise CollateralError(f"{self.name}: a signature of {len(self.signature)} bytes")
        r, s = (int.from_bytes(p, "big") for p in (self.signature[:32], self.signature[32:]))
        return _call(self.setter, self.compact, r, s, *point(self.signer))


def _tcb_info(document: Collateral, signer: Certificate) -> _TextPart:
    info = TcbInfo.parse(document.tcb_info)
    tee = "TDX" if info.tdx else "SGX"
    return _TextPart(
        name=f"{tee} TCB info of {info.fmspc.hex()}",
        getter="tcbInfoOf",
        subject=(info.fmspc, info.tdx),
        setter="updateTcbInfo",
        compact=info.write(),
        issue_date=info.issue_date,
        next_update=info.next_update,
        evaluation=info.evaluation_number,
        signature=document.tcb_info_signature,
        signer=signer,
    )


def _qe_identity(document: Collateral, signer: Certificate) -> _TextPart:
    identity = QeIdentity.parse(document.qe_identity)
    return _TextPart(
        name="TDQE identity" if identity.tdx else "QE identity",
        getter="qeIdentityOf",
        subject=(identity.tdx,),
        setter="updateQeIdentity",
        compact=identity.write(),
        issue_date=identity.issue_date,
        next_update=identity.next_update,
        evaluation=identity.evaluation_number,
        signature=document.qe_identity_signature,
        signer=signer,
    )
