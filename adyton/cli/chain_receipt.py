"""`adyton chain verify-receipt`: ask the registry whether it accepts a receipt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.chain_options import address, chain_options, connected
from adyton.cli.options import READABLE, api_key_option, build_trust, json_option, trust_options
from adyton.cli.output import Steps, print_json, print_simulated
from adyton.cli.verify import utc

if TYPE_CHECKING:
    from attestation.onchain.receipt import EvmReceipt

MAX_DOCUMENT_BYTES: Final = 1 << 16
_HEX: Final = re.compile(r"0x(?:[0-9a-f]{2})*")


def read_document(document: Mapping[str, Any]) -> tuple[EvmReceipt, bytes, bytes | None]:
    """Receipt, signature (65 bytes) and, where it is given, the salt.

    Raises MalformedEvidence; ReceiptError where it was changed after it was signed, which a
    contract could only tell as an unknown signer.
    """
    from adyton.errors import ReceiptError
    from adyton.evm import FORMAT
    from attestation.errors import MalformedEvidence
    from attestation.onchain.receipt import EvmReceipt, recover

    if document.get("format") != FORMAT:
        raise MalformedEvidence("evm_receipt.format", f"must be {FORMAT}")
    salt = None if document.get("salt") is None else _bytes(document, "salt", 32)
    receipt = EvmReceipt.from_json(document.get("receipt"))
    signature = _bytes(document, "signature", 65)
    if document.get("signer") != recover(receipt, signature):
        raise ReceiptError("signature", "the signer named did not sign this receipt")
    return receipt, signature, salt


def _bytes(document: Mapping[str, Any], name: str, size: int) -> bytes:
    from attestation.errors import MalformedEvidence

    value = document.get(name)
    if not isinstance(value, str) or len(value) != 2 + 2 * size or not _HEX.fullmatch(value):
        raise MalformedEvidence(f"evm_receipt.{name}", f"must be 0x and {2 * size} lowercase hex")
    return bytes.fromhex(value[2:])


def check_opened(
    receipt: EvmReceipt, salt: bytes | None, bodies: Mapping[str, bytes | None]
) -> dict[str, bool]:
    """Which bodies were compared with the receipt's commitments, and match.

    `bodies` has `request` and `response`. Raises ReceiptError for one that does not match.
    """
    from adyton.errors import ReceiptError
    from attestation.onchain.receipt import commitment

    committed = {"request": receipt.request_hash, "response": receipt.response_hash}
    for name, body in bodies.items():
        if body is None:
            continue
        if salt is None:
            raise ReceiptError("salt", "is not in the document, so nothing can be opened with it")
        if commitment(salt, hashlib.sha256(body).digest()) != committed[name]:
            raise ReceiptError(name, f"the {name} is not the one that the receipt commits to")
    return {f"checked_{name}": body is not None for name, body in bodies.items()}


def _fetched(
    receipt_id: str, url: str | None, api_key: str | None, trust: dict[str, Any]
) -> Mapping[str, Any]:
    """The EVM form of a receipt, from a verified node."""
    from adyton.cli.failures import NotDone
    from adyton.endpoint import Endpoint
    from adyton.fetch import get, open_pool
    from adyton.trust import parse_object
    from adyton.verify import establish

    if url is None:
        raise click.UsageError(f"{receipt_id} is no file; to fetch a receipt, name the node: --url")
    endpoint = Endpoint.parse(url)
    established = establish(endpoint, build_trust(**trust))
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    path = endpoint.evm_receipt_path(receipt_id)
    with open_pool(established.require_listed, connections=1, keepalive=0) as pool:
        answer = get(pool, endpoint, path, "evm receipt", limit=MAX_DOCUMENT_BYTES, headers=headers)
    if answer.status != 200:
        raise NotDone(
            f"the node answered HTTP {answer.status}: it has no such receipt for this API key, "
            "or none for contracts"
        )
    return parse_object(answer.body, "evm receipt")


def _document(
    which: str, url: str | None, api_key: str | None, trust: dict[str, Any]
) -> Mapping[str, Any]:
    from adyton.bundle import read_json
    from adyton.errors import MalformedResponse

    path = Path(which)
    if not path.is_file():
        return _fetched(which, url, api_key, trust)
    document = read_json(path, "evm receipt")
    if not isinstance(document, Mapping):
        raise MalformedResponse("evm receipt", "must be a JSON object")
    return document


@click.command(name="verify-receipt")
@click.argument("which", metavar="FILE|ID")
@chain_options
@click.option(
    "--under",
    metavar="ADDRESS",
    callback=address,
    help="The policy contract to judge by, instead of the deployment's.",
)
@click.option("--context", metavar="HEX", help="Demand this context: 64 hex digits.")
@click.option("--request", type=READABLE, help="The exact request body to check.")
@click.option("--response", type=READABLE, help="The exact response body to check.")
@click.option("--url", metavar="URL", help="The node that has receipt ID.")
@api_key_option
@trust_options
@json_option
def verify_receipt(
    *,
    which: str,
    rpc_url: str,
    deployment_file: Path,
    under: str | None,
    context: str | None,
    request: Path | None,
    response: Path | None,
    url: str | None,
    api_key: str | None,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    as_json: bool,
) -> None:
    """Ask the registry about a receipt: FILE as `/v1/aci/receipts/ID/evm` served it, or ID.

    Accepted is what a node signed that was registered under the policy when it answered.
    Nothing is sent but a question: it costs no gas, and needs no key.
    """
    from adyton.errors import ReceiptError

    with connected(rpc_url, deployment_file) as (rpc, deployment):
        from attestation.onchain.client import RegistryClient

        trust = {"root": root, "policy": policy, "measurement": measurement}
        receipt, signature, salt = read_document(_document(which, url, api_key, trust))
        if context is not None and receipt.context.hex() != context.lower().removeprefix("0x"):
            raise ReceiptError("context", f"is {receipt.context.hex()}")
        bodies = {
            "request": None if request is None else request.read_bytes(),
            "response": None if response is None else response.read_bytes(),
        }
        checked = check_opened(receipt, salt, bodies)
        by = under or deployment.measurement_policy
        signer = RegistryClient(rpc, deployment.node_registry).verify_receipt(
            receipt, signature, by
        )
    if as_json:
        print_json(
            {
                "verdict": "accept",
                "reason": None,
                "signer": signer,
                "policy": by,
                "chain_id": deployment.chain_id,
                "simulated": deployment.simulated,
                **checked,
                **receipt.to_json(),
            }
        )
        return
    _narrate(receipt, signer, checked)
    if deployment.simulated:
        print_simulated()


def _narrate(receipt: EvmReceipt, signer: str, checked: dict[str, bool]) -> None:
    steps = Steps(quiet=False)
    steps.ok("the registry accepts the receipt", f"signed by {signer}")
    for name in ("request", "response"):
        if checked[f"checked_{name}"]:
            steps.ok(f"{name} bytes are the ones in the receipt")
        else:
            steps.note(f"{name} bytes not given, so not checked", warn=True)
    steps.note(f"served {utc(receipt.served_at)}, weights sha256:{receipt.model_digest.hex()}")
    steps.note(f"context {receipt.context.hex()}")
