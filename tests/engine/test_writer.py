"""Shards written beside the build: in order, one at a time, none lost, and nothing that goes wrong is kept quiet."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import Cancelled, NonFiniteGradient, StorageFull
from engine.store import IndexStore
from engine.writer import ShardRows, ShardWriter
from tests.engine.index_factory import make_manifest

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path) -> IndexStore:
    return IndexStore.open_or_create(tmp_path / "index", make_manifest())


def shard_rows(store: IndexStore, number: int) -> ShardRows:
    start, stop = store.manifest.shard_bounds(number)
    rows = ShardRows(range(start, stop), store.manifest.width, len(store.manifest.checkpoints), CPU)
    rows.vectors_NW.copy_(torch.from_numpy(np.random.default_rng(number).standard_normal(rows.vectors_NW.shape)))
    rows.self_NC.fill_(1.0)
    return rows


def write(writer: ShardWriter, store: IndexStore, number: int) -> None:
    rows = shard_rows(store, number)
    writer.write(number, rows, np.ones(len(rows.positions), np.int32))


def test_what_is_written_beside_is_what_is_written_directly(store: IndexStore, tmp_path: Path) -> None:
    direct = IndexStore.open_or_create(tmp_path / "direct", make_manifest())
    with ShardWriter(store, CPU) as writer:
        for number in range(store.manifest.shard_count):
            write(writer, store, number)
            rows = shard_rows(direct, number)
            lengths_N = np.ones(len(rows.positions), np.int32)
            direct.write_shard(number, rows.vectors_NW.numpy(), rows.self_NC.numpy(), lengths_N)
    assert store.manifest.shards == direct.manifest.shards  # checksums and order


def test_no_more_than_one_shard_waits(store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    open_, begun, real = threading.Event(), [], IndexStore.write_shard

    def slow(self: IndexStore, number: int, *arguments: np.ndarray) -> object:
        begun.append(number)
        assert open_.wait(10)
        return real(self, number, *arguments)

    monkeypatch.setattr(IndexStore, "write_shard", slow)
    given: list[int] = []

    def build() -> None:
        with ShardWriter(store, CPU) as writer:
            for number in range(3):
                write(writer, store, number)
                given.append(number)

    thread = threading.Thread(target=build)
    thread.start()
    thread.join(0.3)
    assert given == [0] and begun == [0]  # the second waits for the first
    open_.set()
    thread.join(10)
    assert begun == [0, 1, 2]


def test_a_cancelled_build_finishes_the_shard_it_gave(store: IndexStore) -> None:
    def cancelled() -> None:
        with ShardWriter(store, CPU) as writer:
            write(writer, store, 0)
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        cancelled()
    assert [record.name for record in store.manifest.shards] == ["00000"]


@pytest.mark.parametrize("asked", ["write", "check", "end"])
def test_a_failed_write_is_raised_in_the_build(store: IndexStore, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    def full(*_arguments: object) -> None:
        raise StorageFull("The disk filled up.")

    def build() -> None:
        with ShardWriter(store, CPU) as writer:
            write(writer, store, 0)
            if asked == "write":
                write(writer, store, 1)
                pytest.fail("the second was taken")
            while asked == "check":
                writer.check()

    monkeypatch.setattr(IndexStore, "write_shard", full)
    with pytest.raises(StorageFull):
        build()
    assert not store.manifest.shards


def test_a_row_that_is_not_finite_is_named(store: IndexStore) -> None:
    rows = shard_rows(store, 1)
    rows.self_NC[0] = float("nan")
    with pytest.raises(NonFiniteGradient, match=f"row {rows.positions[0]} "), ShardWriter(store, CPU) as writer:
        writer.write(1, rows, np.ones(len(rows.positions), np.int32))
    with pytest.raises(NonFiniteGradient, match=f"row {rows.positions[0]} "):
        rows.batch_done(torch.tensor([0, 1]))
