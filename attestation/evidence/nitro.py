"""AWS Nitro attestation documents: COSE_Sign1 around a CBOR map.

Spec: AWS Nitro Enclaves attestation process, sections 2.2 (the document), 3.1 (COSE) and
3.2.2 (what every field must be); RFC 9052 section 4.2 and 4.4.

The envelope is not signed, so it has one encoding only: the deterministic one. The payload
is signed by AWS as it stands, and newer hypervisors leave its length indefinite, so there
it is enough that it means one thing: no duplicate keys, no tags, nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from types import MappingProxyType
from typing import Any, Final, Self

import cbor2

from attestation.errors import MalformedEvidence

DIGEST: Final = "SHA384"
MAX_PAYLOAD_BYTES: Final = 16384
SIGNATURE_BYTES: Final = 96

_COSE_SIGN1_TAG: Final = b"\xd2"
_PROTECTED: Final = cbor2.dumps({1: -35})
"""The only protected header: algorithm ES384."""

_MAX_DOCUMENT_BYTES: Final = MAX_PAYLOAD_BYTES + 128
_MAX_DEPTH: Final = 4
_MAX_CERTIFICATES: Final = 8
_MAX_CERTIFICATE_BYTES: Final = 1024
_MAX_MODULE_ID: Final = 256
_MAX_TIMESTAMP_MS: Final = 253_402_300_799_999
"""The end of the year 9999; AWS gives eight bytes, which reach further than any clock."""

_PCR_COUNT: Final = 32
_PCR_BYTES: Final = (32, 48, 64)
_MANDATORY: Final = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
_OPTIONAL_BYTES: Final = {"public_key": (1, 1024), "user_data": (0, 512), "nonce": (0, 512)}


_TagDecoder = Callable[[Any, bool], Any]


def _refuse_tag(_decoder: Any, _immutable: bool) -> Any:
    raise ValueError("tags are not part of this format")


class _NoTags(dict[int, _TagDecoder]):
    """Answers for every CBOR tag, so that none reaches the decoder's own (dates, regexes)."""

    def __missing__(self, _tag: int) -> _TagDecoder:
        return _refuse_tag


def _malformed(name: str, detail: str) -> MalformedEvidence:
    return MalformedEvidence(f"nitro.{name}", detail)


def _decode(name: str, data: bytes) -> Any:
    """The one CBOR item that is all of `data`."""
    stream = BytesIO(data)
    decoder = cbor2.CBORDecoder(
        stream, semantic_decoders=_NoTags(), max_depth=_MAX_DEPTH, allow_duplicate_keys=False
    )
    try:
        value = decoder.decode()
    except cbor2.CBORError as e:
        raise _malformed(name, f"not CBOR ({str(e)[:200]})") from None
    if stream.tell() != len(data):
        raise _malformed(name, f"{len(data) - stream.tell()} bytes left over")
    return value


def _bytes(name: str, value: Any, least: int, most: int) -> bytes:
    if type(value) is not bytes:
        raise _malformed(name, "must be a byte string")
    if not least <= len(value) <= most:
        raise _malformed(name, f"{len(value)} bytes, expected {least} to {most}")
    return value


def _pcrs(value: Any) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= _PCR_COUNT:
        raise _malformed("pcrs", f"must be a map of 1 to {_PCR_COUNT} registers")
    for index, content in value.items():
        if type(index) is not int or not 0 <= index < _PCR_COUNT:
            raise _malformed("pcrs", f"no register is called {str(index)[:64]}")
        if type(content) is not bytes or len(content) not in _PCR_BYTES:
            raise _malformed(f"pcrs.{index}", "must be 32, 48 or 64 bytes")
    return MappingProxyType(value)


def _cabundle(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_CERTIFICATES:
        raise _malformed("cabundle", f"must be an array of 1 to {_MAX_CERTIFICATES} certificates")
    return tuple(
        _bytes(f"cabundle.{i}", der, 1, _MAX_CERTIFICATE_BYTES) for i, der in enumerate(value)
    )


def _members(payload: bytes) -> dict[str, Any]:
    """The payload's map, with the fields AWS allows and no others."""
    document = _decode("payload", payload)
    if not isinstance(document, dict):
        raise _malformed("payload", "must be a map")
    for name in document:
        if name not in _MANDATORY and name not in _OPTIONAL_BYTES:
            raise _malformed("payload", f"unknown field {str(name)[:64]!r}")
    for name in _MANDATORY:
        if name not in document:
            raise _malformed(name, "missing")
    return document


def _module_id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_MODULE_ID:
        raise _malformed("module_id", f"must be a text of 1 to {_MAX_MODULE_ID} characters")
    return value


def _timestamp(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _MAX_TIMESTAMP_MS:
        raise _malformed("timestamp", "must be a positive number of milliseconds")
    return value


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """What the Nitro hypervisor says about one enclave, and its signature.

    `pcrs` maps register to value; `timestamp_ms` is milliseconds since 1970. `public_key`,
    `user_data` and `nonce` are the enclave's own choice and None where it gave none: AWS
    writes those as null. `payload` is the slice of the original bytes that was signed.
    """

    module_id: str
    digest: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes = field(repr=False)
    cabundle: tuple[bytes, ...] = field(repr=False)
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    signature: bytes = field(repr=False)
    tagged: bool
    payload: bytes = field(repr=False)

    @property
    def signed(self) -> bytes:
        """The Sig_structure over the original payload. Spec: RFC 9052 section 4.4."""
        return cbor2.dumps(["Signature1", _PROTECTED, b"", self.payload])

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A document from all of `data`, with COSE tag 18 or without. Raises MalformedEvidence."""
        if len(data) > _MAX_DOCUMENT_BYTES:
            raise _malformed("document", f"longer than {_MAX_DOCUMENT_BYTES} bytes")
        tagged = data.startswith(_COSE_SIGN1_TAG)
        envelope = data[len(_COSE_SIGN1_TAG) :] if tagged else data
        payload, signature = _open(envelope)
        document = _members(payload)
        if document["digest"] != DIGEST:
            raise _malformed("digest", f"{str(document['digest'])[:64]!r} is not {DIGEST}")
        optional = {
            name: None if (value := document.get(name)) is None else _bytes(name, value, *sizes)
            for name, sizes in _OPTIONAL_BYTES.items()
        }
        return cls(
            module_id=_module_id(document["module_id"]),
            digest=DIGEST,
            timestamp_ms=_timestamp(document["timestamp"]),
            pcrs=_pcrs(document["pcrs"]),
            certificate=_bytes("certificate", document["certificate"], 1, _MAX_CERTIFICATE_BYTES),
            cabundle=_cabundle(document["cabundle"]),
            **optional,
            signature=signature,
            tagged=tagged,
            payload=payload,
        )

    def write(self) -> bytes:
        """The bytes `read` reads."""
        envelope = cbor2.dumps([_PROTECTED, {}, self.payload, self.signature])
        return _COSE_SIGN1_TAG + envelope if self.tagged else envelope


def _open(envelope: bytes) -> tuple[bytes, bytes]:
    """Payload and signature of a COSE_Sign1 array in its one encoding."""
    parts = _decode("cose", envelope)
    if not isinstance(parts, list) or len(parts) != 4:
        raise _malformed("cose", "must be an array of four")
    protected, unprotected, payload, signature = parts
    if protected != _PROTECTED:
        raise _malformed("cose.protected", "must be exactly {1: -35}, ES384")
    if unprotected != {}:
        raise _malformed("cose.unprotected", "must be an empty map")
    payload = _bytes("cose.payload", payload, 1, MAX_PAYLOAD_BYTES)
    signature = _bytes("cose.signature", signature, SIGNATURE_BYTES, SIGNATURE_BYTES)
    if cbor2.dumps(parts) != envelope:
        raise _malformed("cose", "not in its deterministic encoding")
    return payload, signature
