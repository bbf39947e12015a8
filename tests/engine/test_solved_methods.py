"""lissa and astra through build_index() and score_query(), against direct solves of the explicit matrix.

Shapes: N rows, S of them sampled, C checkpoints, D the numbers of all tracked modules' gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.answer import attribute
from engine.curvature import get_metric
from engine.curvature.astra import AstraSolver
from engine.curvature.base import Setting, Statistics
from engine.curvature.iterations import conjugate_gradients, richardson
from engine.curvature.labels import LabelDraws, row_key
from engine.curvature.solving import SymmetricSolver
from engine.errors import InvalidOption
from engine.features import GradientFeatures
from engine.ggn import split
from engine.opened import OpenIndex
from engine.sketch import Projection
from engine.solved import SolvedFeatures
from engine.types import AskOptions, Attribution, Query
from tests import oracles
from tests.engine.adam_world import EPOCHS, QUERY, ROWS, AdamWorld, assert_scores, gpt2_world, lora_world
from tests.engine.contract_world import answer
from tests.engine.curvature_oracle import gauss_newton
from tests.engine.test_curvature import drawn_labels

FLOAT64 = torch.float64
EXACT: dict[str, dict[str, Any]] = {
    "lissa": {"damping": 10.0, "tolerance": 1e-4, "iterations": 5000},
    "astra": {"damping": 1.0, "tolerance": 1e-6, "iterations": 500},
}


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return lora_world(tmp_path_factory.mktemp("solved-lora"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return gpt2_world(tmp_path_factory.mktemp("solved-gpt2"))


class Direct:
    """What a checkpoint's solve should be: G from Jacobians, λ from EK-FAC's labels, torch.linalg.solve."""

    def __init__(self, world: AdamWorld, state: int, damping: float, *, one_level: bool = False) -> None:
        world.model.use(state)
        weights = [world.weights[i] for i in world.chosen]
        self.matrix_DD = gauss_newton(world.model, world.tracked, [world.rows[i] for i in world.chosen], weights)
        levels_D = damping * self._levels(world, state)
        self.damping_D = levels_D.mean().expand_as(levels_D) if one_level else levels_D
        self.rows_ND = torch.stack([oracles.flat(part, world.tracked) for part in world.gradients(state)])
        self.weights_N = torch.tensor(world.weights, dtype=FLOAT64)

    def _levels(self, world: AdamWorld, state: int) -> Tensor:
        """mean over the sample of w‖g‖²/d, module by module, g of one label drawn for every target."""
        draws = LabelDraws(0, state, [row_key(row.ids) for row in world.rows], fresh=True)
        levels = {m.name: 0.0 for m in world.tracked}
        for i in world.chosen:
            world.model.use(state)
            labels = drawn_labels(world.model, world.rows[i], i, draws)
            parts = oracles.example_gradients(world.model, world.tracked, world.rows[i], labels)
            for name, part in parts.items():
                levels[name] += world.weights[i] * float(part.square().mean()) / len(world.chosen)
        return torch.cat([torch.full((m.parameters,), levels[m.name], dtype=FLOAT64) for m in world.tracked])

    def solve(self, sign: float = 1.0) -> Tensor:
        """u [D] of the query."""
        damped_DD = self.matrix_DD + sign * torch.diag(self.damping_D)
        return torch.linalg.solve(damped_DD, self.rows_ND[QUERY])

    def scores(self, sign: float = 1.0) -> Tensor:
        """[N]"""
        return self.weights_N * (self.rows_ND @ self.solve(sign))


@pytest.fixture(scope="module")
def directs(lora: AdamWorld, gpt2: AdamWorld) -> dict[tuple[str, str], list[Direct]]:
    return {
        (method, kind): [
            Direct(world, state, EXACT[method]["damping"], one_level=method == "lissa") for state in states
        ]
        for method in EXACT
        for kind, world, states in (("lora", lora, range(EPOCHS)), ("gpt2", gpt2, range(1)))
    }


def solved(index: OpenIndex, number: int = -1) -> SolvedFeatures:
    features = index.features[number]
    assert isinstance(features, SolvedFeatures)
    return features


@pytest.mark.parametrize("method", ["lissa", "astra"])
def test_a_dense_models_scores_are_those_of_a_direct_solve(
    gpt2: AdamWorld, directs: dict[tuple[str, str], list[Direct]], method: str
) -> None:
    """Conv1D and biases; one checkpoint. With λ's sign turned the answer would be another."""
    direct = directs[method, "gpt2"][0]
    with gpt2.index(method, **EXACT[method]) as index:
        found_N = gpt2.scores(index)
    assert_scores(found_N, direct.scores().numpy(), 1e-3)
    with pytest.raises(AssertionError):
        assert_scores(direct.scores(sign=-1.0).numpy(), direct.scores().numpy(), 0.05)


@pytest.mark.parametrize("method", ["lissa", "astra"])
def test_an_ensemble_is_scaled_by_the_querys_own_norm(
    lora: AdamWorld, directs: dict[tuple[str, str], list[Direct]], method: str
) -> None:
    """Σ_c score_c/√s_c with s_c = g_qᵀ(G+λ)⁻¹g_q, from the sequences' sum and not from what is stored."""
    expected_N = torch.zeros(ROWS, dtype=FLOAT64)
    for direct in directs[method, "lora"]:
        expected_N += direct.scores() / (direct.rows_ND[QUERY] @ direct.solve()).sqrt()
    with lora.index(method, **EXACT[method]) as index:
        assert_scores(lora.scores(index), expected_N.numpy(), 1e-3)


def test_lissa_says_that_it_has_not_converged(gpt2: AdamWorld) -> None:
    with gpt2.index("lissa", damping=0.1, tolerance=1e-3, iterations=5) as index:
        with pytest.raises(InvalidOption, match="not converged after 5 iterations") as caught:
            gpt2.scores(index)
    assert "astra" in caught.value.remedy and caught.value.pointer == "/method_options/iterations"


def test_astra_begins_with_ekfac_and_conjugate_gradients_beat_its_richardson(lora: AdamWorld) -> None:
    """Of the same preconditioner and products; the paper's step is at best 2/(λ_min+λ_max), ours finds its own."""
    with lora.index("astra", checkpoints="final", damping=0.1, iterations=1, tolerance=1e-8) as index:
        solver = solved(index).solver
        assert isinstance(solver, AstraSolver)
        gradient_1D = oracles.flat(lora.gradients(-1)[QUERY], lora.tracked)[None]
        first_1D, ekfac_1D = solver.solve(gradient_1D), solver.precondition(gradient_1D)
        assert float(torch.cosine_similarity(first_1D, ekfac_1D)) == pytest.approx(1.0, abs=1e-9)
        matrix_DD = Direct(lora, len(lora.model.states) - 1, 0.1)
        a_DD = matrix_DD.matrix_DD + torch.diag(matrix_DD.damping_D)
        p_DD = solver.precondition(torch.eye(len(a_DD), dtype=FLOAT64))
    values = torch.linalg.eigvals(p_DD @ a_DD).real
    best = float(values.min() + values.max()) / 2
    for allowed in (5, 10, 20, 40):
        plain = richardson(lambda v: v @ a_DD, gradient_1D, best, 1e-12, allowed, solver.precondition)[0]
        ours = conjugate_gradients(lambda v: v @ a_DD, gradient_1D, solver.precondition, 1e-12, allowed)[0]
        right = torch.linalg.solve(a_DD, gradient_1D[0])
        away = [float((u - right) @ a_DD @ (u - right)[0]) for u in (ekfac_1D, plain, ours)]
        assert away[2] < 0.8 * away[1] and away[2] < away[0]


def test_a_projected_index_scores_with_the_projected_solve(lora: AdamWorld) -> None:
    """⟨S u, S g⟩ with the rows' own random sides, so that it is ⟨u, g⟩ on average (test_sketch.py)."""
    with lora.index("astra", checkpoints="final", **EXACT["astra"]) as exact:
        gradient_1D = oracles.flat(lora.gradients(-1)[QUERY], lora.tracked)[None]
        u_1D = solved(exact).solver.solve(gradient_1D)
    with lora.index("astra", width=3, checkpoints="final", **EXACT["astra"]) as index:
        projection, expected = index.plan.projection(0), []
        for module in lora.tracked:
            w_OI = split(u_1D, lora.tracked)[module.name][0]
            left, right = projection.left(module), projection.right(module)
            w_OI = w_OI if left is None else torch.from_numpy(left) @ w_OI
            expected.append((w_OI if right is None else w_OI @ torch.from_numpy(right).T).flatten())
        vectors_QP, self_Q = solved(index).solve(gradient_1D)
        assert vectors_QP.shape[1] < u_1D.shape[1] and vectors_QP.shape[1] == index.store.manifest.dims
        torch.testing.assert_close(vectors_QP[0], torch.cat(expected), rtol=1e-5, atol=1e-7)
        assert float(self_Q) == pytest.approx(float(gradient_1D[0] @ u_1D[0]), rel=1e-6)


class Fixed(SymmetricSolver):
    """Whatever the gradient, the same u."""

    def __init__(self, u_1D: Tensor) -> None:
        self.u_1D = u_1D

    def solve(self, gradients_KD: Tensor) -> Tensor:
        return self.u_1D.expand_as(gradients_KD)


def test_projected_scores_are_right_on_average(lora: AdamWorld) -> None:
    """Over 400 seeds of the projection: ⟨S u, S g⟩ is ⟨u, g⟩, within four standard errors."""
    size = sum(module.parameters for module in lora.tracked)
    u_1D, g_1D = torch.randn(2, 1, size, dtype=FLOAT64, generator=torch.Generator().manual_seed(1))
    products = []
    for seed in range(400):
        setting = Setting(Statistics(0, 0), Projection(4, seed, 0), 0.0, FLOAT64, torch.device("cpu"))
        sketches = get_metric("lissa").module_sketches(lora.tracked, setting)
        plain = GradientFeatures(lora.model, lora.model.states[-1], lora.tracked, sketches, unit_norm=False)
        of_u = SolvedFeatures(plain, Fixed(u_1D), plain.state).solve(g_1D)[0]
        of_g = SolvedFeatures(plain, Fixed(g_1D), plain.state).solve(g_1D)[0]
        assert of_u.shape[1] == plain.width < size
        products.append(float((of_u * of_g).sum()))
    error = float(np.std(products, ddof=1)) / len(products) ** 0.5
    assert 0 < abs(np.mean(products) - float((u_1D * g_1D).sum())) <= 4 * error


def queries(world: AdamWorld) -> list[Query]:
    return [Query(prompt=world.dataset[i].prompt, completion=world.dataset[i].completion) for i in (1, QUERY, 7)]


@pytest.mark.parametrize("method", ["lissa", "astra"])
def test_a_query_has_the_same_answer_beside_others(lora: AdamWorld, method: str) -> None:
    options: dict[str, Any] = {**EXACT[method], "tolerance": 0.01}
    with lora.index(method, checkpoints="final", **options) as index:
        together = attribute(index, [(query, AskOptions(top_k=ROWS)) for query in queries(lora)])
        for query, beside in zip(queries(lora), together, strict=True):
            assert isinstance(beside, Attribution)
            alone = answer(index, query, AskOptions(top_k=ROWS))
            assert [h.example_id for h in alone.proponents] == [h.example_id for h in beside.proponents]
            for one, other in zip(alone.proponents, beside.proponents, strict=True):
                assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-7)


def test_a_contrast_is_solved_once_and_is_the_difference(lora: AdamWorld) -> None:
    completion, contrast = " the cat sat", " a dog ran"
    with lora.index("astra", checkpoints="final", **EXACT["astra"]) as index:

        def scores(completion: str, contrast: str | None = None) -> dict[str, float]:
            query = Query(prompt="see", completion=completion, contrast=contrast)
            found = answer(index, query, AskOptions(top_k=ROWS))
            return {h.example_id: h.score for h in (*found.proponents, *found.opponents)}

        both, one, other = scores(completion, contrast), scores(completion), scores(contrast)
    assert len(both) == ROWS
    largest = max(map(abs, both.values()))
    assert all(abs(both[row] - (one[row] - other[row])) <= 1e-4 * largest for row in both)


@pytest.mark.parametrize("method", ["lissa", "astra"])
def test_every_share_adds_up_and_there_are_no_cosines(lora: AdamWorld, method: str) -> None:
    """By module, by the query's positions and tokens, by the row's positions: the solve is its own transpose."""
    query = Query(prompt="a", completion=" do")
    with lora.index(method, checkpoints=("epoch-1", "epoch-3"), **EXACT[method]) as index:
        result = answer(index, query, AskOptions(top_k=1, tokens=True, modules=True))
        with pytest.raises(InvalidOption, match="cosine"):
            answer(index, query, AskOptions(normalize="cosine"))
    assert result.additive and result.proponents
    for hit in (*result.proponents, *result.opponents):
        assert hit.normalized_score is None
        assert hit.module_scores and hit.train_position_shares and hit.position_shares and hit.query_token_scores
        for parts in (hit.module_scores.values(), hit.train_position_shares):
            assert sum(parts) == pytest.approx(hit.score, rel=1e-4, abs=1e-6)
        for parts in (hit.position_shares, hit.query_token_scores):
            assert sum(parts) == pytest.approx(hit.score, rel=2e-2, abs=1e-5)


def test_rows_are_stored_as_plain_gradients(lora: AdamWorld) -> None:
    with lora.index("lissa", checkpoints="final") as lissa, lora.index("graddot", checkpoints="final") as plain:
        rows = np.arange(ROWS)
        np.testing.assert_array_equal(lissa.store.rows(rows), plain.store.rows(rows))
        assert not lissa.store.has_tensors("checkpoint-000")
