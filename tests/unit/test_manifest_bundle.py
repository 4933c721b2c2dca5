"""The bundle: what an installation needs, found as the loader finds it, laid out the same."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from attestation.errors import MalformedEvidence
from attestation.manifest import bundle as module
from attestation.manifest.bundle import MAX_FILES, ask, build, default_models, hash_tree
from attestation.manifest.curate import (
    is_pure,
    wanted_extension,
    wanted_in_stdlib,
    wanted_in_wheel,
)
from attestation.manifest.elf import is_elf, read_dynamic
from attestation.manifest.libraries import BundleError, configured_directories, library_closure

PYTHON = Path(sys.executable)
PROGRAM = Path(getattr(sys, "_base_executable", sys.executable)).resolve()


# --- curation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("numpy/__init__.py", True),
        ("numpy/linalg/_umath_linalg.cpython-311-x86_64-linux-gnu.so", True),
        ("numpy.libs/libscipy_openblas64_.so", True),
        ("certifi/cacert.pem", True),
        ("numpy-2.0.dist-info/METADATA", True),
        ("numpy-2.0.dist-info/RECORD", False),
        ("numpy-2.0.dist-info/licenses/METADATA", False),
        ("numpy/tests/test_a.py", False),
        ("numpy/_core/include/numpy/arrayobject.h", False),
        ("numpy/__init__.pyi", False),
        ("numpy/__pycache__/a.pyc", False),
        ("onnxruntime/transformers/x.py", False),
        ("../../../bin/alembic", False),
        ("/etc/passwd", False),
        ("x.pth", False),
        ("__editable___adyton_finder.py", False),
        ("attestation/policy/load.py", True),
        ("attestation/manifest/render.py", False),
    ],
)
def test_wheels_are_taken_without_what_no_node_reads(path: str, wanted: bool) -> None:
    assert wanted_in_wheel(PurePosixPath(path)) is wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("os.py", True),
        ("json/decoder.py", True),
        ("test/test_os.py", False),
        ("idlelib/idle.py", False),
        ("ensurepip/__init__.py", False),
        ("unittest/test/a.py", False),
        ("site-packages/x.py", False),
        ("config-3.11-x86_64-linux-gnu/python-config.py", False),
        ("pydoc_data/topics.txt", False),
    ],
)
def test_the_standard_library_is_taken_without_tests_and_tools(path: str, wanted: bool) -> None:
    assert wanted_in_stdlib(PurePosixPath(path)) is wanted


def test_compiled_modules_for_people_and_for_tests_stay_behind() -> None:
    assert wanted_extension(Path("_ssl.cpython-311-x86_64-linux-gnu.so"))
    for name in ("_tkinter.x.so", "_testcapi.x.so", "readline.x.so", "xxlimited.x.so", "README"):
        assert not wanted_extension(Path(name))


def test_a_wheel_is_pure_when_an_archive_can_hold_it() -> None:
    assert is_pure([PurePosixPath("a/b.py"), PurePosixPath("a-1.dist-info/METADATA")])
    assert not is_pure([PurePosixPath("a/b.py"), PurePosixPath("a/data.json")])


# --- libraries --------------------------------------------------------------------------------


def compiled(place: Path, *options: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-x", "c", "-nostdlib", "-shared", "-o", str(place), *options, "/dev/null"]
    subprocess.run(command, check=True, capture_output=True)
    return place


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """main -> liba (RPATH $ORIGIN/lib) -> libb (RUNPATH ${ORIGIN}/deep)."""
    if not Path("/usr/bin/gcc").exists():
        pytest.skip("gcc, which makes the ELF files of this test, is not installed")
    compiled(tmp_path / "lib/deep/libb.so", "-Wl,-soname,libb.so")
    compiled(
        tmp_path / "lib/liba.so",
        *("-Wl,--no-as-needed", f"-L{tmp_path}/lib/deep", "-lb"),
        *("-Wl,--enable-new-dtags", "-Wl,-rpath,${ORIGIN}/deep"),
    )
    compiled(
        tmp_path / "main",
        *("-Wl,--no-as-needed", f"-L{tmp_path}/lib", "-la", "-Wl,--allow-shlib-undefined"),
        *(
            "-Wl,--disable-new-dtags",
            "-Wl,-rpath,$ORIGIN/lib",
            f"-Wl,-rpath-link,{tmp_path}/lib/deep",
        ),
    )
    return tmp_path


def test_libraries_are_found_by_rpath_and_runpath(tree: Path) -> None:
    closure = library_closure(tree / "main", [], directories=())
    assert closure.found == {
        "liba.so": tree / "lib/liba.so",
        "libb.so": tree / "lib/deep/libb.so",
    }
    assert read_dynamic(tree / "lib/deep/libb.so").soname == "libb.so"


def test_the_directories_of_the_system_come_last(tree: Path) -> None:
    decoy = tree / "system"
    compiled(decoy / "libb.so", "-Wl,-soname,libb.so")
    closure = library_closure(tree / "main", [], directories=(str(decoy),))
    assert tree / "lib/deep/libb.so" in closure.found.values()
    assert decoy / "libb.so" not in closure.found.values()


def test_a_library_that_is_nowhere_is_named(tree: Path) -> None:
    (tree / "lib/deep/libb.so").unlink()
    with pytest.raises(BundleError, match=r"liba\.so needs libb\.so"):
        library_closure(tree / "main", [], directories=())


def test_a_library_of_that_name_that_is_no_library_is_passed_over(tree: Path) -> None:
    (tree / "lib/deep/libb.so").write_text("INPUT(libc.so.6)")
    with pytest.raises(BundleError, match="none of the loader's directories"):
        library_closure(tree / "main", [], directories=())


def test_a_library_that_is_named_by_its_path_is_refused(tree: Path) -> None:
    """Inside the enclave there is no such path, and another library might be found instead."""
    nameless = compiled(tree / "nameless.so")
    user = compiled(tree / "user.so", "-Wl,--no-as-needed", "-x", "none", str(nameless), "-x", "c")
    with pytest.raises(BundleError, match="by its path"):
        library_closure(tree / "main", [user], directories=())


def test_two_libraries_of_one_name_are_both_found(tree: Path) -> None:
    """As two wheels may each bring their own beside themselves."""
    other = compiled(tree / "other/libb.so", "-Wl,-soname,libb.so")
    options = ("-Wl,--no-as-needed", f"-L{other.parent}", "-lb", "-Wl,-rpath,$ORIGIN/other")
    user = compiled(tree / "user.so", *options, "-Wl,--enable-new-dtags")
    text = tree / "not-elf.so"
    text.write_text("")
    found = library_closure(tree / "main", [user, text], directories=()).found
    assert set(found.values()) == {tree / "lib/liba.so", tree / "lib/deep/libb.so", other}


@pytest.mark.parametrize(
    ("limit", "reason"), [("MAX_NEEDED", "more than"), ("MAX_ELF_BYTES", "longer")]
)
def test_what_a_file_may_ask_for_is_bounded(
    tree: Path, monkeypatch: pytest.MonkeyPatch, limit: str, reason: str
) -> None:
    monkeypatch.setattr(f"attestation.manifest.elf.{limit}", 0)
    with pytest.raises(MalformedEvidence, match=reason):
        read_dynamic(tree / "lib/liba.so")


def test_glibc_is_left_to_gramine() -> None:
    closure = library_closure(PROGRAM, [])
    assert "libc.so.6" in closure.glibc
    assert not any(name.startswith(("libc.so", "libm.so", "ld-linux")) for name in closure.found)
    assert all(is_elf(path) for path in closure.found.values())


def test_the_loaders_configuration_is_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.conf").write_text("/opt/a # comment\n\n")
    (tmp_path / "ld.so.conf").write_text(f"include {tmp_path}/d/*.conf\n/opt/b\n")
    assert configured_directories(tmp_path / "ld.so.conf") == ("/opt/a", "/opt/b")
    assert configured_directories(tmp_path / "missing") == ()


# --- a whole bundle, of a small installation --------------------------------------------------


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of two modules, a pure wheel, a wheel with data, a package of ours."""
    texts = {
        "std/os.py": "import sys\nX = {'b', 'a', 'c'}\n",
        "std/test/test_os.py": "",
        "site/pure/__init__.py": "Y = 1\n",
        "site/pure-1.dist-info/METADATA": "Name: pure\n",
        "site/data/mod.py": "Z = 1\n",
        "site/data/table.json": "{}",
        "own/ours/__init__.py": "",
        "own/ours/sub/code.py": "W = 1\n",
        "own/ours/policy.yaml": "a: 1",
        "model/model.gguf": "weights",
        "model/README.md": "",
    }
    for name, text in texts.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (tmp_path / "dyn").mkdir()
    facts = {
        "executable": str(PROGRAM),
        "version": list(sys.version_info[:2]),
        "stdlib": str(tmp_path / "std"),
        "dynload": str(tmp_path / "dyn"),
        "distributions": [
            {
                "name": name,
                "version": "1",
                "root": str(tmp_path / "site"),
                "files": [
                    str(p.relative_to(tmp_path / "site"))
                    for p in sorted((tmp_path / "site").rglob(f"{name}*/*"))
                    if p.is_file()
                ]
                + [f"{name}/gone.py"],
            }
            for name in ("pure", "data")
        ],
        "packages": {"ours": str(tmp_path / "own/ours")},
    }

    def answer(python: Path, verb: str, question: Any) -> dict[str, Any]:
        return facts if verb == "describe" else ask(python, verb, question)

    monkeypatch.setattr(module, "ask", answer)
    return tmp_path


def test_a_bundle_holds_what_is_needed_where_the_interpreter_looks(installation: Path) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    made = build(
        installation / "bundle",
        models={"chat": installation / "model/model.gguf", "all": installation / "model"},
    )
    tag = f"cpython-{version.replace('.', '')}"
    site = f"lib/python{version}/site-packages"
    names = [n for n in made.files if not n.startswith("lib/lib")]
    assert names == sorted(
        [
            f"bin/python{version}",
            f"{site}/data/mod.pyc",
            f"{site}/data/table.json",
            f"{site}/ours/__init__.py",
            f"{site}/ours/__pycache__/__init__.{tag}.pyc",
            f"{site}/ours/policy.yaml",
            f"{site}/ours/sub/__pycache__/code.{tag}.pyc",
            f"{site}/ours/sub/code.py",
            f"{site}/wheels.pth",
            f"lib/python{version.replace('.', '')}.zip",
            "lib/wheels.zip",
            "models/all/model.gguf",
            "models/chat/model.gguf",
        ],
        key=lambda n: PurePosixPath(n).parts,
    )
    with zipfile.ZipFile(installation / "bundle/lib/wheels.zip") as z:
        assert z.namelist() == [
            "pure-1.dist-info/",
            "pure-1.dist-info/METADATA",
            "pure/",
            "pure/__init__.pyc",
        ]
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
    with zipfile.ZipFile(installation / f"bundle/lib/python{version.replace('.', '')}.zip") as z:
        assert z.namelist() == ["os.pyc"]
    assert made.glibc[0] == "ld-linux-x86-64.so.2"
    assert made.distributions == ("pure 1", "data 1")
    assert made.size_bytes > 0


def test_two_bundles_of_one_installation_are_the_same(installation: Path) -> None:
    first = build(installation / "a")
    second = build(installation / "deep/er/b")
    assert first.files == second.files
    for name in first.files:
        assert (installation / "a" / name).stat().st_mtime == 315532800


def test_compiled_modules_are_never_checked_against_sources_and_name_the_enclaves_paths(
    installation: Path,
) -> None:
    made = build(installation / "a")
    compiled_file = next(n for n in made.files if n.endswith("data/mod.pyc"))
    data = (installation / "a" / compiled_file).read_bytes()
    assert data[4:8] == b"\x01\0\0\0"
    assert f"/opt/adyton/{compiled_file[:-1]}".encode() in data
    assert str(installation).encode() not in data


@pytest.mark.parametrize("name", ["lib/x", "y"])
def test_a_folder_that_holds_anything_is_refused(installation: Path, name: str) -> None:
    place = installation / "a" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("")
    with pytest.raises(BundleError, match="not empty"):
        build(installation / "a")


def test_a_model_that_is_not_there_is_refused(installation: Path) -> None:
    with pytest.raises(BundleError, match="no model"):
        build(installation / "a", models={"chat": installation / "nowhere"})


def test_a_package_that_is_not_there_is_refused(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {**module.ask(PYTHON, "describe", {}), "packages": {"ours": None}}
    monkeypatch.setattr(module, "ask", lambda *_: facts)
    with pytest.raises(BundleError, match="ours is not installed"):
        build(installation / "a")


def test_too_many_files_are_refused(installation: Path) -> None:
    folder = installation / "own/ours"
    for i in range(MAX_FILES):
        (folder / f"{i}.json").write_text("")
    with pytest.raises(BundleError, match=f"more than {MAX_FILES}"):
        build(installation / "a")


def test_two_files_of_one_name_are_refused(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = module.ask(PYTHON, "describe", {})
    other = installation / "other/data/table.json"
    other.parent.mkdir(parents=True)
    other.write_text("[]")
    root = {"name": "x", "version": "1", "root": str(installation / "other")}
    facts["distributions"].append({**root, "files": ["data/table.json"]})
    monkeypatch.setattr(module, "ask", lambda *_: facts)
    with pytest.raises(BundleError, match="both"):
        build(installation / "a")


def test_only_files_and_folders_can_be_hashed(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/c").write_text("c")
    assert list(hash_tree(tmp_path)) == ["a/c", "b"]
    (tmp_path / "link").symlink_to("b")
    with pytest.raises(BundleError, match="neither"):
        hash_tree(tmp_path)


# --- the interpreter that is asked ------------------------------------------------------------


def test_this_installation_can_be_described() -> None:
    question = {"root": "adyton", "extra": "node", "dropped": ["openai"], "packages": ["gateway"]}
    facts = ask(PYTHON, "describe", question)
    names = {d["name"].lower() for d in facts["distributions"]}
    assert {"adyton", "onnxruntime", "cryptography"} <= names
    assert "openai" not in names
    assert "pytest" not in names
    assert Path(facts["packages"]["gateway"]).name == "gateway"
    assert Path(facts["executable"]).is_file()
    assert Path(facts["stdlib"], "os.py").is_file()


def test_an_interpreter_without_the_node_says_so() -> None:
    question = {"root": "no-such-thing", "extra": "", "dropped": [], "packages": []}
    with pytest.raises(BundleError, match="no-such-thing is not installed"):
        ask(PYTHON, "describe", question)


@pytest.mark.parametrize("python", ["/bin/false", "/nonexistent/python", "/bin/true"])
def test_what_is_no_interpreter_is_refused(python: str) -> None:
    with pytest.raises(BundleError, match="cannot be bundled"):
        ask(Path(python), "describe", {})


def test_the_default_models_are_found_where_they_are_installed() -> None:
    for kind, place in default_models().items():
        assert kind in ("chat", "embedding")
        assert place.exists()
    assert os.fspath(PYTHON)
