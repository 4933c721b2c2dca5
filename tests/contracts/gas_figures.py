"""What each operation costs, measured on a fresh chain, and what it cannot cost less than.

    python tests/contracts/gas_figures.py [--write]

Whole transactions, all storage cold, hardfork osaka; registrations carry an access list, as our
client sends them. `cold` is a leaf not seen before, verified and forgotten, `cold_remembered` the
same and remembered; `leaf_known` is a node that proves itself again, `leaf_known_first_time` a new
node on a platform that was remembered. Receipts are of a node with a seat (`_unseated`: without).
`receipt_tx` shows the registry the hash of a receipt, `receipt_fields_tx` all its eight words:
that is the least its calldata may cost. `_call` is what a contract pays that has called the
registry before in its transaction. The named figures are of
Intel-signed data and real quotes (ADYTON_VECTORS); those under `simulator` need nothing but the
tree. A figure is the same in every run: what a quote would say of a block, whose hash is new
each time, is held fixed (see `onchain_world`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from chain import CONTRACTS, Contract
from gas_breakdown import Spent, spent
from onchain_world import KEY, SIGNER, VECTORS, World

from attestation.onchain.batch import ReceiptBatch
from attestation.onchain.quote import Proof
from attestation.onchain.receipt import EvmReceipt, compact, sign

FILE: Final = CONTRACTS / "gas.json"
Figures = dict[str, int]

TARGETS: Final = {
    "register_tdx_v4_cold": 180_000,
    "register_tdx_v4_leaf_known": 110_000,
    "tcb_info_update": 300_000,
    "qe_identity_update": 150_000,
    "pck_crl_update": 350_000,
    "certificate_add": 120_000,
    "receipt_tx": 29_000,
    "receipt_call": 6_500,
    "batch_64_per_receipt": 2_000,
}
REAL: Final = {
    "tdx_v4": "tdx-v4-b9e238b2bd96-ev20-20260828",
    "tdx_v5": "tdx-v5-cf77a6e91e48-ev18-20260213",
    "sgx_v3": "sgx-v3-b7ab1cb4b149-ev17-20250830",
}
SGX_21_LEVELS: Final = "sgx-v3-0b5bc73cb9f4-ev19-20250611"
SIMULATED: Final = {"tdx_v4": "tdx-v4", "tdx_v5": "tdx-v5-td15", "sgx_v3": "sgx-v3"}
CERTIFICATES: Final = ("root_certificate", "pck_ca_certificate", "tcb_signing_certificate")
CALLS: Final = {"receipt_tx": "receipt_digest_call", "receipt_fields_tx": "receipt_call"}
FOREIGN: Final = bytes(range(1, 33)) + bytes(32)


@dataclass
class Measured:
    """Figures by name, and where the gas went for those that are transactions."""

    figures: Figures
    breakdown: dict[str, Spent]

    def add(self, name: str, world: World, receipt: dict[str, Any]) -> None:
        self.figures[name] = receipt["gas"]
        self.breakdown[name] = spent(world.chain, receipt)


def _receipts(served: int) -> list[EvmReceipt]:
    """64 of them, as dear as they come: no word has a zero byte."""
    keyset, model, adapter, request, response, receipt, context = (
        bytes([i + 1]) * 32 for i in range(7)
    )
    first = EvmReceipt(keyset, model, adapter, request, response, receipt, context, served)
    return [replace(first, context=bytes([i + 10]) * 32) for i in range(64)]


def _receipt_transactions(world: World) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    made = _receipts(world.now + 1_800)
    signed = made[0].values, *compact(sign(made[0], KEY)), world.policy.address
    yield "receipt_tx", "verifyDigest", (made[0].struct_hash, *signed[1:])
    yield "receipt_fields_tx", "verifyReceipt", signed
    yield "receipt_consume_tx", "consume", (*signed, made[0].context)
    batch, leaves = ReceiptBatch.of(made)
    span = batch.served_from, batch.served_until
    whole = leaves, *span, *compact(batch.sign(KEY)), world.policy.address
    yield "batch_64_tx", "verifyBatch", whole


def _receipt_figures(into: Measured, world: World) -> None:
    """Receipts of the registered node, by themselves and inside another contract's call."""
    world.chain.at(world.now + 3_600)
    meter = world.chain.deploy("GasMeter")
    with world.chain.undone():
        _receipt_calls(into, world, meter, "_unseated")
    seat = SIGNER, world.policy.address, 0
    into.add("take_seat", world, world.chain.send(world.registry, "takeSeat", *seat))
    _receipt_calls(into, world, meter, "")
    into.figures["batch_64_per_receipt"] = -(-into.figures["batch_64_tx"] // 64)


def _receipt_calls(into: Measured, world: World, meter: Contract, suffix: str) -> None:
    for name, function, arguments in _receipt_transactions(world):
        into.add(name + suffix, world, world.chain.send(world.registry, function, *arguments))
        if name in CALLS:
            call = CALLS[name]
            into.figures[call + suffix] = _called(world, meter, function, arguments, warm=True)
            into.figures[f"{call}_first_touch{suffix}"] = _called(
                world, meter, function, arguments, warm=False
            )


def _called(
    world: World, meter: Contract, function: str, arguments: tuple[Any, ...], warm: bool
) -> int:
    data = bytes.fromhex(world.registry.data(function, *arguments)[2:])
    return int(world.chain.call(meter, "costOf", world.registry.address, data, warm))


def _registrations(into: Measured, kind: str, world: World, proof: Proof) -> None:
    with world.chain.undone():
        into.add(f"register_{kind}_cold", world, world.register(proof, how="passing", listed=True))
    with world.chain.undone():
        into.add(f"register_{kind}_cold_remembered", world, world.register(proof, listed=True))
    with world.chain.undone():
        world.chain.send(world.quotes, "addPlatform", proof.platform)
        for name in ("leaf_known_first_time", "leaf_known"):
            sent = world.register(proof, how="known", listed=True)
            into.add(f"register_{kind}_{name}", world, sent)


def _collateral(into: Measured, world: World) -> None:
    sent = world.receipts
    into.add("tcb_info_update", world, sent["tcb_info"])
    into.add("qe_identity_update", world, sent["qe_identity"])
    into.add("pck_crl_update", world, sent["pck_crl"])
    into.add("root_crl_update", world, sent["root_crl"])
    dearest = max(CERTIFICATES, key=lambda name: sent[name]["gas"])
    into.add("certificate_add", world, sent[dearest])


def _all(into: Measured, kind: str, world: World, proof: Proof) -> None:
    _registrations(into, kind, world, proof)
    if kind == "tdx_v4":
        _collateral(into, world)
        world.register(proof)
        _receipt_figures(into, world)


def simulator() -> Measured:
    """What can be measured in a fresh clone."""
    into = Measured({}, {})
    for kind, simulated in SIMULATED.items():
        with World.simulated(simulated, FOREIGN) as (world, proof):
            _all(into, kind, world, proof)
    return into


def real() -> Measured | None:
    """The same with Intel's signatures; None where the vectors are not."""
    if not (VECTORS / "manifest.json").is_file():
        return None
    into = Measured({}, {})
    for kind, vector in REAL.items():
        with World.real(vector) as (world, proof):
            _all(into, kind, world, proof)
    with World.real(SGX_21_LEVELS) as (world, _):
        into.add("tcb_info_update_sgx_21_levels", world, world.receipts["tcb_info"])
    return into


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return found


def differences(was: dict[str, Any], now: Figures) -> list[str]:
    """What is recorded and measured otherwise, or only one of the two."""
    was = {name: gas for name, gas in was.items() if isinstance(gas, int)}
    return [
        f"{name}: {was.get(name, 'not recorded')}, measured {now.get(name, 'no more')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def table(title: str, measured: Measured) -> str:
    columns = [f.name for f in fields(Spent)][1:]
    lines = [title, f"{'':40}{'gas':>9}{'target':>9}" + "".join(f"{c:>10}" for c in columns)]
    for name, gas in measured.figures.items():
        target = f"{TARGETS[name]:,}" if name in TARGETS else ""
        mark = "" if gas <= TARGETS.get(name, gas) else " !"
        parts = astuple(measured.breakdown[name])[1:] if name in measured.breakdown else ()
        row = f"{name:40}{gas:>9,}{target:>9}" + "".join(f"{p:>10,}" for p in parts)
        lines.append(row + mark)
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print both tables; with --write, record them. 1 where figures differ and are not written."""
    ours, intels = simulator(), real()
    was = recorded()
    now: dict[str, Any] = {k: v for k, v in was.items() if k != "simulator"}
    wrong = differences(was.get("simulator", {}), ours.figures)
    print(table("Simulator", ours))
    if intels is not None:
        wrong += differences(now, intels.figures)
        now = dict(sorted(intels.figures.items()))
        print(table("\nIntel-signed data, real quotes", intels))
    else:
        print(f"\nno real quotes in {VECTORS}: their figures stay as recorded")
    print(f"\n{len(wrong)} figures differ from {FILE.name}", *wrong, sep="\n")
    if "--write" not in arguments:
        return bool(wrong)
    document = {**now, "simulator": dict(sorted(ours.figures.items()))}
    FILE.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
