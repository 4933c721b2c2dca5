"""What operations cost is what contracts/gas.json records: to the unit, both ways.

A figure that changed is a change somebody should see; `make gas` records it. The simulator's are
compared in every clone, those of Intel-signed data where the vectors are present.
"""

from __future__ import annotations

import gas_figures
import pytest
from gas_breakdown import Spent

ASKED = (
    "register_tdx_v4_cold",
    "register_tdx_v4_leaf_known",
    "register_tdx_v5_cold",
    "register_sgx_v3_cold",
    "tcb_info_update",
    "qe_identity_update",
    "pck_crl_update",
    "certificate_add",
    "receipt_tx",
    "receipt_call",
    "batch_64_per_receipt",
)


@pytest.fixture(scope="module")
def simulator() -> gas_figures.Measured:
    return gas_figures.simulator()


def test_the_simulators_figures_are_those_recorded(simulator: gas_figures.Measured) -> None:
    recorded = gas_figures.recorded()["simulator"]
    assert gas_figures.differences(recorded, simulator.figures) == []


def test_the_figures_of_real_quotes_are_those_recorded() -> None:
    measured = gas_figures.real()
    if measured is None:
        pytest.skip("no manifest.json where ADYTON_VECTORS points")
    assert gas_figures.differences(gas_figures.recorded(), measured.figures) == []


@pytest.mark.parametrize("name", ASKED)
def test_what_is_promised_is_recorded(name: str) -> None:
    recorded = gas_figures.recorded()
    assert recorded[name] > 0 and recorded["simulator"][name] > 0


def test_every_unit_of_gas_has_a_purpose(simulator: gas_figures.Measured) -> None:
    """A registration checks three signatures (two for a leaf already known), writes and tells."""
    cold, known = (
        simulator.breakdown[f"register_tdx_v4_{name}"] for name in ("cold", "leaf_known")
    )
    assert cold.p256 == 3 * 6_900 and known.p256 == 2 * 6_900
    assert cold.storage > known.storage > 0
    assert cold.logs > 0
    for spent in simulator.breakdown.values():
        assert _sum(spent) == spent.total or spent.total == spent.floor


def _sum(spent: Spent) -> int:
    own = spent.calldata + spent.listed + spent.p256 + spent.hashes + spent.ecrecover
    return 21_000 + own + spent.storage + spent.code + spent.logs + spent.other


def test_differences_are_told_both_ways() -> None:
    told = gas_figures.differences({"a": 1, "b": 2, "simulator": {}}, {"b": 3, "c": 4})
    assert told == ["a: 1, measured no more", "b: 2, measured 3", "c: not recorded, measured 4"]
