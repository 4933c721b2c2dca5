"""What verification costs: quotes a second on one core, and the start of the command line.

`python -m bench.verify [--json]`. The peer is dcap-qvl called directly on the same quotes
in the same run, which does less: the ratio is the price of the checks it lacks. Start-up
is that of a fresh `adyton verify-quote --help` beside a Python that does nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import dcap_qvl

from attestation.issuers.simulator.platform import SimulatedPlatform
from attestation.verify import verify_quote

NOW = 1_780_000_000
QUOTES = 32
ROUNDS = 7
STARTS = 5


def rate(work: Callable[[bytes], object], quotes: Sequence[bytes]) -> float:
    """Quotes a second of CPU time, single-threaded, in one pass."""
    start = time.process_time()
    for quote in quotes:
        work(quote)
    return len(quotes) / (time.process_time() - start)


def measure_rates(tee: str) -> dict[str, float]:
    """Best of interleaved rounds for us and for dcap-qvl, over distinct quotes."""
    platform = SimulatedPlatform(seed=b"seed of the verification bench..", now=NOW)
    collateral = platform.collateral(tee)
    make = platform.tdx_quote if tee == "tdx" else platform.sgx_quote
    quotes = [make({"report_data": i.to_bytes(64, "big")}) for i in range(QUOTES)]
    roots = [platform.root_der]

    native = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.to_json()))
    verifier = dcap_qvl.QuoteVerifier(platform.root_der)
    policy = dcap_qvl.QuotePolicy.claims_only(NOW)

    def ours(quote: bytes) -> object:
        return verify_quote(quote, collateral, roots, NOW)

    def theirs(quote: bytes) -> object:
        return verifier.verify_with_policy(quote, native, NOW, policy)

    best = {"adyton": 0.0, "dcap_qvl": 0.0}
    for _ in range(ROUNDS):
        best["adyton"] = max(best["adyton"], rate(ours, quotes))
        best["dcap_qvl"] = max(best["dcap_qvl"], rate(theirs, quotes))
    return {**best, "ratio": best["adyton"] / best["dcap_qvl"]}


def start_up_s(arguments: Sequence[str]) -> float:
    """Median wall time of a fresh interpreter with these arguments."""
    times = []
    for _ in range(STARTS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    command = (
        "import sys; from adyton.cli import main; sys.argv = ['adyton', *sys.argv[1:]]; main()"
    )
    result = {
        "quotes_per_cpu_second": {tee: measure_rates(tee) for tee in ("tdx", "sgx")},
        "start_up_s": {
            "verify_quote_help": start_up_s(["-c", command, "verify-quote", "--help"]),
            "verifier_imported": start_up_s(["-c", "import attestation.policy"]),
            "python": start_up_s(["-c", "pass"]),
        },
    }
    if options.json:
        print(json.dumps(result))
        return
    for tee, rates in result["quotes_per_cpu_second"].items():
        print(f"{tee}: " + ", ".join(f"{name} {value:.4g}" for name, value in rates.items()))
    for name, seconds in result["start_up_s"].items():
        print(f"{name}: {seconds:.3f} s")


if __name__ == "__main__":
    main()
