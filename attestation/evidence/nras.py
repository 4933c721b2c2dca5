"""A verdict of NVIDIA's attestation service: a detached EAT, split into its tokens.

`[["JWT", overall], {"GPU-0": token, ...}]`: the overall token carries a digest of each
device's token. Splitting proves nothing; the claims read here are for looking at. Spec:
RFC 7519, RFC 7515; draft-ietf-rats-eat (detached EAT bundle); NVIDIA claims version 3.0.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from attestation.canonical import loads_strict
from attestation.errors import MalformedEvidence

MAX_TOKEN: Final = 1 << 20
_MAX_DEVICES: Final = 64
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]*")
_NAME: Final = re.compile(r"(?:GPU|SWITCH)-[0-9]{1,3}")


@dataclass(frozen=True, slots=True)
class Jwt:
    """One token in compact form, with its header and claims as stated."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    @classmethod
    def read(cls, field: str, text: str) -> Self:
        """The token that `text` is. Raises MalformedEvidence naming `field`."""
        parts = text.split(".")
        if len(parts) != 3:
            raise MalformedEvidence(field, f"{len(parts)} parts instead of three")
        header, claims, _ = (_segment(field, p) for p in parts)
        return cls(text, _object(f"{field}.header", header), read_claims(f"{field}.claims", claims))

    @property
    def sha256(self) -> str:
        """The digest by which an overall token names this one, lowercase hex."""
        return hashlib.sha256(self.text.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class DetachedEat:
    """The overall token and those of the devices by name (`GPU-0`, `SWITCH-2`)."""

    overall: Jwt
    devices: Mapping[str, Jwt]

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The bundle that all of `data` (JSON) is. Raises MalformedEvidence."""
        if len(data) > MAX_TOKEN:
            raise MalformedEvidence("eat", f"longer than {MAX_TOKEN} bytes", 0)
        bundle = loads_strict(data, "eat")
        match bundle:
            case [["JWT", str() as overall], dict() as devices]:
                return cls(Jwt.read("eat.overall", overall), _devices(devices))
            case _:
                raise MalformedEvidence("eat", 'not [["JWT", token], {name: token}]')

    def write(self) -> bytes:
        """A bundle that `read` reads as this one."""
        devices = ",".join(f'"{name}":"{token.text}"' for name, token in self.devices.items())
        return f'[["JWT","{self.overall.text}"],{{{devices}}}]'.encode("ascii")


def _segment(field: str, text: str) -> bytes:
    # base64url has one encoding of each value; any other would be another token to a reader
    # that is less strict, under the same signature.
    if not _SEGMENT.fullmatch(text):
        raise MalformedEvidence(field, "a part is not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise MalformedEvidence(field, "a part is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != text:
        raise MalformedEvidence(field, "a part is not canonical base64url")
    return data


def _object(field: str, data: bytes) -> Mapping[str, Any]:
    value = loads_strict(data, field)
    if not isinstance(value, dict):
        raise MalformedEvidence(field, "not a JSON object")
    return MappingProxyType(value)


def read_claims(field: str, payload: bytes) -> Mapping[str, Any]:
    """The claims in a token's payload. Raises MalformedEvidence naming `field`."""
    return _object(field, payload)


def _devices(tokens: Mapping[str, Any]) -> Mapping[str, Jwt]:
    if not 0 < len(tokens) <= _MAX_DEVICES:
        raise MalformedEvidence("eat", f"{len(tokens)} devices, not 1 to {_MAX_DEVICES}")
    out = {}
    for name, token in tokens.items():
        if not _NAME.fullmatch(name) or not isinstance(token, str):
            raise MalformedEvidence("eat", f"{name[:32]!r} does not name the token of a device")
        out[name] = Jwt.read(f"eat.{name}", token)
    return MappingProxyType(out)
