"""Replay against finite differences in a row's weight, and whatever of the run it could get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from engine.answer import attribute
from engine.build import build_index
from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckConfig, RankedRow
from engine.causal.recipe import load_recipe
from engine.causal.replay import STATE_FILE, _Replayer, estimate_replay, replay
from engine.causal.replay_check import estimate_replay_check, run_replay
from engine.causal.retrain import Study, Variant
from engine.causal.retrainer import Retrainer
from engine.causal.train import train_lora
from engine.config import IndexConfig, Lora, ModelConfig, Training
from engine.dataset import Dataset
from engine.errors import Cancelled, InvalidOption
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import AskOptions, Attribution, Example, Progress, Query, RemovalSet
from tests import factories

ROWS = tuple(Example(row["id"], row["prompt"], row["completion"]) for row in factories.sentences(9, longest=4))
PLAIN = Training(epochs=3, batch_size=3, learning_rate=0.02, lora=Lora(2, 4), max_grad_norm=None, epsilon=1e-6)
QUERIES = (Query(prompt="a b", completion=" c d"), Query(prompt="b", completion=" a", contrast=" d"))
RECIPES = {
    "no clipping": PLAIN,
    "clipped on some steps": replace(PLAIN, max_grad_norm=0.7),
    "accumulation": replace(PLAIN, batch_size=2, accumulation=2, max_grad_norm=0.7),
    "cosine, decay, warm-up": replace(PLAIN, schedule="cosine", weight_decay=0.1, warmup_share=0.3),
    "Adam's own epsilon": replace(PLAIN, epsilon=1e-8, warmup_share=0.0),
}
STEP = 1e-6


@pytest.fixture(scope="module", autouse=True)
def norms_in_float64() -> Iterator[None]:
    """Transformers computes Llama's norms in float32 whatever the model is: differences of two trainings then have an
    error of 1 % at best (tried at steps from 1e-6 to 1e-2), where the derivative has none to speak of."""

    def exact(self: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", exact)
        yield


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    base = factories.save_base(tmp_path_factory.mktemp("replay") / "base", getattr(factories, request.param)())
    return Study(base, ROWS, PLAIN, QUERIES, dtype="float64")


def differences_QN(study: Study, rows: list[int]) -> np.ndarray:
    """Central differences: two trainings a row, all side by side."""
    variants = [
        Variant(f"{row} {sign}", study.training.seed, ((row, 1 + sign * STEP),)) for row in rows for sign in (1, -1)
    ]
    outcome_VQ = Retrainer(study).train(variants)
    return ((outcome_VQ[0::2] - outcome_VQ[1::2]) / (2 * STEP)).T


@pytest.mark.parametrize("name", RECIPES)
def test_the_derivative_is_that_of_finite_differences(study: Study, name: str) -> None:
    study = replace(study, training=RECIPES[name])
    found = replay(study)
    wanted_QN = differences_QN(study, list(range(len(ROWS))))
    assert np.isfinite(found.derivative_QN).all()
    error_Q = np.linalg.norm(found.derivative_QN - wanted_QN, axis=1) / np.linalg.norm(wanted_QN, axis=1)
    assert error_Q.max() <= 1e-5
    np.testing.assert_allclose(found.derivative_QN, wanted_QN, rtol=1e-3, atol=1e-6)


def test_clipping_is_active_on_some_steps_and_not_on_all(study: Study) -> None:
    """What the case above is for."""
    loop = Retrainer(replace(study, training=RECIPES["clipped on some steps"])).loop_of([Variant("full", 0)])
    norms: list[float] = []
    clip = loop._clip
    loop._clip = lambda grad_KP: (norms.append(float(grad_KP.norm())), clip(grad_KP))  # type: ignore[func-returns-value, method-assign]
    for number in range(loop.total):
        loop.step(number)
    assert 0 < sum(norm > 0.7 for norm in norms) < len(norms)


def test_states_trained_again_change_nothing(study: Study) -> None:
    whole = replay(study)
    one_state = 3 * _Replayer(study, 1 << 30).numbers * 8
    lean = replay(study, state_bytes=7 * one_state)
    assert whole.trained_steps == whole.steps < lean.trained_steps
    np.testing.assert_allclose(lean.derivative_QN, whole.derivative_QN, rtol=1e-9)
    with pytest.raises(InvalidOption, match="keeps"):
        replay(study, state_bytes=one_state)


def test_what_was_cancelled_goes_on(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.causal.replay._SAVE_SECONDS", 0.0)
    whole = replay(study)
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == whole.steps + 4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        replay(study, stop, work=tmp_path)
    assert (tmp_path / STATE_FILE).exists()
    seen.clear()
    again = replay(study, seen.append, work=tmp_path)
    np.testing.assert_array_equal(again.derivative_QN, whole.derivative_QN)
    back = [progress for progress in seen if progress.phase == "replay"]
    assert len(back) < whole.steps
    assert seen[-1].done == seen[-1].total
    other = replace(study, training=replace(study.training, seed=5))
    np.testing.assert_array_equal(replay(other, work=tmp_path).derivative_QN, replay(other).derivative_QN)


def test_a_damaged_state_is_not_gone_on_with(study: Study, tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"nothing of the kind")
    assert np.isfinite(replay(study, work=tmp_path).derivative_QN).all()


def test_the_estimate_is_of_the_same_run(study: Study) -> None:
    cost = estimate_replay(study)
    replayer = _Replayer(study, 1 << 30)
    assert cost.stride == 1
    assert cost.memory_bytes == (replayer.loop.total * 3 + 6 * len(QUERIES)) * replayer.numbers * 8
    assert cost.seconds > 0


def test_float32_has_the_same_ranking(study: Study) -> None:
    exact_QN = replay(study).derivative_QN
    single_QN = replay(replace(study, dtype="float32")).derivative_QN
    assert torch.corrcoef(torch.tensor(np.stack([exact_QN[0], single_QN[0]])))[0, 1] > 0.999


def test_the_check_puts_the_derivative_beside_the_prediction(study: Study, tmp_path: Path) -> None:
    run = train_lora(study.base, ROWS, tmp_path / "run", study.training, dtype="float64")
    dataset = factories.dataset(tmp_path / "data", factories.sentences(9, longest=4))
    checkpoints = tuple(str(path) for path in run.checkpoints)
    model = ModelConfig(str(study.base), checkpoints=checkpoints, recipe=load_recipe(run.recipe), dtype="float64")
    ranked = [RankedRow("ex-4", 1.8, in_nats=True), RankedRow("ex-1", 0.9)]
    asked = (model, dataset, tmp_path, QUERIES[0], ranked, CheckConfig("replay", rows=2), tmp_path / "work")
    found = run_replay(CheckWork(*asked), lambda _progress: None)
    exact_N = replay(study).derivative_QN[0]
    assert [effect.id for effect in found.effects] == ["ex-4", "ex-1"]
    np.testing.assert_allclose([effect.measured for effect in found.effects], -exact_N[[4, 1]], rtol=1e-9)
    assert [effect.predicted for effect in found.effects] == [-0.2, None]
    first = [ROWS[position].id for position in np.argsort(-exact_N, kind="stable")]
    assert [row["id"] for row in found.details["first"]] == first
    assert found.details["among_first"] == len({"ex-4", "ex-1"} & set(first[:2]))
    assert (
        estimate_replay_check(CheckWork(*asked)).memory_bytes
        == estimate_replay(replace(study, queries=QUERIES[:1])).memory_bytes
    )


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, Dataset]:
    root = tmp_path_factory.mktemp("replayed")
    base = factories.save_base(root / "base", factories.llama())
    run = train_lora(base, ROWS, root / "run", RECIPES["clipped on some steps"], dtype="float64")
    checkpoints = tuple(str(path) for path in run.checkpoints)
    model = ModelConfig(str(base), checkpoints=checkpoints, recipe=load_recipe(run.recipe), dtype="float64")
    return model, factories.dataset(root / "data", factories.sentences(9, longest=4))


def test_an_index_of_its_own_answers_with_the_derivatives(tuned: tuple[ModelConfig, Dataset], tmp_path: Path) -> None:
    model, dataset = tuned
    loaded = load_model(model)
    build_index(loaded, dataset, IndexConfig("replay"), tmp_path / "index", lambda _progress: None)
    assert (tmp_path / "index" / "curvature" / "run.safetensors").exists()
    assert model.recipe is not None
    assert model.recipe.training is not None
    study = Study(Path(model.base), tuple(dataset), model.recipe.training, QUERIES[:1], dtype="float64")
    exact_N = 9 * replay(study).derivative_QN[0]
    between: list[int] = []
    with OpenIndex(loaded, dataset, tmp_path / "index") as index:
        index.between = lambda: between.append(1)
        removed = RemovalSet(ids=(dataset[2].id, dataset[5].id))
        (answer,) = attribute(index, [(QUERIES[0], AskOptions(top_k=9, removal=removed))])
        assert isinstance(answer, Attribution)
        assert len(between) == 9  # once a step: others are served there
        scored = {hit.position: hit.score for hit in (*answer.proponents, *answer.opponents)}
        np.testing.assert_allclose([scored[n] for n in range(9)], exact_N, rtol=1e-6)
        assert answer.additive
        assert answer.removal is not None
        assert answer.removal.predicted_change == pytest.approx(-(exact_N[2] + exact_N[5]) / 9, rel=1e-6)
        assert not [w for w in answer.diagnostics.warnings if "ends elsewhere" in w]
        (refused,) = attribute(index, [(QUERIES[0], AskOptions(normalize="cosine"))])
        assert isinstance(refused, InvalidOption)


def test_a_run_that_ends_elsewhere_is_told_of(tuned: tuple[ModelConfig, Dataset], tmp_path: Path) -> None:
    model, dataset = tuned
    early = replace(model, checkpoints=model.checkpoints[:1])  # not what the recipe's last epoch gave
    loaded = load_model(early)
    build_index(loaded, dataset, IndexConfig("replay"), tmp_path / "index", lambda _progress: None)
    with OpenIndex(loaded, dataset, tmp_path / "index") as index:
        (answer,) = attribute(index, [(QUERIES[0], AskOptions())])
    assert isinstance(answer, Attribution)
    assert [w for w in answer.diagnostics.warnings if "ends elsewhere" in w]
