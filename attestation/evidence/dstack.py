"""What dstack measures and says about an application: parsed, and believed nowhere yet.

The application is its `app-compose.json`, named by the SHA-256 of the exact bytes. Its keys
come from a key provider named in RTMR3. The virtual machine's configuration is the host's
word, except that `os_image_hash` may commit to measurement material that can be compared
with the registers.

Spec: Dstack-TEE/dstack, dstack-types `lib.rs` (AppCompose, VmConfig, KeyProviderInfo,
TdxOsImageMeasurement), guest-agent `rpc_service.rs` (GetKey).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import cbor2

from attestation.canonical import loads_strict, sha256_hex
from attestation.errors import MalformedEvidence

APP_ID_BYTES: Final = 20
MEASUREMENT_FILE: Final = "measurement.tdx.cbor"
MEASUREMENT_VERSION: Final = 3
PROVIDER_NAMES: Final = {"none": "none", "kms": "kms", "local": "local-sgx", "tpm": "tpm"}
"""Key providers as app-compose spells them, and as the `key-provider` event does."""

_MAX_DOCUMENT_BYTES: Final = 1 << 20
_MAX_PURPOSE: Final = 256
_SIGNATURE_BYTES: Final = 65
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")
_DIGEST_LINE: Final = re.compile(r"([0-9a-fA-F]{64})\s+\*?(\S+)\s*")


def _object(data: bytes | str, what: str) -> dict[str, Any]:
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise MalformedEvidence(what, f"longer than {_MAX_DOCUMENT_BYTES}")
    value = loads_strict(data, what)
    if not isinstance(value, dict):
        raise MalformedEvidence(what, "not a JSON object")
    return value


def _text(value: Mapping[str, Any], member: str, what: str, default: str | None = None) -> str:
    text = value.get(member, default)
    if not isinstance(text, str):
        raise MalformedEvidence(f"{what}.{member}", "not a string")
    return text


def _flag(value: Mapping[str, Any], member: str) -> bool:
    flag = value.get(member, False)
    if not isinstance(flag, bool):
        raise MalformedEvidence(f"app_compose.{member}", "not a boolean")
    return flag


def _hex(value: Mapping[str, Any], member: str, what: str) -> str:
    text = _text(value, member, what, "").lower().removeprefix("0x")
    if not _HEX.fullmatch(text):
        raise MalformedEvidence(f"{what}.{member}", "not hex")
    return text


@dataclass(frozen=True, slots=True)
class AppCompose:
    """An `app-compose.json`. `digest` is the compose hash, over the bytes as they are.

    `key_provider` is the kind the guest will insist on (`none`, `kms`, `local` or `tpm`);
    `key_provider_id` pins which one, empty for any.
    """

    name: str
    runner: str
    key_provider: str
    key_provider_id: str
    no_instance_id: bool
    document: Mapping[str, Any] = field(repr=False)
    digest: str

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The application in all of `data`. Raises MalformedEvidence."""
        value = _object(data, "app_compose")
        return cls(
            name=_text(value, "name", "app_compose"),
            runner=_text(value, "runner", "app_compose"),
            key_provider=_provider_kind(value),
            key_provider_id=_hex(value, "key_provider_id", "app_compose"),
            no_instance_id=_flag(value, "no_instance_id"),
            document=value,
            digest=sha256_hex(data),
        )


def _provider_kind(value: Mapping[str, Any]) -> str:
    """The stated provider; else what the two older flags mean."""
    stated = value.get("key_provider")
    if stated is None:
        local = "local" if _flag(value, "local_key_provider_enabled") else "none"
        return "kms" if _flag(value, "kms_enabled") else local
    if not isinstance(stated, str) or stated not in PROVIDER_NAMES:
        raise MalformedEvidence("app_compose.key_provider", "not a known provider")
    return stated


@dataclass(frozen=True, slots=True)
class KeyProviderInfo:
    """Payload of the `key-provider` event: who holds the keys the guest runs on.

    `id` is the KMS root CA's public key (SPKI, hex), the sealing provider's measurement, or
    empty.
    """

    name: str
    id: str

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The provider in all of `data`. Raises MalformedEvidence."""
        value = _object(data, "key_provider")
        return cls(_text(value, "name", "key_provider"), _text(value, "id", "key_provider"))


@dataclass(frozen=True, slots=True)
class OsImageMeasurement:
    """`measurement.tdx.cbor`: what an OS image puts into MRTD, RTMR1 and RTMR2.

    All values are SHA-384. `mr_td` has one value for each order in which a VMM may add the
    firmware's pages.
    """

    cmdline: bytes
    kernel: bytes
    initrd: bytes
    mr_td: tuple[bytes, bytes]

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The measurement in all of `data`. Raises MalformedEvidence."""
        value = _cbor(data)
        if value.get("version") != MEASUREMENT_VERSION:
            raise MalformedEvidence("os_image.version", f"is not {MEASUREMENT_VERSION}")
        image, mr_td = _member(value, "image"), _member(_member(value, "tdvf"), "mrtd")
        return cls(
            cmdline=_sha384(image, "cmdline_sha384"),
            kernel=_sha384(image, "kernel_authenticode"),
            initrd=_sha384(image, "initrd_sha384"),
            mr_td=(_sha384(mr_td, "single_pass"), _sha384(mr_td, "two_pass")),
        )


def _cbor(data: bytes) -> Mapping[str, Any]:
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise MalformedEvidence("os_image", f"longer than {_MAX_DOCUMENT_BYTES} bytes")
    source = io.BytesIO(data)
    try:
        value = cbor2.load(source)
    except Exception as e:  # cbor2 lets errors of what it calls through: everything is malformed
        raise MalformedEvidence("os_image", f"not CBOR ({type(e).__name__})") from None
    if not isinstance(value, dict) or source.read(1):
        raise MalformedEvidence("os_image", "not one CBOR map")
    return value


def _member(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    member = value.get(name)
    if not isinstance(member, dict):
        raise MalformedEvidence(f"os_image.{name}", "not a map")
    return member


def _sha384(value: Mapping[str, Any], name: str) -> bytes:
    digest = value.get(name)
    if not isinstance(digest, bytes) or len(digest) != hashlib.sha384().digest_size:
        raise MalformedEvidence(f"os_image.{name}", "not 48 bytes")
    return digest


@dataclass(frozen=True, slots=True)
class VmConfig:
    """The host's description of the machine. `os_image_hash` is hex, empty if not stated.

    `checksum_file` (`sha256sum.txt` of the image) and `measurement` (its
    `measurement.tdx.cbor`) are the raw material behind that hash, None where not given.
    """

    os_image_hash: str
    checksum_file: bytes | None
    measurement: bytes | None

    @classmethod
    def read(cls, data: bytes | str) -> Self:
        """The configuration in a JSON text, also one level down. Raises MalformedEvidence."""
        value = _object(data, "vm_config")
        if isinstance(value.get("vm_config"), str):
            value = _object(value["vm_config"], "vm_config")
        material = value.get("tdx_measurement")
        if material is not None and not isinstance(material, dict):
            raise MalformedEvidence("vm_config.tdx_measurement", "not an object")
        return cls(
            os_image_hash=_hex(value, "os_image_hash", "vm_config"),
            checksum_file=None if material is None else _base64(material, "checksum_file"),
            measurement=None if material is None else _base64(material, "measurement"),
        )

    def material_digest(self) -> str | None:
        """The digest `checksum_file` lists for the measurement; None unless exactly one."""
        lines = (self.checksum_file or b"").decode("utf-8", "replace").splitlines()
        entries = (_DIGEST_LINE.fullmatch(line.strip()) for line in lines)
        found = [m[1].lower() for m in entries if m and m[2] == MEASUREMENT_FILE]
        return found[0] if len(found) == 1 else None


def _base64(value: Mapping[str, Any], member: str) -> bytes:
    try:
        return base64.b64decode(_text(value, member, "vm_config.tdx_measurement"), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvidence(f"vm_config.tdx_measurement.{member}", "not base64") from None


@dataclass(frozen=True, slots=True)
class KeyRelease:
    """A key from `GetKey`, public half, with the signatures that lead to the KMS.

    `public_key` is a compressed secp256k1 or an Ed25519 key; `chain` has the application
    key's signature over it and the KMS's over the application key, each r || s || recovery
    id.
    """

    public_key: bytes
    purpose: str
    chain: tuple[bytes, bytes]

    def __post_init__(self) -> None:
        if len(self.public_key) not in (32, 33):
            raise MalformedEvidence("key_release.public_key", "not 32 or 33 bytes")
        if len(self.chain) != 2 or any(len(s) != _SIGNATURE_BYTES for s in self.chain):
            raise MalformedEvidence("key_release.chain", "not two signatures of 65 bytes")
        if len(self.purpose) > _MAX_PURPOSE:
            raise MalformedEvidence("key_release.purpose", f"longer than {_MAX_PURPOSE}")
