"""DER as strictly as the contracts read it: contracts/src/lib/Der.sol and Dates.sol in Python.

Only for what is about to be sent to them. Everything else reads certificates with
`attestation.x509`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from attestation.onchain.errors import NotProvable

INTEGER: Final = 0x02
SEQUENCE: Final = 0x30
_UTC_TIME: Final = re.compile(rb"\x17\x0d([0-9]{12})Z")
_GENERALIZED_TIME: Final = re.compile(rb"\x18\x0f((?:20[5-9]|2[1-9]|[3-9])[0-9]+)Z")


class Der:
    """Reads the elements of `data` front to back; every failure is NotProvable naming `name`."""

    __slots__ = ("_at", "_data", "_name")

    def __init__(self, name: str, data: bytes) -> None:
        self._name, self._data, self._at = name, data, 0

    def error(self, detail: str) -> NotProvable:
        """The error for what stands here; the caller raises it."""
        return NotProvable(self._name, detail)

    @property
    def tag(self) -> int:
        """The tag of the next element, 0 at the end."""
        return self._data[self._at] if self else 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def element(self, tag: int) -> bytes:
        """The next element whole, header included; its tag must be `tag`."""
        start = self._at
        self._skip(tag)
        return self._data[start : self._at]

    def open(self, tag: int) -> Der:
        """A reader of the content of the next element, which must have this tag."""
        content = self._skip(tag)
        return Der(self._name, self._data[content : self._at])

    def last(self, tag: int) -> Der:
        """As `open`, for an element after which nothing may come."""
        inner = self.open(tag)
        self.finish()
        return inner

    def exactly(self, expected: bytes, what: str) -> None:
        """The next bytes must be these."""
        if self.take(len(expected), what) != expected:
            raise self.error(f"not {what} in the form the contracts read")

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes."""
        if self._at + size > len(self._data):
            raise self.error(f"ends before {what} does")
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data) - self._at, "nothing")

    def unsigned(self, max_bytes: int) -> int:
        """The next element, an INTEGER that is not negative, in its shortest form."""
        content = self.open(INTEGER).rest()
        padded = len(content) > 1 and content[0] == 0 and content[1] < 0x80
        if not content or content[0] > 0x7F or padded:
            raise self.error("an integer is negative or not in its shortest form")
        value = int.from_bytes(content, "big")
        if value.bit_length() > 8 * max_bytes:
            raise self.error(f"an integer has more than {max_bytes} bytes")
        return value

    def date(self) -> int:
        """The next element, a UTCTime or GeneralizedTime to the second, as Unix seconds."""
        text = self.element(self.tag)
        try:
            if match := _UTC_TIME.fullmatch(text):
                century = b"20" if match[1] < b"5" else b"19"
                moment = datetime.strptime((century + match[1]).decode(), "%Y%m%d%H%M%S")
            elif (match := _GENERALIZED_TIME.fullmatch(text)) and len(match[1]) == 14:
                moment = datetime.strptime(match[1].decode(), "%Y%m%d%H%M%S")
            else:
                raise self.error("a date is not UTC to the second, as RFC 5280 writes it")
        except ValueError:
            raise self.error("a date names a moment that does not exist") from None
        return max(0, int(moment.replace(tzinfo=UTC).timestamp()))

    def finish(self) -> None:
        """Nothing may be left."""
        if self:
            raise self.error(f"{len(self._data) - self._at} bytes that nothing explains")

    def _skip(self, tag: int) -> int:
        """Moves past the next element; returns where its content starts."""
        head = self.take(2, f"the element of tag {tag:#04x}")
        if head[0] != tag:
            raise self.error(f"tag {head[0]:#04x} where {tag:#04x} must stand")
        length = head[1]
        if length > 0x7F:
            size = length & 0x7F
            if not 0 < size < 4:
                raise self.error("a length is not of at most three bytes")
            raw = self.take(size, "a length")
            length = int.from_bytes(raw, "big")
            if length < 0x80 or not raw[0]:
                raise self.error("a length is not in its shortest form")
        content = self._at
        self.take(length, f"the element of tag {tag:#04x}")
        return content
