"""Only the same measurement reads a sealed file, only it can have written one, and a crash
leaves the old file or the new one."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.issuers.simulator import MeasuredState, SimulatorIssuer
from enclave.errors import SealingError
from enclave.sealing import MAX_SEALED_BYTES, Sealer, _bech32, write_durably

KEY = bytes(range(32))
SEALER = Sealer(KEY)
SEALED = SEALER.seal("p", b"secret")


def test_sealed_data_comes_back_for_the_same_purpose() -> None:
    assert SEALER.unseal("p", SEALER.seal("p", b"data")) == b"data"
    assert SEALER.unseal("p", SEALER.seal("p", b"")) == b""


def test_a_sealed_file_is_an_age_file_without_the_plaintext() -> None:
    sealed = SEALER.seal("p", b"canary" * 100)
    assert sealed.startswith(b"age-encryption.org/v1\n")
    assert b"canary" not in sealed


def test_another_measurement_cannot_open_it() -> None:
    def sealer(model: bytes, tee: str = "tdx", seed: bytes = b"s" * 32) -> Sealer:
        state = MeasuredState(bytes(32), bytes(32), model)
        return Sealer(SimulatorIssuer(tee, seed, state, now=lambda: 1_790_000_000).sealing_key())

    sealed = sealer(b"\x01" * 32).seal("p", b"data")
    assert sealer(b"\x01" * 32).unseal("p", sealed) == b"data"
    for other in (
        sealer(b"\x02" * 32),
        sealer(b"\x01" * 32, "sgx"),
        sealer(b"\x01" * 32, seed=b"t" * 32),
    ):
        with pytest.raises(SealingError, match="another measurement"):
            other.unseal("p", sealed)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(SEALED)
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealingError):
        SEALER.unseal("p", bytes(sealed))


@given(st.binary(max_size=400))
@settings(max_examples=80, deadline=None)
def test_arbitrary_bytes_raise_only_sealing_errors(data: bytes) -> None:
    for junk in (data, b"age-encryption.org/v1\n" + data):
        with pytest.raises(SealingError):
            SEALER.unseal("p", junk)


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_cut_file_is_refused(cut: int) -> None:
    with pytest.raises(SealingError):
        SEALER.unseal("p", SEALER.seal("p", b"data")[:cut])


def test_a_file_for_another_purpose_is_refused() -> None:
    with pytest.raises(SealingError, match="not sealed for other"):
        SEALER.unseal("other", SEALER.seal("p", b"data"))
    with pytest.raises(SealingError, match="one ASCII line"):
        SEALER.seal("two\nlines", b"data")


def test_a_file_encrypted_to_the_node_by_somebody_else_is_refused() -> None:
    """age authenticates the reader, not the writer: the recipient may become known."""
    recipient = SEALER._identity.to_public()
    forged = pyrage.encrypt(b"adyton-sealed/1\np\n" + bytes(32) + b"data", [recipient])
    with pytest.raises(SealingError, match="not written by it"):
        SEALER.unseal("p", forged)


def test_an_oversized_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(MAX_SEALED_BYTES + 1)
    with pytest.raises(SealingError, match="exceeds"):
        SEALER.read(path, "p")


def test_a_missing_or_unreadable_file_is_a_sealing_error(tmp_path: Path) -> None:
    with pytest.raises(SealingError, match="No such file"):
        SEALER.read(tmp_path / "absent", "p")
    with pytest.raises(SealingError, match="directory"):
        SEALER.read(tmp_path, "p")
    with pytest.raises(SealingError, match="No such file"):
        SEALER.write(tmp_path / "absent" / "x", "p", b"")


def test_a_short_sealing_key_is_refused() -> None:
    with pytest.raises(SealingError, match="32 bytes"):
        Sealer(bytes(16))


def test_files_are_private_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "keys.age"
    SEALER.write(path, "p", b"one")
    SEALER.write(path, "p", b"two")
    assert SEALER.read(path, "p") == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["keys.age"]


def test_a_failure_before_the_rename_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_durably(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SealingError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


KILLED = """
import os, pathlib, signal, sys
from enclave.sealing import write_durably
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_durably(pathlib.Path(sys.argv[1]), b"new")
"""


def test_kill_9_between_writing_and_renaming_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_durably(path, b"old")
    result = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    # The next writer is not hindered by what was left, nor does it keep it.
    write_durably(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_planted_temporary_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / ".state.tmp").symlink_to(victim)
    write_durably(tmp_path / "state", b"secret")
    assert victim.read_bytes() == b"untouched"


def test_repr_shows_no_key() -> None:
    assert repr(SEALER) == "Sealer()"


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_identities_are_spelled_as_age_spells_them(secret: bytes) -> None:
    text = _bech32("age-secret-key-", secret)
    assert str(pyrage.x25519.Identity.from_str(text)) == text


def test_bech32_of_bip_173() -> None:
    assert _bech32("a", b"") == "A12UEL5L"
