"""`adyton verify-quote` over every kind of evidence, told by its content alone."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attested
import nitro_pki
import nvidia_pki
import pytest
import ratls_peers
import snp_pki
import tpm_device

from adyton.cli import main


def pem(*certificates: bytes) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in certificates).encode()


Files = dict[str, bytes]
"""What a person has in a folder: `evidence`, and the files its options name."""


def quote() -> tuple[Files, list[str], int]:
    files = {
        "evidence": attested.quote("tdx-v4"),
        "collateral": json.dumps(attested.collateral("tdx").to_json()).encode(),
        "root": attested.platform().root_der,
    }
    return files, ["--collateral", "collateral", "--root", "root"], attested.NOW


def snp() -> tuple[Files, list[str], int]:
    endorsements = snp_pki.endorsements()
    files = {
        "evidence": snp_pki.report(),
        "vek": endorsements.vek,
        "chain": pem(*endorsements.chain),
        "root": snp_pki.ark(),
    }
    return files, ["--endorsement", "vek", "--chain", "chain", "--root", "root"], snp_pki.NOW


def nitro() -> tuple[Files, list[str], int]:
    files = {"evidence": nitro_pki.document(), "root": nitro_pki.root()}
    return files, ["--root", "root"], nitro_pki.NOW


def gpu() -> tuple[Files, list[str], int]:
    chain = nvidia_pki.gpu_chain()
    files = {"evidence": nvidia_pki.evidence(), "chain": chain.pem, "root": chain.root}
    options = ["--cert-chain", "chain", "--root", "root", "--nonce", nvidia_pki.NONCE.hex()]
    return files, options, nvidia_pki.NOW


def rim() -> tuple[Files, list[str], int]:
    files = {"evidence": nvidia_pki.driver_rim(), "root": nvidia_pki.rim_chain().root}
    return files, ["--root", "root"], nvidia_pki.NOW


def eat() -> tuple[Files, list[str], int]:
    files = {"evidence": nvidia_pki.bundle(), "jwks": nvidia_pki.jwks()}
    options = ["--jwks", "jwks", "--issuer", nvidia_pki.ISSUER]
    return files, [*options, "--nonce", nvidia_pki.NONCE.hex()], nvidia_pki.NOW


def tpm() -> tuple[Files, list[str], int]:
    made = tpm_device.quoted().write()
    files = {
        "evidence": made,
        "signature": tpm_device.signed(made).write(),
        "pcrs": json.dumps({str(i): v.hex() for i, v in tpm_device.PCRS.items()}).encode(),
        "chain": pem(*tpm_device.chain()),
        "root": tpm_device.chain()[-1],
    }
    options = ["--signature", "signature", "--pcrs", "pcrs", "--cert-chain", "chain"]
    return files, [*options, "--root", "root", "--nonce", tpm_device.NONCE.hex()], tpm_device.NOW


def azure() -> tuple[Files, list[str], int]:
    files = {
        "evidence": json.dumps(tpm_device.bundle_json()).encode(),
        "chain": pem(*snp_pki.endorsements().chain),
        "root": snp_pki.ark(),
    }
    return files, ["--chain", "chain", "--root", "root"], snp_pki.NOW


def ratls() -> tuple[Files, list[str], int]:
    files = {
        "evidence": pem(ratls_peers.der_of(ratls_peers.issued())),
        "collateral": json.dumps(ratls_peers.collateral_for("tdx").to_json()).encode(),
        "root": ratls_peers.root_of("tdx"),
    }
    return files, ["--collateral", "collateral", "--root", "root"], attested.NOW


KINDS: dict[str, Callable[[], tuple[Files, list[str], int]]] = {
    "tdx": quote,
    "sev-snp": snp,
    "nitro": nitro,
    "nvidia-gpu": gpu,
    "nvidia-rim": rim,
    "nvidia-eat": eat,
    "tpm": tpm,
    "azure": azure,
    "ratls": ratls,
}


class Desk:
    """A folder with evidence, and the command run over it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def judge(
        self, files: Files, options: list[str], at: int, *more: str, policy: str = "genuine"
    ) -> tuple[int, dict[str, Any]]:
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        named = [str(self.folder / o) if o in files else o for o in options]
        command = ["verify-quote", str(self.folder / "evidence"), *named, "--at", str(at)]
        self.capsys.readouterr()
        code = main([*command, "--policy", policy, "--json", *more])
        return code, json.loads(self.capsys.readouterr().out)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_genuine_evidence_is_accepted(desk: Desk, kind: str) -> None:
    code, told = desk.judge(*KINDS[kind]())
    assert (code, told["verdict"], told["reason"]) == (0, "accept", None)
    assert told["tee"] == {"azure": "tpm", "ratls": "tdx"}.get(kind, kind)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "nvidia-rim"])
def test_strict_wants_more_than_authenticity(desk: Desk, kind: str) -> None:
    code, told = desk.judge(*KINDS[kind](), policy="strict")
    assert (code, told["verdict"]) == (5, "reject")
    assert told["findings"] and told["tee"]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "nvidia-eat"])
def test_without_the_makers_root_nothing_is_authentic(desk: Desk, kind: str) -> None:
    files, options, at = KINDS[kind]()
    files["root"] = attested.platform(seed=b"somebody else's root of trust...").root_der
    code, told = desk.judge(files, options, at)
    assert (code, told["verdict"], told["step"]) == (4, "reject", "root")


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("azure", "nvidia-eat")])
def test_a_clock_that_is_off_by_years_refuses(desk: Desk, kind: str) -> None:
    files, options, at = KINDS[kind]()
    for shift, step in ((20, "expired"), (-20, "not_yet_valid")):
        code, told = desk.judge(files, options, at + shift * 365 * 86400)
        assert (code, told["step"]) == (4, step)


@pytest.mark.parametrize("kind", KINDS)
def test_doubled_evidence_is_refused(desk: Desk, kind: str) -> None:
    files, options, at = KINDS[kind]()
    files["evidence"] *= 2
    code, told = desk.judge(files, options, at)
    assert code in (3, 4, 6) and told["verdict"] == "reject"


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_with_one_changed_byte_is_refused(desk: Desk, kind: str) -> None:
    files, options, at = KINDS[kind]()
    data = bytearray(files["evidence"])
    data[len(data) // 2] ^= 0x01
    files["evidence"] = bytes(data)
    code, told = desk.judge(files, options, at)
    assert code in (3, 4, 6) and told["verdict"] == "reject"


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_taken_for_another_kind_is_refused(desk: Desk, kind: str) -> None:
    files, options, at = KINDS[kind]()
    other = "nitro" if kind != "nitro" else "sev-snp"
    more = ["--evidence-type", other, *(["--endorsement", "root"] if other == "sev-snp" else [])]
    code, told = desk.judge(files, [*options, *more], at)
    assert (code, told["verdict"]) == (3, "reject")


@pytest.mark.parametrize("kind", ["nvidia-gpu", "nitro", "tpm", "ratls", "azure"])
def test_evidence_for_another_nonce_is_refused(desk: Desk, kind: str) -> None:
    files, options, at = KINDS[kind]()
    if "--nonce" in options:
        del options[options.index("--nonce") : options.index("--nonce") + 2]
    code, told = desk.judge(files, options, at, "--nonce", "5a" * 32)
    assert (code, told["step"]) == (4, "nonce")


def test_what_a_kind_needs_beside_it_is_asked_for_by_name(desk: Desk) -> None:
    for kind, option in (
        ("tdx", "--collateral"),
        ("sev-snp", "--endorsement"),
        ("nvidia-gpu", "--cert-chain"),
        ("nvidia-eat", "--jwks"),
        ("tpm", "--root"),
    ):
        files, _, at = KINDS[kind]()
        code, told = desk.judge({"evidence": files["evidence"]}, [], at)
        assert code == 2 and option in told["reason"]


def test_garbage_and_unknown_json_are_malformed(desk: Desk) -> None:
    for data in (b"", b"\x00" * 100, b'{"a": 1}', b"<html></html>"):
        code, told = desk.judge({"evidence": data}, [], attested.NOW)
        assert (code, told["verdict"], told["tee"]) == (3, "reject", None)


def test_an_event_log_proves_nothing_by_itself(desk: Desk) -> None:
    data = b'[{"imr": 0, "event_type": 1, "digest": "", "event": "", "event_payload": ""}]'
    code, told = desk.judge({"evidence": data}, [], attested.NOW)
    assert code == 2 and "by itself" in told["reason"]


def test_several_files_are_judged_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, _, at = nitro()
    good, bad, root = (tmp_path / n for n in ("good", "bad", "root"))
    good.write_bytes(files["evidence"])
    bad.write_bytes(files["evidence"] + b"\0")
    root.write_bytes(files["root"])
    command = ["verify-quote", str(good), str(bad), str(good), "--root", str(root)]
    code = main([*command, "--at", str(at), "--policy", "genuine", "--json"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 3
    assert [t["verdict"] for t in told] == ["accept", "reject", "accept"]
    assert told[1]["file"] == str(bad)
    assert main([*command, "--at", str(at), "--policy", "genuine"]) == 3
    shown = capsys.readouterr().out
    assert shown.count("authentic") >= 2 and "malformed" in shown


def test_a_snp_bundle_of_collateral_stands_in_for_files(desk: Desk) -> None:
    files, _, at = snp()
    files["collateral"] = json.dumps(snp_pki.endorsements().to_json()).encode()
    code, told = desk.judge(files, ["--collateral", "collateral", "--root", "root"], at)
    assert (code, told["verdict"]) == (0, "accept")
