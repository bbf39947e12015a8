"""Builds: killed, cancelled, damaged or starved of disk, they end as an undisturbed one would."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.dataset import Dataset, open_dataset
from engine.errors import Cancelled, InvalidOption, NoLossToken, NonFiniteGradient, StorageFull, UnknownMethod
from engine.estimate import estimate_index
from engine.manifest import CALIBRATED_MAXIMUM
from engine.model import LoadedModel, load_model
from engine.plan import default_curvature_rows
from engine.store import IndexStore
from engine.types import Progress
from tests import factories
from tests.engine.contract_world import digests

OPTIONS = IndexOptions(shard_rows=4, curvature_rows=12, allow_partial=True)
CONFIG = IndexConfig(method="ekfac", options=OPTIONS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Dataset, Path]:
    root = tmp_path_factory.mktemp("build")
    base = factories.llama(hidden=8, layers=1)
    factories.save_base(root / "base", base)
    for seed in (1, 2):
        factories.save_adapter(root / f"epoch-{seed}", base, seed, r=2)
    data = factories.dataset(root / "data", factories.sentences(18))
    model = load(root)
    build_index(model, data, CONFIG, root / "undisturbed", factories.ignore)
    return model, data, root


def load(root: Path) -> LoadedModel:
    paths = (str(root / "epoch-1"), str(root / "epoch-2"))
    return load_model(ModelConfig(str(root / "base"), checkpoints=paths, recipe=Recipe()))


def test_progress_counts_up_to_the_total_over_all_phases(
    world: tuple[LoadedModel, Dataset, Path], tmp_path: Path
) -> None:
    model, data, _ = world
    seen: list[Progress] = []
    build_index(model, data, CONFIG, tmp_path / "index", seen.append)
    work = [progress for progress in seen if progress.phase != "tokenize"]
    assert {progress.phase for progress in work} == {"curvature", "sketch", "finish"}
    assert [p.done for p in work] == sorted(p.done for p in work)
    assert work[-1].done == work[-1].total == 2 * (2 * 12 + 18)


def test_calibration_takes_a_sixteenth_of_the_rows_within_its_bounds() -> None:
    sizes = (1, 512, 8192, 10_000, 32_768, 1_000_000)
    assert [default_curvature_rows(rows) for rows in sizes] == [512, 512, 512, 625, 2048, 2048]


@pytest.mark.parametrize("method", ["graddot", "ekfac"])
def test_an_index_of_one_shard_takes_its_scales_from_every_row(
    world: tuple[LoadedModel, Dataset, Path], tmp_path: Path, method: str
) -> None:
    model, data, _ = world
    config = IndexConfig(method, options=IndexOptions(curvature_rows=12, allow_partial=True))
    build_index(model, data, config, tmp_path / "index", factories.ignore)
    store = IndexStore.open(tmp_path / "index")
    stored_NW = np.abs(store.stored(np.arange(18)))
    assert store.manifest.shard_count == 1
    for block in store.manifest.blocks:
        assert CALIBRATED_MAXIMUM / 2.01 < stored_NW[:, block.offset : block.stop].max() <= CALIBRATED_MAXIMUM * 1.001


def test_cancelled_at_any_batch_and_resumed_gives_the_same_bytes(
    world: tuple[LoadedModel, Dataset, Path], tmp_path: Path
) -> None:
    model, data, root = world
    expected = digests(root / "undisturbed")
    ticks = []
    build_index(model, data, CONFIG, tmp_path / "count", ticks.append)
    for stop in range(1, len(ticks), 3):
        path = tmp_path / f"stopped-{stop}"
        calls = iter(range(10**6))

        def cancel(_progress: Progress, calls=calls, stop=stop) -> None:  # type: ignore[no-untyped-def]
            if next(calls) == stop:
                raise Cancelled("enough")

        with pytest.raises(Cancelled):
            build_index(model, data, CONFIG, path, cancel)
        build_index(model, data, CONFIG, path, factories.ignore)
        assert digests(path) == expected


def test_killed_at_ten_random_moments_and_resumed_gives_the_same_bytes(
    world: tuple[LoadedModel, Dataset, Path], tmp_path: Path
) -> None:
    """kill -9 of the process itself, a fresh build each time; the survivors of a kill are finished files only."""
    model, data, root = world
    expected = digests(root / "undisturbed")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["engine.build", "tests.engine.test_build"]
    )  # torch is imported once, not ten times
    moments = np.random.default_rng(0).uniform(0.0, 0.5, 10)
    interrupted = 0
    for number, moment in enumerate(moments):
        path = tmp_path / f"killed-{number}"
        ready = processes.Event()
        process = processes.Process(target=build_slowly, args=(root, path, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(moment)
        process.kill()
        process.join()
        interrupted += not (path / "manifest.json").exists() or b'"ready"' not in (path / "manifest.json").read_bytes()
        build_index(model, data, CONFIG, path, factories.ignore)
        assert digests(path) == expected
    assert interrupted >= 5  # otherwise the moments missed the build, and the test has shown nothing


def build_slowly(root: Path, path: Path, ready: Event) -> None:
    torch.set_num_threads(1)
    model, data = load(root), open_dataset(next((root / "data" / "datasets").iterdir()))
    ready.set()
    build_index(model, data, CONFIG, path, lambda _progress: time.sleep(0.02))


def test_a_damaged_shard_is_named_and_made_again(world: tuple[LoadedModel, Dataset, Path], tmp_path: Path) -> None:
    model, data, root = world
    build_index(model, data, CONFIG, tmp_path / "index", factories.ignore)
    shard = tmp_path / "index" / "shards" / "00001.faiss"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    info = build_index(model, data, CONFIG, tmp_path / "index", factories.ignore)
    assert any("00001.faiss" in warning for warning in info.warnings)
    assert digests(tmp_path / "index") == digests(root / "undisturbed")


def test_a_full_disk_keeps_what_was_finished(
    world: tuple[LoadedModel, Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, root = world
    real = os.fsync
    writes = iter(range(10**6))

    def full(descriptor: int) -> None:
        if next(writes) > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="disk"):
        build_index(model, data, CONFIG, tmp_path / "index", factories.ignore)
    monkeypatch.undo()
    build_index(model, data, CONFIG, tmp_path / "index", factories.ignore)
    assert digests(tmp_path / "index") == digests(root / "undisturbed")


def test_nan_in_the_weights_names_the_row(world: tuple[LoadedModel, Dataset, Path], tmp_path: Path) -> None:
    _, data, root = world
    model = load(root)
    with torch.no_grad():
        model.states[0].tensors[next(iter(model.states[0].tensors))].fill_(float("nan"))
    with pytest.raises(NonFiniteGradient, match="row"):
        build_index(model, data, IndexConfig("graddot", options=OPTIONS), tmp_path / "index", factories.ignore)


def test_a_row_cut_down_to_its_prompt_has_no_target(world: tuple[LoadedModel, Dataset, Path], tmp_path: Path) -> None:
    model, _, _ = world
    data = factories.dataset(tmp_path, [{"id": "long", "prompt": "cat " * 30, "completion": " sat"}])
    options = IndexOptions(max_length=10)
    with pytest.raises(NoLossToken, match="'long'"):
        build_index(model, data, IndexConfig("graddot", options=options), tmp_path / "index", factories.ignore)


def test_unknown_methods_and_checkpoints_are_refused(world: tuple[LoadedModel, Dataset, Path], tmp_path: Path) -> None:
    model, data, _ = world
    with pytest.raises(UnknownMethod, match="'ekfac'"):
        build_index(model, data, IndexConfig("ekfak"), tmp_path / "a", factories.ignore)
    with pytest.raises(InvalidOption, match="epoch-1, epoch-2"):
        build_index(model, data, IndexConfig("kfac", checkpoints=("epoch-9",)), tmp_path / "b", factories.ignore)


def test_auto_is_ekfac_for_lora_and_kfac_for_dense(world: tuple[LoadedModel, Dataset, Path], tmp_path: Path) -> None:
    model, data, root = world
    assert build_index(model, data, IndexConfig(options=OPTIONS), tmp_path / "lora", factories.ignore).method == "ekfac"
    dense = load_model(ModelConfig(str(root / "base"), recipe=Recipe()))
    assert build_index(dense, data, IndexConfig(options=OPTIONS), tmp_path / "dense", factories.ignore).method == "kfac"


def test_what_fits_is_exact_and_what_does_not_is_sketched_to_fit(
    world: tuple[LoadedModel, Dataset, Path], tmp_path: Path
) -> None:
    model, _, root = world
    small = open_dataset(next((root / "data" / "datasets").iterdir()))
    exact = estimate_index(model, small, CONFIG)
    assert not exact.sketched and exact.seconds > 0
    tight = IndexConfig("ekfac", options=IndexOptions(exact_limit_mb=0))
    sketched = estimate_index(model, small, tight)
    assert sketched.sketched and sketched.dims < exact.dims and sketched.disk_bytes < exact.disk_bytes
    info = build_index(model, small, tight, tmp_path / "index", factories.ignore)
    assert info.sketched and info.dims == sketched.dims
    assert IndexStore.open(tmp_path / "index").manifest.options["projection_dim"] == 8


def test_the_estimate_of_the_disk_is_close(world: tuple[LoadedModel, Dataset, Path], tmp_path: Path) -> None:
    model, data, root = world
    estimate = estimate_index(model, data, CONFIG)
    actual = IndexStore.open(root / "undisturbed").bytes()
    assert estimate.disk_bytes == pytest.approx(actual, rel=0.5)


def test_a_projection_wider_than_every_module_sketches_nothing(
    world: tuple[LoadedModel, Dataset, Path], tmp_path: Path
) -> None:
    model, data, _ = world
    wide = IndexConfig("graddot", options=IndexOptions(projection_dim=4096))
    info = build_index(model, data, wide, tmp_path / "wide", factories.ignore)
    assert not info.sketched and not estimate_index(model, data, wide).sketched
