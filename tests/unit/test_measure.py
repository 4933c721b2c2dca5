"""Changing what a node runs changes its measurement; changing nothing does not."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from pathlib import Path

import pytest

from attestation.issuers.base import IssuerError
from attestation.issuers.simulator import (
    MeasuredState,
    measure_code,
    measure_config,
    measure_distributions,
)
from attestation.issuers.simulator.measure import measure_files

A, B, C, D = (bytes([i]) * 32 for i in range(4))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that raises when it is imported."""
    root = tmp_path / "measured_sample"
    (root / "data").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('measuring must not import')\n")
    (root / "code.py").write_text("x = 1\n")
    (root / "data" / "policy.yaml").write_text("a: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def code() -> bytes:
    return measure_code(["measured_sample"])


@pytest.mark.parametrize("path", ["__init__.py", "code.py", "data/policy.yaml"])
def test_changing_one_byte_of_any_file_changes_the_code_digest(package: Path, path: str) -> None:
    before = code()
    assert code() == before
    changed = bytearray((package / path).read_bytes())
    changed[0] ^= 1
    (package / path).write_bytes(changed)
    assert code() != before


def test_adding_removing_or_renaming_a_file_changes_it(package: Path) -> None:
    digests = {code()}
    (package / "more.py").write_text("")
    digests.add(code())
    (package / "more.py").rename(package / "less.py")
    digests.add(code())
    (package / "code.py").unlink()
    digests.add(code())
    assert len(digests) == 4


def test_a_legacy_pyc_counts_and_the_cache_does_not(package: Path) -> None:
    before = code()
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "code.cpython-311.pyc").write_bytes(b"cache")
    (package / ".editor-swap").write_bytes(b"")
    assert code() == before
    (package / "hidden.pyc").write_bytes(b"importable without a source")
    assert code() != before


def test_nothing_is_imported(package: Path) -> None:
    measure_files(["measured_sample"])
    assert "measured_sample" not in sys.modules
    names = measure_files(["attestation", "enclave", "gateway"])
    assert "enclave/worker/proto/worker.proto" in names
    assert "attestation/py.typed" in names
    source = Path(__file__).parents[2] / "attestation" / "errors.py"
    assert names["attestation/errors.py"] == hashlib.sha256(source.read_bytes()).hexdigest()


def test_a_missing_package_is_refused() -> None:
    with pytest.raises(IssuerError, match="no_such_package"):
        measure_files(["no_such_package"])
    with pytest.raises(IssuerError, match="json"):
        measure_files(["json.decoder"])


def test_dependency_versions_are_measured(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure_distributions()
    assert found["cryptography"] == metadata.version("cryptography")
    # A transitive one, one of the node extra, and none of the development extra.
    assert "cffi" in found
    assert "grpcio" in found
    assert "mypy" not in found
    before = code()
    monkeypatch.setattr(metadata.Distribution, "version", property(lambda _: "0"))
    assert code() != before


def test_requirements_that_do_not_apply_here_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(name: str, *requires: str) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir()
        lines = [f"Requires-Dist: {r}" for r in requires]
        text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1", *lines])
        (info / "METADATA").write_text(text + "\n")

    install("top", "Mid_Dle[fast,odd]>=1", "absent; sys_platform == 'win32'", "opt; extra == 'o'")
    install("mid-dle", "top", "fast>=2 ; extra == 'fast'", 'slow ; extra == "slow"')
    for name in ("fast", "slow", "opt"):
        install(name)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert measure_distributions("top", ()) == {"top": "1", "mid-dle": "1", "fast": "1"}
    assert "opt" in measure_distributions("top", ("o",))
    with pytest.raises(IssuerError, match="nowhere"):
        measure_distributions("nowhere")


def test_the_measurement_covers_code_configuration_and_model() -> None:
    states = [
        MeasuredState(A, B, C),
        MeasuredState(D, B, C),
        MeasuredState(A, D, C),
        MeasuredState(A, B, D),
        MeasuredState(B, A, C),
    ]
    assert len({s.mr_td for s in states}) == len(states)
    assert len({s.mr_enclave for s in states}) == len(states)
    assert MeasuredState(A, B, C).mr_td == states[0].mr_td


def test_each_register_answers_for_its_own_part() -> None:
    base = MeasuredState(A, B, C).tdx_fields()

    def changed(state: MeasuredState) -> set[str]:
        return {name for name, value in state.tdx_fields().items() if value != base[name]}

    assert changed(MeasuredState(D, B, C)) == {"mr_td", "rt_mr1"}
    assert changed(MeasuredState(A, D, C)) == {"mr_td", "rt_mr2", "mr_config_id"}
    assert changed(MeasuredState(A, B, D)) == {"mr_td", "rt_mr3"}
    extended = hashlib.sha384(bytes(48) + hashlib.sha384(A).digest()).digest()
    assert base["rt_mr1"] == extended


def test_published_example_of_the_registers() -> None:
    """The values in docs/spec/simulator.md."""
    state = MeasuredState(bytes(32), bytes(32), bytes(32))
    text = (Path(__file__).parents[2] / "docs/spec/simulator.md").read_text()
    assert state.mr_td.hex() in text
    assert state.mr_enclave.hex() in text


def test_config_is_measured_as_a_document_not_as_text() -> None:
    assert measure_config({"a": 1, "b": [2]}) == measure_config({"b": [2], "a": 1})
    assert measure_config({"a": 1}) != measure_config({"a": 2})
    assert len(measure_config({})) == 32


def test_a_digest_of_another_size_is_refused() -> None:
    with pytest.raises(IssuerError, match="32 bytes"):
        MeasuredState(A, B, b"")
