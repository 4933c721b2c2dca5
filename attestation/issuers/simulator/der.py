"""The few DER encodings the vendors' certificate extensions need. Spec: X.690 section 8.

`cryptography` writes every other structure; it has no ENUMERATED, no IA5String and no
heterogeneous sequence of its own, and the extensions are built of them.
"""

from __future__ import annotations


def _tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value


def boolean(value: bool) -> bytes:
    return _tlv(0x01, b"\xff" if value else b"\x00")


def integer(value: int) -> bytes:
    """A non-negative INTEGER in as few bytes as keep the sign bit clear."""
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    return _tlv(0x04, value)


def ia5(text: str) -> bytes:
    """An IA5String: ASCII."""
    return _tlv(0x16, text.encode("ascii"))


def enumerated(value: int) -> bytes:
    return _tlv(0x0A, bytes([value]))


def sequence(*items: bytes) -> bytes:
    return _tlv(0x30, b"".join(items))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (first * 40 + second, *rest):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | (arc & 0x7F))
        out += bytes(reversed(digits))
    return _tlv(0x06, bytes(out))
