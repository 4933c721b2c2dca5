"""The linter refuses each dangerous thing by itself, and a production manifest not at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tomli_w

from attestation.errors import MalformedEvidence, PolicyError
from attestation.manifest.lint import lint, require_hashes

HASH = "ab" * 32
GOOD: dict[str, Any] = {
    "libos": {"entrypoint": "/opt/adyton/bin/python3.11"},
    "loader": {
        "entrypoint": {"uri": "file:/usr/lib/gramine/libsysdb.so", "sha256": HASH},
        "argv": ["/opt/adyton/bin/python3.11", "-I", "-m", "gateway", "--threads", "2"],
        "log_level": "error",
        "env": {"ORT_DISABLE_TELEMETRY": "1", "PATH": {"value": "/opt/adyton/bin"}},
    },
    "fs": {
        "root": {"type": "tmpfs"},
        "mounts": [
            {"path": "/lib", "uri": "file:/usr/lib/gramine/runtime/glibc"},
            {"path": "/state", "type": "encrypted", "uri": "file:s", "key_name": "_sgx_mrenclave"},
        ],
    },
    "sys": {"stack": {"size": "2M"}},
    "sgx": {
        "debug": False,
        "remote_attestation": "dcap",
        "isvprodid": 1,
        "isvsvn": 1,
        "enclave_size": "1G",
        "edmm_enable": True,
        "use_exinfo": True,
        "max_threads": 8,
        "trusted_files": [{"uri": "file:bundle/a", "sha256": HASH}],
    },
}
ABSENT = object()


def changed(path: str, value: Any) -> bytes:
    """The good manifest with one value set, or left out."""
    document = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place.setdefault(name, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return tomli_w.dumps(document).encode()


def refusals(manifest: bytes, *, complete: bool = True) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        lint(manifest, complete=complete)
    assert all(f.expected and f.actual for f in caught.value.findings)
    return [f.field for f in caught.value.findings]


def test_a_production_manifest_passes_without_a_note() -> None:
    report = lint(tomli_w.dumps(GOOD).encode())
    assert (report.trusted_files, report.unhashed, report.notes) == (1, 0, ())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("loader.insecure__use_cmdline_argv", True),
        ("loader.insecure__use_host_env", True),
        ("loader.insecure__disable_aslr", True),
        ("fs.insecure__keys", {"default": "00" * 16}),
        ("sys.insecure__allow_eventfd", True),
        ("sys.debug__mock_syscalls", [{"name": "fsync", "return": 0}]),
        ("sys.allowed_ioctls", [{"request_code": 1}]),
        ("sys.disallow_subprocesses", True),
        ("sgx.insecure__allow_memfaults_without_exinfo", True),
        ("sgx.insecure__rpc_thread_num", 4),
        ("sgx.debug", True),
        ("sgx.enable_stats", True),
        ("sgx.vtune_profile", True),
        ("sgx.allowed_files", ["file:/tmp/x"]),
        ("sgx.file_check_policy", "allow_all_but_log"),
        ("sgx.remote_attestation", "none"),
        ("sgx.remote_attestation", ABSENT),
        ("sgx.isvprodid", ABSENT),
        ("sgx.isvsvn", ABSENT),
        ("sgx.isvsvn", 0),
        ("sgx.max_threads", 5),
        ("sgx.preheat_enclave", True),
        ("sgx.enclave_size", "3G"),
        ("loader.argv", ABSENT),
        ("loader.argv", []),
        ("loader.argv_src_file", "file:argv"),
        ("loader.env_src_file", "file:env"),
        ("loader.log_level", "debug"),
        ("loader.log_level", "warning"),
        ("loader.log_level", "all"),
    ],
)
def test_each_dangerous_option_is_refused_by_name(path: str, value: Any) -> None:
    assert path in refusals(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("loader.env", {"ORT_DISABLE_TELEMETRY": "1", "X": {"passthrough": True}}, "loader.env.X"),
        ("loader.env", {"ORT_DISABLE_TELEMETRY": "1", "X": {"passthrough": False}}, "loader.env.X"),
        ("loader.env", {}, "loader.env.ORT_DISABLE_TELEMETRY"),
        ("loader.env", {"ORT_DISABLE_TELEMETRY": "0"}, "loader.env.ORT_DISABLE_TELEMETRY"),
        ("sgx.profile", {"enable": "main"}, "sgx.profile.enable"),
        ("sgx.seal_key", {"flags_mask": "0xfffffffffffffffd"}, "sgx.seal_key.flags_mask"),
        ("sgx.seal_key", {"misc_mask": "zero"}, "sgx.seal_key.misc_mask"),
        ("fs.root", {"type": "chroot", "uri": "file:."}, "fs.root.type"),
        ("fs.root", ABSENT, "fs.root.type"),
        ("fs.mounts", [{"type": "untrusted_shm", "path": "/s", "uri": "file:s"}], "fs.mounts[0]"),
        ("fs.mounts", [{"path": "/dev/x", "uri": "dev:/dev/x"}], "fs.mounts[0]"),
        ("fs.mounts", [{"path": "/", "uri": "file:/"}], "fs.mounts[0]"),
        ("fs.mounts", [{"path": "/x"}], "fs.mounts[0]"),
        ("fs.mounts", [{"type": "tmpfs"}], "fs.mounts[0]"),
        ("sgx.trusted_files", ["file:bundle/a"], "sgx.trusted_files"),
        ("sgx.trusted_files", [{"uri": "file:bundle/a"}], "sgx.trusted_files"),
        ("sgx.trusted_files", [{"uri": "dev:x", "sha256": HASH}], "sgx.trusted_files"),
        ("loader.entrypoint", {"uri": "file:x"}, "sgx.trusted_files"),
    ],
)
def test_each_dangerous_value_is_refused(path: str, value: Any, field: str) -> None:
    assert field in refusals(changed(path, value))


@pytest.mark.parametrize(
    "argv",
    [
        ["python3.11"],
        ["python3.11", "-m", "gateway"],
        ["python3.11", "-m", "gateway", "-I"],
        ["python3.11", "-WI", "-m", "gateway"],
        ["python3.11", "-E", "-m", "gateway"],
        ["python3.11", "-I", "-m", "gateway", "--tee", "simulator"],
        ["python3.11", "-I", "-m", "gateway", "--tee=simulator"],
    ],
)
def test_an_interpreter_that_is_open_or_simulated_is_refused(argv: list[str]) -> None:
    assert "loader.argv" in refusals(changed("loader.argv", argv))


@pytest.mark.parametrize("option", ["-I", "-IB", "-sI"])
def test_an_isolated_interpreter_is_taken(option: str) -> None:
    assert lint(changed("loader.argv", ["python3.11", option, "-m", "gateway", "--tee"]))


def test_a_program_that_is_not_python_needs_no_python_options() -> None:
    document = copy.deepcopy(GOOD)
    document["libos"]["entrypoint"] = "/bin/server"
    document["loader"]["argv"] = ["server"]
    document["loader"]["env"] = {}
    document["sys"]["disallow_subprocesses"] = True
    assert lint(tomli_w.dumps(document).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sgx.Debug", True),
        ("sgx.file_check_polcy", "strict"),
        ("sgx.nonpie_binary", True),
        ("sgxx", {}),
        ("loader.env.X", {"value": "1", "pass": True}),
        ("fs.root.path", "/"),
        ("sgx.debug", "false"),
        ("sgx.debug", 0),
        ("sgx.isvsvn", True),
        ("sgx.isvsvn", "1"),
        ("sgx.enclave_size", "1T"),
        ("sgx.file_check_policy", "lenient"),
        ("sgx.trusted_files", "file:a"),
        ("sgx.trusted_files", [{"uri": "file:a", "sha256": "AB" * 32}]),
        ("sgx.trusted_files", [{"uri": "a", "sha256": HASH}]),
        ("sgx.trusted_files", [{"uri": "file:a", "sha256": HASH, "size": 1}]),
        ("loader", []),
        ("loader.argv", [1]),
        ("loader.env", {"X": 1}),
        ("fs.mounts", [1]),
        ("sgx.cpu_features", {"pkru": "unspecified"}),
        ("sgx.profile", "none"),
    ],
)
def test_what_gramine_would_ignore_or_misread_is_refused(path: str, value: Any) -> None:
    """A mistyped security option takes its default in silence."""
    found = refusals(changed(path, value))
    assert any(f.startswith(path.partition(".")[0]) for f in found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sys.ioctl_structs", {"a": [{"size": 1}]}),
        ("sgx.cpu_features", {"avx": "required", "mpx": "disabled"}),
        ("sgx.seal_key", {"flags_mask": "0xFFFFFFFFFFFFFFFF"}),
        ("loader.env", {"ORT_DISABLE_TELEMETRY": {"value": "1"}}),
        ("sgx.trusted_files", [{"uri": "file:a", "sha256": HASH}] * 2),
        ("loader.uid", 1000),
    ],
)
def test_harmless_options_are_taken(path: str, value: Any) -> None:
    assert lint(changed(path, value))


def test_too_many_files_and_two_hashes_for_one_are_refused() -> None:
    many = [{"uri": f"file:{i}", "sha256": HASH} for i in range(4001)]
    assert refusals(changed("sgx.trusted_files", many)) == ["sgx.trusted_files"]
    assert lint(changed("sgx.trusted_files", many[:4000])).trusted_files == 4000
    two = [{"uri": "file:a", "sha256": HASH}, {"uri": "file:a", "sha256": "00" * 32}]
    assert refusals(changed("sgx.trusted_files", two)) == ["sgx.trusted_files"]


def test_every_finding_is_told_at_once() -> None:
    document = copy.deepcopy(GOOD)
    document["sgx"] |= {"debug": True, "allowed_files": ["file:x"], "isvsvn": 0}
    found = refusals(tomli_w.dumps(document).encode())
    assert found == ["sgx.debug", "sgx.isvsvn", "sgx.allowed_files"]


def test_before_signing_hashes_may_be_missing_and_nothing_else() -> None:
    manifest = changed("sgx.trusted_files", ["file:a", {"uri": "file:b"}])
    report = lint(manifest, complete=False)
    assert report.unhashed == 2
    assert "2 trusted files have no hash" in report.notes[0]
    assert refusals(changed("sgx.debug", True), complete=False) == ["sgx.debug"]


@pytest.mark.parametrize(
    ("path", "value", "note"),
    [
        ("sys.experimental__enable_flock", True, "flock"),
        ("sys.enable_sigterm_injection", True, "sigterm"),
        ("sys.enable_extra_runtime_domain_names_conf", True, "name servers"),
        ("sgx.use_exinfo", False, "memory fault"),
        ("fs.mounts", [{**GOOD["fs"]["mounts"][1], "key_name": "_sgx_mrsigner"}], "signer"),
    ],
)
def test_what_is_worth_knowing_is_a_note(path: str, value: Any, note: str) -> None:
    assert any(note in text for text in lint(changed(path, value)).notes)


def test_a_size_that_makes_no_enclave_is_a_finding_not_a_crash() -> None:
    assert refusals(changed("sgx.max_threads", 0)) == ["sgx.max_threads"]


@pytest.mark.parametrize("manifest", [b"\xff", b"[", b"a = 1\na = 2"])
def test_what_is_no_toml_is_malformed(manifest: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        lint(manifest)


def test_a_manifest_without_all_hashes_is_not_measured() -> None:
    require_hashes(GOOD)
    require_hashes({})
    with pytest.raises(MalformedEvidence, match="1 have no hash"):
        require_hashes({"sgx": {"trusted_files": ["file:a"]}})
