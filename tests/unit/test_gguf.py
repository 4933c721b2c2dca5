"""A GGUF file is either understood completely or refused with a ModelError."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from engine_models import TINY, write_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.engine.gguf import GgufFile
from enclave.engine.graph import convert
from enclave.errors import ModelError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny(tmp_path_factory.mktemp("gguf") / "m.gguf", "Q4_1").read_bytes()


def read(tmp_path: Path, data: bytes) -> GgufFile:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return GgufFile.read(path)


def test_hash_metadata_and_tensors_come_from_the_same_bytes(tmp_path: Path, tiny: bytes) -> None:
    file = read(tmp_path, tiny)
    assert file.sha256 == hashlib.sha256(tiny).hexdigest()
    assert file.require("llama.block_count", int) == TINY["layers"]
    assert file.tensor("output_norm.weight", 1, TINY["hidden"]).type == "F32"


def test_file_changed_after_reading_changes_nothing(tmp_path: Path, tiny: bytes) -> None:
    file = read(tmp_path, tiny)
    before = file.tensors["output.weight"].data.copy()
    (tmp_path / "m.gguf").write_bytes(b"\xff" * len(tiny))
    assert np.array_equal(file.tensors["output.weight"].data, before)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        GgufFile.read(tmp_path / "absent.gguf")


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + b"\xff" * 60, b"PK\x03\x04" * 20])
def test_not_gguf(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelError):
        read(tmp_path, data)


def test_every_cut_of_the_header_is_refused(tmp_path: Path, tiny: bytes) -> None:
    for cut in range(0, 4096, 61):
        with pytest.raises(ModelError):
            read(tmp_path, tiny[:cut])


def test_tensor_data_cut_short(tmp_path: Path, tiny: bytes) -> None:
    with pytest.raises(ModelError):
        read(tmp_path, tiny[:-200])


def forged_array(kind: int, count: int) -> bytes:
    """A file whose one metadata value is an array of `count` items that are not there."""
    key = b"k"
    value = struct.pack("<IIQ", 9, kind, count)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + value


@pytest.mark.parametrize("kind", [0, 8, 9])
@pytest.mark.parametrize("count", [1, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_forged_array_length_neither_loops_nor_allocates(
    tmp_path: Path, kind: int, count: int
) -> None:
    with pytest.raises(ModelError):
        read(tmp_path, forged_array(kind, count))


@pytest.mark.parametrize("counts", [(1 << 63, 0), (0, 1 << 63), ((1 << 64) - 1, 1)])
def test_forged_counts(tmp_path: Path, counts: tuple[int, int]) -> None:
    with pytest.raises(ModelError):
        read(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"\0" * 64)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_header_bytes_raise_nothing_but_model_error(
    tmp_path: Path, tiny: bytes, data: st.DataObject
) -> None:
    raw = bytearray(tiny)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    try:
        convert(read(tmp_path, bytes(raw)), 32)
    except ModelError:
        return


@pytest.mark.parametrize("kind", ["Q5_0", "Q5_1", "BF16"])
def test_unsupported_type_names_the_tensor_and_its_type(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ModelError, match=rf"blk.0.attn_q.weight is {kind}"):
        convert(GgufFile.read(write_tiny(tmp_path / "m.gguf", kind)), 32)


def test_other_architecture(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'qwen3' is not supported"):
        convert(GgufFile.read(write_tiny(tmp_path / "m.gguf", architecture="qwen3")), 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llama.attention.head_count": 0}, "no attention heads"),
        ({"llama.attention.head_count_kv": 0}, "no possible attention"),
        ({"llama.block_count": 0}, "no possible attention"),
        ({"llama.feed_forward_length": None}, "lacks llama.feed_forward_length"),
        ({"llama.feed_forward_length": "many"}, "is not int"),
        ({"llama.feed_forward_length": 128}, "the metadata says"),
        ({"llama.block_count": 3}, "lacks tensor blk.2"),
        ({"llama.rope.dimension_count": 16}, "rotary embedding over part"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn'"),
        ({"llama.expert_count": 4}, "expert_count is not supported"),
    ],
)
def test_metadata_this_engine_would_compute_wrongly(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        convert(GgufFile.read(write_tiny(tmp_path / "m.gguf", metadata=change)), 32)


def test_missing_tensor(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.gguf", skip=("blk.1.ffn_up.weight",))
    with pytest.raises(ModelError, match=r"lacks tensor blk.1.ffn_up.weight"):
        convert(GgufFile.read(path), 32)


def test_biases_are_refused_not_ignored(tmp_path: Path) -> None:
    extra = {"blk.0.attn_q.bias": (np.ones(64), "F32")}
    with pytest.raises(ModelError, match=r"attn_q.bias"):
        convert(GgufFile.read(write_tiny(tmp_path / "m.gguf", tensors=extra)), 32)
