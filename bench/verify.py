"""What verification costs: verifications a second on one core, and the start of the command line.

`python -m bench.verify [--json]`. Each kind of evidence is verified over distinct reports that
our own issuers make, in turns with a named peer that does less on the same reports: dcap-qvl
called directly for quotes, and for the others the bare check of the report's own signature by
`cryptography`, under which nothing can go. The ratio is the price of everything else. Start-up
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

NOW = 1_780_000_000
REPORTS = 32
ROUNDS = 7
STARTS = 5

Check = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of evidence: what to verify, ours, and a peer that does less."""

    reports: Sequence[bytes]
    ours: Check
    peer_name: str
    peer: Check


def _bare(key: Any, size: int, order: Any, split: Callable[[bytes], tuple[bytes, bytes]]) -> Check:
    """The signature over a report, checked by `cryptography` and nothing else."""

    def check(report: bytes) -> None:
        signed, signature = split(report)
        r, s = signature[:size], signature[size : 2 * size]
        der = encode_dss_signature(int.from_bytes(r, order), int.from_bytes(s, order))
        key.verify(der, signed, ec.ECDSA(hashes.SHA384()))

    return check


def dcap(tee: str) -> Subject:
    import dcap_qvl

    from attestation.issuers.simulator.platform import SimulatedPlatform
    from attestation.verify import verify_quote

    platform = SimulatedPlatform(seed=b"seed of the verification bench..", now=NOW)
    collateral = platform.collateral(tee)
    make = platform.tdx_quote if tee == "tdx" else platform.sgx_quote
    roots = [platform.root_der]
    native = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.to_json()))
    verifier = dcap_qvl.QuoteVerifier(platform.root_der)
    policy = dcap_qvl.QuotePolicy.claims_only(NOW)
    return Subject(
        [make({"report_data": i.to_bytes(64, "big")}) for i in range(REPORTS)],
        lambda quote: verify_quote(quote, collateral, roots, NOW),
        "dcap-qvl",
        lambda quote: verifier.verify_with_policy(quote, native, NOW, policy),
    )


def sev_snp() -> Subject:
    import snp_pki

    from attestation.evidence.snp import SIGNED_BYTES
    from attestation.verify.snp import verify_snp

    endorsements, roots = snp_pki.endorsements(), snp_pki.roots()
    key = snp_pki.ec_key("vcek").public_key()
    return Subject(
        [snp_pki.report(report_data=i.to_bytes(64, "big")) for i in range(REPORTS)],
        lambda report: verify_snp(report, endorsements, roots, snp_pki.NOW),
        "one P-384 signature",
        _bare(key, 72, "little", lambda r: (r[:SIGNED_BYTES], r[SIGNED_BYTES:])),
    )


def nvidia_gpu() -> Subject:
    import nvidia_pki

    from attestation.verify.nvidia import verify_gpu

    chain = nvidia_pki.gpu_chain()
    roots = [chain.root]
    nonces = [i.to_bytes(32, "big") for i in range(1, REPORTS + 1)]

    def ours(evidence: bytes) -> object:
        nonce = evidence[4:36]
        return verify_gpu(evidence, chain.pem, roots, nvidia_pki.NOW, nonce=nonce)

    return Subject(
        [nvidia_pki.evidence(nonce=nonce) for nonce in nonces],
        ours,
        "one P-384 signature",
        _bare(chain.leaf.key.public_key(), 48, "big", lambda e: (e[:-96], e[-96:])),
    )


def nitro() -> Subject:
    import cbor2
    import nitro_pki

    from attestation.verify.nitro import verify_nitro

    roots = [nitro_pki.root()]
    key = nitro_pki.key("enclave").public_key()

    def split(document: bytes) -> tuple[bytes, bytes]:
        protected, _, payload, signature = cbor2.loads(document)
        return cbor2.dumps(["Signature1", protected, b"", payload]), signature

    return Subject(
        [
            nitro_pki.Hypervisor(changes={"nonce": i.to_bytes(32, "big")}).document()
            for i in range(REPORTS)
        ],
        lambda document: verify_nitro(document, roots, nitro_pki.NOW),
        "one P-384 signature",
        _bare(key, 48, "big", split),
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "sgx": lambda: dcap("sgx"),
    "tdx": lambda: dcap("tdx"),
    "sev-snp": sev_snp,
    "nitro": nitro,
    "nvidia-gpu": nvidia_gpu,
}


def rate(check: Check, reports: Sequence[bytes]) -> float:
    """Verifications a second of CPU time, single-threaded, in one pass."""
    start = time.process_time()
    for report in reports:
        check(report)
    return len(reports) / (time.process_time() - start)


def measure(subject: Subject) -> dict[str, Any]:
    """Best of interleaved rounds for us and for the peer."""
    ours = peer = 0.0
    for _ in range(ROUNDS):
        ours = max(ours, rate(subject.ours, subject.reports))
        peer = max(peer, rate(subject.peer, subject.reports))
    return {
        "adyton": round(ours, 1),
        "peer": round(peer, 1),
        "peer_name": subject.peer_name,
        "ratio": round(ours / peer, 4),
    }


def start_up_s(arguments: Sequence[str]) -> float:
    """Median wall time of a fresh interpreter with these arguments."""
    times = []
    for _ in range(STARTS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    command = (
        "import sys; from adyton.cli import main; sys.argv = ['adyton', *sys.argv[1:]]; main()"
    )
    measured = {tee: measure(make()) for tee, make in SUBJECTS.items()}
    starts = {
        "verify_quote_help": start_up_s(["-c", command, "verify-quote", "--help"]),
        "verifier_imported": start_up_s(["-c", "import attestation.policy"]),
        "python": start_up_s(["-c", "pass"]),
    }
    if options.json:
        rates = {tee: m["adyton"] for tee, m in measured.items()}
        result = {"verifications_per_second": rates, "peers": measured, "start_up_s": starts}
        print(json.dumps(result))
        return
    for tee, m in measured.items():
        print(f"{tee}: {m['adyton']:.0f} a second, {m['ratio']:.3f} of {m['peer_name']}")
    for name, seconds in starts.items():
        print(f"{name}: {seconds:.3f} s")


if __name__ == "__main__":
    main()
