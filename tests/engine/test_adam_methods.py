"""tracin, less and trackstar through build_index() and score_query(), against autograd, torch.optim.Adam and matrices.

Shapes: N rows, S of them sampled, C checkpoints, P a sketch's numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.curvature.adam import AdamStepSketch, ElementSketch
from engine.curvature.trackstar import mixed, query_share, spectra
from engine.errors import EmptyCompletion, InvalidOption
from engine.opened import OpenIndex
from engine.types import AskOptions
from engine.whitening import inverse_root, spectrum_map
from tests import oracles
from tests.engine.adam_world import (
    EPOCHS,
    QUERY,
    ROWS,
    TRAINING,
    AdamWorld,
    assert_scores,
    epoch_rates,
    gpt2_world,
    lora_world,
)
from tests.engine.contract_world import answer

FLOAT64 = torch.float64
WIDTH = 3


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return lora_world(tmp_path_factory.mktemp("adam-lora"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return gpt2_world(tmp_path_factory.mktemp("adam-gpt2"))


def projected(index: OpenIndex, number: int, parts: dict[str, Tensor]) -> Tensor:
    """[P] of all modules, by the index's own sides."""
    projection, flat = index.plan.projection(number), []
    for module in index.plan.tracked:
        g_OI = parts[module.name]
        left, right = projection.left(module), projection.right(module)
        g_OI = g_OI if left is None else torch.from_numpy(left) @ g_OI
        g_OI = g_OI if right is None else g_OI @ torch.from_numpy(right).T
        flat.append(g_OI.flatten())
    return torch.cat(flat)


# --- tracin ---


def test_tracin_is_a_loop_over_checkpoints(lora: AdamWorld) -> None:
    expected_N = np.zeros(ROWS)
    for state, rate in enumerate(epoch_rates()):
        parts = [oracles.flat(part, lora.tracked) for part in lora.gradients(state)]
        for row, part in enumerate(parts):
            expected_N[row] += rate * lora.weights[row] * float(part @ parts[QUERY])
    with lora.index("tracin") as index:
        assert_scores(lora.scores(index), expected_N)


def test_tracin_of_some_checkpoints_weighs_the_steps_between_them(lora: AdamWorld) -> None:
    rates = epoch_rates()
    expected_N = np.zeros(ROWS)
    for state, rate in ((0, rates[0]), (2, (rates[1] + rates[2]) / 2)):
        parts = [oracles.flat(part, lora.tracked) for part in lora.gradients(state)]
        expected_N += [rate * w * float(part @ parts[QUERY]) for w, part in zip(lora.weights, parts, strict=True)]
    with lora.index("tracin", checkpoints=("epoch-1", "epoch-3")) as index:
        assert_scores(lora.scores(index), expected_N)


def test_tracin_adds_up_over_modules_and_positions(lora: AdamWorld) -> None:
    with lora.index("tracin") as index:
        result = answer(index, lora.query, AskOptions(top_k=3, tokens=True, modules=True))
    assert result.additive and result.proponents
    for hit in result.proponents:
        assert hit.module_scores and hit.train_position_shares and hit.position_shares
        for parts in (hit.module_scores.values(), hit.train_position_shares, hit.position_shares):
            assert sum(parts) == pytest.approx(hit.score, rel=1e-3)


# --- less ---


def test_less_is_the_cosine_with_torchs_own_adam_step(lora: AdamWorld) -> None:
    """Projected, over three epochs. Γ lowers the loss, ∇ℓ is the loss's: the two signs cancel, positive = proponent."""
    expected_N = np.zeros(ROWS)
    with lora.index("less", WIDTH) as index:
        found_N = lora.scores(index)
        for state, rate in enumerate(epoch_rates()):
            query_P = projected(index, state, {n: -g for n, g in lora.gradients(state)[QUERY].items()})
            for row in range(ROWS):
                step = lora.step_of_adam(state, row)
                step_P = projected(index, state, {m.name: step[f"{m.path}.weight"] for m in lora.tracked})
                expected_N[row] += rate * float(F.cosine_similarity(query_P, step_P, dim=0))
    assert_scores(found_N, expected_N)
    assert expected_N.min() < expected_N.max()


def test_less_on_a_dense_model_steps_conv1d_weights_as_they_are_stored(gpt2: AdamWorld) -> None:
    """Both sides in the parameters' own layout: a transposed state would move other weights."""
    gpt2.model.use(-1)
    gpt2.model.module.requires_grad_(True)
    expected_N = np.zeros(ROWS)
    for row in range(ROWS):
        step = gpt2.step_of_adam(0, row)
        named = dict(gpt2.model.module.named_parameters())
        gpt2.model.module.requires_grad_(True)
        loss = -oracles.log_prob(gpt2.model, gpt2.rows[QUERY])
        gradients = torch.autograd.grad(loss, [named[name] for name in step])
        query_D = torch.cat([g.flatten() for g in gradients])
        step_D = torch.cat([s.flatten() for s in step.values()])
        expected_N[row] = TRAINING.learning_rate * float(F.cosine_similarity(query_D, step_D, dim=0))
    gpt2.model.module.requires_grad_(False)
    with gpt2.index("less") as index:
        assert_scores(gpt2.scores(index), expected_N)


def test_less_has_shares_along_the_query_only(lora: AdamWorld) -> None:
    with lora.index("less", WIDTH) as index:
        result = answer(index, lora.query, AskOptions(top_k=3, tokens=True, modules=True))
    assert not result.additive
    for hit in (*result.proponents, *result.opponents):
        assert hit.train_position_shares is None
        assert hit.position_shares and hit.module_scores
        assert sum(hit.position_shares) == pytest.approx(hit.score, rel=1e-3, abs=1e-7)
        assert sum(hit.module_scores.values()) == pytest.approx(hit.score, rel=1e-3, abs=1e-7)


# --- trackstar ---


def corrected(world: AdamWorld, index: OpenIndex, state: int) -> list[list[Tensor]]:
    """Per row, per module: L (w·G/(√v̂+ε)) Rᵀ, flattened."""
    saved, projection = world.state_file(state), index.plan.projection(state)
    seen = 1 - TRAINING.betas[1] ** float(saved["step"])
    rows = []
    for weight, parts in zip([*world.weights, 1.0], [*(g := world.gradients(state)), g[QUERY]], strict=True):
        flat = []
        for module in world.tracked:
            second_OI = saved[f"exp_avg_sq.{module.path.removesuffix('.default')}.weight"].double()
            phi = weight * parts[module.name] / ((second_OI / seen).sqrt() + TRAINING.epsilon)
            left, right = projection.left(module), projection.right(module)
            phi = phi if left is None else torch.from_numpy(left) @ phi
            flat.append((phi if right is None else phi @ torch.from_numpy(right).T).flatten())
        rows.append(flat)
    return rows


def whitened(rows: list[list[Tensor]], chosen: list[int], damping: float) -> Tensor:
    """[rows, P], R module by module from the chosen rows."""
    columns = []
    for number in range(len(rows[0])):
        phi = torch.stack([row[number] for row in rows])
        moment = phi[chosen].T @ phi[chosen] / len(chosen)
        moment += damping * moment.trace() / len(moment) * torch.eye(len(moment), dtype=FLOAT64)
        columns.append(phi @ oracles.inverse_root(moment))
    return torch.cat(columns, 1)


def test_trackstar_equals_explicit_matrices(lora: AdamWorld) -> None:
    """Second moments, projection, R^-½, and only then unit norm."""
    expected_N, early_N = np.zeros(ROWS), np.zeros(ROWS)
    with lora.index("trackstar", WIDTH, damping=0.2) as index:
        found_N = lora.scores(index)
        for state in range(EPOCHS):
            rows = corrected(lora, index, state)
            psi = F.normalize(whitened(rows, lora.chosen, 0.2), dim=1)
            expected_N += (psi[:-1] @ psi[-1]).numpy() / EPOCHS
            norms = [torch.cat(row).norm() for row in rows]
            early = [[part / norm for part in row] for row, norm in zip(rows, norms, strict=True)]
            psi = whitened(early, lora.chosen, 0.2)
            early_N += (psi[:-1] @ psi[-1] / psi[-1].norm()).numpy() / EPOCHS
    assert_scores(found_N, expected_N)
    assert found_N[QUERY] == pytest.approx(1.0, abs=1e-5)  # a row's cosine with itself
    assert np.abs(early_N - expected_N).max() > 0.05  # so the wrong order would be seen


def test_trackstars_shares_add_up_to_its_cosine(lora: AdamWorld) -> None:
    with lora.index("trackstar", WIDTH) as index:
        result = answer(index, lora.query, AskOptions(top_k=3, tokens=True, modules=True))
    assert not result.additive and result.proponents
    for hit in result.proponents:
        assert hit.module_scores and hit.position_shares and hit.query_token_scores
        assert hit.train_position_shares is None
        for parts in (hit.module_scores.values(), hit.position_shares, hit.query_token_scores):
            assert sum(parts) == pytest.approx(hit.score, rel=1e-3)


@pytest.mark.parametrize("method", ["tracin", "less", "trackstar"])
def test_scores_do_not_depend_on_batches(lora: AdamWorld, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lora.index(method, WIDTH) as index:
        reference_N = lora.scores(index)
    monkeypatch.setattr("engine.plan._EXACT_GRADIENT_BYTES", 1)  # one row a batch where exact gradients are formed
    with lora.index(method, WIDTH) as index:
        assert index.plan.max_batch_rows == (None if method == "tracin" else 1)
        assert_scores(lora.scores(index), reference_N, 1e-5)


# --- the mix of training and query curvature ---


def test_trackstars_queries_are_mixed_into_its_second_moment(lora: AdamWorld) -> None:
    """R = λ·R_query + (1−λ)·R_train, λ where the pooled spectra meet, written out with matrices."""
    asked = [0, 1, 6]
    queries = [{"prompt": lora.dataset[n].prompt, "completion": lora.dataset[n].completion} for n in asked]
    expected_N, without_N = np.zeros(ROWS), np.zeros(ROWS)
    with lora.index("trackstar", WIDTH, damping=0.2, queries=queries) as index:
        found_N = lora.scores(index)
        for state in range(EPOCHS):
            rows = corrected(lora, index, state)
            rows += [[part / lora.weights[n] for part in rows[n]] for n in asked]  # a query has weight 1
            psi = F.normalize(_whitened_by_both(rows, lora.chosen, list(range(ROWS + 1, len(rows))), 0.2), dim=1)
            expected_N += (psi[:ROWS] @ psi[ROWS]).numpy() / EPOCHS
            psi = F.normalize(whitened(rows[: ROWS + 1], lora.chosen, 0.2), dim=1)
            without_N += (psi[:ROWS] @ psi[ROWS]).numpy() / EPOCHS
        assert index.store.manifest.options["queries"] == queries
    assert_scores(found_N, expected_N)
    assert np.abs(without_N - expected_N).max() > 0.01


def _whitened_by_both(rows: list[list[Tensor]], train: list[int], queries: list[int], damping: float) -> Tensor:
    phis = [torch.stack([row[number] for row in rows]) for number in range(len(rows[0]))]
    moments = [[phi[side].T @ phi[side] / len(side) for phi in phis] for side in (train, queries)]
    spectra = [torch.cat([torch.linalg.eigvalsh(r) for r in side]).sort(descending=True).values for side in moments]
    k = min(int((values > 1e-12 * values[0]).sum()) for values in spectra) - 1
    share = float(spectra[0][k] / (spectra[0][k] + spectra[1][k]))
    columns = []
    for phi, r_train, r_query in zip(phis, *moments, strict=True):
        r = (1 - share) * r_train + share * r_query
        r += damping * r.trace() / len(r) * torch.eye(len(r), dtype=FLOAT64)
        columns.append(phi @ oracles.inverse_root(r))
    return torch.cat(columns, 1)


def test_a_query_that_cannot_be_asked_is_named(lora: AdamWorld) -> None:
    with pytest.raises(EmptyCompletion) as caught:
        lora.index("trackstar", WIDTH, queries=[{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}])
    assert caught.value.pointer == "/options/queries/1/completion"
    with pytest.raises(InvalidOption, match="queries/0/completion"):
        lora.index("trackstar", WIDTH, queries=[{"prompt": "a"}])


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(1, 2000), st.integers(0, 99))
def test_equal_spectra_mix_half_and_half(rows: int, width: int, components: int, seed: int) -> None:
    """Rotating every block leaves the spectrum as it is: λ = ½, wherever it is read off."""
    generator = torch.Generator().manual_seed(seed)
    sample_SD = torch.randn(rows, 2 * width, generator=generator, dtype=FLOAT64)
    columns = [slice(0, width), slice(width, 2 * width)]
    turns = [torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=FLOAT64))[0] for _ in columns]
    queries_QD = torch.cat([sample_SD[:, c] @ turn for c, turn in zip(columns, turns, strict=True)], 1)
    _, share = mixed(sample_SD, queries_QD, columns, components)
    assert share == pytest.approx(0.5, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 5), st.integers(1, 12), st.integers(0, 99))
def test_a_mixed_sample_has_the_mix_of_the_two_moments(
    rows: int, queries: int, width: int, components: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sample_SD = torch.randn(rows, 2 * width, generator=generator, dtype=FLOAT64)
    queries_QD = 3 * torch.randn(queries, 2 * width, generator=generator, dtype=FLOAT64)
    columns = [slice(0, width), slice(width, 2 * width)]
    found, share = mixed(sample_SD, queries_QD, columns, components)
    train_D, query_D = (
        torch.cat([torch.linalg.eigvalsh(x[:, c].T @ x[:, c] / len(x)) for c in columns])
        .sort(descending=True)
        .values.clamp_min(0)
        for x in (sample_SD, queries_QD)
    )
    rank = min(int((values > 1e-9).sum()) for values in (train_D, query_D))
    k = min(components, rank) - 1
    assert share * query_D[k] == pytest.approx(float((1 - share) * train_D[k]), rel=1e-6)
    expected = (1 - share) * sample_SD.T @ sample_SD / rows + share * queries_QD.T @ queries_QD / queries
    torch.testing.assert_close(found.T @ found / len(found), expected, rtol=1e-9, atol=1e-9)


def test_what_all_queries_have_in_common_weighs_less_after_the_mix() -> None:
    """The purpose of A.1.3: a direction of every query, rare among the rows, is whitened away."""
    generator = torch.Generator().manual_seed(1)
    sample_SD = torch.randn(200, 6, generator=generator, dtype=FLOAT64) * 0.5
    queries_QD = torch.randn(50, 6, generator=generator, dtype=FLOAT64) * 0.3
    queries_QD[:, 0] += 4
    columns = [slice(0, 6)]
    both, share = mixed(sample_SD, queries_QD, columns, 2)
    assert share > 0.5
    common = torch.eye(6, dtype=FLOAT64)[:1]
    alone = spectrum_map(sample_SD, columns, inverse_root(0.01)).apply(common).norm()
    assert spectrum_map(both, columns, inverse_root(0.01)).apply(common).norm() < alone / 2


def test_a_side_without_directions_has_no_share() -> None:
    some, none = torch.tensor([2.0, 1.0]), torch.zeros(0)
    assert query_share(some, none) == 0.0
    assert query_share(none, some) == 1.0
    assert len(spectra(torch.zeros(3, 4, dtype=FLOAT64), [slice(0, 4)])) == 0


# --- the sketches by themselves ---


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_an_element_sketch_is_its_matrix_and_its_adjoint_the_transpose(
    outputs: int, inputs: int, positions: int, projects: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=FLOAT64)

    left, right = (normal(2, outputs), normal(3, inputs)) if projects else (None, None)
    sketch = ElementSketch(normal(outputs, inputs), left, right)
    a_BTI, d_BTO = normal(2, positions, inputs), normal(2, positions, outputs)
    phi = sketch.sketch(sketch.prepare(a_BTI), d_BTO)
    for b in range(2):
        g_OI = sum((torch.outer(d, a) for d, a in zip(d_BTO[b], a_BTI[b], strict=True)), torch.zeros(outputs, inputs))
        expected = g_OI * sketch.scale_OI
        expected = expected if left is None or right is None else left @ expected @ right.T
        torch.testing.assert_close(phi[b], expected)
        other = normal(*sketch.shape)
        torch.testing.assert_close((sketch.adjoint(other[None])[0] * g_OI).sum(), (phi[b] * other).sum())


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 50),
    st.floats(0, 0.99),
    st.floats(0, 0.999),
    st.integers(0, 99),
)
def test_a_step_sketch_is_torchs_own_step(
    outputs: int, inputs: int, step: int, beta1: float, beta2: float, seed: int
) -> None:
    """Its size too, which a cosine does not show."""
    generator = torch.Generator().manual_seed(seed)
    first_OI, g_OI = (torch.randn(outputs, inputs, generator=generator, dtype=FLOAT64) for _ in range(2))
    second_OI = torch.rand(outputs, inputs, generator=generator, dtype=FLOAT64)
    weight = torch.zeros(outputs, inputs, dtype=FLOAT64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1.0, betas=(beta1, beta2), eps=1e-4)
    moments = {"exp_avg": first_OI.clone(), "exp_avg_sq": second_OI.clone()}
    optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}
    weight.grad = -g_OI  # the loss's
    optimizer.step()
    sketch = AdamStepSketch(first_OI, second_OI, step, (beta1, beta2), 1e-4, None, None)
    eye = torch.eye(inputs, dtype=FLOAT64)[None]
    torch.testing.assert_close(sketch.sketch(eye, g_OI.T[None])[0], weight.detach(), rtol=1e-7, atol=1e-9)


def test_adams_step_is_no_linear_map() -> None:
    sketch = AdamStepSketch(torch.zeros(2, 3), torch.ones(2, 3), 4, (0.9, 0.99), 1e-8, None, None)
    assert sketch.shape == (2, 3) and not sketch.is_zero
    with pytest.raises(TypeError, match="adjoint"):
        sketch.adjoint(torch.ones(1, 2, 3))


def test_without_epsilon_an_untouched_weight_takes_no_step() -> None:
    sketch = AdamStepSketch(torch.zeros(1, 2), torch.zeros(1, 2), 1, (0.9, 0.99), 0.0, None, None)
    phi = sketch.sketch(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0]]]))
    assert torch.isfinite(phi).all() and phi[0, 0, 0] > 0 and phi[0, 0, 1] == 0
