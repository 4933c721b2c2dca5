"""The node under Gramine's library OS, without SGX: what the manifest allows, and no more.

`gramine-direct` enforces trusted files as the enclave does, so the file policy is tested on
any machine that has it. The state folder is the one difference from production: sealing
needs SGX, so here it is an ordinary folder that the manifest allows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from bundled import adyton, await_node
from running import chat, gateway

from attestation.manifest.lint import lint

GRAMINE = shutil.which("gramine-direct")
pytestmark = [
    pytest.mark.gramine,
    pytest.mark.slow,
    pytest.mark.skipif(GRAMINE is None, reason="gramine-direct is not on PATH"),
]
NAME = "adyton"
STATE = "/var/lib/adyton"
RUN_S = 120.0


def libdir() -> Path | None:
    """Gramine's own files where its program is installed elsewhere than its package does."""
    prefix = Path(GRAMINE or "").resolve().parent.parent
    places = [*prefix.glob("lib*/gramine"), *prefix.glob("lib/*/gramine")]
    return next((p for p in places if (p / "libsysdb.so").is_file()), None)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle and production manifest, complete."""
    out = tmp_path_factory.mktemp("gramine") / "out"
    place = libdir()
    options = [] if place is None else ["--gramine", place]
    made = adyton("manifest", "render", "--out", out, *options)
    assert made["complete"], made["missing"]
    assert lint((out / f"{NAME}.manifest.sgx").read_bytes())
    return out


def direct(rendered: Path, folder: Path, **loader: Any) -> dict[str, Any]:
    """The manifest for this test in `folder`, with the bundle beside it; returns it."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(rendered / "bundle", folder / "bundle", copy_function=os.link)
    (folder / "state").mkdir(mode=0o700)
    manifest = tomllib.loads((rendered / f"{NAME}.manifest").read_text())
    installed, place = "/usr/lib/x86_64-linux-gnu/gramine", libdir()
    argv = manifest["loader"]["argv"]
    argv[argv.index("--tee") + 1] = "simulator"
    argv[argv.index("--host") + 1] = "127.0.0.1"
    argv[argv.index("--port") + 1] = "0"
    for mount in manifest["fs"]["mounts"]:
        if mount["path"] == STATE:
            mount.clear()
            mount |= {"path": STATE, "uri": "file:state"}
    manifest["sgx"]["allowed_files"] = ["file:state/"]
    manifest["loader"] |= loader
    text = tomli_w.dumps(manifest)
    if place is not None:
        text = text.replace(installed, str(place))
    (folder / f"{NAME}.manifest").write_text(text)
    return manifest


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(GRAMINE), NAME], cwd=folder, capture_output=True, text=True, timeout=RUN_S, check=False
    )


def python(rendered: Path, folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """A program run by the bundled interpreter under the manifest's file policy."""
    argv = tomllib.loads((rendered / f"{NAME}.manifest").read_text())["loader"]["argv"]
    direct(rendered, folder, argv=[argv[0], "-I", "-c", program])
    return run(folder)


def test_the_node_answers_under_gramine(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    direct(rendered, folder)
    # Made before the start: SQLite's locks do not reach across the library OS.
    made = gateway("keys", "create", "main", "--state-dir", str(folder / "state"), "--json")
    key = json.loads(made.stdout)["key"]
    node = await_node([str(GRAMINE), NAME], folder, folder / "state", dict(os.environ))
    try:
        with node.client(key) as client:
            answer = client.post("/v1/chat/completions", json=chat())
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"]
            receipt = answer.headers["x-receipt-id"]
            assert client.get(f"/v1/aci/receipts/{receipt}").status_code == 200
        with node.client("") as client:
            assert client.get("/v1/aci/attestation").status_code == 200
    finally:
        assert node.stop() == 0


def test_a_changed_trusted_file_is_refused(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    direct(rendered, folder)
    (victim,) = (folder / "bundle/lib").glob("python3*.zip")
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.unlink()  # a link to the bundle that other tests use
    victim.write_bytes(data)
    done = run(folder)
    assert done.returncode != 0
    assert '"url"' not in done.stdout


def test_a_file_that_is_not_listed_cannot_be_opened(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    program = (
        "import os, errno\n"
        "try:\n"
        "    open('/opt/adyton/extra')\n"
        "except OSError as e:\n"
        "    print('refused', errno.errorcode[e.errno])\n"
    )
    folder.mkdir()
    done = python(
        rendered, folder, f"print(open('/opt/adyton/lib/wheels.zip','rb').read(2))\n{program}"
    )
    assert "b'PK'" in done.stdout
    assert "refused ENOENT" in done.stdout
    (folder / "bundle/extra").write_text("not measured")
    again = run(folder)
    assert "refused EACCES" in again.stdout


def test_trusted_files_cannot_be_written(rendered: Path, tmp_path: Path) -> None:
    program = (
        "try:\n"
        "    open('/opt/adyton/lib/wheels.zip', 'r+b')\n"
        "    print('opened')\n"
        "except OSError:\n"
        "    print('refused')\n"
    )
    assert python(rendered, tmp_path / "node", program).stdout.strip() == "refused"


def test_the_hosts_environment_and_files_do_not_reach_the_node(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADYTON_FROM_THE_HOST", "1")
    monkeypatch.setenv("PYTHONPATH", "/tmp/evil")
    program = "import os, sys; print(sorted(os.environ)); print(sys.path); print(os.listdir('/'))"
    done = python(rendered, tmp_path / "node", program)
    assert "ORT_DISABLE_TELEMETRY" in done.stdout
    assert "ADYTON_FROM_THE_HOST" not in done.stdout
    assert "evil" not in done.stdout
    assert "'root'" not in done.stdout
