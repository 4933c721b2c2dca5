"""API keys: shown once when made, kept as sha256, forgotten at once when revoked.

The keys carry 256 random bits, so a plain digest cannot be searched. Another process may
change them while a node runs; the node notices within a second.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from gateway.storage.database import Database
from gateway.storage.errors import KeyRefused, StorageError
from gateway.storage.models import api_keys

KEY_PREFIX = "adt-"

_KEY = re.compile(r"adt-[A-Za-z0-9_-]{43}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_MAX_LIMIT = 1_000_000
_CACHE_S = 1.0
_CACHE_KEYS = 1024


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is known here. `id` is the start of its digest, and enough to name it."""

    id: str
    name: str
    digest: bytes
    created_at: int
    revoked_at: int | None
    rate_per_minute: int | None
    max_concurrency: int | None


def new_key() -> str:
    """A key of 256 random bits. Nothing remembers it."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def given_key(name: str, digest: bytes) -> ApiKey:
    """The key of this name and digest, which stands in no database. Raises KeyRefused."""
    _check_name(name)
    if len(digest) != hashlib.sha256().digest_size:
        raise KeyRefused("a key's digest is its sha256: 64 hex digits")
    return ApiKey(digest.hex()[:12], name, digest, 0, None, None, None)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        raise KeyRefused("a name has 1 to 64 letters, digits and . _ @ -, and is not 12 hex digits")


def key_digest(key: str) -> bytes:
    """The sha256 by which a key is known everywhere but with its holder."""
    return hashlib.sha256(key.encode()).digest()


class ApiKeyStore:
    """Every method raises StorageError when the database fails.

    `given` are keys that hold as long as this process, whatever the database says: a node
    whose state nobody can reach from outside is given them at start.
    """

    def __init__(
        self,
        database: Database,
        *,
        given: Iterable[ApiKey] = (),
        now: Callable[[], int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._now = now or (lambda: int(time.time()))
        self._monotonic = monotonic
        self._given = {key.digest: key for key in given}
        self._cache: dict[bytes, tuple[float, ApiKey]] = {}

    async def create(
        self,
        name: str,
        *,
        rate_per_minute: int | None = None,
        max_concurrency: int | None = None,
    ) -> str:
        """Make a key and return it, the only time it is seen. Raises KeyRefused."""
        _check_name(name)
        for limit in (rate_per_minute, max_concurrency):
            if limit is not None and not 1 <= limit <= _MAX_LIMIT:
                raise KeyRefused(f"a limit is between 1 and {_MAX_LIMIT}")
        key = new_key()
        digest = key_digest(key)
        values = {
            "key_id": digest.hex()[:12],
            "name": name,
            "digest": digest,
            "created_at": self._now(),
            "rate_per_minute": rate_per_minute,
            "max_concurrency": max_concurrency,
        }

        def work(connection: Connection) -> None:
            connection.execute(insert(api_keys), values)

        try:
            await self._database.write(work)
        except StorageError as error:
            if error.reason == "refused":
                raise KeyRefused(f"there is a key called {name} already") from None
            raise
        return key

    async def list(self) -> list[ApiKey]:
        """Every key ever made, oldest first, revoked ones included."""
        statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [_api_key(row) for row in rows]

    async def any_active(self) -> bool:
        """Whether there is a key that opens anything."""
        statement = select(func.count()).where(api_keys.c.revoked_at.is_(None))
        return await self._database.read(lambda c: bool(c.execute(statement).scalar()))

    async def revoke(self, name_or_id: str) -> ApiKey:
        """End the key with this name or id, from now on. Raises KeyRefused if none has it."""
        active = select(api_keys).where(
            api_keys.c.revoked_at.is_(None),
            or_(api_keys.c.name == name_or_id, api_keys.c.key_id == name_or_id),
        )
        at = self._now()

        def work(connection: Connection) -> ApiKey:
            row = connection.execute(active).first()
            if row is None:
                raise KeyRefused("no active key has this name or id")
            key = _api_key(row)
            where = api_keys.c.key_id == key.id
            connection.execute(update(api_keys).where(where), {"revoked_at": at})
            return key

        key = await self._database.write(work)
        self._cache.pop(key.digest, None)
        return key

    async def lookup(self, key: str) -> ApiKey | None:
        """The active key that `key` is, or None: unknown, malformed and revoked look alike."""
        if not _KEY.fullmatch(key):
            return None
        digest = key_digest(key)
        if digest in self._given:
            return self._given[digest]
        cached = self._cache.get(digest)
        if cached is not None and self._monotonic() < cached[0]:
            return cached[1]
        self._cache.pop(digest, None)
        statement = select(api_keys).where(
            api_keys.c.digest == digest, api_keys.c.revoked_at.is_(None)
        )
        row = await self._database.read(lambda connection: connection.execute(statement).first())
        if row is None:
            return None
        found = _api_key(row)
        if not hmac.compare_digest(found.digest, digest):
            return None
        if len(self._cache) >= _CACHE_KEYS:
            self._cache.clear()
        self._cache[digest] = (self._monotonic() + _CACHE_S, found)
        return found


def _api_key(row: Row[Any]) -> ApiKey:
    fields = dict(row._mapping)
    return ApiKey(id=fields.pop("key_id"), **fields)
