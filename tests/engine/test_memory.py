"""The token budget follows what is free, is kept on resume, and changes no score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import footprint
from engine.answer import score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.dataset import Dataset
from engine.errors import Cancelled
from engine.memory import bytes_per_token, free_bytes, leaving_nothing, peak_bytes, token_budget
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.store import IndexStore
from engine.types import Progress, Query
from tests import factories

CONFIG = IndexConfig("ekfac", options=IndexOptions(shard_rows=8, curvature_rows=12, allow_partial=True))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Dataset]:
    root = tmp_path_factory.mktemp("memory")
    base = factories.llama(hidden=8, layers=1)
    factories.save_base(root / "base", base)
    adapter = factories.save_adapter(root / "adapter", base, 1, r=2)
    model = load_model(ModelConfig(str(root / "base"), adapter=str(adapter), recipe=Recipe()))
    return model, factories.dataset(root / "data", factories.sentences(18))


def test_the_peak_is_what_is_held_at_once() -> None:
    weight = torch.zeros(1000)

    def work() -> None:
        first = weight + 1  # 4,000 bytes
        second = first.view(10, 100) * 2  # 4,000 more: a view holds nothing of its own
        del first
        second.add_(1)
        second = second + second[:5].sum()  # the first is gone: 4,000, one number, and 4,000

    assert peak_bytes(work, CPU) == 8004
    assert peak_bytes(lambda: weight.view(10, 100), CPU) == 0


def test_a_pass_over_more_tokens_takes_more(world: tuple[LoadedModel, Dataset]) -> None:
    model, _ = world
    per_token = bytes_per_token(model, model.tracked(None))
    vocabulary = model.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    assert 3 * 4 * vocabulary < per_token < 1e5


def test_the_budget_is_what_half_of_the_free_memory_holds() -> None:
    assert token_budget(100.0, 0, 10**9, 4096) == 4096
    assert token_budget(1000.0, 500_000, 4_000_000, 4096) == 1280  # 1,500 tokens, in steps of 256
    assert token_budget(1000.0, 10**9, 10**6, 4096) == 256
    assert token_budget(1000.0, 10**9, 10**6, 40) == 40
    assert 0 < free_bytes(CPU) < 1 << 50


def test_a_control_groups_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.memory._CGROUP", tmp_path)
    before = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 700000\ninactive_file 150000\n")
    assert free_bytes(CPU) == 250_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > before / 2


def test_short_memory_makes_small_batches_that_resume_keeps_and_scores_do_not_show(
    world: tuple[LoadedModel, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = world
    build_index(model, data, CONFIG, tmp_path / "ample", factories.ignore)
    monkeypatch.setattr("engine.memory._STEP", 16)
    monkeypatch.setattr(footprint, "free_bytes", lambda _device: 0)

    def cancel(progress: Progress) -> None:
        if progress.phase == "sketch":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        build_index(model, data, CONFIG, tmp_path / "short", cancel)
    monkeypatch.undo()
    build_index(model, data, CONFIG, tmp_path / "short", factories.ignore)
    assert IndexStore.open(tmp_path / "ample").manifest.plan["token_budget"] == 4096
    assert IndexStore.open(tmp_path / "short").manifest.plan["token_budget"] == 16
    query = Query(prompt="the cat", completion=" sat on a mat")
    scores = []
    for name in ("ample", "short"):
        with OpenIndex(model, data, tmp_path / name) as index:
            scores.append(score_query(index, query))
            selves = index.store.self_scores()[:, 0]
            query_self = float(np.abs(scores[0]).max())
    limit_N = 2e-3 * np.sqrt(selves * max(query_self, float(selves.max())))
    assert (np.abs(scores[0] - scores[1]) <= limit_N).all()


def test_what_a_piece_of_work_has_freed_goes_back_to_the_system() -> None:
    """Pieces below glibc's mmap threshold, freed between others that stay, so that the heap cannot shrink by itself."""

    def work() -> list[torch.Tensor]:
        pieces = [torch.ones(1 << 18) for _ in range(200)]  # 1 MiB each
        return pieces[::20]

    torch.ones(1 << 22)  # freed: glibc keeps pieces up to this size from now on
    before = _anonymous_bytes()
    kept = leaving_nothing(work)
    assert _anonymous_bytes() - before < 100 << 20
    assert len(kept) == 10
    with pytest.raises(ZeroDivisionError):
        leaving_nothing(lambda: 1 / 0)


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
