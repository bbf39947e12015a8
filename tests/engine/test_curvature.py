"""Metrics against explicit matrices, in float64: whitening is the inverse it claims to be (DESIGN §4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import GradientCapture
from engine.config import ModelConfig, Recipe
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics
from engine.curvature.fit import (
    calibration_rows,
    fit_statistics,
    statistics_from_arrays,
    statistics_to_arrays,
)
from engine.curvature.labels import LabelDraws, gumbel_table, row_key
from engine.features import GradientFeatures
from engine.model import LoadedModel, load_model
from engine.modules import TrackedModule
from engine.rows import Batcher
from engine.sketch import Projection
from engine.text import Encoded
from engine.types import Example
from tests import factories, oracles

DAMPING = 0.03
DRAWS = LabelDraws(seed=0, checkpoint=0, row_keys=[str(position) for position in range(400)])


def build(root: Path, kind: str) -> LoadedModel:
    base = factories.gpt2(hidden=8, layers=1) if kind == "gpt2" else factories.llama(hidden=8, layers=1)
    factories.save_base(root / "base", base)
    adapter = str(factories.save_adapter(root / "adapter", base, 1, r=2)) if kind == "lora" else None
    return load_model(ModelConfig(base=str(root / "base"), adapter=adapter, dtype="float64", recipe=Recipe()))


@pytest.fixture(scope="module", params=["llama", "gpt2", "lora"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return build(tmp_path_factory.mktemp(request.param), request.param)


def encode(model: LoadedModel, count: int, seed: int = 0) -> list[Encoded]:
    encoder = model.encoder()
    rows = factories.sentences(count, seed, longest=3)
    return [encoder.encode(Example(r["id"], prompt=r["prompt"], completion=r["completion"])) for r in rows]


class Fitted:
    """Statistics of one model on `rows`, and the labels that were drawn, seen from outside."""

    def __init__(self, model: LoadedModel, rows: list[Encoded], metric: str, budget: int = 200) -> None:
        self.model, self.rows, self.metric = model, rows, get_metric(metric)
        self.tracked = model.tracked(None)
        self.labels: dict[int, Tensor] = {}
        batcher = Batcher(model, budget)

        def batches() -> Iterable[PaddedBatch]:
            ones = [1.0] * len(rows)
            return (batch.padded for batch in batcher.batches(rows, ones, list(range(len(rows)))))

        with GradientCapture(model, self.tracked) as capture:
            self.statistics = fit_statistics(capture, batches, self.metric, DRAWS)

    def features(self, width: int | None = None) -> GradientFeatures:
        setting = Setting(self.statistics, Projection(width, 0, 0), DAMPING, torch.float64, torch.device("cpu"))
        sketches = self.metric.module_sketches(self.tracked, setting)
        return GradientFeatures(self.model, -1, self.tracked, sketches, unit_norm=False)

    def whitened(self, encoded: Encoded, width: int | None = None) -> dict[str, Tensor]:
        features = self.features(width)
        with GradientCapture(self.model, self.tracked) as capture:
            batch = next(Batcher(self.model, 4096).batches([encoded], [1.0], [0])).padded
            vector = features.compute(capture, batch).vectors_BD[0]
        shapes = [features.sketches[m.name].shape for m in self.tracked]
        parts = vector.split([rows * cols for rows, cols in shapes])
        return {m.name: part.view(shape) for m, part, shape in zip(self.tracked, parts, shapes, strict=True)}


def drawn_labels(model: LoadedModel, encoded: Encoded, position: int, draws: LabelDraws = DRAWS) -> list[int]:
    """The labels that LabelDraws draws, recomputed from their definition for one unpadded sequence."""
    uniforms = draws.uniforms(position, 200)
    logits_TV = model.module(input_ids=torch.tensor([encoded.ids])).logits[0]
    table_S = gumbel_table(logits_TV.device)
    labels = list(encoded.ids)
    for t in range(1, len(labels)):
        place = int(uniforms[t] * (len(table_S) - logits_TV.shape[1] + 1))
        labels[t] = int((logits_TV[t - 1] + table_S[place : place + logits_TV.shape[1]]).argmax())
    return labels


def sampled_gradients(fitted: Fitted) -> list[dict[str, Tensor]]:
    """With the labels of the second pass."""
    model, fresh = fitted.model, replace(DRAWS, fresh=True)
    return [
        oracles.example_gradients(model, fitted.tracked, row, drawn_labels(model, row, position, fresh))
        for position, row in enumerate(fitted.rows)
    ]


def test_kfac_whitening_equals_the_explicit_inverse(model: LoadedModel) -> None:
    """⟨Ĝ₁,Ĝ₂⟩ = vec(G₁)ᵀ [T̄·(A+λ_A)⊗(S+λ_S)]⁻¹ vec(G₂), per module."""
    rows = encode(model, 6)
    fitted = Fitted(model, rows, "kfac")
    one, two = rows[0], rows[1]
    white_1, white_2 = fitted.whitened(one), fitted.whitened(two)
    exact_1 = oracles.example_gradients(model, fitted.tracked, one)
    exact_2 = oracles.example_gradients(model, fitted.tracked, two)
    for module in fitted.tracked:
        h = _explicit_kfac(fitted, module)
        # column-major vec of an O×I matrix pairs with A⊗S
        g_1, g_2 = exact_1[module.name].T.flatten(), exact_2[module.name].T.flatten()
        expected = g_1 @ torch.linalg.solve(h, g_2)
        found = (white_1[module.name] * white_2[module.name]).sum()
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def _explicit_kfac(fitted: Fitted, module: TrackedModule) -> Tensor:
    statistics = fitted.statistics
    a = statistics.inputs[module.group] / statistics.positions
    s = statistics.outputs[module.name] / statistics.positions
    mean_length = sum(len(row.ids) for row in fitted.rows) / len(fitted.rows)
    a = a + DAMPING**0.5 * a.trace() / module.inputs * torch.eye(module.inputs, dtype=torch.float64)
    s = s + DAMPING**0.5 * s.trace() / module.outputs * torch.eye(module.outputs, dtype=torch.float64)
    return mean_length * torch.kron(a, s)


def test_covariances_equal_a_loop_over_positions(model: LoadedModel) -> None:
    rows = encode(model, 5)
    fitted = Fitted(model, rows, "kfac", budget=150)
    seen: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    handles = []
    for module in fitted.tracked:
        layer = model.module.get_submodule(module.path)

        def hook(_layer, inputs, output, module=module):  # type: ignore[no-untyped-def]
            a_TI = inputs[0][0].detach()
            seen[module.group] = torch.cat([a_TI, torch.ones(len(a_TI), 1)], 1) if module.bias else a_TI
            output.retain_grad()
            gradients[module.name] = output

        handles.append(layer.register_forward_hook(hook))
    sums_a: dict[str, Tensor] = {}
    sums_s: dict[str, Tensor] = {}
    model.module.requires_grad_(True)
    for position, row in enumerate(rows):
        labels = drawn_labels(model, row, position)
        oracles.log_prob(model, row, labels).backward()
        for group, a_TI in seen.items():
            sums_a[group] = sums_a.get(group, 0) + sum(torch.outer(a, a) for a in a_TI)
        for name, output in gradients.items():
            sums_s[name] = sums_s.get(name, 0) + sum(torch.outer(d, d) for d in output.grad[0])
    for handle in handles:
        handle.remove()
    model.module.requires_grad_(False)
    model.module.zero_grad()
    assert fitted.statistics.positions == sum(len(row.ids) for row in rows)
    for group, expected in sums_a.items():
        torch.testing.assert_close(fitted.statistics.inputs[group], expected, rtol=1e-9, atol=1e-9)
    for name, expected in sums_s.items():
        torch.testing.assert_close(fitted.statistics.outputs[name], expected, rtol=1e-9, atol=1e-9)


def test_ekfac_whitening_equals_its_explicit_eigen_form(model: LoadedModel) -> None:
    """⟨Ĝ₁,Ĝ₂⟩ = Σ (Q_SᵀG₁Q_A)(Q_SᵀG₂Q_A)/(Λ+λ), Λ the mean over examples of squared rotated gradients."""
    rows = encode(model, 6)
    fitted = Fitted(model, rows, "ekfac")
    sampled = sampled_gradients(fitted)
    one, two = fitted.whitened(rows[0]), fitted.whitened(rows[1])
    exact_1 = oracles.example_gradients(model, fitted.tracked, rows[0])
    exact_2 = oracles.example_gradients(model, fitted.tracked, rows[1])
    statistics = fitted.statistics
    for module in fitted.tracked:
        q_s, q_a = statistics.outputs_basis[module.name], statistics.inputs_basis[module.group]
        _assert_eigenbasis(q_s, statistics.outputs[module.name])
        _assert_eigenbasis(q_a, statistics.inputs[module.group])
        moments = torch.stack([(q_s.T @ g[module.name] @ q_a) ** 2 for g in sampled]).mean(0)
        denominator = moments + DAMPING * moments.mean()
        rotated = (q_s.T @ exact_1[module.name] @ q_a) * (q_s.T @ exact_2[module.name] @ q_a)
        found = (one[module.name] * two[module.name]).sum()
        torch.testing.assert_close(found, (rotated / denominator).sum(), rtol=1e-8, atol=1e-8)


def _assert_eigenbasis(q: Tensor, matrix: Tensor) -> None:
    identity = torch.eye(len(q), dtype=torch.float64)
    torch.testing.assert_close(q.T @ q, identity, rtol=1e-9, atol=1e-9)
    rotated = q.T @ matrix @ q
    assert (rotated - torch.diag(rotated.diagonal())).abs().max() <= 1e-9 * matrix.abs().max()


@pytest.mark.parametrize("metric", ["kfac", "ekfac"])
def test_statistics_do_not_depend_on_batching(model: LoadedModel, metric: str) -> None:
    rows = encode(model, 7)
    small, large = Fitted(model, rows, metric, budget=1), Fitted(model, rows, metric, budget=4096)
    for part in ("inputs", "outputs", "eigen"):
        for name, tensor in getattr(small.statistics, part).items():
            other = getattr(large.statistics, part)[name]
            torch.testing.assert_close(tensor, other, rtol=1e-8, atol=1e-8 * float(tensor.abs().max()))


@pytest.mark.parametrize("metric", ["kfac", "ekfac"])
@pytest.mark.parametrize("factor", [3.0, 0.25])
def test_gauge_scaling_lora_a_and_b_leaves_scores_unchanged(tmp_path: Path, metric: str, factor: float) -> None:
    """A → sA, B → B/s is the same function; whitened scores must not see it (plain gradients do)."""
    model = build(tmp_path, "lora")
    rows = encode(model, 6)

    def scores(name: str) -> Tensor:
        fitted = Fitted(model, rows, name)
        vectors = [torch.cat([p.flatten() for p in fitted.whitened(row).values()]) for row in rows[:3]]
        return torch.stack(vectors) @ torch.stack(vectors).T

    before, plain_before = scores(metric), scores("identity")
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if "lora_A" in name:
                parameter *= factor
            elif "lora_B" in name:
                parameter /= factor
    torch.testing.assert_close(scores(metric), before, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(scores("identity"), plain_before, rtol=1e-2)


def test_b_equal_zero_gives_zero_not_nan(tmp_path: Path) -> None:
    """At the start of training lora_B = 0, so every lora_A gradient is zero."""
    base = factories.llama(hidden=8, layers=1)
    factories.save_base(tmp_path / "base", base)
    adapter = factories.save_adapter(tmp_path / "adapter", base, 1, r=2, zero_b=True)
    model = load_model(ModelConfig(str(tmp_path / "base"), adapter=str(adapter), dtype="float64", recipe=Recipe()))
    rows = encode(model, 4)
    for metric in ("kfac", "ekfac"):
        parts = Fitted(model, rows, metric).whitened(rows[0])
        assert all(torch.isfinite(part).all() for part in parts.values())
        assert all(not part.any() for name, part in parts.items() if name.endswith("lora_A"))
        assert all(part.any() for name, part in parts.items() if name.endswith("lora_B"))


@pytest.mark.parametrize("metric", ["kfac", "ekfac"])
def test_sketched_whitening_is_the_projection_of_the_exact_one(model: LoadedModel, metric: str) -> None:
    """Preconditioning comes first: the sketch is L·Ĝ·Rᵀ of the whitened gradient."""
    rows = encode(model, 5)
    fitted = Fitted(model, rows, metric)
    exact, sketched = fitted.whitened(rows[0]), fitted.whitened(rows[0], width=4)
    projection = Projection(4, 0, 0)
    for module in fitted.tracked:
        expected = exact[module.name]
        if (left := projection.left(module)) is not None:
            expected = torch.from_numpy(left) @ expected
        if (right := projection.right(module)) is not None:
            expected = expected @ torch.from_numpy(right).T
        torch.testing.assert_close(sketched[module.name], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("metric", ["kfac", "ekfac"])
def test_statistics_survive_the_way_to_disk(model: LoadedModel, metric: str) -> None:
    fitted = Fitted(model, encode(model, 4), metric)
    read = statistics_from_arrays(statistics_to_arrays(fitted.statistics, torch.float64))
    before = fitted.whitened(fitted.rows[0])
    fitted.statistics = read
    for name, part in fitted.whitened(fitted.rows[0]).items():
        # not bit for bit: eigenvectors come column-major from eigh and row-major from disk
        torch.testing.assert_close(part, before[name], rtol=1e-12, atol=1e-12)


def test_sampled_labels_follow_the_models_distribution(tmp_path: Path) -> None:
    """Over many rows the drawn labels' mean log-probability is the negative entropy, not that of the data."""
    model = build(tmp_path, "llama")
    row = encode(model, 1)[0]
    log_p = model.module(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)[:-1]
    drawn = torch.tensor([drawn_labels(model, row, position) for position in range(400)])
    mean = log_p[:-1].gather(1, drawn[:, 1:].T).mean(1)
    assert (mean + entropy).abs().max() < 0.35
    assert float((mean + entropy).mean().abs()) < 0.05


def test_calibration_rows_are_distinct_and_the_same_in_any_order() -> None:
    keys = [row_key([i, 7]) for i in range(300)]
    assert calibration_rows(keys[:5], 9) == [0, 1, 2, 3, 4]
    chosen = calibration_rows(keys, 64)
    assert len(set(chosen)) == 64 and chosen == sorted(chosen) and chosen != list(range(64))
    backwards = calibration_rows(keys[::-1], 64)
    assert {keys[i] for i in chosen} == {keys[::-1][i] for i in backwards}


def test_identity_needs_no_pass() -> None:
    metric = get_metric("identity")
    assert not metric.needs_covariance and not metric.needs_eigen
    assert Statistics(4, 20).mean_length == 5
