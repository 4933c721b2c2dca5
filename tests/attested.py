"""Genuine evidence for tests to damage: one simulated platform, fixed seed and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.collateral import Collateral
from attestation.evidence import TdReport10, TdReport15, TdReport15Ex
from attestation.issuers.base import IssuedEvidence
from attestation.issuers.simulator.platform import SimulatedPlatform
from attestation.keyset import KeyEntry, Keyset, TlsKey
from attestation.report import build_report
from attestation.statement import report_data
from attestation.verify import VerifiedReport, verify_quote

NOW = 1_780_000_000
SEED = b"fixed seed of the test platform!"
NONCE = "5a" * 32
REPORT_DATA = bytes(range(64))
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
KINDS = ("sgx-v3", "tdx-v4", "tdx-v5", "tdx-v5-td15", "tdx-v5-td15ex")
_BODIES: Mapping[str, tuple[int, type[TdReport10]]] = {
    "tdx-v4": (4, TdReport10),
    "tdx-v5": (5, TdReport10),
    "tdx-v5-td15": (5, TdReport15),
    "tdx-v5-td15ex": (5, TdReport15Ex),
}


def tee_of(kind: str) -> str:
    return kind.partition("-")[0]


@lru_cache(maxsize=128)
def platform(**odd: Any) -> SimulatedPlatform:
    """The healthy test platform, or one that differs in the given fields."""
    return SimulatedPlatform(**{"seed": SEED, "now": NOW, **odd})


@lru_cache(maxsize=128)
def collateral(tee: str, of: SimulatedPlatform | None = None) -> Collateral:
    return (of or platform()).collateral(tee)


def quote(kind: str, of: SimulatedPlatform | None = None, **fields: Any) -> bytes:
    """A genuine quote of this kind over `fields` (vendor names)."""
    chosen = of or platform()
    body = {"report_data": REPORT_DATA, **fields}
    if kind == "sgx-v3":
        return chosen.sgx_quote(body)
    version, report = _BODIES[kind]
    return chosen.tdx_quote(body, version=version, body=report)


def verify(
    kind: str = "tdx-v4",
    *,
    of: SimulatedPlatform | None = None,
    raw: bytes | None = None,
    endorsements: Collateral | None = None,
    now: int = NOW,
    **fields: Any,
) -> VerifiedReport:
    """Verify a quote of `kind` under the platform's own root, unless told otherwise."""
    chosen = of or platform()
    return verify_quote(
        quote(kind, chosen, **fields) if raw is None else raw,
        endorsements or collateral(tee_of(kind), chosen),
        [chosen.root_der],
        now,
    )


def flip(data: bytes, bit: int) -> bytes:
    """`data` with one bit inverted; bit 0 is the lowest of the first byte."""
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def keyset(**members: Any) -> Keyset:
    public = SIGNING_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    return Keyset.build(
        **{
            "subject": None,
            "not_after": NOW + 86400,
            "receipt_signing_keys": (KeyEntry("receipt-1", "ed25519", public),),
            "tls_public_keys": (TlsKey("c0" * 32),),
            **members,
        }
    )


def report(
    tee: str = "tdx",
    *,
    keys: Keyset | None = None,
    nonce: str | None = NONCE,
    of: SimulatedPlatform | None = None,
    **members: Any,
) -> dict[str, Any]:
    """The report a healthy node serves for `nonce`; `members` go to `build_report`."""
    chosen = of or platform()
    keys = keys or keyset()
    raw = quote(
        "sgx-v3" if tee == "sgx" else "tdx-v4",
        chosen,
        report_data=report_data(keys.digest, nonce),
    )
    evidence = IssuedEvidence(tee, raw, collateral(tee, chosen), simulated=True)
    return build_report(
        **{
            "keyset": keys,
            "nonce": nonce,
            "evidence": evidence,
            "key_custody": {"kind": "generated"},
            **members,
        }
    )


def changed(document: Any, path: str, value: Any) -> Any:
    """A deep copy of `document` with the dotted `path` set to `value` (`...` removes it)."""
    name, _, rest = path.partition(".")
    out = dict(document)
    if rest:
        out[name] = changed(out[name], rest, value)
    elif value is ...:
        del out[name]
    else:
        out[name] = value
    return out


def with_collateral(tee: str, **members: Any) -> Collateral:
    return replace(collateral(tee), **members)
