"""Where a node is: an https origin and the path its API starts at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, urlsplit

from adyton.errors import UnsafeUrl

_HOST: Final = re.compile(r"[A-Za-z0-9.:_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`host` is lowercase, without brackets; `base_path` starts with / and ends in `/v1`."""

    host: str
    port: int
    base_path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a base URL; `/v1` is added when missing. Raises UnsafeUrl, plain http included."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as e:
            raise UnsafeUrl(f"{url!r}: {e}") from None
        if parts.scheme != "https":
            raise UnsafeUrl(f"{url!r}: only https:// can be bound to attested keys")
        if parts.username is not None or parts.password is not None:
            raise UnsafeUrl("the URL carries credentials; pass an API key instead")
        if parts.query or parts.fragment:
            raise UnsafeUrl(f"{url!r}: a base URL has no query or fragment")
        host = (parts.hostname or "").lower()
        if not _HOST.fullmatch(host):
            raise UnsafeUrl(f"{url!r}: no usable host name")
        path = parts.path.rstrip("/")
        if not path.endswith("/v1"):
            path += "/v1"
        return cls(host, 443 if port is None else port, path)

    @property
    def origin(self) -> str:
        """`https://host[:port]`, the port left out when it is 443."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}" if self.port == 443 else f"https://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        return self.origin + self.base_path

    def attestation_path(self, nonce: str) -> str:
        return f"{self.base_path}/aci/attestation?nonce={nonce}"

    def receipt_path(self, receipt_id: str) -> str:
        return f"{self.base_path}/aci/receipts/{quote(receipt_id, safe='')}"

    def evm_receipt_path(self, receipt_id: str) -> str:
        return self.receipt_path(receipt_id) + "/evm"
