"""The bundle by itself runs a node that answers, and is the same wherever it is made."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
from bundled import adyton, await_node
from running import CHAT, chat

pytestmark = pytest.mark.slow
GLIBC = re.compile(
    r".*/(ld-linux-x86-64\.so\.2|lib(c|m|dl|pthread|rt|util|resolv|nss_\w+)\.so\.\d+)"
)
# Data that glibc maps when it is there: its locales and the cache of its converters.
LOCALES = re.compile(r"/usr/lib/locale/.*|.*/gconv-modules\.cache")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "out"
    made = adyton("manifest", "render", "--out", out)
    assert made["trusted_files"] < 4000
    return out


def mapped(process: psutil.Process) -> set[str]:
    """Files in the memory of a process and its children."""
    every = [process, *process.children(recursive=True)]
    return {m.path for p in every for m in p.memory_maps() if m.path.startswith("/")}


def test_the_bundle_alone_runs_a_node_that_answers(rendered: Path, tmp_path: Path) -> None:
    bundle, state = rendered / "bundle", tmp_path / "state"
    python = next((bundle / "bin").iterdir())
    (model,) = (bundle / "models/chat").iterdir()
    command = [
        *(str(python), "-I", "-m", "gateway", "serve", "--tee", "simulator", "--port", "0"),
        *("--json", "--state-dir", str(state), "--model", f"{CHAT}={model}"),
        *("--embedding-model", f"all-minilm-l6-v2={bundle / 'models/embedding'}"),
    ]
    env = {"LD_LIBRARY_PATH": str(bundle / "lib"), "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    node = await_node(command, tmp_path, state, env)
    try:
        with node.client() as client:
            answer = client.post("/v1/chat/completions", json=chat())
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"]
            body = {"model": "all-minilm-l6-v2", "input": "hello"}
            assert client.post("/v1/embeddings", json=body).status_code == 200
        files = mapped(psutil.Process(node.process.pid))
        foreign = {f for f in files if not Path(f).is_relative_to(bundle)}
        foreign -= {f for f in foreign if Path(f.partition(" ")[0]).is_relative_to(state)}
        assert {f for f in foreign if not (GLIBC.fullmatch(f) or LOCALES.fullmatch(f))} == set()
    finally:
        node.stop()


def test_a_second_rendering_elsewhere_gives_the_same_bytes(rendered: Path, tmp_path: Path) -> None:
    second = tmp_path / "deep/er/out"
    adyton("manifest", "render", "--out", second)
    name = "adyton.manifest"
    assert (second / name).read_bytes() == (rendered / name).read_bytes()
    files = [p.relative_to(second) for p in second.rglob("*") if p.is_file()]
    assert all((second / f).read_bytes() == (rendered / f).read_bytes() for f in files)


def test_the_manifest_has_nothing_to_refuse(rendered: Path) -> None:
    assert adyton("manifest", "lint", rendered / "adyton.manifest")["findings"] == []
