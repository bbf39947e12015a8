"""The joint score of a set of rows, and what taking them out would do to f."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.answer import attribute, score_query
from engine.errors import InvalidOption, InvalidQuery
from engine.lane import Lane
from engine.methods import GradientMethod, get_method
from engine.methods.base import _REGISTRY
from engine.types import AskOptions, Query, Removal, RemovalSet
from tests.engine.contract_world import answer
from tests.engine.tuned_world import ROWS, TunedWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TunedWorld:
    return TunedWorld(tmp_path_factory.mktemp("removal"))


IN_UNITS: dict[str, Any] = {"exponent": 1.0, "ensemble_power": 0.0}


def removal(world: TunedWorld, method: str, wanted: RemovalSet, checkpoints: object = "all", **own: Any) -> Removal:
    index = world.index(method, checkpoints, **own)
    found = answer(index, world.query(2), AskOptions(top_k=1, removal=wanted)).removal
    assert found is not None
    return found


def predicted(found: Removal | None) -> float:
    assert found is not None and found.predicted_change is not None
    return found.predicted_change


@pytest.mark.parametrize("method", ["graddot", "kfac", "ekfac"])
@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        (RemovalSet(tags={"parity": "1"}), [1, 3, 5, 7, 9]),
        (RemovalSet(ids=("ex-4", "ex-0", "ex-4")), [0, 4]),
        (RemovalSet(tags={"parity": "0"}, ids=("ex-3", "ex-4")), [0, 2, 3, 4, 6, 8]),
    ],
)
def test_the_score_is_the_sum_of_the_rows_scores(
    world: TunedWorld, method: str, wanted: RemovalSet, rows: list[int]
) -> None:
    scores_N = score_query(world.index(method), world.query(2)).astype(np.float64)
    found = removal(world, method, wanted)
    assert (found.rows, found.score) == (len(rows), pytest.approx(scores_N[rows].sum(), rel=1e-6))


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
def test_the_predicted_change_is_minus_the_score_over_n(world: TunedWorld, method: str) -> None:
    wanted = RemovalSet(tags={"parity": "1"})
    found = removal(world, method, wanted, "final", **IN_UNITS)
    assert found.predicted_change == pytest.approx(-found.score / ROWS, rel=1e-6)


@pytest.mark.parametrize("method", ["fisher", "datainf"])
def test_an_ensembles_prediction_is_the_mean_of_its_checkpoints_own(world: TunedWorld, method: str) -> None:
    """The ensemble's scores are divided by the query's norms, and so in no units of f. These two draw no labels."""
    wanted = RemovalSet(ids=("ex-1", "ex-2"))
    found = removal(world, method, wanted)
    labels = [state.label for state in world.model.states]
    own = [predicted(removal(world, method, wanted, (label,))) for label in labels]
    assert found.predicted_change == pytest.approx(np.mean(own), rel=1e-4)
    assert found.predicted_change != pytest.approx(-found.score / ROWS, rel=0.05)


def test_scores_that_are_in_no_units_of_f_predict_no_change_and_say_so(world: TunedWorld) -> None:
    assert removal(world, "graddot", RemovalSet(ids=("ex-1",)), "final").predicted_change is None
    wanted = AskOptions(removal=RemovalSet(ids=("ex-1",)))
    found = answer(world.index("ekfac", "final", exponent=0.5), world.query(2), wanted)
    assert found.removal is not None and found.removal.predicted_change is None
    assert any("exponent 1" in warning for warning in found.diagnostics.warnings)
    ekfac = get_method("ekfac")
    assert isinstance(ekfac, GradientMethod)
    assert ekfac.in_units_of_f(SimpleNamespace(exponent=1.0)) and not ekfac.in_units_of_f(SimpleNamespace(exponent=0.5))
    assert not replace(ekfac, damage=True).in_units_of_f(None) and not replace(ekfac, combine="sum").in_units_of_f(None)


@pytest.mark.parametrize(
    ("method", "options", "pointer"),
    [
        ("gradcos", AskOptions(removal=RemovalSet(ids=("ex-1",))), "/removal"),
        ("graddot", AskOptions(method="bm25", removal=RemovalSet(ids=("ex-1",))), "/removal"),
        ("graddot", AskOptions(normalize="cosine", removal=RemovalSet(ids=("ex-1",))), "/removal"),
    ],
)
def test_scores_that_do_not_add_up_have_no_joint_score(
    world: TunedWorld, method: str, options: AskOptions, pointer: str
) -> None:
    refusal = attribute(world.index(method, "final"), [(world.query(0), options)])[0]
    assert isinstance(refusal, InvalidOption) and refusal.pointer == pointer and "do not add up" in refusal.detail


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        (RemovalSet(ids=("ex-1", "nobody")), "/removal/ids/1"),
        (RemovalSet(tags={"parity": "7"}), "/removal"),
    ],
)
def test_rows_that_are_not_there_are_refused(world: TunedWorld, wanted: RemovalSet, pointer: str) -> None:
    options = AskOptions(removal=wanted)
    refusal = attribute(world.index("graddot", "final"), [(world.query(0), options)])[0]
    assert isinstance(refusal, InvalidQuery) and refusal.pointer == pointer


# --- methods that know no self-scores ---


@pytest.fixture
def query_side(world: TunedWorld, monkeypatch: pytest.MonkeyPatch) -> TunedWorld:
    """graddot, as if it solved for the query alone."""
    monkeypatch.setitem(_REGISTRY, "graddot", replace(get_method("graddot"), self_scores=False))  # type: ignore[call-arg]
    return world


def test_without_self_scores_there_is_no_cosine(query_side: TunedWorld) -> None:
    index = query_side.index("graddot", "final")
    hits = answer(index, query_side.query(0)).proponents
    assert hits and all(hit.normalized_score is None for hit in hits)
    refusal = attribute(index, [(query_side.query(0), AskOptions(normalize="cosine"))])[0]
    assert isinstance(refusal, InvalidOption) and refusal.pointer == "/normalize"
    assert "solves for the query alone" in refusal.detail


@pytest.mark.parametrize(("method", "cause"), [("graddot", "no row's score on itself"), ("bm25", "no score on itself")])
def test_without_self_scores_there_is_no_self_influence(query_side: TunedWorld, method: str, cause: str) -> None:
    index = query_side.index(method, "final")
    lane = Lane()
    try:
        with pytest.raises(InvalidOption, match=cause):
            lane.self_influence(query_side.dataset.path, index.store.path, "desc", 3)
    finally:
        lane.close()


def test_self_influence_goes_through_all_rows_page_by_page(world: TunedWorld) -> None:
    path = world.index("ekfac").store.path
    lane = Lane()
    try:
        whole = lane.self_influence(world.dataset.path, path, "desc", ROWS)
        pages = [lane.self_influence(world.dataset.path, path, "desc", 4, start) for start in (0, 4, 8, 12)]
    finally:
        lane.close()
    assert [row for page in pages for row in page] == whole and len(whole) == ROWS
    assert [len(page) for page in pages] == [4, 4, 2, 0]


def test_a_removal_of_a_set_of_queries_is_the_mean_of_theirs(world: TunedWorld) -> None:
    index, wanted = world.index("ekfac", "final", **IN_UNITS), AskOptions(removal=RemovalSet(ids=("ex-1", "ex-6")))
    members = (world.query(0), world.query(5))
    own = [predicted(answer(index, query, wanted).removal) for query in members]
    together = predicted(answer(index, Query(members=members), wanted).removal)
    assert together == pytest.approx(np.mean(own), rel=1e-5)
