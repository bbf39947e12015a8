"""f itself, and what it is compared with: contrast, the base model, the recipe's weight in the curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import cores, measure
from engine.answer import score_query
from engine.build import build_index
from engine.capture import GradientCapture
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.cores import beside
from engine.curvature import get_metric
from engine.curvature.fit import fit_statistics
from engine.curvature.labels import LabelDraws
from engine.dataset import Dataset
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.rows import Batcher
from engine.types import AskOptions, Query, Span
from tests import factories, oracles
from tests.engine.contract_world import answer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    root = tmp_path_factory.mktemp("measure")
    base = factories.llama()
    factories.save_base(root / "base", base)
    adapter = factories.save_adapter(root / "adapter", base, 1)
    return load_model(ModelConfig(str(root / "base"), adapter=str(adapter), recipe=Recipe()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return factories.dataset(tmp_path_factory.mktemp("rows"), factories.sentences(8))


@pytest.fixture(scope="module")
def index(model: LoadedModel, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIndex]:
    path = tmp_path_factory.mktemp("index") / "index"
    build_index(model, data, IndexConfig("graddot", options=IndexOptions(dtype="float32")), path, factories.ignore)
    with OpenIndex(model, data, path) as opened:
        yield opened


def f(model: LoadedModel, completion: str) -> float:
    encoded = model.encoder().encode_query(prompt="the cat", completion=completion)
    with torch.no_grad():
        return float(oracles.log_prob(model, encoded))


def test_tuned_minus_base_is_f_with_the_adapter_minus_f_without(model: LoadedModel, index: OpenIndex) -> None:
    found = answer(index, Query(prompt="the cat", completion=" sat"))
    model.use(-1)
    tuned = f(model, " sat")
    with model.module.disable_adapter():  # type: ignore[operator]
        base = f(model, " sat")
    assert found.measurement.value == pytest.approx(tuned, rel=1e-5)
    assert found.tuned_minus_base == pytest.approx(tuned - base, abs=1e-4)
    assert abs(tuned - base) > 0.1


def test_the_base_is_the_same_on_another_core(index: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [Query(prompt="the cat", completion=text) for text in (" sat", " ran home", " sat on the mat")]
    here = [answer(index, query).tuned_minus_base for query in queries]
    begun: list[bool] = []

    def watched(work: Callable[[], Any], *, worthwhile: bool) -> Callable[[], Any]:
        begun.append(worthwhile)
        return beside(work, worthwhile=worthwhile)

    monkeypatch.setattr(measure, "beside", watched)
    monkeypatch.setattr(measure, "_PASSES", 0)
    monkeypatch.setattr(cores, "CORES", 2)
    torch.set_num_threads(1)
    assert [answer(index, query).tuned_minus_base for query in queries] == here
    assert begun == [True] * 3


def test_a_contrast_is_the_difference_of_both_measurements_and_of_both_score_lists(
    model: LoadedModel, index: OpenIndex
) -> None:
    whole = AskOptions(top_k=8)

    def scores(query: Query) -> tuple[float, np.ndarray]:
        result = answer(index, query, whole)
        by_position = {hit.position: hit.score for hit in (*result.proponents, *result.opponents)}
        return result.measurement.value, np.array([by_position[i] for i in range(8)])

    f_a, a = scores(Query(prompt="the cat", completion=" sat"))
    f_b, b = scores(Query(prompt="the cat", completion=" ran home"))
    f_ab, ab = scores(Query(prompt="the cat", completion=" sat", contrast=" ran home"))
    assert f_ab == pytest.approx(f_a - f_b, rel=1e-5)
    np.testing.assert_allclose(ab, a - b, rtol=1e-4, atol=1e-3 * np.abs(a).max())


def test_spans_that_tile_the_completion_add_up_to_it(index: OpenIndex) -> None:
    """ " sat" is four characters; EOS is a target of the whole, and of no span."""
    parts = [answer(index, Query(prompt="the cat", completion=" sat", span=Span(i, i + 1))) for i in range(4)]
    whole = answer(index, Query(prompt="the cat", completion=" sat"))
    assert [part.measurement.tokens for part in parts] == [1, 1, 1, 1]
    assert whole.measurement.tokens == 5
    assert sum(part.measurement.value for part in parts) > whole.measurement.value


def test_the_recipes_weight_scales_the_curvature_once(model: LoadedModel, data: Dataset) -> None:
    """Rows weighted w (√w on the sampled gradients) give w times the covariances and moments of weight 1."""
    encoder, tracked = model.encoder(), model.tracked(None)
    rows = [encoder.encode(example) for example in data]
    draws = LabelDraws(0, 0, [str(i) for i in range(len(rows))])
    batcher = Batcher(model, 4096)
    fitted = []
    with GradientCapture(model, tracked) as capture:
        for weight in (1.0, 0.25):
            weights = [weight**0.5] * len(rows)

            def batches(weights: list[float] = weights):  # type: ignore[no-untyped-def]
                return (batch.padded for batch in batcher.batches(rows, weights, range(len(rows))))

            fitted.append(fit_statistics(capture, batches, get_metric("ekfac"), draws))
    for name, outputs in fitted[0].outputs.items():
        torch.testing.assert_close(fitted[1].outputs[name], 0.25 * outputs, rtol=1e-3, atol=1e-5)
        total = fitted[1].eigen[name].sum() / fitted[0].eigen[name].sum()
        assert float(total) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
def test_a_weight_that_all_rows_share_cancels_in_whitened_scores(tmp_path: Path, data: Dataset, method: str) -> None:
    """⟨g_q, (wH)⁻¹ w g_z⟩ = ⟨g_q, H⁻¹ g_z⟩: the build must weigh the curvature by w, not by 1 and not by w²."""
    factories.save_base(tmp_path / "base", factories.llama(hidden=8, layers=1))
    one_step = Recipe("batch_token_mean", steps=(tuple(range(len(data))),))
    query = Query(prompt="the cat", completion=" sat")
    scores = []
    for recipe in (Recipe(), one_step):
        model = load_model(ModelConfig(str(tmp_path / "base"), dtype="float64", recipe=recipe))
        path = tmp_path / recipe.reduction
        whole = {"exponent": 1.0, "ensemble_power": 0.0}
        options = IndexOptions(dtype="float32", allow_partial=True)
        config = IndexConfig(method, options=options, method_options=whole)
        build_index(model, data, config, path, factories.ignore)
        with OpenIndex(model, data, path) as index:
            assert len(set(index.weights_N)) == 1 and (index.weights_N[0] == 1.0) == (recipe is not one_step)
            scores.append(score_query(index, query))
    assert np.abs(scores[0]).max() > 0
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-4 * np.abs(scores[0]).max())
