"""The certificate table a host may hand out beside an SEV-SNP report.

Spec: AMD 56421, SEV-ES Guest-Hypervisor Communication Block Standardization, SNP Extended
Guest Request; Linux shows it as `auxblob` of configfs-tsm. Entries of 24 bytes (GUID,
u32 offset, u32 length) up to one that is all zero, then the certificates. The host wrote
the table and nobody signed it: it is a convenience, not evidence.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.wire import Cursor, u32

VCEK_GUID: Final = "63da758d-e664-4564-adc5-f4b93be8accd"
VLEK_GUID: Final = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
ASK_GUID: Final = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
"""Also carries the ASVK, where a VLEK is used."""
ARK_GUID: Final = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
CRL_GUID: Final = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"

MAX_TABLE_BYTES: Final = 1 << 17
_MAX_ENTRIES: Final = 16
_ENTRY_BYTES: Final = 24
_GUID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class CertificateEntry:
    """One document: its GUID (canonical text), where it starts in the table, its bytes."""

    guid: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CertificateTable:
    """Entries in table order and the size of the whole, whose other bytes are zero."""

    entries: tuple[CertificateEntry, ...]
    size: int

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A table from all of `data`; empty data is an empty table. Raises MalformedEvidence.

        Refused: a GUID that occurs twice, entries that overlap each other or the header, and
        bytes that are not zero and belong to no entry.
        """
        if len(data) > MAX_TABLE_BYTES:
            raise MalformedEvidence("certificate_table", f"longer than {MAX_TABLE_BYTES}", 0)
        c = Cursor("certificate_table", data)
        headers = _read_headers(c) if data else []
        free = c.offset
        for _, offset, length in sorted(headers, key=lambda h: h[1]):
            if offset < free or offset + length > len(data):
                raise MalformedEvidence(
                    "certificate_table.entry", f"{offset}+{length} overlaps or leaves it", offset
                )
            if any(data[free:offset]):
                raise MalformedEvidence("certificate_table.gap", "bytes of no entry", free)
            free = offset + length
        if any(data[free:]):
            raise MalformedEvidence("certificate_table.trailing", "bytes of no entry", free)
        return cls(tuple(CertificateEntry(g, o, data[o : o + n]) for g, o, n in headers), len(data))

    @classmethod
    def build(cls, documents: Iterable[tuple[str, bytes]]) -> Self:
        """A table of these GUIDs and documents, one after another without gaps."""
        entries, pairs = [], list(documents)
        offset = (len(pairs) + 1) * _ENTRY_BYTES
        for guid, data in pairs:
            entries.append(CertificateEntry(guid, offset, data))
            offset += len(data)
        return cls(tuple(entries), offset)

    def write(self) -> bytes:
        """The bytes `read` reads."""
        out = bytearray(self.size)
        for i, entry in enumerate(self.entries):
            header = uuid.UUID(entry.guid).bytes + u32(entry.offset) + u32(len(entry.data))
            out[i * _ENTRY_BYTES : (i + 1) * _ENTRY_BYTES] = header
            out[entry.offset : entry.offset + len(entry.data)] = entry.data
        return bytes(out)

    def get(self, guid: str) -> bytes | None:
        """The document of this GUID, when the table has it."""
        return next((entry.data for entry in self.entries if entry.guid == guid), None)


def _read_headers(c: Cursor) -> list[tuple[str, int, int]]:
    """GUID, offset and length of each entry, up to the terminator, which is consumed."""
    headers: list[tuple[str, int, int]] = []
    seen: set[bytes] = set()
    while True:
        start = c.offset
        guid, offset, length = c.take("guid", _GUID_BYTES), c.u32("offset"), c.u32("length")
        if not any(guid) and not offset and not length:
            return headers
        if guid in seen:
            raise MalformedEvidence("certificate_table.guid", "occurs twice", start)
        if len(headers) == _MAX_ENTRIES:
            raise MalformedEvidence("certificate_table.entries", f"over {_MAX_ENTRIES}", start)
        if not length:
            raise MalformedEvidence("certificate_table.length", "an empty entry", start)
        seen.add(guid)
        headers.append((str(uuid.UUID(bytes=guid)), offset, length))
