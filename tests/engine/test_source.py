"""SOURCE: its functions in their limits, a run that can be unrolled by hand, and build_index() against dense matrices.

Shapes: N rows, K vectors, L segments, d numbers of a module, D of all tracked modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.config import Recipe
from engine.curvature.base import Moments, Setting, Statistics
from engine.curvature.solving import Checkpoint
from engine.curvature.source import Run, Segment, SourceSolver, damped, unrolled
from engine.ensemble import horizons, mean_rates
from engine.errors import MissingNeed
from engine.modules import TrackedModule
from engine.opened import OpenIndex
from engine.sketch import Projection
from engine.types import AskOptions, Query
from tests import oracles
from tests.engine.adam_world import EPOCHS, QUERY, ROWS, AdamWorld, assert_scores, epoch_rates, gpt2_world, lora_world
from tests.engine.contract_world import answer
from tests.engine.curvature_oracle import dense

FLOAT64 = torch.float64
MODULE = TrackedModule("m", "m", "linear", 3, 2, False, "m")


def checkpoint(seed: int, horizon: float = 1.0, *, moments: bool = False, damping: float = 0.0) -> Checkpoint:
    """A module of 2 × 3 with random bases, Λ and Adam's second moment."""
    generator = torch.Generator().manual_seed(seed)
    q_o, q_i = (torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=FLOAT64))[0] for n in (2, 3))
    statistics = Statistics(
        4,
        20,
        eigen={"m": 4 * torch.rand(2, 3, generator=generator, dtype=FLOAT64)},
        inputs_basis={"m": q_i},
        outputs_basis={"m": q_o},
    )
    second = {"m": torch.rand(2, 3, generator=generator, dtype=FLOAT64) + 0.1}
    state = Moments(5, {"m": torch.zeros(2, 3)}, second, (0.9, 0.99), 1e-3) if moments else None
    place = (FLOAT64, torch.device("cpu"))
    setting = Setting(statistics, Projection(None, 0, 0), damping, *place, moments=state)
    return Checkpoint(setting, lambda v: v, dict, horizon)


def curvature(one: Checkpoint) -> Tensor:
    """H, [6, 6], λ in it."""
    s = one.setting.statistics
    moments_OI = s.eigen["m"] / s.examples
    moments_OI = moments_OI + one.setting.damping * moments_OI.mean()
    return dense(s.outputs_basis["m"], s.inputs_basis["m"], moments_OI)


def step_sizes(one: Checkpoint) -> Tensor:
    m = one.setting.moments
    assert m is not None
    return (1 / ((m.second["m"] / (1 - m.betas[1] ** m.step)).sqrt() + m.epsilon)).flatten()


def vectors(count: int = 2, size: int = 6) -> Tensor:
    return torch.randn(count, size, dtype=FLOAT64, generator=torch.Generator().manual_seed(9))


def by_matrices(h_DD: Tensor, p_D: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """(U, S) of a segment: (1 − e^{−tPH})H⁻¹ and e^{−tPH}, formed as they are written."""
    s_DD = torch.linalg.matrix_exp(-t * p_D[:, None] * h_DD)
    return (torch.eye(len(h_DD), dtype=FLOAT64) - s_DD) @ torch.linalg.inv(h_DD), s_DD


@given(st.floats(1e-6, 1e6), st.floats(1e-9, 1e6))
def test_a_segments_factor_is_the_damped_inverse_it_stands_for(t: float, x: float) -> None:
    """1/σ for a long segment, t for a short one, and never more than either."""
    value = float(unrolled(t)(torch.tensor([x], dtype=FLOAT64)))
    assert value <= min(t, 1 / x) * (1 + 1e-9)
    if t * x > 50:
        assert value == pytest.approx(1 / x, rel=1e-9)
    if t * x < 1e-6:
        assert value == pytest.approx(t, rel=1e-5)


def test_no_curvature_gives_the_plain_step_and_damping_counts_from_the_mean() -> None:
    assert unrolled(3.0)(torch.zeros(2)).tolist() == [3.0, 3.0]
    assert damped(0.5)(torch.tensor([1.0, 3.0])).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("together", [1, 2])
def test_a_segment_is_its_explicit_matrix_function(together: int, adam: bool) -> None:
    """One checkpoint or the mean of two, SGD or Adam: closed form and Lanczos alike."""
    chosen = [checkpoint(seed, 0.7 + seed, moments=adam, damping=0.1) for seed in range(together)]
    segment = Segment([MODULE], chosen, adam=adam)
    h_DD = torch.stack([curvature(one) for one in chosen]).mean(0)
    p_D = torch.ones(6, dtype=FLOAT64)
    if adam:
        p_D = 1 / (torch.stack([(1 / step_sizes(one) - 1e-3).square() for one in chosen]).mean(0).sqrt() + 1e-3)
    u_DD, s_DD = by_matrices(h_DD, p_D, sum(one.horizon for one in chosen))
    v_KD = vectors()
    torch.testing.assert_close(segment.unroll(v_KD), v_KD @ u_DD.T, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(segment.back(v_KD, segment.unroll(v_KD)), v_KD @ s_DD, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(segment.forth(v_KD), v_KD @ s_DD.T, rtol=1e-8, atol=1e-9)


def test_where_adam_never_saw_a_gradient_nothing_moves() -> None:
    one = checkpoint(3, moments=True)
    assert one.setting.moments is not None
    one.setting.moments.second["m"][0, 1] = 0.0
    found_KD = Segment([MODULE], [one], adam=True).unroll(vectors())
    assert torch.isfinite(found_KD).all() and not found_KD[:, 1].any() and found_KD[:, 0].all()


def test_several_segments_are_the_product_of_their_matrices_and_transpose() -> None:
    parts = [[checkpoint(1, 0.5)], [checkpoint(2, 1.5), checkpoint(3, 0.2)], [checkpoint(4, 2.0)]]
    run = Run([Segment([MODULE], part, adam=False) for part in parts])
    ones = torch.ones(6, dtype=FLOAT64)
    matrices = [
        by_matrices(torch.stack([curvature(c) for c in part]).mean(0), ones, sum(c.horizon for c in part))
        for part in parts
    ]
    g_KD, v_KD = vectors(), vectors(2) ** 2
    for number, (u_DD, _) in enumerate(matrices):
        expected_KD = g_KD
        for _, s_DD in matrices[:number:-1]:
            expected_KD = expected_KD @ s_DD
        expected_KD = expected_KD @ u_DD
        solver = SourceSolver(run, number, 0.5)
        torch.testing.assert_close(solver.solve(g_KD), 0.5 * expected_KD, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close((solver.solve(g_KD) * v_KD).sum(1), (g_KD * solver.transposed(v_KD)).sum(1))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 30))
def test_it_is_the_derivative_of_a_run_on_a_quadratic(seed: int) -> None:
    """Gradient descent on ½θᵀHθ − ε gᵀθ in two stages of different H and g: qᵀ dθ/dε, step by step."""
    first, second = checkpoint(seed, 1.0), checkpoint(seed + 40, 1.0)
    steps, rate = (200, 300), 0.01  # tσ up to three: neither all of the inverse nor none of it
    stages = [replace(c, horizon=k * rate) for c, k in zip((first, second), steps, strict=True)]
    g_ND = vectors(2)  # the row's gradient in each stage, held constant there

    def final(epsilon: float) -> Tensor:
        theta_D = torch.ones(6, dtype=FLOAT64)
        for stage, count, g_D in zip(stages, steps, g_ND, strict=True):
            h_DD = curvature(stage)
            for _ in range(count):
                theta_D = theta_D - rate * (h_DD @ theta_D - epsilon * g_D)
        return theta_D

    query_1D = vectors(3)[2:]
    expected = float(query_1D[0] @ (final(0.5) - final(-0.5)))
    run = Run([Segment([MODULE], [stage], adam=False) for stage in stages])
    found = sum(float(SourceSolver(run, n, 1.0).solve(query_1D) @ g_D) for n, g_D in enumerate(g_ND))
    assert found == pytest.approx(expected, rel=0.02, abs=0.01)


# --- through an index ---


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return lora_world(tmp_path_factory.mktemp("source-lora"))


def test_a_horizon_is_the_rates_times_the_rows_a_step_adds_up(lora: AdamWorld) -> None:
    """The recipe's loss is the step's token mean: 4, 4 and 2 rows a step here."""
    assert lora.model.recipe.reduction == "batch_token_mean" and lora.model.recipe.steps is not None
    assert [len(step) for step in lora.model.recipe.steps[:3]] == [4, 4, 2]
    found_C = horizons(lora.model, lora.model.states)
    np.testing.assert_allclose(found_C, np.split(_all_rates(lora), EPOCHS) @ np.array([4, 4, 2]))
    np.testing.assert_allclose(mean_rates(lora.model, lora.model.states), epoch_rates())


def _all_rates(lora: AdamWorld) -> np.ndarray:
    """By Transformers' own formula: a linear climb over the first tenth, then down to zero."""
    training, steps = lora.model.recipe.training, 3 * EPOCHS
    assert training is not None
    return np.array([training.learning_rate * (0 if s == 0 else (steps - s) / (steps - 1)) for s in range(steps)])


def expected_scores(index: OpenIndex, world: AdamWorld, parts: Sequence[Sequence[int]], adam: bool) -> np.ndarray:
    """Every module's matrices in full, from the stored statistics; one query gradient, at the end."""
    horizons_C = horizons(world.model, world.model.states)
    gradients = [world.gradients(state) for state in range(EPOCHS)]
    arrays = [index.store.load_tensors(f"checkpoint-{c:03d}") for c in range(EPOCHS)]
    scores_N = np.zeros(ROWS)
    for module in world.tracked:
        v_d = gradients[-1][QUERY][module.name].flatten()
        for part in reversed(parts):
            h_dd = torch.stack([_curvature(arrays[c], module) for c in part]).mean(0)
            seconds = [_second(world, c, module) for c in part]
            p_d = 1 / (torch.stack(seconds).mean(0).sqrt() + 1e-5) if adam else torch.ones(module.parameters)
            u_dd, s_dd = by_matrices(h_dd, p_d.double(), float(horizons_C[list(part)].sum()))
            for c in part:
                for row in range(ROWS):
                    g_d = world.weights[row] * gradients[c][row][module.name].flatten()
                    scores_N[row] += float(v_d @ u_dd @ g_d) / len(part)
            v_d = s_dd.T @ v_d
    return scores_N


def _curvature(arrays: dict[str, np.ndarray], module: TrackedModule) -> Tensor:
    def read(name: str) -> Tensor:
        return torch.from_numpy(arrays[name])

    moments_OI = read(f"eigen|{module.name}") / int(arrays["counts"][0])
    moments_OI = moments_OI + 1e-3 * moments_OI.mean()  # the index's own damping, so that H has an inverse
    return dense(read(f"outputs_basis|{module.name}"), read(f"inputs_basis|{module.group}"), moments_OI)


def _second(world: AdamWorld, state: int, module: TrackedModule) -> Tensor:
    saved = world.state_file(state)
    second = saved[f"exp_avg_sq.{module.path.removesuffix('.default')}.weight"].double()
    return (second / (1 - 0.95 ** float(saved["step"]))).flatten()


@pytest.mark.parametrize(
    ("segments", "parts"), [(None, [[0], [1], [2]]), (2, [[0, 1], [2]]), (1, [[0, 1, 2]]), (9, [[0], [1], [2]])]
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_scores_are_those_of_dense_matrices(
    lora: AdamWorld, optimizer: str, segments: int | None, parts: list[list[int]]
) -> None:
    options: dict[str, Any] = {"optimizer": optimizer, "segments": segments, "damping": 1e-3}
    with lora.index("source", **options) as index:
        found_N = lora.scores(index)
        expected_N = expected_scores(index, lora, parts, optimizer == "adam")
    assert_scores(found_N, expected_N, 1e-4)


def test_only_the_last_weights_see_the_query(lora: AdamWorld) -> None:
    """Its gradient at an earlier checkpoint would give other scores; f is the tuned model's."""
    with lora.index("source") as index:
        states = [features.query_state for features in index.features]  # type: ignore[attr-defined]
        assert all(state is lora.model.states[-1] for state in states)
        assert [f.state for f in index.features] == lora.model.states
        value = answer(index, lora.query).measurement.value
    lora.model.use(-1)
    with torch.no_grad():
        assert value == pytest.approx(float(oracles.log_prob(lora.model, lora.rows[QUERY])), rel=1e-5)


def test_shares_add_up_over_segments(lora: AdamWorld) -> None:
    with lora.index("source", segments=2) as index:
        result = answer(index, Query(prompt="a", completion=" do"), AskOptions(top_k=3, tokens=True, modules=True))
    assert result.additive and result.proponents
    for hit in (*result.proponents, *result.opponents):
        assert hit.module_scores and hit.train_position_shares and hit.position_shares and hit.query_token_scores
        assert hit.normalized_score is None
        shares = (hit.module_scores.values(), hit.train_position_shares, hit.position_shares, hit.query_token_scores)
        for parts in shares:
            assert sum(parts) == pytest.approx(hit.score, rel=1e-3, abs=1e-6)


def test_what_is_missing_is_named_with_its_remedy(lora: AdamWorld, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(MissingNeed, match="at least two") as caught:
        lora.index("source", checkpoints="final")
    assert "ekfac" in caught.value.remedy
    dense_world = gpt2_world(tmp_path_factory.mktemp("source-gpt2"))
    with pytest.raises(MissingNeed, match="at least two"):
        dense_world.index("source")
    before = lora.model.recipe
    try:
        lora.model.recipe = Recipe()
        with pytest.raises(MissingNeed, match="recipe"):
            lora.index("source")
    finally:
        lora.model.recipe = before


def test_without_adams_state_the_sgd_form_is_left(lora: AdamWorld) -> None:
    file = lora.model.states[0].path / "optimizer.safetensors"
    aside = file.rename(file.with_suffix(".aside"))
    try:
        with pytest.raises(MissingNeed, match="Adam"):
            lora.index("source")
        with lora.index("source", optimizer="sgd") as index:
            assert lora.scores(index).any()
    finally:
        aside.rename(file)
