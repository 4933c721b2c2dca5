"""TPM 2.0 quotes: what the TPM attests, and its signature. All integers are big-endian.

Spec: TCG TPM 2.0 Library, Part 2: Structures, revision 1.59 (section numbers below).
A quote is a bare TPMS_ATTEST, as `tpm2_quote -m` and TPM2_Quote's TPM2B hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.wire import BigEndianCursor

TPM_GENERATED_VALUE: Final = 0xFF544347
TPM_ST_ATTEST_QUOTE: Final = 0x8018

ALG_SHA1: Final = 0x0004
ALG_SHA256: Final = 0x000B
ALG_SHA384: Final = 0x000C
ALG_SHA512: Final = 0x000D
ALG_RSASSA: Final = 0x0014
ALG_RSAPSS: Final = 0x0016
ALG_ECDSA: Final = 0x0018

HASH_NAMES: Final = {
    ALG_SHA1: "sha1",
    ALG_SHA256: "sha256",
    ALG_SHA384: "sha384",
    ALG_SHA512: "sha512",
}

_MAX_NAME_BYTES: Final = 66
"""TPMU_NAME: algorithm and SHA-512 digest, or a handle (10.5.2)."""

_MAX_DATA_BYTES: Final = 66
"""TPM2B_DATA: as long as the longest TPMT_HA (10.4.3)."""

_MAX_DIGEST_BYTES: Final = 64
_MAX_BANKS: Final = 16
_MAX_SELECT_BYTES: Final = 4
_MAX_RSA_BYTES: Final = 512
_MAX_ECC_BYTES: Final = 66
_RSA_PARTS: Final = (("sig", _MAX_RSA_BYTES),)
_SIGNATURE_PARTS: Final = {
    ALG_RSASSA: _RSA_PARTS,
    ALG_RSAPSS: _RSA_PARTS,
    ALG_ECDSA: (("signature_r", _MAX_ECC_BYTES), ("signature_s", _MAX_ECC_BYTES)),
}


def read_2b(c: BigEndianCursor, name: str, most: int) -> bytes:
    """A TPM2B: u16 size, then that many bytes, at most `most`. Raises MalformedEvidence."""
    size = c.u16(f"{name}.size")
    if size > most:
        raise c.error(name, f"{size} bytes, at most {most}")
    return c.take(name, size)


def write_2b(data: bytes) -> bytes:
    """The TPM2B that `read_2b` reads."""
    return len(data).to_bytes(2) + data


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """TPMS_PCR_SELECTION (10.6.2): a bank and a bit for each of its registers."""

    hash_alg: int
    select: bytes

    @property
    def indices(self) -> tuple[int, ...]:
        """The registers selected, ascending; bit i of byte j is register 8 j + i."""
        return tuple(i for i in range(8 * len(self.select)) if self.select[i // 8] >> i % 8 & 1)

    @classmethod
    def read(cls, c: BigEndianCursor) -> Self:
        """The next selection of `c`. Raises MalformedEvidence."""
        hash_alg, size = c.u16("hash"), c.u8("sizeof_select")
        if not 0 < size <= _MAX_SELECT_BYTES:
            raise c.error("sizeof_select", f"{size} is not 1 to {_MAX_SELECT_BYTES}")
        return cls(hash_alg, c.take("pcr_select", size))

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return self.hash_alg.to_bytes(2) + len(self.select).to_bytes(1) + self.select


@dataclass(frozen=True, slots=True)
class ClockInfo:
    """TPMS_CLOCK_INFO (10.11.1): milliseconds powered, resets, and restarts since.

    `safe` says that the clock is known not to have gone backwards.
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool

    @classmethod
    def read(cls, c: BigEndianCursor) -> Self:
        """The next 17 bytes of `c`. Raises MalformedEvidence."""
        clock, resets, restarts = c.u64("clock"), c.u32("reset_count"), c.u32("restart_count")
        safe = c.u8("safe")
        if safe > 1:
            raise c.error("safe", f"{safe} is neither yes nor no")
        return cls(clock, resets, restarts, bool(safe))

    def write(self) -> bytes:
        """The 17 bytes `read` reads."""
        return b"".join(
            (
                self.clock.to_bytes(8),
                self.reset_count.to_bytes(4),
                self.restart_count.to_bytes(4),
                self.safe.to_bytes(1),
            )
        )


@dataclass(frozen=True, slots=True)
class QuoteInfo:
    """TPMS_QUOTE_INFO (10.12.1): which registers, and the digest over their values."""

    pcr_select: tuple[PcrSelection, ...]
    pcr_digest: bytes

    @classmethod
    def read(cls, c: BigEndianCursor) -> Self:
        """The next selections and digest of `c`. Raises MalformedEvidence."""
        count = c.u32("pcr_select.count")
        if count > _MAX_BANKS:
            raise c.error("pcr_select.count", f"{count} banks, at most {_MAX_BANKS}")
        selections = tuple(PcrSelection.read(c) for _ in range(count))
        return cls(selections, read_2b(c, "pcr_digest", _MAX_DIGEST_BYTES))

    def write(self) -> bytes:
        """The bytes `read` reads."""
        selections = b"".join(s.write() for s in self.pcr_select)
        return len(self.pcr_select).to_bytes(4) + selections + write_2b(self.pcr_digest)


@dataclass(frozen=True, slots=True)
class TpmQuote:
    """TPMS_ATTEST (10.12.12) of type TPM_ST_ATTEST_QUOTE.

    `qualified_signer` names the key and its ancestors, `extra_data` is what the caller gave
    TPM2_Quote (0 to 66 bytes). `firmware_version` is the vendor's, blurred unless the key is
    in the endorsement or platform hierarchy. `signed` is the original bytes.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock_info: ClockInfo
    firmware_version: int
    attested: QuoteInfo
    signed: bytes = field(repr=False, compare=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A quote from all of `data`. Raises MalformedEvidence."""
        c = BigEndianCursor("tpm", data)
        if (magic := c.u32("magic")) != TPM_GENERATED_VALUE:
            raise MalformedEvidence("tpm.magic", f"{magic:#x} was not made by a TPM", 0)
        if (kind := c.u16("type")) != TPM_ST_ATTEST_QUOTE:
            raise MalformedEvidence("tpm.type", f"{kind:#x} is not a quote", 4)
        quote = cls(
            qualified_signer=read_2b(c, "qualified_signer", _MAX_NAME_BYTES),
            extra_data=read_2b(c, "extra_data", _MAX_DATA_BYTES),
            clock_info=ClockInfo.read(c),
            firmware_version=c.u64("firmware_version"),
            attested=QuoteInfo.read(c),
            signed=data,
        )
        c.finish()
        return quote

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return b"".join(
            (
                TPM_GENERATED_VALUE.to_bytes(4),
                TPM_ST_ATTEST_QUOTE.to_bytes(2),
                write_2b(self.qualified_signer),
                write_2b(self.extra_data),
                self.clock_info.write(),
                self.firmware_version.to_bytes(8),
                self.attested.write(),
            )
        )


@dataclass(frozen=True, slots=True)
class TpmSignature:
    """TPMT_SIGNATURE (11.3.4): RSASSA or RSAPSS (`parts` is the signature), ECDSA (r and s)."""

    sig_alg: int
    hash_alg: int
    parts: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A signature from all of `data`. Raises MalformedEvidence."""
        c = BigEndianCursor("tpm_signature", data)
        sig_alg, hash_alg = c.u16("sig_alg"), c.u16("hash")
        if sig_alg not in _SIGNATURE_PARTS:
            raise MalformedEvidence(
                "tpm_signature.sig_alg", f"{sig_alg:#x} is neither RSASSA, RSAPSS nor ECDSA", 0
            )
        parts = tuple(read_2b(c, name, most) for name, most in _SIGNATURE_PARTS[sig_alg])
        c.finish()
        return cls(sig_alg, hash_alg, parts)

    @classmethod
    def rsassa_sha256(cls, raw: bytes) -> Self:
        """The signature that tools which leave out the algorithm mean by `raw`."""
        if not 0 < len(raw) <= _MAX_RSA_BYTES:
            raise MalformedEvidence("tpm_signature.sig", f"{len(raw)} bytes, at most 512")
        return cls(ALG_RSASSA, ALG_SHA256, (raw,))

    def write(self) -> bytes:
        """The bytes `read` reads."""
        head = self.sig_alg.to_bytes(2) + self.hash_alg.to_bytes(2)
        return head + b"".join(write_2b(part) for part in self.parts)
