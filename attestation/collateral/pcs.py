"""Intel's Provisioning Certification Service v4, and PCCS, which speaks almost the same.

The differences: header names vary between versions, CRLs come as DER or as its hex, and the
root's CRL is on another host of Intel's but at the PCCS itself. URLs inside certificates
are never followed: whoever could choose one would choose where this machine connects.
Spec: Intel PCS API v4; PCCS API v4.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import Final
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from attestation.canonical import loads_strict
from attestation.collateral.http import Fetcher, Reply, base_url
from attestation.collateral.item import Item, Key, Kind
from attestation.errors import CollateralError, MalformedEvidence
from attestation.x509 import read_chain

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_INTEL_HOST: Final = urlsplit(INTEL_PCS).hostname
_JSON_TYPES: Final = frozenset({"", "application/json", "text/plain", "application/octet-stream"})
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_MAX_CHAIN_TEXT: Final = 1 << 16
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_TCB_CHAIN: Final = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
_QE_CHAIN: Final = ("sgx-enclave-identity-issuer-chain", "enclave-identity-issuer-chain")
_CRL_CHAIN: Final = ("sgx-pck-crl-issuer-chain", "pck-crl-issuer-chain")


class PcsClient:
    """Gets items from Intel's service or from a PCCS at `url`. What it returns is unchecked."""

    def __init__(self, fetcher: Fetcher, url: str = INTEL_PCS) -> None:
        """Raises CollateralError when `url` is not one that may be asked."""
        self._fetcher = fetcher
        self._base = base_url(url)

    async def fetch(self, key: Key) -> Item:
        """The item as served. Raises CollateralUnavailable, or CollateralError naming it."""
        match key.kind:
            case Kind.TCB_INFO:
                tee, fmspc, update = key.parts
                query = f"tcb?fmspc={fmspc.upper()}&update={update}"
                return _document(key, await self._get(tee, query, key), "tcbInfo", _TCB_CHAIN)
            case Kind.QE_IDENTITY:
                tee, update = key.parts
                reply = await self._get(tee, f"qe/identity?update={update}", key)
                return _document(key, reply, "enclaveIdentity", _QE_CHAIN)
            case Kind.PCK_CRL:
                reply = await self._get("sgx", f"pckcrl?ca={key.subject}&encoding=der", key)
                return Item(key, _crl(key, reply.body), b"", _chain(key, reply, _CRL_CHAIN))
            case Kind.ROOT_CRL:
                return Item(key, _crl(key, (await self._root_crl(key)).body), b"", "")
            case _:
                raise CollateralError(f"{key.kind}: not something Intel's service has")

    async def _get(self, tee: str, query: str, key: Key) -> Reply:
        url = f"{self._base}/{tee}/certification/v4/{query}"
        return await self._fetcher.get(url, str(key.kind))

    async def _root_crl(self, key: Key) -> Reply:
        if urlsplit(self._base).hostname == _INTEL_HOST:
            return await self._fetcher.get(INTEL_ROOT_CRL, str(key.kind))
        return await self._get("sgx", "rootcacrl", key)


def _document(key: Key, reply: Reply, member: str, chain: tuple[str, ...]) -> Item:
    media = (reply.header("content-type") or "").partition(";")[0].strip().lower()
    if media not in _JSON_TYPES:
        raise CollateralError(f"{key.kind}: the service sent {media[:64]!r}, not JSON")
    text, signature = _signed_text(str(key.kind), reply.body, member)
    return Item(key, text.encode(), signature, _chain(key, reply, chain))


def _signed_text(name: str, body: bytes, member: str) -> tuple[str, bytes]:
    """The exact text of `member` in the outer object, which is what was signed, and the signature.

    Writing the parsed value out again would sign something else wherever the service's
    spacing, order of members or escapes differ from ours.
    """
    try:
        outer = loads_strict(body, name)
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None
    if not isinstance(outer, dict) or set(outer) != {member, "signature"}:
        raise CollateralError(f"{name}: must have the members {member} and signature")
    signature = outer["signature"]
    if not isinstance(signature, str) or not _HEX.fullmatch(signature.encode("utf-8", "replace")):
        raise CollateralError(f"{name} signature: not hex")
    return _slices(body.decode())[member], bytes.fromhex(signature)


def _slices(text: str) -> dict[str, str]:
    """The text of each member's value of a JSON object that is known to be well-formed."""
    decoder = json.JSONDecoder()
    out: dict[str, str] = {}
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = decoder.raw_decode(text, start)
        out[name] = text[start:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return out


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _chain(key: Key, reply: Reply, names: tuple[str, ...]) -> str:
    """The issuer chain of a header as plain PEM, written again in one form."""
    value = reply.header(*names)
    if value is None:
        raise CollateralError(f"{key.kind}: the answer has no header {names[0]}")
    if len(value) > _MAX_CHAIN_TEXT:
        raise CollateralError(f"{key.kind} issuer chain: longer than {_MAX_CHAIN_TEXT}")
    return pem_chain(str(key.kind), unquote(value, errors="replace"))


def pem_chain(name: str, text: str) -> str:
    """The certificates in `text` and nothing beside them, as PEM."""
    chain = read_chain(f"{name} issuer chain", text.encode("utf-8", "replace"))
    return "".join(
        load_der_x509_certificate(c.der).public_bytes(Encoding.PEM).decode() for c in chain
    )


def _crl(key: Key, body: bytes) -> bytes:
    """DER, or the hex of it, which PCCS sends."""
    text = body.strip()
    if _HEX.fullmatch(text):
        return binascii.unhexlify(text)
    if not body:
        raise CollateralError(f"{key.kind}: the answer is empty")
    return body
