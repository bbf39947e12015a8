"""The fine-tuning run: its record, its files, and that it can be repeated to the last bit."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import get_scheduler

from engine.batching import example_weights, pad_batch
from engine.capture import forward
from engine.causal.recipe import load_recipe
from engine.causal.steps import learning_rate, make_steps
from engine.causal.train import train_lora
from engine.config import Lora, ModelConfig, Training
from engine.errors import Cancelled, EmptyDataset, InvalidOption, NoLossToken, NonFiniteGradient, UnsupportedModel
from engine.model import load_model
from engine.types import Example, Progress
from tests import factories

CONFIG = Training(epochs=2, batch_size=3, lora=Lora(2, 4), learning_rate=0.02, seed=5)
ROWS = [Example(row["id"], row["prompt"], row["completion"]) for row in factories.sentences(7, longest=3)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.save_base(tmp_path_factory.mktemp("train") / "base", factories.llama())


def test_every_epoch_leaves_an_adapter_that_the_engine_loads_with_its_moments(base: Path, tmp_path: Path) -> None:
    result = train_lora(base, ROWS, tmp_path / "run", CONFIG)
    assert [path.name for path in result.checkpoints] == ["epoch-1", "epoch-2"]
    recipe = load_recipe(result.recipe)
    checkpoints = tuple(str(path) for path in result.checkpoints)
    model = load_model(ModelConfig(str(base), adapter=checkpoints[-1], checkpoints=checkpoints, recipe=recipe))
    assert [state.label for state in model.states] == ["epoch-1", "epoch-2"]
    for path in result.checkpoints:
        weights, moments = load_file(path / "adapter_model.safetensors"), load_file(path / "optimizer.safetensors")
        assert {f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in weights} == set(moments) - {"step"}
        assert all(moments[f"exp_avg_sq.{name}"].shape == weight.shape for name, weight in weights.items())
    assert moments["step"] == len(recipe.steps or ()) == 6


def test_fine_tuning_lowers_the_loss_of_its_rows(base: Path, tmp_path: Path) -> None:
    result = train_lora(
        base, ROWS, tmp_path / "run", Training(epochs=24, batch_size=7, lora=Lora(2), learning_rate=0.02)
    )
    assert len(result.losses) == 24
    assert result.losses[-1] < 0.8 * result.losses[0]


def test_the_same_seed_in_two_processes_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.engine.test_train import CONFIG, ROWS; "
        "from engine.causal.train import train_lora; train_lora(Path(sys.argv[1]), ROWS, Path(sys.argv[2]), CONFIG)"
    )
    runs = []
    for name, hash_seed in (("a", "1"), ("b", "2")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", script, str(base), str(tmp_path / name)]
        runs.append(subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2]))
    assert [run.wait(60) for run in runs] == [0, 0]
    first, second = (_contents(tmp_path / name) for name in "ab")
    assert {path.name for path in first} >= {"recipe.json", "adapter_config.json", "optimizer.safetensors"}
    assert first == second


def _contents(directory: Path) -> dict[Path, bytes]:
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_another_seed_gives_other_weights(base: Path, tmp_path: Path) -> None:
    one = train_lora(base, ROWS, tmp_path / "one", CONFIG).checkpoints[-1]
    other = train_lora(base, ROWS, tmp_path / "other", replace(CONFIG, seed=6)).checkpoints[-1]
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_first_step_moves_along_the_gradient_that_attribution_sums(base: Path, tmp_path: Path) -> None:
    """One step over all rows: Adam's first moment is (1 − β₁) times the recipe-weighted sum of the rows' gradients."""
    config = Training(epochs=1, batch_size=len(ROWS), lora=Lora(2), max_grad_norm=None, learning_rate=0.0)
    result = train_lora(base, ROWS, tmp_path / "run", config)
    recipe = load_recipe(result.recipe)
    model = load_model(ModelConfig(str(base), adapter=str(result.checkpoints[0]), recipe=recipe))
    encoded = [model.encoder().encode(row) for row in ROWS]
    weights = example_weights(encoded, recipe.reduction, recipe.steps)
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_("lora_" in name)
    forward(model, pad_batch(encoded, weights, model.pad_id, torch.float32)).log_prob_B.sum().backward()
    moments = load_file(result.checkpoints[0] / "optimizer.safetensors")
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            moment = moments[f"exp_avg.{name.replace('.default.', '.')}"]
            torch.testing.assert_close(-moment / 0.1, parameter.grad, rtol=1e-4, atol=1e-6)


def test_every_epoch_sees_every_row_once_in_its_own_order() -> None:
    steps = make_steps(7, CONFIG)
    assert [len(step) for step in steps] == [3, 3, 1, 3, 3, 1]
    epochs = [[row for step in steps[i : i + 3] for row in step] for i in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(7))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_learning_rates_are_those_of_transformers(schedule: str, share: float) -> None:
    training = Training(schedule=schedule, warmup_share=share, learning_rate=0.5)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    kind = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=math.ceil(20 * share), num_training_steps=20)
    for step in range(20):
        assert learning_rate(step, 20, training) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_accumulation_changes_the_memory_and_not_the_step(base: Path, tmp_path: Path) -> None:
    whole = replace(CONFIG, batch_size=4, max_grad_norm=0.5)
    split = replace(whole, batch_size=2, accumulation=2)
    assert make_steps(7, whole) == make_steps(7, split)
    ours = train_lora(base, ROWS, tmp_path / "whole", whole, dtype="float64")
    theirs = train_lora(base, ROWS, tmp_path / "split", split, dtype="float64")
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-12)


def test_an_interrupted_run_goes_on_at_its_last_epoch_to_the_same_bytes(base: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop_in_second_epoch(progress: Progress) -> None:
        seen.append(progress.done)
        if progress.done == 4:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        train_lora(base, ROWS, tmp_path / "run", CONFIG, stop_in_second_epoch)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InvalidOption, match="unfinished run of another"):
        train_lora(base, ROWS, tmp_path / "run", replace(CONFIG, seed=6))
    again = train_lora(base, ROWS, tmp_path / "run", CONFIG, lambda progress: seen.append(progress.done))
    assert seen == [1, 2, 3, 4, 4, 5, 6]
    straight = train_lora(base, ROWS, tmp_path / "straight", CONFIG)
    assert _contents(tmp_path / "run") == _contents(tmp_path / "straight")
    assert again.losses == straight.losses
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "straight"]


def test_what_cannot_be_trained_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset):
        train_lora(base, [], tmp_path / "run", CONFIG)
    with pytest.raises(NoLossToken, match="ex-0"):
        train_lora(base, ROWS, tmp_path / "run", CONFIG, max_length=2)
    for odd in (replace(CONFIG, optimizer="adafactor"), replace(CONFIG, lora=None)):
        with pytest.raises(UnsupportedModel, match=r"adamw|LoRA"):
            train_lora(base, ROWS, tmp_path / "run", odd)
    with pytest.raises(UnsupportedModel, match="no_such_layer"):
        train_lora(base, ROWS, tmp_path / "run", replace(CONFIG, lora=Lora(targets=("no_such_layer",))))
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidOption, match="there"):
        train_lora(base, ROWS, tmp_path / "there", CONFIG)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("accumulation", 0),
        ("learning_rate", math.nan),
        ("warmup_share", 1.5),
        ("betas", (0.9, 1.0)),
        ("epsilon", -1e-8),
        ("weight_decay", math.inf),
        ("max_grad_norm", 0.0),
        ("schedule", "stairs"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(base: Path, tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=field):
        train_lora(base, ROWS, tmp_path / "run", replace(CONFIG, **{field: value}))


def test_a_broken_pattern_of_targets_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="is broken: missing"):
        train_lora(base, ROWS, tmp_path / "run", replace(CONFIG, lora=Lora(2, 4, "(")))


def test_a_diverged_run_is_no_run(base: Path, tmp_path: Path) -> None:
    """With ε = 0 Adam divides 0 by 0 for A while B is 0."""
    with pytest.raises(NonFiniteGradient, match="epoch 1"):
        train_lora(base, ROWS, tmp_path / "run", replace(CONFIG, epsilon=0.0))
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_told_as_one(base: Path, tmp_path: Path) -> None:
    """A limit on the size of files is refused by the same calls."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from tests.engine.test_train import *\n"
        "from engine.errors import StorageFull\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    train_lora(Path(sys.argv[1]), ROWS, Path(sys.argv[2]), CONFIG)\n"
        "except StorageFull as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(base), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert "adapter_model.safetensors" in done.stdout, done.stderr


def test_a_damaged_log_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "training_log.json").write_text("{")
    with pytest.raises(InvalidOption, match="damaged"):
        train_lora(base, ROWS, tmp_path / "run", CONFIG)


def test_one_process_at_a_time_trains_into_a_directory(base: Path, tmp_path: Path) -> None:
    def second(_progress: Progress) -> None:
        with pytest.raises(InvalidOption, match="Another process"):
            train_lora(base, ROWS, tmp_path / "run", CONFIG)
        raise Cancelled("seen")

    with pytest.raises(Cancelled):
        train_lora(base, ROWS, tmp_path / "run", CONFIG, second)


def test_a_broken_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"reduction": "sum of squares"}), encoding="utf-8")
    with pytest.raises(InvalidOption, match=r"recipe\.json"):
        load_recipe(tmp_path / "recipe.json")
    with pytest.raises(InvalidOption, match="No such file"):
        load_recipe(tmp_path / "absent.json")
