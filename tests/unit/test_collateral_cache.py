"""The cache: whole files only, nothing trusted, nothing older than what was seen."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attested
import pytest

from attestation.collateral import cache as module
from attestation.collateral import seen as seen_module
from attestation.collateral.cache import Cache
from attestation.collateral.check import Checked, check_item
from attestation.collateral.errors import CollateralRolledBack, CollateralUnavailable
from attestation.collateral.item import Item, Key, Platform, split_collateral
from attestation.collateral.seen import FORMAT, Seen
from attestation.collateral.source import DAY_S, CollateralSource
from attestation.errors import CollateralError
from attestation.issuers.simulator.platform import Window

NOW = attested.NOW
ROOTS = [attested.platform().root_der]
TDX = Platform("tdx", attested.platform().fmspc.hex(), "platform")
TCB_INFO = TDX.keys[0]


def checked(index: int = 0, **odd: Any) -> Checked:
    collateral = attested.platform(**odd).collateral("tdx")
    return check_item(split_collateral(collateral, TDX)[index], ROOTS, NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = os.umask(0o022)
    yield tmp_path / "cache"
    os.umask(before)


def item_file(folder: Path) -> Path:
    (found,) = folder.glob("item_tcb-info*")
    return found


def test_what_was_stored_is_loaded_with_private_files(folder: Path) -> None:
    Cache(folder).store(checked(), NOW)
    kept = Cache(folder).load(TCB_INFO, ROOTS, NOW + 5)
    assert kept.checked.item == checked().item
    assert kept.fetched_at == NOW
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    assert not list(folder.glob(".new-*"))


def test_a_folder_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CollateralError, match="others may write"):
        Cache(folder)
    with pytest.raises(CollateralError, match="cache: "):
        (tmp_path / "file").write_text("")
        Cache(tmp_path / "file")


def test_nothing_cached(folder: Path) -> None:
    with pytest.raises(CollateralError, match="nothing is cached"):
        Cache(folder).load(TCB_INFO, ROOTS, NOW)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format":"other"}',
        b'{"format":"adyton-collateral-item/1"}',
        b'{"format":"adyton-collateral-item/1","item":{},"fetched_at":1}',
    ],
)
def test_damaged_files_are_not_used(folder: Path, content: bytes) -> None:
    Cache(folder).store(checked(), NOW)
    item_file(folder).write_bytes(content)
    with pytest.raises(CollateralError):
        Cache(folder).load(TCB_INFO, ROOTS, NOW)
    Cache(folder).store(checked(), NOW)
    assert Cache(folder).load(TCB_INFO, ROOTS, NOW)


def edit(folder: Path, **changes: Any) -> None:
    path = item_file(folder)
    document = json.loads(path.read_bytes())
    document["item"] |= changes.pop("item", {})
    path.write_text(json.dumps(document | changes))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fetched_at": "now"}, "of something else"),
        ({"fetched_at": True}, "of something else"),
        ({"item": {"key": "pck-crl/platform"}}, "of something else"),
        ({"item": {"signature": ""}}, "signature"),
        ({"item": {"content": "e30="}}, "does not hold"),
    ],
)
def test_files_that_somebody_changed_are_not_used(
    folder: Path, change: dict[str, Any], says: str
) -> None:
    Cache(folder).store(checked(), NOW)
    edit(folder, **change)
    with pytest.raises(CollateralError, match=says):
        Cache(folder).load(TCB_INFO, ROOTS, NOW)


def test_an_old_file_put_back_is_not_used(folder: Path) -> None:
    Cache(folder).store(checked(tcb_evaluation_number=16), NOW)
    old = item_file(folder).read_bytes()
    Cache(folder).store(checked(tcb_evaluation_number=17), NOW)
    item_file(folder).write_bytes(old)
    with pytest.raises(CollateralRolledBack, match="number 16 after 17"):
        Cache(folder).load(TCB_INFO, ROOTS, NOW)


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    Cache(folder).store(checked(), NOW)
    item_file(folder).rename(tmp_path / "elsewhere")
    (folder / "item_tcb-info_tdx_00ad70000000_standard.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CollateralError):
        Cache(folder).load(TCB_INFO, ROOTS, NOW)


def test_oversized_files_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache(folder).store(checked(), NOW)
    monkeypatch.setattr(module, "_MAX_FILE", 100)
    with pytest.raises(CollateralError, match="longer than 100"):
        Cache(folder).load(TCB_INFO, ROOTS, NOW)
    with pytest.raises(CollateralError, match="too large"):
        Cache(folder).store(checked(), NOW)


def test_expired_items_are_not_used(folder: Path) -> None:
    Cache(folder).store(checked(), NOW)
    with pytest.raises(CollateralError, match="tcb-info: expired"):
        Cache(folder).load(TCB_INFO, ROOTS, checked().not_after + 1)


def test_under_other_roots_a_cached_item_is_worth_nothing(folder: Path) -> None:
    Cache(folder).store(checked(), NOW)
    with pytest.raises(CollateralError, match="not trusted"):
        Cache(folder).load(TCB_INFO, [b""][:0], NOW)


@pytest.mark.parametrize("limit", ["MAX_ITEMS", "MAX_BYTES"])
def test_what_was_fetched_longest_ago_makes_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    cache = Cache(folder)
    for age, index in enumerate((0, 1, 2)):
        cache.store(checked(index), NOW)
        for path in folder.glob("item_*"):
            os.utime(path, ns=(1, path.stat().st_mtime_ns - (3 - age)))
    size = sum(p.stat().st_size for p in folder.glob("item_*"))
    monkeypatch.setattr(module, limit, 2 if limit == "MAX_ITEMS" else size - 1)
    cache.store(checked(2), NOW)
    assert [p.name.split("_")[1] for p in sorted(folder.glob("item_*"))] == [
        "pck-crl",
        "qe-identity",
    ]


# --- memory ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        json.dumps({"format": FORMAT, "newest": {"x": [1]}}).encode(),
        json.dumps({"format": FORMAT, "newest": {"x": [1, -1]}}).encode(),
        json.dumps({"format": FORMAT, "newest": {"x": [True, 1]}}).encode(),
        json.dumps({"format": FORMAT, "newest": {"x": ["1", 1]}}).encode(),
        json.dumps({"format": FORMAT, "newest": []}).encode(),
    ],
)
def test_a_damaged_memory_is_not_forgotten_silently(folder: Path, content: bytes) -> None:
    Cache(folder).store(checked(), NOW)
    (folder / "seen.json").write_bytes(content)
    for attempt in (
        lambda: Cache(folder).load(TCB_INFO, ROOTS, NOW),
        lambda: Cache(folder).store(checked(), NOW),
    ):
        with pytest.raises(CollateralError, match="damaged"):
            attempt()


def test_memory_is_written_before_the_item(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between leaves a file that is too old to be used."""
    Cache(folder).store(checked(tcb_evaluation_number=16), NOW)
    write = Cache._write

    def crash(self: Cache, path: Path, data: bytes) -> None:
        if path.name.startswith("item_"):
            raise KeyboardInterrupt
        write(self, path, data)

    monkeypatch.setattr(Cache, "_write", crash)
    with pytest.raises(KeyboardInterrupt):
        Cache(folder).store(checked(tcb_evaluation_number=17), NOW)
    with pytest.raises(CollateralRolledBack):
        Cache(folder).load(TCB_INFO, ROOTS, NOW)


def test_a_full_memory_refuses_rather_than_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "MAX_ENTRIES", 1)
    seen = Seen()
    assert seen.remember(checked(0))
    assert not seen.remember(checked(0))
    with pytest.raises(CollateralError, match="remembers 1 documents"):
        seen.remember(checked(1))


def test_what_was_seen_under_one_root_says_nothing_about_another() -> None:
    """A simulator with high numbers must not lock the vendor's own documents out."""
    seen = Seen()
    seen.remember(checked(tcb_evaluation_number=999))
    other = attested.platform(seed=b"another platform's fixed seed !!")
    item = split_collateral(other.collateral("tdx"), TDX)[0]
    seen.check(check_item(item, [other.root_der], NOW), NOW)


def test_the_clock_cannot_be_before_what_was_signed() -> None:
    window = Window(NOW - 10, NOW + DAY_S)
    seen = Seen()
    seen.remember(checked(2, crl_window=window))
    seen.check(checked(0), NOW - 10)
    with pytest.raises(CollateralError, match=r"clock: it is .* a document issued at"):
        seen.check(checked(0), NOW - 11)


def test_memory_survives_writing(folder: Path) -> None:
    seen = Seen()
    seen.remember(checked(0))
    again = Seen.from_json(json.loads(json.dumps(seen.to_json())))
    assert again.to_json() == seen.to_json()


# --- processes ------------------------------------------------------------------------------


def test_a_process_that_holds_the_lock_for_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_WAIT_S", 0.05)
    cache = Cache(folder)
    cache.store(checked(), NOW)
    with (folder / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CollateralError, match="another process holds it"):
            cache.store(checked(), NOW)
        assert cache.load(TCB_INFO, ROOTS, NOW)  # reading waits for nobody


def test_a_folder_that_vanished(folder: Path) -> None:
    cache = Cache(folder)
    folder.rmdir()
    with pytest.raises(CollateralError, match="cache: "):
        cache.store(checked(), NOW)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(folder)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(CollateralError, match="No space left"):
        cache.store(checked(), NOW)
    assert not list(folder.glob(".new-*"))


# --- the source above it -------------------------------------------------------------------------


class Canned:
    """A client that hands out one item, or an error, whatever is asked for."""

    def __init__(self, answer: Item | Exception) -> None:
        self.answer = answer

    async def fetch(self, key: Key) -> Item:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_an_answer_to_another_question_is_refused() -> None:
    source = CollateralSource(Canned(checked(1).item), roots=ROOTS)
    with pytest.raises(CollateralError, match="the service answered with qe-identity"):
        await source.item(TCB_INFO, NOW)


async def test_without_a_service_or_a_cache_there_is_nothing() -> None:
    with pytest.raises(CollateralUnavailable, match="no service is asked; cached: no cache"):
        await CollateralSource(None, roots=ROOTS).item(TCB_INFO, NOW)


async def test_renewal_comes_before_two_thirds_of_a_short_life(folder: Path) -> None:
    short = checked(tcb_info_window=Window(NOW, NOW + 9000))
    source = CollateralSource(Canned(short.item), roots=ROOTS, cache=Cache(folder))
    kept = await source.item(TCB_INFO, NOW)
    assert source.obtained(None, [kept]).due_at == NOW + 6000
    assert source.obtained(None, [kept]).not_after == NOW + 9000
