"""Who the node is now: its current keys, and the next ones when their time comes."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.issuers.base import Issuer
from enclave.keys import NodeKeys, load_or_create
from gateway.logs import event
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Identity:
    """One generation of keys with what is derived from it once."""

    keys: NodeKeys
    digest: str
    tls: ssl.SSLContext

    @classmethod
    def of(cls, keys: NodeKeys) -> Identity:
        return cls(keys, keys.keyset.digest, keys.tls_context())


class KeyRing:
    """Holds the current identity. Requests keep the one they began with."""

    def __init__(
        self,
        settings: Settings,
        issuer: Issuer,
        *,
        clock: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self._settings = settings
        self._issuer = issuer
        self._clock = clock
        self._changing = asyncio.Lock()
        self.current = Identity.of(self._load(renew=False))

    @property
    def certificate_file(self) -> Path:
        """Where the current certificate can be read; it holds nothing secret."""
        return self._settings.state_dir / "tls-cert.pem"

    def _load(self, *, renew: bool) -> NodeKeys:
        keys = load_or_create(
            self._settings.state_dir,
            self._issuer,
            hostnames=self._settings.hostnames,
            subject=self._settings.subject,
            lifetime_s=round(self._settings.keyset_days * 86400),
            now=self._clock(),
            renew=renew,
            attest=True,
        )
        self.certificate_file.write_text(keys.certificate_pem)
        return keys

    async def renew_if_due(self) -> bool:
        """Replace the keys when little of their time is left; True if they were replaced."""
        if not self.current.keys.renewal_due(self._clock()):
            return False
        await self.renew()
        return True

    async def renew(self) -> None:
        """New keys from now on: for new connections, new requests and new reports."""
        async with self._changing:
            keys = await asyncio.to_thread(self._load, renew=True)
            self.current = Identity.of(keys)
        event("keys_rotated", keyset_digest=self.current.digest, custody=keys.custody)
