"""Gauss-Newton products against explicit Jacobians and the exact Fisher.

Shapes: K vectors, V vocabulary, D the numbers of all tracked modules' gradients.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import ggn
from engine.batching import PaddedBatch
from engine.capture import GradientCapture
from engine.config import ModelConfig
from engine.curvature import get_metric
from engine.curvature.fit import fit_statistics
from engine.curvature.labels import LabelDraws, row_key
from engine.errors import UnsupportedModel
from engine.ggn import GaussNewton, mean_diagonals, split
from engine.rows import Batcher
from engine.text import Encoded
from tests import factories, oracles
from tests.engine.adam_world import AdamWorld, gpt2_world, lora_world
from tests.engine.curvature_oracle import gauss_newton

SAMPLE = 3


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdamWorld]:
    return {
        "lora": lora_world(tmp_path_factory.mktemp("ggn-lora")),
        "dense": gpt2_world(tmp_path_factory.mktemp("ggn-dense")),
        "dora": dora_world(tmp_path_factory.mktemp("ggn-dora")),
    }


def dora_world(root: Path) -> AdamWorld:
    base = factories.llama(hidden=8, layers=1)
    factories.save_base(root / "base", base)
    adapter = factories.save_adapter(root / "adapter", base, 1, r=2, use_dora=True)
    config = ModelConfig(str(root / "base"), adapter=str(adapter), dtype="float64")
    return AdamWorld(root, config, factories.dataset(root / "data", factories.sentences(5, seed=3, longest=3)))


def batches(world: AdamWorld, power: float = 1.0, budget: int = 4096, rows: int = SAMPLE) -> list[PaddedBatch]:
    weights = [w**power for w in world.weights[:rows]]
    return [b.padded for b in Batcher(world.model, budget).batches(world.rows[:rows], weights, list(range(rows)))]


def product(world: AdamWorld, padded: list[PaddedBatch], state: int = -1) -> GaussNewton:
    return GaussNewton(world.model, world.model.states[state], world.tracked, lambda: padded)


def vectors(world: AdamWorld, count: int = 2) -> Tensor:
    size = sum(module.parameters for module in world.tracked)
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_near(found_KD: Tensor, expected_KD: Tensor) -> None:
    """Llama's norms work in float32 whatever the model."""
    assert float((found_KD - expected_KD).abs().max()) <= 3e-6 * float(expected_KD.abs().max())


@pytest.mark.parametrize("kind", ["lora", "dense", "dora"])
def test_a_product_is_that_of_the_explicit_matrix(worlds: dict[str, AdamWorld], kind: str) -> None:
    """LoRA's A and B, Conv1D with biases, DoRA's magnitudes; rows of several lengths in one padded batch."""
    world, v_KD = worlds[kind], vectors(worlds[kind])
    assert len({len(row.ids) for row in world.rows[:SAMPLE]}) > 1
    for state in {0, len(world.model.states) - 1}:
        found_KD = product(world, batches(world), state)(v_KD)
        world.model.use(state)
        matrix_DD = gauss_newton(world.model, world.tracked, world.rows[:SAMPLE], world.weights[:SAMPLE])
        assert_near(found_KD, v_KD @ matrix_DD)
    assert not any(p.requires_grad for p in world.model.module.parameters())


def test_it_is_the_fisher_of_the_models_own_labels(worlds: dict[str, AdamWorld]) -> None:
    """Of a row with one target: Σ_y p(y) g_y g_yᵀ over every label y of the vocabulary."""
    world, v_KD = worlds["lora"], vectors(worlds["lora"])
    row = only_last_target(world.rows[0])
    padded = [b.padded for b in Batcher(world.model, 100).batches([row], [0.3], [0])]
    found_KD = product(world, padded)(v_KD)
    world.model.use(-1)
    expected_KD = torch.zeros_like(v_KD)
    last = len(row.ids) - 1
    for label in range(factories.VOCABULARY):
        labels = [*row.ids[:last], label]
        g_D = oracles.flat(oracles.example_gradients(world.model, world.tracked, row, labels), world.tracked)
        with torch.no_grad():
            p = oracles.log_prob(world.model, row, labels).exp()
        expected_KD += 0.3 * p * (v_KD @ g_D)[:, None] * g_D
    assert_near(found_KD, expected_KD)


def only_last_target(row: Encoded) -> Encoded:
    assert row.targets[-1]
    return replace(row, targets=tuple(t == len(row.ids) - 1 for t in range(len(row.ids))))


@pytest.mark.parametrize("kind", ["lora", "dense"])
def test_it_depends_neither_on_batches_nor_on_neighbours_nor_on_a_second_call(
    worlds: dict[str, AdamWorld], kind: str
) -> None:
    world, v_KD = worlds[kind], vectors(worlds[kind], 3)
    together_KD = product(world, batches(world))(v_KD)
    single = batches(world, budget=1)
    assert len(single) == SAMPLE and len(batches(world)) == 1
    assert_near(product(world, single)(v_KD), together_KD)
    assert_near(product(world, batches(world))(v_KD[1:2]), together_KD[1:2])
    assert torch.equal(product(world, batches(world))(v_KD), together_KD)  # dropout is off


def test_open_hooks_of_a_capture_change_nothing(worlds: dict[str, AdamWorld]) -> None:
    world, v_KD = worlds["lora"], vectors(worlds["lora"])
    alone_KD = product(world, batches(world))(v_KD)
    with GradientCapture(world.model, world.tracked):
        assert torch.equal(product(world, batches(world))(v_KD), alone_KD)


@pytest.mark.parametrize("kind", ["lora", "dense"])
def test_mean_diagonals_are_ekfacs_mean_moments(worlds: dict[str, AdamWorld], kind: str) -> None:
    """So that one damping means the same to both: the very labels, whatever the basis."""
    world = worlds[kind]
    draws = LabelDraws(0, 0, [row_key(row.ids) for row in world.rows])
    rooted = batches(world, 0.5)
    with GradientCapture(world.model, world.tracked) as capture:
        statistics = fit_statistics(capture, lambda: rooted, get_metric("ekfac"), draws)
        found = mean_diagonals(capture, world.model.states[-1], rooted, replace(draws, fresh=True).sampler)
    for module in world.tracked:
        expected = float(statistics.eigen[module.name].mean()) / statistics.examples
        assert found[module.name] == pytest.approx(expected, rel=1e-9)


def test_drawn_labels_have_the_exact_trace_on_average(worlds: dict[str, AdamWorld]) -> None:
    world = worlds["lora"]
    world.model.use(-1)
    matrix_DD = gauss_newton(world.model, world.tracked, world.rows[:SAMPLE], world.weights[:SAMPLE])
    diagonal = {name: float(part.mean()) for name, part in split(matrix_DD.diagonal()[None], world.tracked).items()}
    keys = [row_key(row.ids) for row in world.rows]
    seen = []
    with GradientCapture(world.model, world.tracked) as capture:
        for seed in range(150):
            sampler = LabelDraws(seed, 0, keys, fresh=True).sampler
            seen.append(mean_diagonals(capture, world.model.states[-1], batches(world, 0.5), sampler))
    for name, expected in diagonal.items():
        values = torch.tensor([one[name] for one in seen])
        assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / len(seen) ** 0.5


def test_what_has_no_forward_derivative_is_named(worlds: dict[str, AdamWorld], monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds["lora"]
    quantised = replace(world.model.config, quantization="4bit")
    refused, v_KD = product(world, batches(world)), vectors(world)
    with monkeypatch.context() as patched:
        patched.setattr(world.model, "config", quantised)
        with pytest.raises(UnsupportedModel, match="quantised"):
            refused(v_KD)

    def refuse(*_: object) -> None:
        raise RuntimeError("Trying to use forward AD with some_kernel\nand more")

    monkeypatch.setattr(ggn.forward_mode, "unpack_dual", refuse)
    with pytest.raises(UnsupportedModel, match=r"some_kernel$"):
        refused(v_KD)
