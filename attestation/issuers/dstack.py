"""TDX evidence and keys from dstack's guest agent, JSON over HTTP on a Unix socket.

Spec: dstack, "Guest Agent RPC API" (0.5): `POST /GetQuote`, `POST /GetKey`, `POST /Info`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from attestation.canonical import loads_strict
from attestation.collateral.model import Collateral
from attestation.errors import MalformedEvidence
from attestation.issuers.base import BootEvidence, IssuedEvidence, IssuerError
from attestation.issuers.device import (
    REPORT_DATA_BYTES,
    check_quote,
    check_report_data,
    derive_sealing_key,
)

SOCKETS: Final = (
    Path("/var/run/dstack.sock"),
    Path("/run/dstack.sock"),
    Path("/var/run/dstack/dstack.sock"),
    Path("/run/dstack/dstack.sock"),
)
"""Where dstack's own clients look for the agent, in their order."""
_KEY_PATH: Final = "adyton/sealing/v1"
_KEY_BYTES: Final = 32
_TIMEOUT_S: Final = 30.0


def find_socket(places: Sequence[Path]) -> Path | None:
    """The first of these that is a socket; None where none is."""
    return next((path for path in places if path.is_socket()), None)


class DstackIssuer:
    """Issues TDX quotes of this dstack guest. Thread-safe.

    Opening it asks for one quote, to know the measurement and to fail early. Without
    `socket`, the usual places are tried. Unless `event_log` is False, quotes go out with what
    the agent says of the boot.
    """

    name = "dstack"
    tee_type = "tdx"
    simulated = False

    def __init__(
        self,
        socket: Path | None = None,
        collateral: Collateral | None = None,
        timeout_s: float = _TIMEOUT_S,
        event_log: bool = True,
    ) -> None:
        self._socket = socket = socket or find_socket(SOCKETS) or SOCKETS[0]
        self._collateral = collateral
        # trust_env off: a proxy named in the environment must not come between us and the
        # agent that hands out our keys.
        self._client = httpx.Client(
            base_url="http://dstack",
            transport=httpx.HTTPTransport(uds=str(socket)),
            timeout=timeout_s,
            trust_env=False,
            follow_redirects=False,
        )
        _, _, self._measurement = self._quote(bytes(REPORT_DATA_BYTES))
        self._tells_boot = event_log
        self._app_compose = self._measured_compose() if event_log else None

    @property
    def measurement(self) -> str:
        """`mr_td`, lowercase hex. dstack measures the application in `rt_mr3`."""
        return self._measurement

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """A quote over these 64 bytes. Raises IssuerError."""
        answer, quote, _ = self._quote(check_report_data(report_data))
        boot = self._boot(answer) if self._tells_boot else None
        return IssuedEvidence(self.tee_type, quote, self._collateral, simulated=False, boot=boot)

    def sealing_key(self) -> bytes:
        """Derived from the key dstack's key management gives this application.

        It is bound to the application id, not to one measurement: every version of the
        application that its owner authorises gets the same key. Raises IssuerError.
        """
        answer = self._call("GetKey", {"path": _KEY_PATH, "purpose": "sealing"})
        secret = self._hex("GetKey", answer, "key")
        if len(secret) != _KEY_BYTES:
            raise IssuerError(f"{self._socket}: GetKey gave {len(secret)} bytes, not {_KEY_BYTES}")
        return derive_sealing_key(secret, self.name)

    def _quote(self, report_data: bytes) -> tuple[Mapping[str, Any], bytes, str]:
        """The agent's answer, the quote in it and its measurement."""
        answer = self._call("GetQuote", {"report_data": report_data.hex()})
        data = self._hex("GetQuote", answer, "quote")
        quote, measurement = check_quote(data, self.tee_type, report_data, str(self._socket))
        return answer, quote, measurement

    def _boot(self, answer: Mapping[str, Any]) -> BootEvidence:
        """The log that came with this very quote, so that what the application measures
        meanwhile does not come between them."""
        event_log = self._text("GetQuote", answer, "event_log")
        return BootEvidence(
            event_log=event_log,
            vm_config=self._text("GetQuote", answer, "vm_config"),
            # Only the log says that this text was measured.
            app_compose=None if event_log is None else self._app_compose,
        )

    def _measured_compose(self) -> str | None:
        """The application's file, character by character; None where the agent keeps it.

        `tcb_info` is a JSON text within the answer. It stays the same while the guest runs.
        """
        answer = self._call("Info", {})
        text = self._text("Info", answer, "tcb_info")
        if text is None:
            return None
        try:
            told = loads_strict(text, "tcb_info")
        except MalformedEvidence as e:
            raise IssuerError(f"{self._socket}: Info: {e}") from None
        if not isinstance(told, dict):
            raise IssuerError(f"{self._socket}: Info: tcb_info is no object")
        return self._text("Info", told, "app_compose")

    def _call(self, method: str, arguments: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            response = self._client.post(f"/{method}", json=dict(arguments))
        except httpx.HTTPError as e:
            raise IssuerError(f"{self._socket}: {method}: {e}") from e
        if response.status_code != httpx.codes.OK:
            raise IssuerError(f"{self._socket}: {method} answered {response.status_code}")
        try:
            answer = response.json()
        except ValueError:
            raise IssuerError(f"{self._socket}: {method} did not answer in JSON") from None
        if not isinstance(answer, dict):
            raise IssuerError(f"{self._socket}: {method} answered no object")
        return answer

    def _text(self, method: str, answer: Mapping[str, Any], member: str) -> str | None:
        """A text of the answer; None where the agent leaves it out or empty."""
        value = answer.get(member)
        if value is not None and not isinstance(value, str):
            raise IssuerError(f"{self._socket}: {method}: {member} is not text")
        return value or None

    def _hex(self, method: str, answer: Mapping[str, Any], member: str) -> bytes:
        value = answer.get(member)
        try:
            return bytes.fromhex(value if isinstance(value, str) else "not text")
        except ValueError:
            raise IssuerError(f"{self._socket}: {method}: {member} is not hex") from None
