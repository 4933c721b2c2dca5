"""What an operator may set when rendering the node's manifest, and what each value may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from attestation.errors import AttestationError
from attestation.manifest.bundle import INSIDE


class VariableError(AttestationError):
    """A variable that the template does not have, or a value it cannot take."""


# Values are written between quotes in TOML. What needs no escape there cannot escape.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,127}")
_PATH: Final = re.compile(r"/[A-Za-z0-9._/-]{1,255}")
_ADDRESS: Final = re.compile(r"[0-9a-f.:]{2,45}")
_ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - who may reach it is the host's affair in any case
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}:[0-9a-f]{64}")
_SIZE: Final = re.compile(r"[1-9][0-9]{0,4}[MG]")


@dataclass(frozen=True, slots=True)
class Variable:
    """`default` gives the type; `limits` a range of integers, `choices` or `pattern` the text."""

    default: Any
    meaning: str
    limits: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None

    def parse(self, name: str, text: str) -> Any:
        """The value `text` means. Raises VariableError."""
        if isinstance(self.default, bool):
            if text not in ("true", "false"):
                raise VariableError(f"{name} is true or false, not {text[:40]!r}")
            return text == "true"
        if self.limits is not None:
            low, high = self.limits
            if not text.isascii() or not text.isdigit() or not low <= int(text[:12]) <= high:
                raise VariableError(f"{name} is a number from {low} to {high}, not {text[:40]!r}")
            return int(text)
        if self.choices and text not in self.choices:
            raise VariableError(f"{name} is one of {', '.join(self.choices)}, not {text[:40]!r}")
        if isinstance(self.default, tuple):
            return tuple(self._text(name, part) for part in text.split(",") if part)
        return text if self.choices else self._text(name, text)

    def _text(self, name: str, text: str) -> str:
        if self.pattern is None or not self.pattern.fullmatch(text) or ".." in text:
            raise VariableError(f"{name} cannot be {text[:40]!r}")
        return text


VARIABLES: Final[Mapping[str, Variable]] = MappingProxyType(
    {
        "tee": Variable(
            "gramine",
            "where evidence comes from; `simulator` is for trying it out, and is not linted away",
            choices=("gramine", "simulator"),
        ),
        "host": Variable(_ANY_ADDRESS, "address to listen on", pattern=_ADDRESS),
        "port": Variable(8443, "port to listen on", limits=(1, 65535)),
        "hostnames": Variable((), "names in the certificate, with commas", pattern=_NAME),
        "subject": Variable("", "name the keyset carries", pattern=_NAME),
        "api_keys": Variable(
            (),
            "API keys to admit, `NAME:SHA256` with commas (`adyton keys generate`)",
            pattern=_KEY,
        ),
        "rows": Variable(8, "completions at once", limits=(1, 256)),
        "context": Variable(2048, "tokens per completion", limits=(64, 1 << 20)),
        "threads": Variable(2, "threads of the engine", limits=(1, 256)),
        "state": Variable(
            "sealed",
            "`sealed`: encrypted on disk to this enclave; `memory`: gone when it stops",
            choices=("sealed", "memory"),
        ),
        "state_dir": Variable("/var/lib/adyton", "where the node keeps its state", pattern=_PATH),
        "models": Variable(
            "bundled",
            "`bundled`: measured with the code; `provisioned`: encrypted, key after attestation",
            choices=("bundled", "provisioned"),
        ),
        "isv_prod_id": Variable(1, "ISVPRODID", limits=(0, 65535)),
        "isv_svn": Variable(1, "ISVSVN; raise it with each security fix", limits=(1, 65535)),
        "edmm": Variable(True, "grow the enclave while it runs: SGX2 and Linux 6.0 or later"),
        "enclave_size": Variable(
            "16G", "a power of two; without EDMM all of it at once", pattern=_SIZE
        ),
        "max_threads": Variable(64, "thread slots", limits=(4, 4096)),
    }
)


def resolve(settings: Iterable[str]) -> dict[str, Any]:
    """Every variable's value, `key=value` settings over the defaults. Raises VariableError."""
    values = {name: variable.default for name, variable in VARIABLES.items()}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in VARIABLES:
            known = ", ".join(VARIABLES)
            raise VariableError(f"{setting[:60]!r} is no KEY=VALUE of {known}")
        values[name] = VARIABLES[name].parse(name, text)
    return {**values, "inside": INSIDE}
