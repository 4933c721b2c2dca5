"""Policy files: YAML or JSON under a published JSON Schema, read so that they mean one thing.

Duplicate keys, unknown fields and YAML aliases are refused: a policy whose reader and
writer see different documents is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from attestation.canonical import loads_strict
from attestation.errors import MalformedEvidence
from attestation.policy.model import Policy
from attestation.policy.signed_file import load_references

BUILTIN: Final = ("strict", "genuine")
_MAX_FILE: Final = 1 << 18
_PACKAGE: Final = resources.files("attestation.policy")


class _StrictLoader(yaml.SafeLoader):
    """YAML with neither aliases nor merge keys nor duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise MalformedEvidence("policy", "YAML aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen: set[str] = set()
        for name in names:
            if not isinstance(name, str):
                raise MalformedEvidence("policy", f"key {str(name)[:64]!r} is not a string")
            if name in seen:
                raise MalformedEvidence("policy", f"duplicate key {name[:64]!r}")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12)."""
    document: dict[str, Any] = json.loads(_PACKAGE.joinpath("policy.schema.json").read_text())
    return document


@lru_cache(maxsize=1)
def _validator() -> Any:
    # Imported here: built-in policies need no validation, and it is slow to load.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _parse(data: bytes) -> Any:
    if len(data) > _MAX_FILE:
        raise MalformedEvidence("policy", f"longer than {_MAX_FILE} bytes")
    if data.lstrip().startswith(b"{"):
        return loads_strict(data, "policy")
    try:
        return yaml.load(data.decode("utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as e:
        raise MalformedEvidence("policy", "not UTF-8", e.start) from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise MalformedEvidence("policy", f"not YAML ({str(e)[:200]})") from None


def _checked(document: Any, base: Path | None) -> Policy:
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(document))
    if error is not None:
        where = ".".join(("policy", *map(str, error.absolute_path)))
        raise MalformedEvidence(where, error.message[:300])
    policy = Policy.from_json(document)
    if (section := document.get("reference_values")) is None:
        return policy
    return replace(policy, references=load_references(section, base))


def load_policy(source: str | Path | Mapping[str, Any]) -> Policy:
    """The policy `source` names: `strict`, `genuine`, a YAML or JSON file, or a mapping.

    A mapping names other files by absolute paths, a file also by paths relative to itself.
    Raises MalformedEvidence naming the field at fault, VerificationError where reference
    values are not signed as the policy demands, and OSError when a file cannot be read.
    """
    if isinstance(source, Mapping):
        return _checked(dict(source), None)
    if source in BUILTIN:
        return Policy.from_json(_parse(_PACKAGE.joinpath(f"builtin/{source}.yaml").read_bytes()))
    path = Path(source)
    return _checked(_parse(path.read_bytes()), path.parent)
