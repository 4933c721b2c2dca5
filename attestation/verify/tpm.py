"""TPM 2.0 quotes: the signature of a bound key over these registers and this nonce.

Spec: TCG TPM 2.0 Library, Part 1, section 17.6; Part 3, section 18.4 (TPM2_Quote).
docs/spec/evidence-nitro-tpm.md lists the steps and says what a quote does not prove.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.errors import VerificationError
from attestation.evidence.tpm import (
    ALG_ECDSA,
    ALG_RSASSA,
    ALG_SHA256,
    ALG_SHA384,
    ALG_SHA512,
    HASH_NAMES,
    QuoteInfo,
    TpmQuote,
    TpmSignature,
)
from attestation.verify.model import _SEAL, VerifiedReport
from attestation.verify.tpm_key import Binding, BoundKey, TpmKey

_HASHES: Final[Mapping[int, hashes.HashAlgorithm]] = {
    ALG_SHA256: hashes.SHA256(),
    ALG_SHA384: hashes.SHA384(),
    ALG_SHA512: hashes.SHA512(),
}
"""SHA-1 is left out, for signatures and for banks: collisions are affordable."""

_PCRS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmReport(VerifiedReport):
    """A quote whose signature, registers and key held at one moment.

    `bank` names the hash of the registers, `pcrs` their values. `binding` says what vouches
    for the key; `hardware` is the report that does, for a virtual TPM in a confidential VM.
    Without it a quote says what booted, not that anybody's memory is protected.
    `nonce_checked` says that the caller's own nonce, not an empty one, was in the quote.
    """

    quote: TpmQuote
    bank: str
    pcrs: Mapping[int, bytes]
    binding: Binding
    hardware: VerifiedReport | None
    nonce_checked: bool
    registers: Mapping[str, str] = field(init=False)

    def __post_init__(self, seal: object) -> None:
        super(TpmReport, self).__post_init__(seal)
        composite = hashlib.sha256(self.quote.attested.write()).hexdigest()
        registers = {f"pcr{i}": value.hex() for i, value in sorted(self.pcrs.items())}
        registers["pcr_composite"] = composite
        object.__setattr__(self, "registers", MappingProxyType(registers))

    @property
    def tee(self) -> Literal["tpm"]:
        return "tpm"

    @property
    def debug(self) -> bool:
        """Whether the hardware behind it is in debug mode, which its verification refuses."""
        return self.hardware is not None and self.hardware.debug

    @property
    def report_data(self) -> bytes:
        """The quote's `extraData` as it stands, unpadded: 0 to 66 bytes."""
        return self.quote.extra_data

    @property
    def tcb_status(self) -> str | None:
        """The hardware's, where hardware vouches for the key; a TPM states none."""
        return None if self.hardware is None else self.hardware.tcb_status

    @property
    def measurement_name(self) -> Literal["pcr_composite"]:
        """SHA-256 over TPMS_QUOTE_INFO: bank, selection and digest of the registers.

        One register is not the workload of a machine, and the digest alone does not say of
        which registers it is: those that software may reset (16, 23) could play the others.
        """
        return "pcr_composite"

    @property
    def measurements(self) -> Mapping[str, str]:
        return self.registers

    @property
    def simulated(self) -> bool:
        """True when the hardware's report says so. A TPM has no field for it."""
        return self.hardware is not None and self.hardware.simulated

    def facts(self) -> dict[str, Any]:
        clock = self.quote.clock_info
        return {
            "binding": self.binding,
            "hardware": None if self.hardware is None else self.hardware.tee,
            "bank": self.bank,
            "pcr_digest": self.quote.attested.pcr_digest.hex(),
            "qualified_signer": self.quote.qualified_signer.hex(),
            "firmware_version": f"{self.quote.firmware_version:016x}",
            "reset_count": clock.reset_count,
            "restart_count": clock.restart_count,
        }


def _check_window(key: BoundKey, now: int) -> None:
    if now < key.not_before:
        raise VerificationError("not_yet_valid", f"the key is vouched for from {key.not_before}")
    if now > key.not_after:
        raise VerificationError("expired", f"the key was vouched for until {key.not_after}")


def _verify_rsa(
    key: rsa.RSAPublicKey, signature: TpmSignature, data: bytes, algorithm: hashes.HashAlgorithm
) -> None:
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if signature.sig_alg != ALG_RSASSA:
        # TPMs differ in how long they make the salt (Part 1, B.7).
        scheme = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
    key.verify(signature.parts[0], data, scheme, algorithm)


def _check_signature(quote: TpmQuote, signature: TpmSignature, key: TpmKey) -> None:
    algorithm = _HASHES.get(signature.hash_alg)
    if algorithm is None:
        raise VerificationError("signature_algorithm", f"hash {signature.hash_alg:#x} is refused")
    is_rsa = isinstance(key, rsa.RSAPublicKey)
    if is_rsa == (signature.sig_alg == ALG_ECDSA):
        raise VerificationError("signature_algorithm", "is not that of the key")
    try:
        if isinstance(key, rsa.RSAPublicKey):
            _verify_rsa(key, signature, quote.signed, algorithm)
        else:
            r, s = (int.from_bytes(part) for part in signature.parts)
            key.verify(encode_dss_signature(r, s), quote.signed, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise VerificationError("signature", "the quote is not signed by this key") from None


def _check_nonce(quote: TpmQuote, nonce: bytes | None) -> None:
    if nonce is not None and not hmac.compare_digest(nonce, quote.extra_data):
        raise VerificationError("nonce", "the quote is not over this nonce")


def _bank(attested: QuoteInfo) -> tuple[int, tuple[int, ...]]:
    """The one bank quoted and its registers, of which there are some and none beyond 23."""
    if len(attested.pcr_select) != 1:
        count = len(attested.pcr_select)
        raise VerificationError("pcr_selection", f"{count} banks, expected one")
    selection = attested.pcr_select[0]
    if selection.hash_alg not in _HASHES:
        raise VerificationError("pcr_selection", f"bank {selection.hash_alg:#x} is refused")
    indices = selection.indices
    if not indices or indices[-1] >= _PCRS:
        raise VerificationError("pcr_selection", f"registers {indices} are not some of 0 to 23")
    return selection.hash_alg, indices


def _check_pcrs(
    attested: QuoteInfo, pcrs: Mapping[int, bytes], bank: int, wanted: tuple[int, ...], hash_: int
) -> None:
    """`pcrs` are the registers quoted, all of them and no others, with these values."""
    if tuple(sorted(pcrs)) != wanted:
        raise VerificationError("pcrs", f"given are {sorted(pcrs)}, quoted {list(wanted)}")
    size = _HASHES[bank].digest_size
    if any(len(value) != size for value in pcrs.values()):
        raise VerificationError("pcrs", f"registers of this bank have {size} bytes")
    digest = hashlib.new(HASH_NAMES[hash_], b"".join(pcrs[i] for i in wanted)).digest()
    if not hmac.compare_digest(digest, attested.pcr_digest):
        raise VerificationError("pcr_digest", "the quote is not over these values")


def verify_tpm(
    quote: bytes,
    signature: bytes | TpmSignature,
    pcrs: Mapping[int, bytes],
    key: BoundKey,
    now: int,
    *,
    nonce: bytes | None = None,
) -> TpmReport:
    """The quote (TPMS_ATTEST) is by `key` at `now` (Unix seconds), over exactly `pcrs`.

    `signature` is a TPMT_SIGNATURE; `pcrs` maps register to value, of the bank quoted. With
    `nonce`, extraData is exactly that; a quote has no other proof of when it was made.
    Pure: no socket, clock, environment or device. Raises MalformedEvidence when bytes are
    not the format, VerificationError naming the first step that failed.
    """
    parsed = TpmQuote.read(quote)
    made = TpmSignature.read(signature) if isinstance(signature, bytes) else signature
    _check_window(key, now)
    _check_signature(parsed, made, key.key)
    _check_nonce(parsed, nonce)
    bank, indices = _bank(parsed.attested)
    _check_pcrs(parsed.attested, pcrs, bank, indices, made.hash_alg)
    return TpmReport(
        quote=parsed,
        bank=HASH_NAMES[bank],
        pcrs=MappingProxyType({i: pcrs[i] for i in indices}),
        binding=key.binding,
        hardware=key.hardware,
        nonce_checked=bool(nonce),
        verified_at=now,
        endorsements_not_before=key.not_before,
        endorsements_not_after=key.not_after,
        root_sha256=key.root_sha256,
        seal=_SEAL,
    )
