"""Checking the form of a receipt that a contract takes. No sockets here.

A verified ACI receipt, the salt and the caller's own context leave one EVM receipt that can
be true; what the node served must be that one, under an EVM key of the attested keyset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from adyton.errors import LibraryMissing, MalformedResponse, ReceiptError
from adyton.trust import parse_object
from attestation.errors import AttestationError, MalformedEvidence, VerificationError

if TYPE_CHECKING:
    from adyton.receipts import VerifiedReceipt
    from attestation.onchain.receipt import EvmReceipt

FORMAT: Final = "adyton-evm-receipt/1"
_NEEDED: Final = {"coincurve": "coincurve", "Crypto": "pycryptodome"}
_HEX: Final = re.compile(r"0x(?:[0-9a-f]{2})*")


@dataclass(frozen=True)
class VerifiedEvmReceipt:
    """An EVM receipt that is the one of an exchange of ours, signed by the node's EVM key.

    `signature` is r || s || v; `r` and `vs` are the words contracts take. Whoever is shown
    `salt` can test guesses of both bodies: a contract needs it only to open the commitments.
    """

    receipt_id: str
    receipt: EvmReceipt
    signer: str
    signature: bytes
    r: bytes
    vs: bytes
    salt: bytes = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)


def require_libraries() -> None:
    """Raise LibraryMissing unless what checks EVM signatures is installed."""
    absent = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if absent:
        raise LibraryMissing(
            f"checking EVM receipts needs {', '.join(absent)}: pip install 'adyton[onchain]'"
        )


def verify_evm(status: int, body: bytes, verified: VerifiedReceipt) -> VerifiedEvmReceipt:
    """Judge what the node served for an exchange whose ACI receipt holds. Raises ReceiptError."""
    receipt_id = verified.receipt_id
    if status != 200:
        raise ReceiptError("evm.fetch", f"the node answered HTTP {status}", receipt_id)
    try:
        return _judged(parse_object(body, "evm receipt"), verified)
    except ReceiptError:
        raise
    except (MalformedResponse, MalformedEvidence) as e:
        raise ReceiptError("evm.document", str(e), receipt_id) from e
    except VerificationError as e:
        raise ReceiptError(f"evm.{e.step}", e.detail, receipt_id) from e
    except AttestationError as e:
        raise ReceiptError("evm.receipt", str(e), receipt_id) from e


def _judged(document: Mapping[str, Any], verified: VerifiedReceipt) -> VerifiedEvmReceipt:
    from attestation.onchain.receipt import EvmReceipt, compact, verify_receipt

    if document.get("format") != FORMAT:
        raise MalformedEvidence("evm_receipt.format", f"must be {FORMAT}")
    receipt = EvmReceipt.from_json(document.get("receipt"))
    salt, signature = _bytes(document, "salt", 32), _bytes(document, "signature", 65)
    asked = verified.asked
    if asked.public == any(salt):
        wanted = "zero, as asked" if asked.public else "random"
        raise VerificationError("salt", f"is not {wanted}")
    signer = verify_receipt(
        receipt,
        signature,
        verified.established.keyset,
        document=verified.document,
        salt=salt,
        context=asked.context,
    )
    r, vs = compact(signature)
    implied = {
        "receipt_id": verified.receipt_id,
        "signer": signer,
        "r": "0x" + r.hex(),
        "vs": "0x" + vs.hex(),
        "typed_data": receipt.typed_data(),
    }
    for name, value in implied.items():
        if document.get(name) != value:
            raise VerificationError(name, "is not what the receipt and its signature imply")
    return VerifiedEvmReceipt(
        receipt_id=verified.receipt_id,
        receipt=receipt,
        signer=signer,
        signature=signature,
        r=r,
        vs=vs,
        salt=salt,
        document=document,
    )


def _bytes(document: Mapping[str, Any], name: str, size: int) -> bytes:
    value = document.get(name)
    if not isinstance(value, str) or len(value) != 2 + 2 * size or not _HEX.fullmatch(value):
        raise MalformedEvidence(f"evm_receipt.{name}", f"must be 0x and {2 * size} lowercase hex")
    return bytes.fromhex(value[2:])
