"""The same receipts and keys in PostgreSQL, where a machine has one to start."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.storage import ApiKeyStore, Database, KeyRefused, ReceiptStore, StorageError

DOCUMENT = {"receipt_id": "r", "signature": {"value": "ab"}}


def programs() -> Path:
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs the postgres extra (psycopg)")
    found = [Path(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.insert(0, Path(on_path).resolve().parent)
    if not found:
        pytest.skip("needs PostgreSQL's server programs")
    return found[0]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    where = programs()
    as_user: dict[str, Any] = {}
    folder = Path(tmp_path_factory.mktemp("pg"))
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("needs a user called postgres when run as root")
        as_user = {"user": "postgres", "group": account.pw_gid, "extra_groups": []}
        folder = Path(subprocess.check_output(["mktemp", "-d"], text=True, **as_user).strip())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/", **as_user}
    subprocess.run([where / "initdb", "-D", folder / "d", "-U", "node", "-A", "trust", "-N"], **run)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    control = [where / "pg_ctl", "-D", folder / "d", "-l", folder / "log", "-w"]
    subprocess.run([*control, "-o", options, "start"], **run)
    yield f"postgresql://node@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], **run)
    shutil.rmtree(folder)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    yield database
    await database.write(lambda c: c.execute(text("TRUNCATE receipts, api_keys")) and None)
    await database.close()


async def begin(store: ReceiptStore, receipt_id: str, started_at: int = 1) -> None:
    await store.open_receipt(
        receipt_id,
        owner=b"\x01" * 32,
        request_hash="0" * 64,
        endpoint="/v1/chat/completions",
        model="smol",
        keyset_digest="sha256:1",
        started_at=started_at,
    )


async def test_receipts_are_kept_changed_once_and_forgotten(database: Database) -> None:
    store = ReceiptStore(database)
    await asyncio.gather(*(begin(store, f"r{i}", i) for i in range(20)))
    assert len(await store.pending()) == 20
    for i in range(20):
        await store.finish(f"r{i}", f"chat-{i}", DOCUMENT)
    with pytest.raises(StorageError) as refusal:
        await store.finish("r1", None, {"forged": True})
    assert refusal.value.reason == "refused"
    stored = await store.get("chat-3")
    assert stored is not None and stored.document == DOCUMENT and stored.owner == b"\x01" * 32
    assert await store.purge(before=5, max_rows=10) == 10
    assert await store.get("r9") is None and await store.get("r10") is not None


async def test_a_receipt_refused_leaves_its_group_standing(database: Database) -> None:
    store = ReceiptStore(database)
    await begin(store, "taken")
    results = await asyncio.gather(
        *(begin(store, name) for name in ("a", "taken", "b")), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), StorageError, type(None)]
    assert {row.receipt_id for row in await store.pending()} == {"taken", "a", "b"}


async def test_keys_are_made_known_and_revoked(database: Database) -> None:
    keys = ApiKeyStore(database)
    key = await keys.create("alice", rate_per_minute=5)
    found = await keys.lookup(key)
    assert found is not None and found.rate_per_minute == 5
    with pytest.raises(KeyRefused):
        await keys.create("alice")
    await keys.revoke("alice")
    assert await keys.lookup(key) is None
    assert await keys.lookup(await keys.create("alice")) is not None


async def test_opening_again_migrates_nothing_twice(url: str, database: Database) -> None:
    await begin(ReceiptStore(database), "r")
    again = Database.open(url)
    assert await ReceiptStore(again).get("r") is not None
    await again.close()


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError):
        await database.read(lambda c: c.execute(text("DELETE FROM receipts")) and None)
