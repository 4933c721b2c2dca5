"""What a contract's refusal means for a person and for a script: its exit code, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from attestation.onchain.faults import ContractRefused


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MALFORMED: Final = 3
NOT_AUTHENTIC: Final = 4
POLICY: Final = 5
NETWORK: Final = 6

_COLLATERAL: Final = _names(
    "CollateralNotYetIssued CollateralOutOfTime CollateralOlderThanStored "
    "CollateralEvaluationOlderThanStored CrlExpired CrlFromFuture CrlMissing CrlNotNewer "
    "CrlOutdated CertificateExpired CertificateNotYetValid EvidenceExpired "
    "EditionsExhausted GenerationUnrecordable KeyExpired KeyOutdated KeySuperseded KeyUnknown "
    "QeIdentityExpired QeIdentityMissing "
    "QeIdentityOfEarlierGeneration TcbInfoExpired TcbInfoMissing TcbInfoOfEarlierGeneration "
    "PlatformExpired PlatformUnknown TdxModuleUnknown"
)
"""The store lacks something, or time has passed; with other collateral it may well hold."""

_CHAIN: Final = _names(
    "BlockHashUnknown BlockHistoryMissing BlockInFuture BlockTooOld CodeNotFound CodeNotWritten "
    "P256VerifierMissing QuoteVerifierMissing RegistryMismatch RegistryMissing PolicyMissing "
    "PolicyAnswerInvalid QuoteVerifierAnswerInvalid Sha256Failed Sha256Missing Panic"
)
"""About the chain and what is deployed on it, not about evidence."""

_POLICY: Final = _names(
    "AlreadyAllowed AlreadyConsumed AlreadySeated CheckpointNotNewer CheckpointOlder ListFull "
    "PaymentFailed DeadlineAhead DeadlinePassed DelayTooLong EnclaveIsDebug EpochEnded "
    "KeysetExpired MeasurementNotAllowed NodeExpired NodeExpiredWhenServed NodeUnknown "
    "NoSuchQuestion NoSuchSeat NotListed NotYetAllowed OwnableInvalidOwner "
    "OwnableUnauthorizedAccount QeIsDebug SeatTaken SeptVeNotDisabled ServedBeforeRegistration "
    "ServedInFuture ServiceTdBound StatusesInvalid TcbEvaluationBelowMinimum TcbEvaluationTooOld "
    "TcbStatusNotAllowed TdAttributesReserved TdHasServiceExtension TdIsDebug TdIsMigratable "
    "TdIsProfiled WrongContext WrongModel"
)
"""Genuine perhaps, but not what is wanted here, now, or from this account."""

_MALFORMED: Final = _names(
    "AuthorityKeyIdMissing BasicConstraintsMissing BatchSpanInverted BodyLengthUnknown "
    "CriticalExtensionUnknown EmptyBatch ExtensionRepeated IndexBeyondTree KeyUsageMissing "
    "NextUpdateMissing PlatformIsCa ProofTooLong ProofTooShort QuoteTrailingBytes QuoteTruncated "
    "SerialMissing SgxExtensionMissing SubjectKeyIdMissing"
)
"""Not in the form that contracts read."""

_MALFORMED_BEGINNINGS: Final = ("Compact", "Der", "Keyset")
_MALFORMED_ENDINGS: Final = ("Malformed", "Unsupported", "Unexpected")

_PUSH: Final = "anyone may bring the collateral up to date: adyton chain collateral"
_HINTS: Final = {
    "NodeUnknown": "anyone may register the node: adyton chain register",
    "NodeExpiredWhenServed": "anyone may register the node again: adyton chain register",
    "NodeExpired": "anyone may register the node again: adyton chain register",
    "EpochEnded": "the policy ended its registrations: adyton chain register with a new quote",
    "MeasurementNotAllowed": "the policy's owner may allow it: adyton chain allow",
    "NotYetAllowed": "it was announced; it counts once the policy's delay has passed",
    "OwnableUnauthorizedAccount": "only the policy's owner may do this",
    "P256VerifierMissing": "this chain lacks the precompile of EIP-7951; --p256 software puts "
    "a contract in its place, at many times the gas",
    "ServedInFuture": "the chain's newest block is older than the answer: ask after the next one",
    "BlockTooOld": "run it again: the node is asked for a quote over a newer block",
}


def code_of(refusal: ContractRefused) -> tuple[int, str]:
    """(exit code, headline). What is in no list counts as not authentic: no script may take a
    refusal that nobody thought of for an outage."""
    name = refusal.name
    if name in _COLLATERAL:
        return NETWORK, "collateral on the chain"
    if name in _CHAIN:
        return NETWORK, "chain"
    if name in _POLICY:
        return POLICY, "refused by the contract"
    if name in _MALFORMED or _looks_malformed(name):
        return MALFORMED, "malformed, says the contract"
    return NOT_AUTHENTIC, "not authentic, says the contract"


def _looks_malformed(name: str) -> bool:
    return name.startswith(_MALFORMED_BEGINNINGS) or name.endswith(_MALFORMED_ENDINGS)


def hints_of(refusal: ContractRefused) -> tuple[str, ...]:
    """What to do about it, where there is something to do."""
    if refusal.name in _COLLATERAL:
        return (_PUSH,)
    return tuple(hint for name, hint in _HINTS.items() if name == refusal.name)
