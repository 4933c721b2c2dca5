"""The options Gramine 1.9 knows, and the type of each.

Spec: Gramine 1.9, "Manifest syntax". Gramine itself ignores what it does not know, so a
mistyped `sgx.debug` or `file_check_policy` would quietly take its default; here a key that
is not listed is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from attestation.errors import Finding

GRAMINE_SYNTAX: Final = "1.9"

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SIZE: Final = re.compile(r"[0-9]{1,15}[KMG]?|0x[0-9a-fA-F]{1,15}")
_URI: Final = re.compile(r"(file|dev):.+", re.DOTALL)

# A leaf is the name of a check below; a tuple of texts lists the values there are; a list
# holds the shape of each item; "*" stands for any key.
_MOUNT: Final = {
    "type": ("chroot", "encrypted", "tmpfs", "untrusted_shm"),
    "path": "text",
    "uri": "text",
    "key_name": "text",
    "enable_recovery": "flag",
}
_FEATURE: Final = ("unspecified", "disabled", "required")
_HARDENING: Final = ("disabled", "required")
SHAPE: Final[Mapping[str, Any]] = {
    "libos": {"entrypoint": "text", "check_invalid_pointers": "flag"},
    "loader": {
        "entrypoint": {"uri": "uri", "sha256": "sha256"},
        "argv": ["text"],
        "argv_src_file": "uri",
        "env": {"*": "variable"},
        "env_src_file": "uri",
        "uid": "number",
        "gid": "number",
        "insecure__use_cmdline_argv": "flag",
        "insecure__use_host_env": "flag",
        "insecure__disable_aslr": "flag",
        "log_file": "text",
        "log_level": ("none", "error", "warning", "debug", "trace", "all"),
    },
    "fs": {
        "root": {k: v for k, v in _MOUNT.items() if k != "path"},
        "mounts": [_MOUNT],
        "start_dir": "text",
        "insecure__keys": {"*": "text"},
    },
    "sys": {
        "stack": {"size": "size"},
        "brk": {"max_size": "size"},
        "fds": {"limit": "number"},
        "allowed_ioctls": [{"request_code": "number", "struct": "text"}],
        "ioctl_structs": {"*": "anything"},
        "debug__mock_syscalls": [{"name": "text", "return": "number"}],
        "disallow_subprocesses": "flag",
        "enable_extra_runtime_domain_names_conf": "flag",
        "enable_sigterm_injection": "flag",
        "experimental__enable_flock": "flag",
        "insecure__allow_eventfd": "flag",
    },
    "sgx": {
        "allowed_files": ["text"],
        "cpu_features": {
            **dict.fromkeys(("avx", "avx512", "amx"), _FEATURE),
            **dict.fromkeys(("mpx", "pkru"), _HARDENING),
        },
        "debug": "flag",
        "edmm_enable": "flag",
        "enable_stats": "flag",
        "enclave_size": "size",
        "file_check_policy": ("strict", "allow_all_but_log"),
        "insecure__allow_memfaults_without_exinfo": "flag",
        "insecure__rpc_thread_num": "number",
        "isvprodid": "number",
        "isvsvn": "number",
        "max_threads": "number",
        "preheat_enclave": "flag",
        "profile": {
            "enable": ("none", "main", "all"),
            "mode": ("aex", "ocall_inner", "ocall_outer"),
            "with_stack": "flag",
            "frequency": "number",
        },
        "remote_attestation": ("none", "dcap"),
        "seal_key": {"flags_mask": "text", "xfrm_mask": "text", "misc_mask": "text"},
        "trusted_files": ["trusted"],
        "use_exinfo": "flag",
        "vtune_profile": "flag",
    },
}

_TRUSTED: Final = {"uri": "uri", "sha256": "sha256"}


def schema_findings(document: Mapping[str, Any]) -> Iterator[Finding]:
    """Every key that Gramine does not know and every value of the wrong type."""
    yield from _check(document, SHAPE, "")


def _check(value: Any, shape: Any, where: str) -> Iterator[Finding]:
    match shape:
        case Mapping():
            yield from _table(value, shape, where)
        case [item]:
            if not isinstance(value, list):
                yield Finding(where, "a list", _shown(value))
                return
            for i, entry in enumerate(value):
                yield from _check(entry, item, f"{where}[{i}]")
        case tuple():
            if value not in shape or not isinstance(value, str):
                yield Finding(where, "one of " + ", ".join(shape), _shown(value))
        case "variable":
            if not isinstance(value, str):
                yield from _table(value, {"value": "text", "passthrough": "flag"}, where)
        case "trusted":
            if not isinstance(value, str):
                yield from _table(value, _TRUSTED, where)
        case _:
            if not _CHECKS[shape](value):
                yield Finding(where, _NAMES[shape], _shown(value))


def _table(value: Any, shape: Mapping[str, Any], where: str) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield Finding(where or "manifest", "a table", _shown(value))
        return
    for key, inner in value.items():
        name = f"{where}.{key}" if where else key
        if (expected := shape.get(key, shape.get("*"))) is None:
            known = f"an option of Gramine {GRAMINE_SYNTAX}: it would ignore this one in silence"
            yield Finding(name, known, "a key it does not know")
        else:
            yield from _check(inner, expected, name)


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


_NAMES: Final = {
    "flag": "true or false",
    "number": "a whole number",
    "text": "a text",
    "uri": "a `file:` URI",
    "size": "a size such as 512M",
    "sha256": "64 lowercase hex characters",
    "anything": "anything",
}
_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "flag": lambda value: isinstance(value, bool),
    "number": lambda value: type(value) is int,
    "text": lambda value: isinstance(value, str),
    "uri": _matches(_URI),
    "size": _matches(_SIZE),
    "sha256": _matches(_SHA256),
    "anything": lambda _: True,
}


def _shown(value: Any) -> str:
    return repr(value)[:80]
