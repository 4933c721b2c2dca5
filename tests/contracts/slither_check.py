"""Static analysis of the contracts: each finding is fixed, or explained in contracts/slither.json.

Runs slither through forge and the compiler of the lock; see slither.config.json for what it is
not asked: style, and uses of the block's time, which is the only clock there is (every window
here is of hours or more). A finding without an explanation fails, and so does an explanation
of a finding that is no more. Usage: slither_check.py SLITHER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2] / "contracts"
FORGE = PROJECT / "node_modules" / "@foundry-rs" / "forge-linux-amd64" / "bin"


def found(slither: str) -> list[dict[str, Any]]:
    """What slither has to say of src/."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "findings.json"
        build = {"FOUNDRY_OUT": f"{folder}/out", "FOUNDRY_CACHE_PATH": f"{folder}/cache"}
        env = {**os.environ, **build, "PATH": f"{FORGE}:{os.environ['PATH']}"}
        command = [slither, ".", "--json", str(out), "--foundry-out-directory", f"{folder}/out"]
        done = subprocess.run(  # its exit code tells that there are findings
            command, check=False, cwd=PROJECT, env=env, capture_output=True, text=True
        )
        report: dict[str, Any] = {"success": False}
        if out.is_file():
            report = json.loads(out.read_text())
    if not report["success"]:
        sys.exit(f"slither did not finish:\n{done.stdout}{done.stderr}")
    findings: list[dict[str, Any]] = report["results"].get("detectors", [])
    return findings


def place(finding: dict[str, Any]) -> str:
    """The function or contract it is about, as `Contract.function`; lines move, names stay."""
    for element in finding["elements"]:
        inner = element
        while inner["type"] not in ("function", "contract"):
            parent = inner.get("type_specific_fields", {}).get("parent")
            if parent is None:
                break
            inner = parent
        if inner["type"] == "contract":
            return str(inner["name"])
        if inner["type"] == "function":
            contract = inner["type_specific_fields"]["parent"]["name"]
            return f"{contract}.{inner['name']}"
    return str(finding["elements"][0]["name"]) if finding["elements"] else ""


def main(slither: str) -> int:
    explained = json.loads((PROJECT / "slither.json").read_text())
    reasons = {(e["check"], where): e["why"] for e in explained for where in e["where"]}
    findings = {(f["check"], place(f)): f for f in found(slither)}
    new = [key for key in findings if key not in reasons]
    stale = [key for key in reasons if key not in findings]
    for key in new:
        finding = findings[key]
        print(f"[slither] {finding['impact']}: {finding['check']} in {key[1]}")
        print(finding["description"])
    for check, where in stale:
        print(f"[slither] explained, but found no more: {check} in {where}")
    print(f"[slither] {len(findings)} findings, {len(findings) - len(new)} of them explained")
    return bool(new or stale)


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).absolute())))
