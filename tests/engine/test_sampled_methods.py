"""fisher, datainf, logra and trak through build_index() and score_query(), against autograd and explicit matrices.

Shapes: N rows, S of them sampled, D numbers of a checkpoint, P a sketch's numbers, C checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.answer import score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.curvature.fit import calibration_rows, statistics_from_arrays
from engine.curvature.labels import LabelDraws, row_key
from engine.errors import InvalidOption
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.types import AskOptions, Query
from tests import factories, oracles
from tests.engine.contract_world import World, answer, magnitude
from tests.engine.test_curvature import drawn_labels

ROWS, SAMPLE, WIDTH = 10, 6, 3
FLOAT64 = torch.float64


class Small:
    """A float64 Llama with two LoRA checkpoints; every row's exact gradients by autograd, one row at a time."""

    def __init__(self, root: Path) -> None:
        base = factories.llama(hidden=8, layers=1)
        factories.save_base(root / "base", base)
        adapters = tuple(str(factories.save_adapter(root / f"epoch-{i}", base, i, r=2)) for i in (1, 2))
        config = ModelConfig(str(root / "base"), checkpoints=adapters, dtype="float64", recipe=Recipe())
        self.root, self.model = root, load_model(config)
        self.dataset = factories.dataset(root / "data", factories.sentences(ROWS, seed=3, longest=3))
        self.tracked = self.model.tracked(None)
        self.rows = [self.model.encoder().encode(example) for example in self.dataset]
        self.chosen = calibration_rows([row_key(row.ids) for row in self.rows], SAMPLE)
        self._built = 0

    def index(self, method: str, checkpoints: Any = "final", **method_options: Any) -> OpenIndex:
        self._built += 1
        path = self.root / f"index-{self._built}"
        width = WIDTH if method in ("logra", "trak") else 0
        options = IndexOptions(dtype="float32", projection_dim=width, curvature_rows=SAMPLE)
        config = IndexConfig(method, checkpoints, options, method_options)
        build_index(self.model, self.dataset, config, path, factories.ignore)
        return OpenIndex(self.model, self.dataset, path)

    def scores(self, index: OpenIndex, row: int = 4) -> np.ndarray:
        return score_query(index, self.query(row)).astype(np.float64)

    def query(self, row: int) -> Query:
        return Query(prompt=self.dataset[row].prompt, completion=self.dataset[row].completion)

    def gradients(self, state: int = -1) -> list[dict[str, Tensor]]:
        self.model.use(state)
        return [oracles.example_gradients(self.model, self.tracked, row) for row in self.rows]

    def drawn(self, state: int = -1) -> list[dict[str, Tensor]]:
        """The sample's gradients of labels drawn from the model."""
        self.model.use(state)
        draws = LabelDraws(0, 0, [row_key(row.ids) for row in self.rows])
        labels = [drawn_labels(self.model, self.rows[i], i, draws) for i in self.chosen]
        return [
            oracles.example_gradients(self.model, self.tracked, self.rows[i], label)
            for i, label in zip(self.chosen, labels, strict=True)
        ]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("lora"), "lora")


def block(parts: list[dict[str, Tensor]], module: str) -> Tensor:
    return torch.stack([part[module].flatten() for part in parts])


def flat(small: Small, parts: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([oracles.flat(part, small.tracked) for part in parts])


def fisher(sample_SD: Tensor, damping: float) -> Tensor:
    moment = torch.stack([torch.outer(x, x) for x in sample_SD]).sum(0) / len(sample_SD)
    return moment + damping * moment.trace() / len(moment) * torch.eye(len(moment), dtype=FLOAT64)


def assert_scores(found_N: np.ndarray, expected_N: Tensor, tolerance: float = 2e-5) -> None:
    """Stored in float32: relative to the largest score."""
    expected = expected_N.numpy()
    assert np.abs(found_N - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("labels", ["own", "drawn"])
@pytest.mark.parametrize("blocks", ["module", "all"])
def test_fisher_scores_equal_explicit_solves(small: Small, labels: str, blocks: str) -> None:
    """Six of ten rows make the Fisher, which every row and the query are then whitened by."""
    rows = small.gradients()
    sample = small.drawn() if labels == "drawn" else [rows[i] for i in small.chosen]
    with small.index("fisher", labels=labels, blocks=blocks, damping=0.05) as index:
        found = small.scores(index)
    if blocks == "all":
        z_ND = flat(small, rows)
        expected = z_ND @ torch.linalg.solve(fisher(flat(small, sample), 0.05), z_ND[4])
    else:
        expected = torch.zeros(ROWS, dtype=FLOAT64)
        for module in small.tracked:
            z_ND = block(rows, module.name)
            expected += z_ND @ torch.linalg.solve(fisher(block(sample, module.name), 0.05), z_ND[4])
    assert_scores(found, expected)


def test_datainf_scores_equal_the_papers_sum(small: Small) -> None:
    rows = small.gradients()
    expected = torch.zeros(ROWS, dtype=FLOAT64)
    for module in small.tracked:
        z_ND = block(rows, module.name)
        sample_SD = z_ND[small.chosen]
        level = 0.1 * sample_SD.square().mean()  # the authors' code: a tenth of the mean square
        for g in sample_SD:
            expected += (z_ND @ z_ND[4] - (z_ND[4] @ g) / (level + g @ g) * (z_ND @ g)) / (SAMPLE * level)
    with small.index("datainf") as index:
        assert_scores(small.scores(index), expected)


@pytest.mark.parametrize("init", ["random", "pca"])
def test_logra_scores_equal_the_fisher_of_projected_gradients(small: Small, init: str) -> None:
    rows = small.gradients()
    expected = torch.zeros(ROWS, dtype=FLOAT64)
    with small.index("logra", init=init) as index:
        assert index.store.has_tensors("checkpoint-000") == (init == "pca")
        for module in small.tracked:
            left, right = _sides(index, module, init)
            phi_NP = torch.stack([(left @ part[module.name] @ right.T).flatten() for part in rows])
            assert phi_NP.shape[1] <= WIDTH**2
            expected += phi_NP @ torch.linalg.solve(fisher(phi_NP[small.chosen], 0.1), phi_NP[4])
        assert_scores(small.scores(index), expected)


def _sides(index: OpenIndex, module: Any, init: str) -> tuple[Tensor, Tensor]:
    projection = index.plan.projection(0)
    sides = [projection.left(module), projection.right(module)]
    if init == "random":
        wide = (module.outputs, module.inputs)
        left, right = (np.eye(w) if side is None else side for w, side in zip(wide, sides, strict=True))
        return torch.from_numpy(left), torch.from_numpy(right)
    statistics = statistics_from_arrays(index.store.load_tensors("checkpoint-000"))
    covariances = (statistics.outputs[module.name], statistics.inputs[module.group])
    left, right = (torch.linalg.svd(c.double())[0].T[:WIDTH] for c in covariances)
    return left, right


@pytest.mark.parametrize(("checkpoints", "states"), [("final", [1]), ("all", [0, 1])])
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_trak_equals_the_papers_formula(small: Small, checkpoints: str, states: list[int], damping: float) -> None:
    """[1/C Σ_c φ_c(q)ᵀ(Φ_cᵀΦ_c)⁻¹Φ_cᵀ]·[1/C Σ_c Q_c], times S·C, the projection being the index's own."""
    with small.index("trak", checkpoints, damping=damping) as index:
        found = small.scores(index)
        first_N, left_N = np.zeros(ROWS), np.zeros(ROWS)
        for number, state in enumerate(states):
            phi_NP, probability_N = _log_odds(small, index, number, state)
            sample_SP = phi_NP[small.chosen]
            kernel = sample_SP.T @ sample_SP
            kernel += damping * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
            inverse = np.linalg.pinv(kernel, rcond=1e-9, hermitian=True)
            first_N += phi_NP[4] @ inverse @ phi_NP.T / len(states)
            left_N += (1 - probability_N) / len(states)
    assert_scores(found, torch.from_numpy(SAMPLE * len(states) * first_N * left_N), 1e-4)


def _log_odds(small: Small, index: OpenIndex, number: int, state: int) -> tuple[np.ndarray, np.ndarray]:
    """(projected gradients of Σ log(p/(1−p)) [N, P], mean target probabilities [N]), by autograd."""
    small.model.use(state)
    small.model.module.requires_grad_(True)
    phis, probabilities = [], []
    for row in small.rows:
        targets = [t for t in range(1, len(row.ids)) if row.targets[t]]
        logits_TV = small.model.module(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        p_J = torch.stack([logits_TV[t - 1].softmax(-1)[row.ids[t]] for t in targets])
        parts = oracles.gradients(small.model, small.tracked, torch.log(p_J / (1 - p_J)).sum())
        phis.append(torch.cat([_projected(index, number, m, parts[m.name]) for m in small.tracked]).numpy())
        probabilities.append(float(p_J.detach().mean()))
    small.model.module.requires_grad_(False)
    return np.stack(phis), np.array(probabilities)


def _projected(index: OpenIndex, number: int, module: Any, g_OI: Tensor) -> Tensor:
    projection = index.plan.projection(number)
    if (left := projection.left(module)) is not None:
        g_OI = torch.from_numpy(left) @ g_OI
    if (right := projection.right(module)) is not None:
        g_OI = g_OI @ torch.from_numpy(right).T
    return g_OI.flatten()


def test_trak_still_measures_a_log_probability(small: Small) -> None:
    """The log-odds are what is differentiated, not what f(q) says."""
    with small.index("trak") as one, small.index("graddot") as other:
        results = [answer(index, small.query(3)) for index in (one, other)]
    assert results[0].measurement.value == pytest.approx(results[1].measurement.value, rel=1e-6)
    assert results[0].tuned_minus_base == pytest.approx(results[1].tuned_minus_base, rel=1e-6)


# --- shares ---

CASES: list[tuple[str, dict[str, Any]]] = [
    ("fisher", {"blocks": "module"}),
    ("fisher", {"blocks": "all"}),
    ("datainf", {}),
    ("logra", {}),
    ("trak", {}),
]


@pytest.mark.parametrize(("method", "options"), CASES)
def test_modules_positions_and_tokens_add_up(small: Small, method: str, options: dict[str, Any]) -> None:
    """Over two checkpoints, with more rows than were sampled."""
    with small.index(method, "all", **options) as index:
        result = answer(index, small.query(3), AskOptions(top_k=4, tokens=True, modules=True))
        assert result.additive and len(result.proponents) > 0
        for hit in (*result.proponents, *result.opponents):
            scale = 1e-4 * float(magnitude(index, 3)[hit.position])
            assert hit.module_scores and hit.position_shares and hit.query_token_scores and hit.train_position_shares
            for parts in (hit.position_shares, hit.query_token_scores, hit.train_position_shares):
                assert abs(sum(parts) - hit.score) <= scale
            assert abs(sum(hit.module_scores.values()) - hit.score) <= scale
            assert len(hit.position_shares) == len(result.tokens)


def test_a_modules_part_is_that_of_the_querys_own_gradient_in_it(small: Small) -> None:
    """⟨u_m, (H⁻¹z)_m⟩: with one block over all modules H⁻¹ mixes them."""
    rows = small.gradients()
    z_ND = flat(small, rows)
    solved_ND = torch.linalg.solve(fisher(z_ND[small.chosen], 0.1), z_ND.T).T
    with small.index("fisher", blocks="all") as index:
        result = answer(index, small.query(3), AskOptions(top_k=3, modules=True))
    for hit in result.proponents:
        start = 0
        for module in small.tracked:
            stop = start + module.parameters
            expected = float(z_ND[3, start:stop] @ solved_ND[hit.position, start:stop])
            assert hit.module_scores is not None
            assert hit.module_scores[module.name] == pytest.approx(expected, abs=1e-4 * abs(hit.score))
            start = stop


@pytest.mark.parametrize(("method", "options"), CASES)
def test_a_self_score_equals_the_pairwise_diagonal(small: Small, method: str, options: dict[str, Any]) -> None:
    with small.index(method, **options) as index:
        for row in (0, 6):
            assert small.scores(index, row)[row] == pytest.approx(float(index.self_scores_NC[row, 0]), rel=1e-4)


@pytest.mark.parametrize("method", ["fisher", "datainf", "logra", "trak"])
def test_scores_do_not_depend_on_batches_or_shards(world: World, tmp_path: Path, method: str) -> None:
    reference = world.index(method, dtype="float32", curvature_rows=9)
    other = world.index(method, dtype="float16", curvature_rows=9, token_budget=40, shard_rows=5)
    for row in (2, 11):
        difference = np.abs(score_query(reference, world.query(row)) - score_query(other, world.query(row)))
        assert (difference <= 2e-3 * magnitude(reference, row) + 1e-12).all()


def test_options_are_validated(small: Small) -> None:
    with pytest.raises(InvalidOption, match="dampin"):
        small.index("fisher", dampin=0.1)
    with pytest.raises(InvalidOption, match="labels"):
        small.index("fisher", labels="true")
    with pytest.raises(InvalidOption, match="damping"):
        small.index("datainf", damping=0)


def test_b_equal_zero_gives_zero_not_nan(tmp_path: Path) -> None:
    """Where lora_B = 0 every lora_A gradient is zero: nothing was measured there."""
    base = factories.llama(hidden=8, layers=1)
    factories.save_base(tmp_path / "base", base)
    adapter = factories.save_adapter(tmp_path / "adapter", base, 1, r=2, zero_b=True)
    model: LoadedModel = load_model(ModelConfig(str(tmp_path / "base"), adapter=str(adapter), recipe=Recipe()))
    data = factories.dataset(tmp_path / "data", factories.sentences(5, longest=2))
    for method in ("fisher", "datainf", "logra", "trak"):
        build_index(model, data, IndexConfig(method), tmp_path / method, factories.ignore)
        with OpenIndex(model, data, tmp_path / method) as index:
            scores = score_query(index, Query(prompt="the cat", completion=" ran"))
        assert np.isfinite(scores).all() and scores.any()
