"""Images and compose files: pinned, reproducible, unprivileged, and free of secrets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = [
    path
    for path in sorted((ROOT / "manifests/images").glob("Dockerfile.*"))
    if path.suffix != ".dockerignore"
]
COMPOSE = sorted((ROOT / "manifests/compose").glob("*.yaml"))
DIGEST = "ab" * 32


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text())
    text = re.sub(r"\\\n\s*", " ", text)
    return [(w, rest) for w, _, rest in (line.partition(" ") for line in text.splitlines()) if w]


def stages(path: Path) -> list[list[tuple[str, str]]]:
    out: list[list[tuple[str, str]]] = []
    for instruction in instructions(path):
        if instruction[0] == "FROM":
            out.append([])
        if out:
            out[-1].append(instruction)
    return out


def test_there_is_an_image_for_each_kind_of_tee() -> None:
    assert {f.name for f in DOCKERFILES} == {"Dockerfile.cvm", "Dockerfile.gramine"}
    assert {f.stem for f in COMPOSE} == {"dstack", "cvm", "sgx"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_every_base_is_a_build_argument_without_default_or_a_stage(path: Path) -> None:
    names = {"scratch"}
    for stage in stages(path):
        image, _, name = stage[0][1].partition(" AS ")
        assert image in names or re.fullmatch(r"\$\{[A-Z]+_IMAGE\}", image), image
        names.add(name)
    arguments = [rest for word, rest in instructions(path) if word == "ARG"]
    assert all("=" not in a for a in arguments if a.startswith(("BASE", "GRAMINE", "SOURCE")))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_a_base_that_is_no_digest_stops_the_build_at_its_first_step(path: Path) -> None:
    external = [s for s in stages(path) if s[0][1].startswith("${")]
    assert external
    for stage in external:
        variable = re.findall(r"\$\{(\w+)\}", stage[0][1])[0]
        first = next(rest for word, rest in stage if word == "RUN")
        assert f'"${{{variable}}}"' in first
        for image, epoch, good in (
            (f"docker.io/library/python@sha256:{DIGEST}", "1700000000", True),
            (f"python:3.11@sha256:{DIGEST}", "1700000000", True),
            ("python:3.11-slim", "1700000000", False),
            ("python@sha256:abcd", "1700000000", False),
            (f"python@sha256:{DIGEST} --privileged", "1700000000", False),
            (f"@sha256:{DIGEST}", "1700000000", False),
            ("", "1700000000", False),
            (f"python@sha256:{DIGEST}", "", "SOURCE_DATE_EPOCH" not in first),
        ):
            env = {variable: image, "SOURCE_DATE_EPOCH": epoch, "PATH": "/usr/bin:/bin"}
            done = subprocess.run(["/bin/sh", "-c", first], env=env, capture_output=True)
            assert (done.returncode == 0) is good, (image, epoch)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_packages_come_from_locks_with_hashes_or_from_here(path: Path) -> None:
    text = " ".join(rest for word, rest in instructions(path) if word == "RUN")
    installs = re.findall(r"pip install [^&]*", text)
    assert len(installs) >= 4
    for command in installs:
        assert "--no-deps" in command
        assert "--require-hashes -r requirements/" in command or "--no-index" in command
    for name in re.findall(r"requirements/(\S+\.lock)", path.read_text()):
        assert (ROOT / "requirements" / name).is_file(), name
    assert not re.search(r"\b(curl|wget|apt-get|git clone)\b", text)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_dates_come_from_the_commit_and_hash_seeds_are_fixed(path: Path) -> None:
    text = path.read_text()
    assert "SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH}" in text
    assert "PYTHONHASHSEED=0" in text
    assert "rewrite-timestamp=true" in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_the_final_image_is_unprivileged_and_holds_no_secret(path: Path) -> None:
    final = stages(path)[-1]
    words = [word for word, _ in final]
    assert [rest for word, rest in final if word == "USER"][-1] == "65532:65532"
    assert "ADD" not in {word for word, _ in instructions(path)}
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert all(rest.startswith("--from=") for word, rest in final if word == "COPY")
    entrypoint = next(rest for word, rest in final if word == "ENTRYPOINT")
    assert entrypoint.startswith("[")
    assert not re.search(r"(?i)\b(password|secret_key|api_key|token)\s*=", path.read_text())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_nothing_but_what_is_named_reaches_the_build(path: Path) -> None:
    ignored = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = [
        source
        for word, rest in instructions(path)
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        top = source.partition("/")[0]
        assert any(rule.startswith(f"!{top}") for rule in rules), source


@pytest.mark.parametrize("name", ["cvm", "gramine"])
def test_the_node_runs_isolated(name: str) -> None:
    final = stages(ROOT / f"manifests/images/Dockerfile.{name}")[-1]
    entrypoint = yaml.safe_load(next(rest for word, rest in final if word == "ENTRYPOINT"))
    if name == "cvm":
        assert entrypoint[:4] == ["/opt/adyton/bin/python", "-I", "-m", "gateway"]
        assert "ORT_DISABLE_TELEMETRY=1" in dict(final)["ENV"]
    else:
        assert entrypoint == ["gramine-sgx", "adyton"]


# --- compose ----------------------------------------------------------------------------------


def service(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert list(document["services"]) == ["adyton"]
    found: dict[str, Any] = document["services"]["adyton"]
    return found


@pytest.mark.parametrize("path", COMPOSE, ids=lambda p: p.stem)
def test_compose_files_name_the_image_by_a_digest_that_must_be_filled_in(path: Path) -> None:
    image = service(path)["image"]
    assert re.fullmatch(r"[a-z./-]+@sha256:<digest>", image)
    assert "$" not in image


@pytest.mark.parametrize("path", COMPOSE, ids=lambda p: p.stem)
def test_containers_have_no_capabilities_and_write_nowhere(path: Path) -> None:
    found = service(path)
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["read_only"] is True
    for key in ("privileged", "cap_add", "network_mode", "pid", "environment", "env_file"):
        assert key not in found


def mounts(path: Path) -> list[str]:
    return [
        v if isinstance(v, str) else f"{v['source']}:{v['target']}"
        for v in service(path).get("volumes", [])
    ]


def test_dstack_mounts_the_guest_agents_socket_and_nothing_else_of_the_host() -> None:
    path = ROOT / "manifests/compose/dstack.yaml"
    host = [m for m in mounts(path) if m.startswith(("/", "."))]
    assert host == ["/var/run/dstack.sock:/var/run/dstack.sock"]
    assert service(path)["command"][:2] == ["--tee", "dstack"]


def test_plain_machines_mount_configfs_and_keep_no_state_on_disk() -> None:
    path = ROOT / "manifests/compose/cvm.yaml"
    assert mounts(path) == ["/sys/kernel/config/tsm/report:/sys/kernel/config/tsm/report"]
    assert service(path)["command"] == ["--tee", "tsm", "--state-dir", "/state"]
    assert any(t.startswith("/state:") for t in service(path)["tmpfs"])


def test_sgx_gets_its_devices_and_the_signature_read_only() -> None:
    path = ROOT / "manifests/compose/sgx.yaml"
    found = service(path)
    assert {d.partition(":")[0] for d in found["devices"]} == {
        "/dev/sgx_enclave",
        "/dev/sgx_provision",
    }
    assert "./adyton.sig:/opt/adyton/adyton.sig:ro" in mounts(path)
    assert found["user"] == "65532:65532"
    assert "command" not in found


def test_the_commands_are_ones_the_node_takes() -> None:
    from click.testing import CliRunner

    from gateway.cli import main

    known = CliRunner().invoke(main, ["serve", "--help"]).output
    for path in COMPOSE:
        for word in service(path).get("command", []):
            assert not word.startswith("--") or word in known, (path.name, word)
        if "command" in service(path):
            assert service(path)["command"][1] in known


def test_the_lock_of_the_manifest_tools_agrees_with_the_others() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / name).read_text()
        return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", text))

    tools, dev = pins("manifest.lock"), pins("dev.lock")
    assert {"jinja2", "pyelftools", "tomli-w", "cryptography"} <= set(tools)
    assert all(dev[name] == version for name, version in tools.items())
