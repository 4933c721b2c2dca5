"""What TCB infos and identities of quoting enclaves have in common when made compact.

Intel signs these as JSON text. The contracts take a compact form, rebuild the text and
check the signature over it; a text is therefore read here and written again, and one that
does not come out the same cannot be proved. The compact forms are in the NatSpec of
contracts/src/lib/{TcbInfoText,QeIdentityText,TcbLevelText}.sol. Integers are big endian.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, Self, TypeVar

from attestation.canonical import loads_strict
from attestation.errors import MalformedEvidence
from attestation.onchain.errors import NotProvable
from attestation.wire import BigEndianCursor

STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
"""In the order of contracts/src/TcbStatus.sol."""
MIN_STRING: Final = 2
MAX_STRING: Final = 28
MAX_TEXT: Final = 1 << 20
_DATE: Final = "%Y-%m-%dT%H:%M:%SZ"
_DAY: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})T00:00:00Z", re.ASCII)
_KEY: Final = re.compile(r'"(\w{1,64})":')


class Member:
    """A value of a JSON document and its path, read as what it must be or not provable."""

    __slots__ = ("_value", "path")

    def __init__(self, path: str, value: Any) -> None:
        self.path, self._value = path, value

    @classmethod
    def document(cls, name: str, text: str) -> Self:
        """The object that `text` is. Raises MalformedEvidence where it is no JSON object."""
        if len(text) > MAX_TEXT:
            raise MalformedEvidence(name, f"longer than {MAX_TEXT} characters")
        value = loads_strict(text, name)
        if not isinstance(value, dict):
            raise MalformedEvidence(name, "not a JSON object")
        return cls(name, value)

    def unprovable(self, detail: str) -> NotProvable:
        """The error that names this member; the caller raises it."""
        return NotProvable(self.path, detail)

    def __contains__(self, name: str) -> bool:
        return isinstance(self._value, dict) and name in self._value

    def __getitem__(self, name: str) -> Member:
        if name not in self:
            raise NotProvable(f"{self.path}.{name}", "missing")
        return Member(f"{self.path}.{name}", self._value[name])

    def items(self, most: int, least: int = 1) -> list[Member]:
        """The members of a list of `least` to `most`."""
        if not isinstance(self._value, list) or not least <= len(self._value) <= most:
            raise self.unprovable(f"not a list of {least} to {most}")
        return [Member(f"{self.path}[{i}]", v) for i, v in enumerate(self._value)]

    def text(self) -> str:
        if not isinstance(self._value, str):
            raise self.unprovable("not a string")
        return self._value

    def number(self, size: int) -> int:
        """An integer that `size` bytes hold."""
        value = self._value
        if type(value) is not int or not 0 <= value < 1 << 8 * size:
            raise self.unprovable(f"not an unsigned integer of {8 * size} bits")
        return value

    def hexadecimal(self, size: int) -> bytes:
        text = self.text()
        if not re.fullmatch(f"[0-9a-fA-F]{{{2 * size}}}", text):
            raise self.unprovable(f"not {2 * size} hex digits")
        return bytes.fromhex(text)

    def date(self) -> int:
        """Unix seconds, of which the contracts keep 32 bits."""
        try:
            moment = datetime.strptime(self.text(), _DATE).replace(tzinfo=UTC)
        except ValueError:
            raise self.unprovable("not a date as 2025-06-19T10:16:03Z") from None
        seconds = int(moment.timestamp())
        if not 0 <= seconds < 1 << 32:
            raise self.unprovable("before 1970 or after 2106")
        return seconds

    def word(self) -> str:
        """A string the contracts take: short, and without what JSON must escape."""
        text = self.text()
        if not MIN_STRING <= len(text) <= MAX_STRING:
            raise self.unprovable(f"not {MIN_STRING} to {MAX_STRING} characters")
        if not text.isascii() or min(text) < " " or '"' in text or "\\" in text:
            raise self.unprovable("has a character that JSON escapes, or one beyond ASCII")
        return text

    def is_exactly(self, value: Any) -> None:
        """Not provable unless the member is this value."""
        if type(self._value) is not type(value) or self._value != value:
            raise self.unprovable(f"must be {value!r}")


class Strings:
    """The free strings of a document, each once; the compact forms name them by index.

    `last` is the list of advisories written last: Intel puts new ones first, so a list
    mostly ends as the one before it.
    """

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self.last: tuple[str, ...] = ()

    def index(self, word: str) -> int:
        found = self._index.setdefault(word, len(self._index))
        if found > 254:  # labels count from one
            raise NotProvable("strings", "more than 255 different ones")
        return found

    def write(self) -> bytes:
        words = [word.encode("ascii") for word in self._index]
        return bytes([len(words)]) + b"".join(bytes([len(w)]) + w for w in words)


class ReadStrings:
    """The free strings of a compact form, by index, and the list of advisories read last."""

    def __init__(self, cursor: BigEndianCursor) -> None:
        """Raises MalformedEvidence."""
        self.words = [self._word(cursor) for _ in range(cursor.u8("strings"))]
        self.last: tuple[str, ...] = ()

    @staticmethod
    def _word(cursor: BigEndianCursor) -> str:
        text = cursor.take("string", cursor.u8("length")).decode("latin-1")
        try:
            return Member("string", text).word()
        except NotProvable as e:
            raise cursor.error("string", e.detail) from None


T = TypeVar("T")


def nth(cursor: BigEndianCursor, field: str, of: list[T], index: int) -> T:
    """What stands at `index`. Raises MalformedEvidence where nothing does."""
    if not 0 <= index < len(of):
        raise cursor.error(field, f"{index} is none of {len(of)}")
    return of[index]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a TCB level is worth: status (see STATUSES), since when, and why.

    `day` is eight decimal digits. Compact: status (1), day (4, a digit a nibble), number of
    advisories (1), how many bytes of the list before are taken again (2), indices (1 each).
    """

    status: int
    day: str
    advisories: tuple[str, ...]

    @classmethod
    def of(cls, level: Member) -> Self:
        """As stated in a level. Raises NotProvable."""
        status = level["tcbStatus"].text()
        if status not in STATUSES:
            raise level["tcbStatus"].unprovable(f"unknown status {status[:64]!r}")
        day = _DAY.fullmatch(level["tcbDate"].text())
        if day is None:
            raise level["tcbDate"].unprovable("not a day at midnight")
        listed = level["advisoryIDs"].items(255) if "advisoryIDs" in level else []
        return cls(STATUSES.index(status), "".join(day.groups()), tuple(a.word() for a in listed))

    def members(self) -> dict[str, Any]:
        """The members of a level in Intel's order."""
        date = f"{self.day[:4]}-{self.day[4:6]}-{self.day[6:]}T00:00:00Z"
        out: dict[str, Any] = {"tcbDate": date, "tcbStatus": STATUSES[self.status]}
        return {**out, "advisoryIDs": list(self.advisories)} if self.advisories else out

    def write(self, strings: Strings) -> bytes:
        kept = _common_end(self.advisories, strings.last)
        first = self.advisories[: len(self.advisories) - kept]
        again = _listed(self.advisories[len(first) :])
        strings.last = self.advisories or strings.last
        return b"".join(
            (
                bytes([self.status]),
                bytes.fromhex(self.day),
                bytes([len(first)]),
                len(again).to_bytes(2, "big"),
                bytes(strings.index(word) for word in first),
            )
        )

    @classmethod
    def read(cls, cursor: BigEndianCursor, strings: ReadStrings) -> Self:
        """Raises MalformedEvidence."""
        status = cursor.u8("status")
        nth(cursor, "status", list(STATUSES), status)
        day = cursor.take("day", 4).hex()
        if not day.isdecimal():
            raise cursor.error("day", f"{day} is not decimal")
        count, again = cursor.u8("advisories"), cursor.u16("again")
        first = (nth(cursor, "advisory", strings.words, i) for i in cursor.take("indices", count))
        listed = (*first, *_end_of(cursor, strings.last, again))
        strings.last = listed or strings.last
        return cls(status, day, listed)


def _listed(words: tuple[str, ...]) -> str:
    """A list of strings as it stands in the text, between its first quote and its bracket."""
    return '","'.join(words) + '"' if words else ""


def _common_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many of the last strings two lists share."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _end_of(cursor: BigEndianCursor, words: tuple[str, ...], length: int) -> tuple[str, ...]:
    """The last strings of a list that take `length` bytes of text."""
    for kept in range(len(words) + 1):
        end = words[len(words) - kept :]
        if len(_listed(end)) == length:
            return end
    raise cursor.error("again", f"no string begins {length} bytes before the list's end")


def dated(seconds: int) -> str:
    """Unix seconds as Intel writes them."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_DATE)


def cased(data: bytes, lower: bool) -> str:
    """Hex digits in the document's case."""
    return data.hex() if lower else data.hex().upper()


def lower_case(*members: Member) -> bool:
    """Whether hex digits of these members are written in lower case."""
    return any(c in "abcdef" for m in members for c in m.text())


class Document(Protocol):
    """A document that can be written as the text it was read from."""

    def text(self) -> str: ...


D = TypeVar("D", bound=Document)


def round_trip(name: str, text: str, read: Callable[[Member], D]) -> D:
    """The document `text` is, which it is written as again, to the byte.

    Raises NotProvable, naming the member that holds the first difference, where it is not.
    """
    document = read(Member.document(name, text))
    again = document.text()
    if again != text:
        at = next((i for i, (a, b) in enumerate(zip(text, again, strict=False)) if a != b), None)
        at = min(len(text), len(again)) if at is None else at
        keys = [""] + [key[1] for key in _KEY.finditer(text) if key.start() <= at]
        raise NotProvable(f"{name}.{keys[-1]}".rstrip("."), f"not as Intel writes it, at {at}")
    return document


def json_text(members: dict[str, Any]) -> str:
    """JSON without blanks, members as they come."""
    return json.dumps(members, separators=(",", ":"))
