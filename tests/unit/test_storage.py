"""Receipts on disk: durable when told so, refused by name when not, and bounded."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, inspect, text

from gateway.storage import Binding, Database, ReceiptStore, StorageError
from gateway.storage.migrations import head, upgrade
from gateway.storage.models import metadata

ALICE = hashlib.sha256(b"alice").digest()
BOB = hashlib.sha256(b"bob").digest()
DOCUMENT = {"receipt_id": "r", "signature": {"value": "ab"}}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "node.db")
    yield database
    await database.close()


@pytest.fixture
def receipts(database: Database) -> ReceiptStore:
    return ReceiptStore(database, now=lambda: 2000)


async def begin(store: ReceiptStore, receipt_id: str, **values: Any) -> None:
    fields: dict[str, Any] = {
        "owner": ALICE,
        "request_hash": "0" * 64,
        "endpoint": "/v1/chat/completions",
        "model": "smol",
        "keyset_digest": "sha256:" + "1" * 64,
        "started_at": 1000,
    }
    await store.open_receipt(receipt_id, **{**fields, **values})


async def final(store: ReceiptStore, receipt_id: str, **values: Any) -> None:
    await begin(store, receipt_id, **values)
    await store.finish(receipt_id, None, DOCUMENT)


async def test_a_receipt_is_pending_then_final(receipts: ReceiptStore) -> None:
    await begin(receipts, "r", draft={"model_digest": "sha256:2"})
    pending = await receipts.get("r")
    assert pending is not None
    assert pending.document is None and pending.finished_at is None and pending.chat_id is None
    assert pending.draft == {"model_digest": "sha256:2"}
    await receipts.finish("r", "chatcmpl-1", DOCUMENT)
    for name in ("r", "chatcmpl-1"):
        stored = await receipts.get(name)
        assert stored is not None
        assert stored.document == DOCUMENT
        assert (stored.started_at, stored.finished_at) == (1000, 2000)
    assert await receipts.pending() == []


async def test_the_receipt_of_a_refusal_is_one_write(receipts: ReceiptStore) -> None:
    await receipts.record(
        "r",
        owner=None,
        request_hash="0" * 64,
        endpoint="/v1/completions",
        model="?",
        keyset_digest="sha256:1",
        started_at=1,
        document=DOCUMENT,
    )
    stored = await receipts.get("r")
    assert stored is not None and stored.document == DOCUMENT
    assert await receipts.pending() == []


async def test_a_binding_is_durable_with_the_row_and_its_signature_with_the_document(
    database: Database, receipts: ReceiptStore
) -> None:
    binding = Binding(b"c" * 32, b"s" * 32)
    await begin(receipts, "r", binding=binding)
    pending = await receipts.get("r")
    assert pending is not None and (pending.binding, pending.evm_signature) == (binding, None)
    threads: list[str] = []

    def signature() -> bytes:
        threads.append(threading.current_thread().name)
        return b"e" * 65

    await receipts.finish("r", None, DOCUMENT, evm_sign=signature)
    stored = await receipts.get("r")
    assert stored is not None and (stored.binding, stored.evm_signature) == (binding, b"e" * 65)
    assert threads == ["db-write"], "nobody else may wait for a signature"
    assert b"s" * 32 not in repr(stored).encode() and repr(b"s" * 32) not in repr(stored)


async def test_a_signature_that_cannot_be_made_leaves_no_document(receipts: ReceiptStore) -> None:
    def signature() -> bytes:
        raise ValueError("no key")

    await begin(receipts, "r")
    with pytest.raises(ValueError, match="no key"):
        await receipts.finish("r", None, DOCUMENT, evm_sign=signature)
    stored = await receipts.get("r")
    assert stored is not None and stored.document is None


async def test_a_final_receipt_never_changes(receipts: ReceiptStore) -> None:
    await final(receipts, "r")
    await receipts.finish("r", None, DOCUMENT)  # the same again is no change
    with pytest.raises(StorageError) as refusal:
        await receipts.finish("r", None, {"forged": True})
    assert refusal.value.reason == "refused"
    stored = await receipts.get("r")
    assert stored is not None and stored.document == DOCUMENT


async def test_a_receipt_id_is_used_once(receipts: ReceiptStore) -> None:
    await begin(receipts, "r", owner=ALICE)
    with pytest.raises(StorageError) as refusal:
        await begin(receipts, "r", owner=BOB)
    assert refusal.value.reason == "refused"
    stored = await receipts.get("r")
    assert stored is not None and stored.owner == ALICE


async def test_finishing_what_was_never_begun_is_refused(receipts: ReceiptStore) -> None:
    with pytest.raises(StorageError):
        await receipts.finish("r", None, DOCUMENT)
    assert await receipts.get("r") is None


@pytest.mark.parametrize("name", ["", "unknown", "x" * 129, "r' OR '1'='1", "\x00", "%"])
async def test_an_unknown_id_has_no_receipt(receipts: ReceiptStore, name: str) -> None:
    await begin(receipts, "r")
    assert await receipts.get(name) is None


async def test_a_chat_id_equal_to_anothers_receipt_id_does_not_hide_it(
    receipts: ReceiptStore,
) -> None:
    await begin(receipts, "victim", started_at=1)
    await begin(receipts, "r", chat_id="victim", started_at=2)
    stored = await receipts.get("victim")
    assert stored is not None and stored.receipt_id == "victim"


async def test_a_receipt_is_for_the_key_that_asked(receipts: ReceiptStore) -> None:
    await begin(receipts, "hers", owner=ALICE)
    await begin(receipts, "anyones", owner=None)
    hers, anyones = await receipts.get("hers"), await receipts.get("anyones")
    assert hers is not None and anyones is not None
    assert hers.visible_to(ALICE)
    assert not hers.visible_to(BOB)
    assert not hers.visible_to(None)
    assert anyones.visible_to(None) and anyones.visible_to(BOB)


async def test_what_a_crash_cut_is_found_again_oldest_first(tmp_path: Path) -> None:
    first = Database.open(tmp_path / "node.db")
    store = ReceiptStore(first)
    await begin(store, "late", started_at=30)
    await begin(store, "early", started_at=10)
    await final(store, "done", started_at=20)
    await first.close()
    second = Database.open(tmp_path / "node.db")
    store = ReceiptStore(second)
    assert [row.receipt_id for row in await store.pending()] == ["early", "late"]
    assert [row.receipt_id for row in await store.pending(limit=1)] == ["early"]
    await second.close()


async def test_old_and_surplus_receipts_are_forgotten_and_pending_ones_kept(
    receipts: ReceiptStore,
) -> None:
    for i in range(10):
        await final(receipts, f"r{i}", started_at=i)
    await begin(receipts, "owed", started_at=0)
    assert await receipts.purge(before=3) == 3
    assert await receipts.purge(max_rows=4) == 3
    assert await receipts.purge(before=3, max_rows=4) == 0
    left = [i for i in range(10) if await receipts.get(f"r{i}") is not None]
    assert left == [6, 7, 8, 9]
    assert await receipts.get("owed") is not None


async def test_a_purge_goes_on_past_one_transaction(
    receipts: ReceiptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.receipts._PURGE_STEP", 3)
    for i in range(8):
        await final(receipts, f"r{i}", started_at=i)
    assert await receipts.purge(before=100) == 8


# --- the writer ----------------------------------------------------------------------


async def test_writers_at_once_share_commits_and_lose_nothing(
    database: Database, receipts: ReceiptStore
) -> None:
    gate = threading.Event()
    held = asyncio.create_task(database.write(lambda _: gate.wait(30)))
    commits: list[int] = []
    writes = [asyncio.create_task(begin(receipts, f"r{i}")) for i in range(100)]
    event.listen(database._writer, "commit", lambda _: commits.append(1))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(held, *writes)
    assert len(await receipts.pending()) == 100
    assert len(commits) < 10


async def test_a_write_that_fails_does_not_take_its_group_along(
    database: Database, receipts: ReceiptStore
) -> None:
    await begin(receipts, "taken")
    gate = threading.Event()
    held = asyncio.create_task(database.write(lambda _: gate.wait(30)))

    def half_done(connection: Connection) -> None:
        connection.execute(text("DELETE FROM receipts"))
        raise RuntimeError("a mistake of ours")

    writes = [
        asyncio.create_task(work)
        for work in (begin(receipts, "a"), begin(receipts, "taken"), begin(receipts, "b"))
    ]
    writes.insert(1, asyncio.create_task(database.write(half_done)))
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(held, *writes, return_exceptions=True)
    kinds = [type(result) for result in results[1:]]
    assert kinds == [type(None), RuntimeError, StorageError, type(None)]
    assert {row.receipt_id for row in await receipts.pending()} == {"a", "b", "taken"}


async def test_a_cancelled_caller_does_not_undo_its_write(
    database: Database, receipts: ReceiptStore
) -> None:
    gate = threading.Event()
    held = asyncio.create_task(database.write(lambda _: gate.wait(30)))
    leaving = asyncio.create_task(begin(receipts, "r"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    gate.set()
    await held
    await begin(receipts, "next")
    assert await receipts.get("r") is not None


async def test_an_unforeseen_failure_leaves_nobody_waiting(
    database: Database, receipts: ReceiptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(database, "_writer", None)
        with pytest.raises(StorageError):
            await begin(receipts, "r")
    await begin(receipts, "r")


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError):
        await database.read(lambda c: c.execute(text("DELETE FROM receipts")))


async def test_a_closed_database_says_so_and_has_kept_everything(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.db")
    store = ReceiptStore(database)
    writes = [asyncio.create_task(begin(store, f"r{i}")) for i in range(50)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    for call in (begin(store, "late"), store.get("r1")):
        with pytest.raises(StorageError):
            await call
    rows = sqlite3.connect(tmp_path / "node.db").execute("SELECT count(*) FROM receipts")
    assert rows.fetchone() == (50,)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_storage import ALICE, DOCUMENT, Database, ReceiptStore, begin

async def main() -> None:
    store = ReceiptStore(Database.open(Path(sys.argv[1])))
    await begin(store, "cut")
    await begin(store, "told")
    await store.finish("told", "chatcmpl-1", DOCUMENT)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_was_stored_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    here = str(Path(__file__).parent)
    assert subprocess.run([sys.executable, "-c", KILLED, path, here]).returncode == -9
    database = Database.open(path)
    store = ReceiptStore(database)
    told = await store.get("chatcmpl-1")
    assert told is not None and told.document == DOCUMENT
    assert [row.receipt_id for row in await store.pending()] == ["cut"]
    await database.close()


# --- a disk or a file that is not what it should be ----------------------------------


async def test_a_full_disk_is_told_and_what_was_stored_stays(
    database: Database, receipts: ReceiptStore
) -> None:
    await final(receipts, "before")

    def shrink(connection: Connection) -> None:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count={pages}"))

    await database.write(shrink)
    with pytest.raises(StorageError) as failure:
        for i in range(1000):
            await begin(receipts, f"r{i}", draft={"x": "y" * 4000})
    assert failure.value.reason == "full"
    assert await receipts.get("before") is not None
    await database.write(lambda c: c.execute(text("PRAGMA max_page_count=1000000")) and None)
    await begin(receipts, "after")
    assert await receipts.get("after") is not None


async def test_a_full_filesystem_is_told(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", mount], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("mounting a file system needs root")
    try:
        database = Database.open(mount / "node.db")
        store = ReceiptStore(database)
        await begin(store, "before")
        with pytest.raises(StorageError) as failure:
            for i in range(1000):
                await begin(store, f"r{i}", draft={"x": "y" * 4000})
        assert failure.value.reason in {"full", "unavailable"}
        assert await store.get("before") is not None
        await database.close()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


async def test_a_database_held_by_another_process_is_told(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.db", busy_timeout_s=0.05)
    store = ReceiptStore(database)
    other = sqlite3.connect(tmp_path / "node.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError) as failure:
        await begin(store, "r")
    assert failure.value.reason == "locked"
    assert await store.get("r") is None  # reading needs no lock
    other.execute("ROLLBACK")
    await begin(store, "r")
    await database.close()


@pytest.mark.parametrize(
    "content", [b"not a database" * 1000, b"SQLite format 3\x00" + b"\xff" * 4096]
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.db"
    path.write_bytes(content)
    with pytest.raises(StorageError) as failure:
        Database.open(path)
    assert failure.value.reason == "damaged"


async def test_overwritten_pages_are_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    database = Database.open(path)
    for i in range(50):
        await begin(ReceiptStore(database), f"r{i}", draft={"x": "y" * 2000})
    await database.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StorageError) as failure:
        database = Database.open(path)
        await ReceiptStore(database).get("r1")
    assert failure.value.reason == "damaged"


@pytest.mark.parametrize("document", ["{", "[]", "1", "[" * 100_000])
async def test_a_stored_document_that_is_no_json_object_is_told(
    tmp_path: Path, document: str
) -> None:
    database = Database.open(tmp_path / "node.db")
    store = ReceiptStore(database)
    await final(store, "r")
    update = text("UPDATE receipts SET document = :document")
    await database.write(lambda c: c.execute(update, {"document": document}) and None)
    with pytest.raises(StorageError) as failure:
        await store.get("r")
    assert failure.value.reason == "damaged"
    await database.close()


async def test_an_error_quotes_nothing_that_was_being_stored(
    database: Database, receipts: ReceiptStore
) -> None:
    await database.write(lambda c: c.execute(text("DROP TABLE receipts")) and None)
    with pytest.raises(StorageError) as failure:
        await begin(receipts, "canary")
    error: BaseException | None = failure.value
    assert "canary" not in str(error) and "receipts" not in str(error)


async def test_the_files_are_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "node.db"
    previous = os.umask(0)
    try:
        database = Database.open(path)
        await begin(ReceiptStore(database), "r")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        names = {file.name for file in path.parent.iterdir()}
        assert names == {"node.db", "node.db-wal", "node.db-shm"}
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        await database.close()
    finally:
        os.umask(previous)


async def test_a_file_left_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    path.touch(0o644)
    await Database.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_or_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "file").touch()
    for path in ("link.db", "folder.db", "file/node.db"):
        with pytest.raises(StorageError):
            Database.open(tmp_path / path)


@pytest.mark.parametrize("url", ["nonsense://host/db", "postgresql://127.0.0.1:1/none", "://"])
def test_a_url_that_leads_nowhere_is_told(url: str) -> None:
    with pytest.raises(StorageError):
        Database.open(url)


# --- the schema's history ------------------------------------------------------------


def test_the_migrations_arrive_at_the_present_schema(tmp_path: Path) -> None:
    migrated = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    with migrated.begin() as connection:
        upgrade(connection)
    metadata.create_all(declared)
    for table in metadata.tables:
        ours, theirs = inspect(migrated), inspect(declared)
        assert str(ours.get_columns(table)) == str(theirs.get_columns(table))
        assert ours.get_pk_constraint(table) == theirs.get_pk_constraint(table)
        assert ours.get_unique_constraints(table) == theirs.get_unique_constraints(table)
        indexes = [
            {(i["name"], tuple(i["column_names"]), i["unique"]) for i in side.get_indexes(table)}
            for side in (ours, theirs)
        ]
        assert indexes[0] == indexes[1]


async def test_receipts_of_the_first_version_are_kept(tmp_path: Path) -> None:
    """A database as the first version left it, opened by this one."""
    path = tmp_path / "node.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, "0001")
        connection.execute(
            text(
                "INSERT INTO receipts (receipt_id, owner, request_hash, endpoint, model,"
                " keyset_digest, started_at, finished_at, draft, document)"
                " VALUES ('r', X'00', 'sha256:1', '/v1', 'm', 'sha256:2', 1, 2, '{}', '{}')"
            )
        )
    engine.dispose()
    database = Database.open(path)
    stored = await ReceiptStore(database).get("r")
    assert stored is not None and stored.document == {}
    assert (stored.binding, stored.evm_signature) == (None, None)
    await database.close()


async def test_opening_again_keeps_the_rows(tmp_path: Path) -> None:
    for i in range(3):
        database = Database.open(tmp_path / "node.db")
        await begin(ReceiptStore(database), f"r{i}")
        assert len(await ReceiptStore(database).pending()) == i + 1
        await database.close()


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    await Database.open(path).close()
    other = sqlite3.connect(path)
    assert other.execute("SELECT version_num FROM alembic_version").fetchone() == (head(),)
    other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.commit()
    with pytest.raises(StorageError) as failure:
        Database.open(path)
    assert failure.value.reason == "newer"


async def test_every_commit_waits_for_the_disk(database: Database) -> None:
    def pragmas(connection: Connection) -> list[Any]:
        names = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
        return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in names]

    assert await database.write(pragmas) == ["wal", 2, 1, 0]
