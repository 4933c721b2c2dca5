"""API keys: seen once, stored as digests, gone when revoked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.storage import ApiKeyStore, Database, KeyRefused, given_key, key_digest, new_key


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "node.db")
    yield database
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(database: Database, clock: Clock) -> ApiKeyStore:
    return ApiKeyStore(database, now=lambda: 1000, monotonic=clock)


async def test_a_key_is_known_by_its_digest_and_carries_its_limits(keys: ApiKeyStore) -> None:
    key = await keys.create("alice", rate_per_minute=60, max_concurrency=4)
    found = await keys.lookup(key)
    assert found is not None
    assert key.startswith("adt-") and len(key) == 47
    assert (found.name, found.rate_per_minute, found.max_concurrency) == ("alice", 60, 4)
    assert found.digest == key_digest(key) and found.digest.hex().startswith(found.id)
    assert (found.created_at, found.revoked_at) == (1000, None)


async def test_no_two_keys_are_alike(keys: ApiKeyStore) -> None:
    assert len({await keys.create(f"k{i}") for i in range(20)}) == 20


async def test_the_key_itself_is_nowhere_on_disk(
    keys: ApiKeyStore, database: Database, tmp_path: Path
) -> None:
    key = await keys.create("alice")
    await keys.lookup(key)
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"alice" in content
    assert key.encode() not in content and key[4:].encode() not in content


@pytest.mark.parametrize("by", ["name", "id"])
async def test_a_revoked_key_opens_nothing_from_then_on(keys: ApiKeyStore, by: str) -> None:
    key = await keys.create("alice")
    found = await keys.lookup(key)
    assert found is not None
    revoked = await keys.revoke(found.name if by == "name" else found.id)
    assert revoked.digest == found.digest
    assert await keys.lookup(key) is None
    assert [entry.revoked_at for entry in await keys.list()] == [1000]
    with pytest.raises(KeyRefused):
        await keys.revoke("alice")


async def test_another_process_revokes_and_the_node_notices_within_a_second(
    keys: ApiKeyStore, clock: Clock, tmp_path: Path
) -> None:
    key = await keys.create("alice")
    assert await keys.lookup(key) is not None
    program = (
        "import asyncio, sys; from pathlib import Path;"
        "from gateway.storage import ApiKeyStore, Database;"
        "asyncio.run(ApiKeyStore(Database.open(Path(sys.argv[1]))).revoke('alice'))"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "node.db"], check=True)
    clock.now = 1.0
    assert await keys.lookup(key) is None


async def test_a_key_made_by_another_process_is_known_at_once(
    keys: ApiKeyStore, tmp_path: Path
) -> None:
    other = Database.open(tmp_path / "node.db")
    key = await ApiKeyStore(other).create("bob")
    await other.close()
    assert await keys.lookup(key) is not None


@pytest.mark.parametrize(
    "key",
    ["", "adt-", "adt-" + "A" * 43, "adt-" + "A" * 44, "sk-" + "A" * 43, "adt-" + "\u0660" * 43],
)
async def test_an_unknown_or_malformed_key_is_nobody(keys: ApiKeyStore, key: str) -> None:
    await keys.create("alice")
    assert await keys.lookup(key) is None


async def test_almost_a_key_is_nobody(keys: ApiKeyStore) -> None:
    key = await keys.create("alice")
    flipped = key[:-1] + ("A" if key[-1] != "A" else "B")
    for almost in (flipped, key + "\n", " " + key, key.upper(), key[:-1]):
        assert await keys.lookup(almost) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.text())
async def test_arbitrary_text_is_nobody(keys: ApiKeyStore, key: str) -> None:
    assert await keys.lookup(key) is None


async def test_a_name_in_use_is_refused_and_free_again_once_revoked(keys: ApiKeyStore) -> None:
    first = await keys.create("alice")
    with pytest.raises(KeyRefused, match="already"):
        await keys.create("alice")
    await keys.revoke("alice")
    second = await keys.create("alice")
    assert await keys.lookup(first) is None
    assert await keys.lookup(second) is not None
    assert [key.name for key in await keys.list()] == ["alice", "alice"]


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-a", ".a", "a" * 65, "a\n", "a\x00", "\u0430lice", "0123456789ab", "a/b"],
)
async def test_a_name_that_could_mislead_is_refused(keys: ApiKeyStore, name: str) -> None:
    with pytest.raises(KeyRefused):
        await keys.create(name)
    assert await keys.list() == []


@pytest.mark.parametrize("limit", [0, -1, 1_000_001])
async def test_a_limit_that_limits_nothing_or_everything_is_refused(
    keys: ApiKeyStore, limit: int
) -> None:
    with pytest.raises(KeyRefused):
        await keys.create("alice", rate_per_minute=limit)
    with pytest.raises(KeyRefused):
        await keys.create("alice", max_concurrency=limit)


async def test_whether_any_key_opens_anything(keys: ApiKeyStore) -> None:
    assert not await keys.any_active()
    await keys.create("alice")
    assert await keys.any_active()
    await keys.revoke("alice")
    assert not await keys.any_active()


async def test_the_cache_stays_small(keys: ApiKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.api_keys._CACHE_KEYS", 3)
    for i in range(8):
        assert await keys.lookup(await keys.create(f"k{i}")) is not None
        assert len(keys._cache) <= 3


async def test_given_keys_open_without_a_database_entry_and_are_never_listed(
    database: Database,
) -> None:
    key = new_key()
    store = ApiKeyStore(database, given=[given_key("pinned", key_digest(key))])
    found = await store.lookup(key)
    assert found is not None and found.name == "pinned" and found.digest == key_digest(key)
    assert await store.lookup(new_key()) is None
    assert await store.list() == []
    with pytest.raises(KeyRefused):
        await store.revoke("pinned")


@pytest.mark.parametrize(("name", "size"), [("bad name", 32), ("ok", 31), ("0123456789ab", 32)])
def test_given_keys_need_a_name_and_a_whole_digest(name: str, size: int) -> None:
    with pytest.raises(KeyRefused):
        given_key(name, bytes(size))
