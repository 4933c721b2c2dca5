"""Rendering: the language of gramine-manifest, hashed files, and the same bytes everywhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import MalformedEvidence
from attestation.manifest.lint import lint
from attestation.manifest.render import (
    GRAMINE_PKGLIBDIR,
    Gramine,
    Rendered,
    RenderError,
    render,
    template_text,
)
from attestation.manifest.variables import VARIABLES, VariableError, resolve

GLIBC = ("ld-linux-x86-64.so.2", "libc.so.6")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a small bundle, and Gramine's files beside it."""
    for name in ("bundle/bin/python3.11", "bundle/lib/b.so", "bundle/lib/a/c", "bundle/z"):
        place = tmp_path / "out" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name)
    runtime = tmp_path / "gramine/runtime/glibc"
    runtime.mkdir(parents=True)
    for name in GLIBC:
        (runtime / name).write_text(name)
    (tmp_path / "gramine/libsysdb.so").write_text("libos")
    return tmp_path / "out"


def files() -> dict[str, Any]:
    return {
        "python_version": "3.11",
        "glibc": GLIBC,
        "chat_models": [("chat", "/opt/adyton/models/chat/m.gguf")],
        "embedding_models": [("embed", "/opt/adyton/models/embedding")],
    }


def node(root: Path, *settings: str, gramine: bool = True) -> Rendered:
    local = root.parent / "gramine" if gramine else None
    install = Gramine.find(local) if gramine else Gramine(None)
    variables = {**resolve(settings), **files()}
    return render(template_text(None), variables, root=root, gramine=install)


def small(text: str, root: Path, **variables: Any) -> dict[str, Any]:
    install = Gramine.find(root.parent / "gramine")
    return tomllib.loads(render(text, variables, root=root, gramine=install).data.decode())


# --- the node's own template ------------------------------------------------------------------


def test_the_nodes_manifest_has_nothing_to_refuse(root: Path) -> None:
    made = node(root)
    assert made.complete
    report = lint(made.data)
    assert report.trusted_files == made.trusted_files == len(GLIBC) + 4
    assert len(report.notes) == 2


@pytest.mark.parametrize(
    "settings",
    [
        ("edmm=false", "enclave_size=4G"),
        ("models=provisioned", "state=memory"),
        ("hostnames=a.example,b.example", "subject=did:web:a.example", "threads=8"),
        ("port=443", "host=::", "isv_svn=7", "rows=32", "context=8192", "max_threads=128"),
    ],
)
def test_no_setting_makes_it_dangerous(root: Path, settings: tuple[str, ...]) -> None:
    assert lint(node(root, *settings).data)


def test_the_simulator_can_be_rendered_and_is_refused_by_the_linter(root: Path) -> None:
    from attestation.errors import PolicyError

    with pytest.raises(PolicyError, match="simulator"):
        lint(node(root, "tee=simulator").data)


def test_production_settings_are_the_default(root: Path) -> None:
    made = tomllib.loads(node(root).data.decode())
    sgx, loader = made["sgx"], made["loader"]
    assert loader["argv"][:5] == ["/opt/adyton/bin/python3.11", "-I", "-m", "gateway", "serve"]
    assert loader["argv"][0] == made["libos"]["entrypoint"]
    assert loader["log_level"] == "error"
    assert loader["env"]["ORT_DISABLE_TELEMETRY"] == loader["env"]["MALLOC_ARENA_MAX"] == "1"
    assert sgx["debug"] is False
    assert sgx["remote_attestation"] == "dcap"
    assert sgx["file_check_policy"] == "strict"
    assert "allowed_files" not in sgx
    assert made["fs"]["root"] == {"type": "tmpfs"}
    mounts = {m["path"]: m for m in made["fs"]["mounts"]}
    assert mounts["/var/lib/adyton"]["key_name"] == "_sgx_mrenclave"
    assert b"insecure" not in node(root).data


def test_models_and_names_reach_the_command_line(root: Path) -> None:
    argv = tomllib.loads(node(root, "hostnames=a.example,b").data.decode())["loader"]["argv"]
    pairs = list(pairwise(argv))
    assert ("--model", "chat=/opt/adyton/models/chat/m.gguf") in pairs
    assert ("--embedding-model", "embed=/opt/adyton/models/embedding") in pairs
    assert ("--hostname", "a.example") in pairs
    assert ("--hostname", "b") in pairs
    assert "--subject" not in argv


def test_api_keys_are_admitted_by_their_digest(root: Path) -> None:
    made = node(root, f"api_keys=team:{'ab' * 32},me@x:{'cd' * 32}").data.decode()
    argv = tomllib.loads(made)["loader"]["argv"]
    given = [b for a, b in pairwise(argv) if a == "--api-key-digest"]
    assert given == [f"team={'ab' * 32}", f"me@x={'cd' * 32}"]
    with pytest.raises(VariableError):
        node(root, "api_keys=team:nothex")


def test_the_same_files_give_the_same_bytes_in_another_folder(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "somewhere/else"
    shutil.copytree(root, other)
    install = Gramine.find(tmp_path / "gramine")
    variables = {**resolve(()), **files()}
    again = render(template_text(None), variables, root=other, gramine=install)
    assert again == node(root)
    assert str(tmp_path).encode() not in again.data


def test_the_environment_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node(root)
    monkeypatch.setenv("EDMM", "1")
    monkeypatch.chdir("/")
    assert node(root) == before


def test_a_changed_file_changes_the_manifest(root: Path) -> None:
    before = node(root)
    (root / "bundle/z").write_text("changed")
    assert node(root).data != before.data


def test_without_gramine_its_files_wait_for_their_hashes(root: Path) -> None:
    made = node(root, gramine=False)
    assert not made.complete
    assert made.missing == (
        f"file:{GRAMINE_PKGLIBDIR}/libsysdb.so",
        *(f"file:{GRAMINE_PKGLIBDIR}/runtime/glibc/{name}" for name in GLIBC),
    )
    assert lint(made.data, complete=False).unhashed == 3


def test_a_folder_that_is_no_gramine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match=r"libsysdb\.so"):
        Gramine.find(tmp_path)
    assert Gramine.find(None, str(tmp_path)).local is None


# --- the language -----------------------------------------------------------------------------


def test_folders_are_expanded_in_order_and_hashed(root: Path) -> None:
    made = small('sgx.trusted_files = ["file:bundle/"]', root)
    assert made["sgx"]["trusted_files"] == [
        {"uri": f"file:{name}", "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in ("bundle/bin/python3.11", "bundle/lib/a/c", "bundle/lib/b.so", "bundle/z")
    ]


def test_entries_that_repeat_count_once_and_given_hashes_stand(root: Path) -> None:
    given = '{ uri = "file:elsewhere", sha256 = "' + "ab" * 32 + '" }'
    made = small(f'sgx.trusted_files = ["file:bundle/z", "file:bundle/z", {given}]', root)
    assert [f["uri"] for f in made["sgx"]["trusted_files"]] == ["file:bundle/z", "file:elsewhere"]
    assert made["sgx"]["trusted_files"][1]["sha256"] == "ab" * 32


def test_gramines_defaults_are_spelled_out(root: Path) -> None:
    made = small("", root)
    assert made["sgx"]["enclave_size"] == "256M"
    assert made["sgx"]["max_threads"] == 4
    assert made["sgx"]["cpu_features"]["pkru"] == "disabled"
    assert made["loader"]["entrypoint"] == {
        "uri": f"file:{GRAMINE_PKGLIBDIR}/libsysdb.so",
        "sha256": hashlib.sha256(b"libos").hexdigest(),
    }
    assert small("sgx.edmm_enable = true", root)["sgx"]["enclave_size"] == "1024G"


def test_templates_have_the_functions_of_gramine_manifest(root: Path) -> None:
    made = small(
        """
        libos.entrypoint = "{{ entrypoint }}"
        fs.mounts = [
        {% for path in python.get_sys_path(entrypoint) %}
          { path = "{{ path }}", uri = "file:{{ path }}{{ '/' if path.is_dir() else '' }}" },
        {% endfor %}
          { path = "/lib", uri = "file:{{ gramine.runtimedir() }}" },
          { path = "/musl", uri = "file:{{ gramine.runtimedir('musl') }}" },
          { path = "/libos", uri = "file:{{ gramine.libos }}" },
        ]
        loader.env.A = "{{ env.get('ADYTON_NEVER_SET', 'unset') }}"
        loader.env.B = "{{ python.stdlib }} {{ python.get_config_var('EXT_SUFFIX') }}"
        loader.env.C = "{{ gramine.pkglibdir }} {{ gramine.runtimedir / 'x' }} {{ gramine.libdir }}"
        loader.env.D = "{{ ldd(entrypoint) | length }} {{ python.get_path('purelib') }}"
        """,
        root,
        entrypoint=sys.executable,
    )
    by_path = {m["path"]: m["uri"] for m in made["fs"]["mounts"]}
    assert by_path["/lib"] == f"file:{GRAMINE_PKGLIBDIR}/runtime/glibc"
    assert by_path["/musl"] == f"file:{GRAMINE_PKGLIBDIR}/runtime/musl"
    assert by_path["/libos"] == f"file:{GRAMINE_PKGLIBDIR}/libsysdb.so"
    assert by_path[str(Path(os.__file__).parent)].endswith("/")
    assert made["loader"]["env"]["A"] == "unset"
    assert made["loader"]["env"]["C"].startswith(f"{GRAMINE_PKGLIBDIR} {GRAMINE_PKGLIBDIR}/run")


@pytest.mark.parametrize(
    "template",
    [
        "x = {{ missing }}",
        "x = {{ 1 / 0 }}",
        "{% for x in %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ gramine.libos.__class__ }}",
        "{{ python.get_sys_path.__globals__ }}",
        "{{ gramine.update({}) }}",
        "{{ python.get_sys_path('/bin/sh') }}",
        "{{ gramine.libos.write_text('x') }}",
        "{% include '/etc/passwd' %}",
        "{{ range(10**9) | list }}",
    ],
)
def test_templates_stay_in_the_sandbox(root: Path, template: str) -> None:
    with pytest.raises(RenderError):
        small(template, root)


@pytest.mark.parametrize(
    "template",
    [
        'sgx.trusted_files = ["file:missing"]',
        'sgx.trusted_files = ["file:bundle"]',
        'sgx.trusted_files = ["file:bundle/z/"]',
        'sgx.trusted_files = [{ uri = "file:bundle/", sha256 = "00" }]',
        'sgx.trusted_files = ["dev:/dev/null"]',
        "sgx.trusted_files = [1]",
        'sgx.trusted_files = "file:bundle/"',
        'loader.entrypoint = "file:x"',
        'sgx.trusted_files = ["file:bundle/z", { uri = "file:bundle/z", sha256 = "00" }]',
    ],
)
def test_files_that_cannot_be_trusted_are_refused(root: Path, template: str) -> None:
    with pytest.raises(RenderError):
        small(template, root)


def test_too_many_trusted_files_are_refused(root: Path) -> None:
    lines = "{% for i in range(4001) %}{ uri = 'file:{{ i }}', sha256 = '' },{% endfor %}"
    with pytest.raises(RenderError, match="4001 trusted files"):
        small(f"sgx.trusted_files = [{lines}]", root)


@pytest.mark.parametrize("text", ["x = [", "sgx = 1", "loader = 1", "sgx.cpu_features = 1"])
def test_what_is_no_manifest_is_malformed(root: Path, text: str) -> None:
    with pytest.raises(MalformedEvidence):
        small(text, root)


def test_a_folder_of_gramines_cannot_be_listed_where_gramine_is_not(root: Path) -> None:
    text = f'sgx.trusted_files = ["file:{GRAMINE_PKGLIBDIR}/runtime/glibc/"]'
    assert small(text, root)
    with pytest.raises(RenderError, match="not installed"):
        render(text, {}, root=root, gramine=Gramine(None))


def test_templates_are_read_from_files(root: Path) -> None:
    place = root / "own.template"
    place.write_text("x = 1")
    assert template_text(place) == "x = 1"
    with pytest.raises(RenderError, match="missing"):
        template_text(root / "missing")
    place.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(RenderError, match="longer"):
        template_text(place)


# --- variables --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "port",
        "prot=1",
        "port=0",
        "port=65536",
        "port=1e3",
        "port=²",
        "port=-1",
        "edmm=yes",
        "state=open",
        "tee=tsm",
        'host="]\nsgx.debug = true',
        'hostnames=a","--tee","simulator',
        "subject=a\nb",
        "state_dir=relative",
        "state_dir=/a/../../etc",
        "enclave_size=1T",
        "threads=99999999999999999999",
    ],
)
def test_values_that_could_say_something_else_are_refused(setting: str) -> None:
    with pytest.raises(VariableError):
        resolve([setting])


def test_every_variable_is_documented() -> None:
    document = (Path(__file__).parents[2] / "docs/manifests.md").read_text()
    for name, variable in VARIABLES.items():
        assert f"| `{name}` |" in document, name
        assert variable.meaning
