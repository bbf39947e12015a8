"""Answers of an index with lists: built, asked and compared with the flat answer of the same index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import diagnostics, ivf_build, probing
from engine.answer import Ask, _begin, _measure, attribute
from engine.config import IndexOptions
from engine.errors import EngineError
from engine.opened import OpenIndex
from engine.search import score_all
from engine.types import AskOptions, Filter, RemovalSet
from tests.engine.contract_world import World, answer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("lists"), "lora")


@pytest.fixture(scope="module")
def index(world: World) -> OpenIndex:
    """Of 24 rows, with lists however little they find, half of the rows read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ivf_build, "TARGET", 0.0)
        patch.setattr(ivf_build, "MOST_SHARE", 1.0)
        opened = world.index("graddot", search="ivf")
    record = opened.store.manifest.search
    assert record is not None and record.kind == "ivf" and record.share < 1
    return opened


def shown(found: Any) -> list[tuple[int, float]]:
    return [(hit.position, hit.score) for hit in (*found.proponents, *found.opponents)]


def test_an_answer_says_how_it_was_searched(world: World, index: OpenIndex) -> None:
    found = answer(index, world.query(3)).diagnostics
    record = index.store.manifest.search
    assert record is not None
    assert (found.search, found.recall_at_10) == ("ivf", record.recall_at_10)
    assert (found.searched, found.total) == (24, 24)
    plain = answer(world.index("graddot"), world.query(3)).diagnostics
    assert (plain.search, plain.recall_at_10) == ("flat", None)


@pytest.mark.parametrize("row", [0, 5, 11])
def test_its_rows_are_those_read_with_the_scores_of_the_flat_answer(world: World, index: OpenIndex, row: int) -> None:
    lists_, record = index.lists, index.store.manifest.search
    assert lists_ is not None and record is not None
    found = answer(index, world.query(row), AskOptions(top_k=24))
    flat = answer(index, world.query(row), AskOptions(top_k=24, search="flat"))
    assert (found.diagnostics.search, flat.diagnostics.search) == ("ivf", "flat")
    assert 0 < len(shown(found)) < len(shown(flat)) == 24
    assert shown(found) == [hit for hit in shown(flat) if hit[0] in dict(shown(found))]
    percentiles = {hit.position: hit.percentile for hit in (*flat.proponents, *flat.opponents)}
    assert all(hit.percentile == percentiles[hit.position] for hit in found.proponents)


def test_with_all_lists_read_it_is_the_flat_answer(
    world: World, index: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = index.lists
    assert lists is not None
    everything = np.arange(len(lists.offsets_L) - 1)
    monkeypatch.setattr(type(lists.centroids), "chosen", lambda *_, **__: everything)
    for options in ({}, {"opponents": False}, {"filter": Filter(exclude_ids=("ex-3", "ex-4"))}, {"modules": True}):
        found = answer(index, world.query(2), AskOptions(**options))
        flat = answer(index, world.query(2), AskOptions(**options, search="flat"))
        assert (found.diagnostics.search, flat.diagnostics.search) == ("ivf", "flat")
        assert (found.proponents, found.opponents, found.clusters) == (flat.proponents, flat.opponents, flat.clusters)
        for name in ("null_z", "effective_rows", "score_spread", "checkpoint_agreement", "searched", "estimated"):
            assert getattr(found.diagnostics, name) == pytest.approx(getattr(flat.diagnostics, name)), name


@pytest.mark.parametrize(
    "options",
    [
        {"search": "flat"},
        {"normalize": "cosine"},
        {"group_by": "tags.kind"},
        {"removal": RemovalSet(ids=("ex-3",))},
        {"top_k": 101},
        {"method": "bm25"},
        {"filter": Filter(exclude_ids=tuple(f"ex-{n}" for n in range(15)))},
    ],
)
def test_what_needs_every_row_reads_every_row(world: World, index: OpenIndex, options: dict[str, Any]) -> None:
    found = answer(index, world.query(3), AskOptions(**options))
    assert (found.diagnostics.search, found.diagnostics.recall_at_10) == ("flat", None)
    plain = answer(world.index("graddot"), world.query(3), AskOptions(**options))
    assert shown(found) == shown(plain) and found.groups == plain.groups and found.removal == plain.removal


def test_figures_come_from_the_sample_and_what_was_read(
    world: World, index: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "SAMPLE_ROWS", 8)
    sample = diagnostics.fixed_sample(24)
    assert sample is not None
    found = answer(index, world.query(4))
    assert found.diagnostics.estimated and found.diagnostics.total == 24
    scores = probing.probe(index, vector_of(world, index, 4), True)
    scores_N = score_all(index.store, vector_of(world, index, 4).vector_D[None].astype(np.float32))[0]
    assert scores.sample_M is not None and scores.positions_M is not None
    assert np.array_equal(scores.positions_M[scores.sample_M], sample)
    assert scores.scores_M == pytest.approx(scores_N[scores.positions_M], rel=1e-4, abs=1e-4)
    best = found.proponents[0]
    expected = diagnostics.percentile(scores_N[sample], float(scores_N[best.position]))
    assert best.percentile == pytest.approx(expected)
    for hit in (*found.proponents, *found.opponents):
        assert hit.rank_low is not None and hit.rank_high is not None
        assert hit.rank_low <= hit.rank <= hit.rank_high


def vector_of(world: World, index: OpenIndex, row: int) -> Any:
    ask: Ask = _begin(index, world.query(row), AskOptions())
    _measure(index, [ask])
    return ask.vector


def test_several_queries_together_are_answered_as_alone(world: World, index: OpenIndex) -> None:
    requests = [(world.query(n), AskOptions(search="flat" if n % 2 else "auto")) for n in range(4)]
    together = attribute(index, requests)
    for request, found in zip(requests, together, strict=True):
        alone: Any = attribute(index, [request])[0]
        assert [hit for hit, _ in shown(found)] == [hit for hit, _ in shown(alone)]
        assert [score for _, score in shown(found)] == pytest.approx([score for _, score in shown(alone)], rel=1e-4)
        assert not isinstance(found, EngineError) and found.diagnostics.search == alone.diagnostics.search


def test_auto_makes_lists_above_the_limit_only(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert world.index("graddot").store.manifest.search is None
    monkeypatch.setattr(ivf_build, "IVF_ROWS", 23)
    above = World(tmp_path, "lora")
    record = above.index("graddot").store.manifest.search
    assert record is not None
    assert above.index("graddot", search="flat").store.manifest.search is None
    manifest = json.loads((above.index("graddot").store.path / "manifest.json").read_text())
    assert manifest["search"]["kind"] == record.kind
    warned = any("every query reads every row" in warning for warning in manifest["warnings"])
    assert warned == (record.kind == "flat")


def test_where_queries_are_unlike_rows_nothing_is_tried(world: World) -> None:
    manifest = world.index("lissa", search="ivf", curvature_rows=4).store.manifest
    assert manifest.search is None and any("unlike the rows" in warning for warning in manifest.warnings)
    assert world.index("bm25", search="ivf").store.manifest.search is None


def test_how_it_is_searched_does_not_change_what_is_stored(world: World, index: OpenIndex) -> None:
    plain = world.index("graddot").store.manifest
    assert index.store.manifest.fingerprints == plain.fingerprints
    assert [s.checksums for s in index.store.manifest.shards] == [s.checksums for s in plain.shards]
    assert IndexOptions().search == "auto"
