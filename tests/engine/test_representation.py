"""RepSim and RepT against one unpadded sequence at a time; the row's own loss against its log-probability.

Shapes: N rows, T positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.answer import score_query
from engine.config import IndexOptions, Recipe
from engine.curvature.fit import calibration_rows
from engine.curvature.labels import row_key
from engine.encoded import Encoded
from engine.errors import InvalidOption
from engine.lane import Lane
from engine.types import Query
from tests import factories, oracles
from tests.engine.contract_world import answer
from tests.engine.tuned_world import ROWS, TunedWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TunedWorld:
    return TunedWorld(tmp_path_factory.mktemp("representation"))


def hidden_and_gradient(world: TunedWorld, encoded: Encoded, layer: int, odds: bool = False) -> tuple[Tensor, Tensor]:
    """[T, H] each, of one sequence: a zero ε is added where the hidden state leaves its module, and ∂f̄/∂ε taken.

    f̄: the mean over targets of log p (of log(p/(1−p))).
    """
    world.model.use(-1)
    inner = world.model.module.get_base_model().model  # type: ignore[operator]
    modules = [inner.embed_tokens, *inner.layers[:-1], inner.norm]  # the last hidden state is what the norm gives
    epsilon_1TH = torch.zeros(1, len(encoded.ids), 8, dtype=torch.float64, requires_grad=True)
    seen: list[Tensor] = []

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        seen.append(whole.detach()[0])
        return (whole + epsilon_1TH, *output[1:]) if isinstance(output, tuple) else whole + epsilon_1TH

    handle = modules[layer].register_forward_hook(add)
    try:
        logits_TV = world.model.module(input_ids=torch.tensor([encoded.ids]), use_cache=False).logits[0]
    finally:
        handle.remove()
    p_J = torch.stack(
        [logits_TV[t - 1].softmax(-1)[encoded.ids[t]] for t in range(len(encoded.ids)) if encoded.targets[t]]
    )
    value = torch.logit(p_J) if odds else torch.log(p_J)
    (gradient_1TH,) = torch.autograd.grad(value.mean(), epsilon_1TH)
    return seen[0], gradient_1TH[0]


def pooled(states_TH: Tensor, encoded: Encoded, pooling: str) -> Tensor:
    first = encoded.targets.index(True)
    parts = {
        "last_prompt": states_TH[first - 1],
        "last": states_TH[-1],
        "mean_prompt": states_TH[:first].mean(0),
        "mean_completion": states_TH[first:].mean(0),
    }
    return parts[pooling]


def cosines(vectors_ND: Tensor, query_D: Tensor) -> np.ndarray:
    """Of a zero vector (all rows end with the same token: at layer 0 their centred last states are) 0."""
    norms_N = vectors_ND.norm(dim=1)
    defined = (norms_N > 1e-9) & (query_D.norm() > 1e-9)
    return torch.where(defined, vectors_ND @ query_D / (norms_N * query_D.norm()), 0.0).numpy()


def hidden(world: TunedWorld, layer: int, pooling: str) -> Tensor:
    return torch.stack([pooled(hidden_and_gradient(world, row, layer)[0], row, pooling) for row in world.rows])


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("pooling", ["last_prompt", "last", "mean_prompt", "mean_completion"])
@pytest.mark.parametrize("layer", [-1, 1, 0])
def test_repsim_equals_a_hand_computation(world: TunedWorld, layer: int, pooling: str, centred: bool) -> None:
    vectors_NH = hidden(world, layer, pooling)
    if centred:
        vectors_NH = vectors_NH - vectors_NH.mean(0)
    index = world.index("repsim", layer=layer, pooling=pooling, centred=centred)
    for row in (0, 7):
        found_N = score_query(index, world.query(row))
        np.testing.assert_allclose(found_N, cosines(vectors_NH, vectors_NH[row]), atol=1e-6)


def test_the_mean_is_that_of_the_calibration_rows_and_stays_with_the_index(world: TunedWorld) -> None:
    options = IndexOptions(dtype="float32", curvature_rows=4)
    index = world.index("repsim", options=options, centred=True)
    chosen = calibration_rows([row_key(row.ids) for row in world.rows], 4)
    vectors_NH = hidden(world, -1, "last_prompt")
    mean_H = vectors_NH[chosen].mean(0)
    np.testing.assert_allclose(index.store.load_tensors("hidden-mean")["mean"], mean_H.numpy(), rtol=1e-9)
    expected_N = cosines(vectors_NH - mean_H, vectors_NH[3] - mean_H)
    np.testing.assert_allclose(score_query(index, world.query(3)), expected_N, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last_prompt", "mean_prompt", "mean_completion"])
@pytest.mark.parametrize("layer", [-1, 2, 1, 0])
def test_rept_equals_autograd_through_the_hidden_state(world: TunedWorld, layer: int, pooling: str) -> None:
    def signature(odds: bool) -> Tensor:
        halves = [hidden_and_gradient(world, row, layer, odds) for row in world.rows]
        pairs = zip(halves, world.rows, strict=True)
        return torch.stack([torch.cat([pooled(half, row, pooling) for half in both]) for both, row in pairs])

    index = world.index("rept", layer=layer, pooling=pooling)
    plain_ND, odds_ND = signature(False), signature(True)
    assert float(plain_ND[:, 8:].abs().max()) > 1e-3
    for row in (0, 7):
        found_N = score_query(index, world.query(row))
        np.testing.assert_allclose(found_N, cosines(plain_ND, plain_ND[row]), atol=1e-6)
    found_N = score_query(index, world.query(7, measurement="log_odds"))
    np.testing.assert_allclose(found_N, cosines(plain_ND, odds_ND[7]), atol=1e-6)


@pytest.mark.parametrize("method", ["repsim", "rept"])
def test_of_a_set_the_score_is_the_mean_of_its_members_cosines(world: TunedWorld, method: str) -> None:
    index = world.index(method)
    members = (world.query(1), world.query(8))
    expected_N = np.mean([score_query(index, member) for member in members], axis=0)
    np.testing.assert_allclose(score_query(index, Query(members=members)), expected_N, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("repsim", {"centred": True, "pooling": "mean_completion"}),
        ("rept", {"pooling": "mean_completion"}),
        ("loss", {"average": True}),
    ],
)
def test_neither_pads_nor_batches_nor_shards_count(world: TunedWorld, method: str, own: dict[str, Any]) -> None:
    alone = world.index(method, options=IndexOptions(dtype="float32", token_budget=1, shard_rows=3), **own)
    together = world.index(method, options=IndexOptions(dtype="float32", token_budget=10**6), **own)
    for row in (2, 9):
        query = world.query(row)
        np.testing.assert_allclose(score_query(alone, query), score_query(together, query), atol=1e-6)


@pytest.mark.parametrize("method", ["repsim", "rept"])
def test_a_layer_that_does_not_exist_is_refused(world: TunedWorld, method: str) -> None:
    with pytest.raises(InvalidOption, match="hidden states 0 to 2"):
        world.index(method, layer=3)


def test_rept_has_no_gradient_at_the_last_position_and_refuses_it(world: TunedWorld) -> None:
    _, gradient_TH = hidden_and_gradient(world, world.rows[0], -1)
    assert not gradient_TH[-1].any()
    with pytest.raises(InvalidOption, match="pooling"):
        world.index("rept", pooling="last")


@pytest.mark.parametrize("make", [factories.gpt2, factories.llama])
def test_rept_runs_on_dense_models(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Nothing there asks for a gradient of its own accord, and GPT-2 drops out unless it is told not to."""
    from engine.build import build_index
    from engine.config import IndexConfig, ModelConfig
    from engine.model import load_model
    from engine.opened import OpenIndex

    factories.save_base(tmp_path / "base", make())
    model = load_model(ModelConfig(str(tmp_path / "base"), recipe=Recipe()))
    data = factories.dataset(tmp_path / "data", factories.sentences(6))
    build_index(model, data, IndexConfig("rept"), tmp_path / "index", factories.ignore)
    with OpenIndex(model, data, tmp_path / "index") as index:
        scores = [score_query(index, Query(prompt=data[2].prompt, completion=data[2].completion)) for _ in range(2)]
    assert scores[0][2] == pytest.approx(1.0, abs=2e-3) and scores[0].argmax() == 2
    np.testing.assert_array_equal(scores[0], scores[1])


# --- the row's own loss ---


def mean_losses(world: TunedWorld, state: int) -> np.ndarray:
    world.model.use(state)
    with torch.no_grad():
        return np.array([-float(oracles.log_prob(world.model, row)) / row.target_count for row in world.rows])


@pytest.mark.parametrize(("average", "states"), [(False, [-1]), (True, [0, 1])])
def test_loss_is_the_mean_over_targets_of_an_explicit_forward(
    world: TunedWorld, average: bool, states: list[int]
) -> None:
    expected_N = np.mean([mean_losses(world, state) for state in states], axis=0)
    index = world.index("loss", average=average)
    for query in (world.query(0), Query(prompt="the cat", completion=" sat")):
        np.testing.assert_allclose(score_query(index, query), expected_N, rtol=1e-6)
    result = world.ask(index, world.query(0))
    assert not result.signed and not result.additive and result.opponents == ()
    assert [hit.position for hit in result.proponents] == np.argsort(-expected_N, kind="stable").tolist()
    assert len(index.store.manifest.checkpoints) == 1


def test_self_influence_of_a_loss_index_is_the_loss(world: TunedWorld) -> None:
    index = world.index("loss")
    expected_N = mean_losses(world, -1)
    lane = Lane()
    try:
        found = lane.self_influence(world.dataset.path, index.store.path, "desc", ROWS)
    finally:
        lane.close()
    assert [row.position for row in found] == np.argsort(-expected_N, kind="stable").tolist()
    assert [row.score for row in found] == pytest.approx(np.sort(expected_N)[::-1].tolist(), rel=1e-6)


def test_the_recipes_weights_do_not_change_a_loss(world: TunedWorld, tmp_path: Path) -> None:
    weighted = TunedWorld(tmp_path, recipe=Recipe("batch_token_mean", steps=(tuple(range(ROWS)),)))
    plain_N, weighted_N = (score_query(w.index("loss"), w.query(0)) for w in (world, weighted))
    np.testing.assert_allclose(weighted_N, plain_N, rtol=1e-6)


def test_a_loss_index_still_measures_the_query_and_serves_the_controls(world: TunedWorld) -> None:
    index = world.index("loss")
    found = answer(index, world.query(1))
    world.model.use(-1)
    assert found.measurement.value == pytest.approx(float(oracles.log_prob(world.model, world.rows[1])), rel=1e-9)
    assert index.store.manifest.serves == ("loss", "bm25", "length", "random")
