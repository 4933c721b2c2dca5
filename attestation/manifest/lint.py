"""What must not stand in the manifest of an enclave that people trust, and why.

Every rule says what it wants and what goes wrong otherwise. A manifest that breaks one is
refused with all its findings at once; a note is something to know that is no reason to
refuse. Spec: Gramine 1.9, "Manifest syntax"; the options it calls insecure, and those whose
defaults suit development rather than production.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from attestation.errors import Finding, MalformedEvidence, PolicyError
from attestation.manifest.measure import enclave_shape, parse_manifest
from attestation.manifest.schema import schema_findings

MAX_TRUSTED_FILES: Final = 4000
HELPER_THREADS: Final = 3
Section = Mapping[str, Any]

_ISOLATED: Final = re.compile(r"-[bBdEIOPqsSuv]*I[bBdEIOPqsSuv]*")
_SEAL_KEY_MASKS: Final = {
    "flags_mask": 0xFFFFFFFFFFFFFFFF,
    "xfrm_mask": 0xFFFFFFFFFFF9FF1B,
    "misc_mask": 0xFFFFFFFF,
}


@dataclass(frozen=True, slots=True)
class LintReport:
    """What a manifest that passed is like."""

    trusted_files: int
    unhashed: int
    notes: tuple[str, ...]


def lint(manifest: bytes, *, complete: bool = True) -> LintReport:
    """The manifest has nothing in it that would betray who trusts its enclave.

    `complete` False takes a manifest before signing, whose trusted files may still lack
    hashes. Raises MalformedEvidence, or PolicyError with every finding.
    """
    document = parse_manifest(manifest)
    wrong = tuple(schema_findings(document))
    if wrong:
        # With keys or types unknown, the rules below would judge another manifest.
        raise PolicyError(wrong)
    view = _View(document)
    findings = tuple(f for rule in _RULES for f in rule(view))
    unhashed = view.unhashed()
    if complete:
        findings += tuple(_unhashed(unhashed))
    if findings:
        raise PolicyError(findings)
    return LintReport(len(view.trusted), len(unhashed), tuple(_notes(view, unhashed)))


class _View:
    """The sections of a manifest, empty where it has none."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.loader: Section = document.get("loader", {})
        self.libos: Section = document.get("libos", {})
        self.fs: Section = document.get("fs", {})
        self.sys: Section = document.get("sys", {})
        self.sgx: Section = document.get("sgx", {})
        self.argv: list[str] = self.loader.get("argv", [])
        self.trusted: list[Any] = self.sgx.get("trusted_files", [])
        self.mounts: list[Section] = self.fs.get("mounts", [])

    @property
    def runs_python(self) -> bool:
        name = PurePosixPath(self.libos.get("entrypoint", "")).name
        return name.startswith(("python", "pypy"))

    @property
    def runs_node(self) -> bool:
        return self.runs_python and "gateway" in self.argv

    def argument(self, name: str) -> str | None:
        """What follows `name` in argv, or after `=` in it."""
        for i, text in enumerate(self.argv):
            if text == name:
                return self.argv[i + 1] if i + 1 < len(self.argv) else ""
            if text.startswith(f"{name}="):
                return text.partition("=")[2]
        return None

    def unhashed(self) -> list[str]:
        entries = [self.loader.get("entrypoint", {}), *self.trusted]
        return [
            e if isinstance(e, str) else e.get("uri", "loader.entrypoint")
            for e in entries
            if isinstance(e, str) or "sha256" not in e
        ]


# --- rules ------------------------------------------------------------------------------------


def _insecure(view: _View) -> Iterator[Finding]:
    """Everything Gramine itself names insecure or for debugging."""
    reasons = {
        "loader.insecure__use_cmdline_argv": "the host would choose what the enclave runs",
        "loader.insecure__use_host_env": "the host's environment would reach every library",
        "loader.insecure__disable_aslr": "attacks would know every address",
        "fs.insecure__keys": "the keys of encrypted files would stand in a public file",
        "sys.insecure__allow_eventfd": "the host would answer for the kernel",
        "sgx.insecure__allow_memfaults_without_exinfo": "the host could inject memory faults",
        "sgx.insecure__rpc_thread_num": "exitless calls leak stale memory (INTEL-SA-00615, 00657)",
        "sys.debug__mock_syscalls": "system calls would claim what they did not do",
    }
    for name, reason in reasons.items():
        section, _, key = name.partition(".")
        if view.document.get(section, {}).get(key):
            yield Finding(name, f"absent: {reason}", "set")


def _loader(view: _View) -> Iterator[Finding]:
    level = view.loader.get("log_level", "error")
    if level not in ("none", "error"):
        yield Finding("loader.log_level", "error: other levels write data to the host", level)
    if not view.argv:
        yield Finding("loader.argv", "pinned here: it is part of what is measured", "absent")
    for name in ("argv_src_file", "env_src_file"):
        if name in view.loader:
            reason = "absent: only what stands in the manifest can be judged here"
            yield Finding(f"loader.{name}", reason, "set")
    for name, value in view.loader.get("env", {}).items():
        if isinstance(value, Mapping) and value.get("passthrough") is not None:
            reason = "a value: the host would choose one otherwise"
            yield Finding(f"loader.env.{name}", reason, "passed through")


def _python(view: _View) -> Iterator[Finding]:
    if not view.runs_python:
        return
    if len(view.argv) < 2 or not _ISOLATED.fullmatch(view.argv[1]):
        reason = "python -I: folders and variables of the host must not add modules"
        yield Finding("loader.argv", reason, " ".join(view.argv[:4])[:80] or "no arguments")
    if view.argument("--tee") == "simulator":
        reason = "another --tee: evidence that anyone can make proves no enclave"
        yield Finding("loader.argv", reason, "--tee simulator")
    telemetry = view.loader.get("env", {}).get("ORT_DISABLE_TELEMETRY")
    if view.runs_node and telemetry not in ("1", {"value": "1"}):
        reason = "1: onnxruntime would send telemetry out of the enclave"
        yield Finding("loader.env.ORT_DISABLE_TELEMETRY", reason, "not set")


def _debug(view: _View) -> Iterator[Finding]:
    for name, reason in (
        ("debug", "the host reads a debug enclave's memory"),
        ("enable_stats", "it opens every thread to debugging"),
        ("vtune_profile", "it tells the host what the enclave does"),
    ):
        if view.sgx.get(name):
            yield Finding(f"sgx.{name}", f"false: {reason}", "true")
    profile = view.sgx.get("profile", {}).get("enable", "none")
    if profile != "none":
        reason = "none: samples of the enclave's execution go to the host"
        yield Finding("sgx.profile.enable", reason, profile)


def _identity(view: _View) -> Iterator[Finding]:
    if view.sgx.get("remote_attestation", "none") != "dcap":
        yield Finding("sgx.remote_attestation", "dcap: no quote can be made otherwise", "none")
    if "isvprodid" not in view.sgx:
        reason = "stated: all products of one signer are one to policies otherwise"
        yield Finding("sgx.isvprodid", reason, "absent")
    if not view.sgx.get("isvsvn"):
        reason = "1 or more: versions with known holes cannot be told apart otherwise"
        yield Finding("sgx.isvsvn", reason, str(view.sgx.get("isvsvn", "absent")))
    for name, default in _SEAL_KEY_MASKS.items():
        text = view.sgx.get("seal_key", {}).get(name)
        if text is not None and _hex(text) != default:
            reason = f"{default:#x}: enclaves with other attributes would derive the same key"
            yield Finding(f"sgx.seal_key.{name}", reason, text[:40])


def _files(view: _View) -> Iterator[Finding]:
    if view.sgx.get("allowed_files"):
        reason = "empty: the host writes what the enclave reads from these"
        yield Finding("sgx.allowed_files", reason, ", ".join(view.sgx["allowed_files"])[:80])
    if view.sgx.get("file_check_policy", "strict") != "strict":
        reason = "strict: any file of the host could be opened otherwise"
        yield Finding("sgx.file_check_policy", reason, view.sgx["file_check_policy"])
    if len(view.trusted) > MAX_TRUSTED_FILES:
        reason = f"at most {MAX_TRUSTED_FILES}: starting takes time with their square"
        yield Finding("sgx.trusted_files", reason, str(len(view.trusted)))
    hashes: dict[str, str] = {}
    for entry in view.trusted:
        uri = entry if isinstance(entry, str) else entry.get("uri", "")
        if not uri.startswith("file:"):
            yield Finding("sgx.trusted_files", "`file:` URIs", str(entry)[:80])
        if not isinstance(entry, str) and hashes.setdefault(uri, entry.get("sha256", "")) != (
            entry.get("sha256", "")
        ):
            yield Finding("sgx.trusted_files", "one hash for each file", f"two for {uri}"[:80])


def _mounts(view: _View) -> Iterator[Finding]:
    root = view.fs.get("root", {}).get("type", "chroot")
    if root not in ("tmpfs", "encrypted"):
        reason = "tmpfs: the host's folder would be the enclave's root"
        yield Finding("fs.root.type", reason, root)
    for i, mount in enumerate(view.mounts):
        kind, uri = mount.get("type", "chroot"), mount.get("uri", "")
        where = f"fs.mounts[{i}]"
        if "path" not in mount or (kind != "tmpfs" and not uri):
            yield Finding(where, "a path and a URI", str(dict(mount))[:80])
        if kind == "untrusted_shm":
            reason = "absent: memory shared with the host is neither secret nor intact"
            yield Finding(where, reason, kind)
        if uri.startswith("dev:"):
            yield Finding(where, "absent: a device is whatever the host says", uri[:80])
        if kind == "chroot" and PurePosixPath(uri.removeprefix("file:")) == PurePosixPath("/"):
            yield Finding(where, "folders that are needed, not all of the host's", uri)


def _system(view: _View) -> Iterator[Finding]:
    if view.sys.get("allowed_ioctls"):
        reason = "empty: device calls go to the host as they are"
        yield Finding("sys.allowed_ioctls", reason, str(len(view.sys["allowed_ioctls"])))
    if view.sys.get("disallow_subprocesses") and view.runs_node:
        reason = "false: the engine is a process of its own, in an enclave of the same measurement"
        yield Finding("sys.disallow_subprocesses", reason, "true")


def _resources(view: _View) -> Iterator[Finding]:
    try:
        shape = enclave_shape(dict(view.document))
    except MalformedEvidence as e:
        yield Finding(e.field.removeprefix("manifest."), "a size SGX can make", e.detail)
        return
    threads = view.argument("--threads") or ""
    wanted = 1 + HELPER_THREADS + (int(threads) if threads.isdecimal() else 0)
    if shape.max_threads < wanted:
        reason = f"at least {wanted}: the application's threads and {HELPER_THREADS} of Gramine's"
        yield Finding("sgx.max_threads", reason, str(shape.max_threads))
    if shape.edmm and view.sgx.get("preheat_enclave"):
        yield Finding("sgx.preheat_enclave", "false: there is no heap to preheat", "true")


_RULES: Final[tuple[Callable[[_View], Iterator[Finding]], ...]] = (
    _insecure,
    _loader,
    _python,
    _debug,
    _identity,
    _files,
    _mounts,
    _system,
    _resources,
)


def _unhashed(names: list[str]) -> Iterator[Finding]:
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        reason = "a SHA-256 for each: what has none is not measured"
        yield Finding("sgx.trusted_files", reason, shown)


def _notes(view: _View, unhashed: list[str]) -> Iterator[str]:
    if unhashed:
        yield (
            f"{len(unhashed)} trusted files have no hash yet: gramine-sgx-sign takes whatever "
            "lies there when it signs"
        )
    if view.sys.get("experimental__enable_flock"):
        yield "sys.experimental__enable_flock: Gramine calls its file locks experimental"
    if view.sys.get("enable_extra_runtime_domain_names_conf"):
        yield "sys.enable_extra_runtime_domain_names_conf: the host chooses the name servers"
    if view.sys.get("enable_sigterm_injection"):
        yield "sys.enable_sigterm_injection: the host may ask for an end once, at any moment"
    if not view.sgx.get("use_exinfo"):
        yield "sgx.use_exinfo is off: a memory fault ends the enclave"
    for mount in (view.fs.get("root", {}), *view.mounts):
        if mount.get("key_name") == "_sgx_mrsigner":
            yield (f"{mount.get('path', '/')}: every enclave of this signer opens it, old ones too")


def _hex(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def require_hashes(document: Mapping[str, Any]) -> None:
    """Every trusted file has its hash. Raises MalformedEvidence: an enclave with this
    manifest would not start, so its measurement would be nobody's."""
    files = document.get("sgx", {}).get("trusted_files", [])
    without = [f for f in files if not isinstance(f, dict) or "sha256" not in f]
    if without:
        raise MalformedEvidence(
            "manifest.sgx.trusted_files",
            f"{len(without)} have no hash; render where Gramine is, or name it with --gramine",
        )
