"""A recipe from a Trainer run's files, held against the run itself: transformers.Trainer on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from engine.batching import example_weights
from engine.causal.huggingface import read_run
from engine.causal.recipe import load_recipe, save_recipe
from engine.causal.recorded import open_points
from engine.config import Lora, Training
from engine.encoded import Encoded
from engine.errors import InvalidOption
from tests import factories

LENGTHS = [3, 5, 2, 7, 4, 6, 3]  # of the rows' tokens; the first carries no loss


class Recorded(Trainer):
    """Keeps which rows every optimizer step took."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.steps: list[tuple[int, ...]] = []

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        batches, count = super().get_batch_samples(*arguments, **options)
        self.steps.append(tuple(int(row) for batch in batches for row in batch.pop("row")))
        return batches, count


class StepGradients(TrainerCallback):
    """The gradient of every optimizer step, all parameters in one vector."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.found.append(
            torch.cat([p.grad.flatten().clone() for p in more["model"].parameters() if p.grad is not None])
        )


def rows(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    lengths = [LENGTHS[n % len(LENGTHS)] for n in range(count)]
    ids = [torch.randint(4, factories.VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": row, "labels": list(row), "row": n} for n, row in enumerate(ids)]


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in batch)
    padded = {"input_ids": 0, "labels": -100}
    made = {k: torch.tensor([row[k] + [fill] * (longest - len(row[k])) for row in batch]) for k, fill in padded.items()}
    return made | {"row": torch.tensor([row["row"] for row in batch])}


def train(out: Path, count: int = 7, *, keep_arguments: bool = True, **options: Any) -> tuple[Recorded, StepGradients]:
    values: dict[str, Any] = {
        "output_dir": str(out),
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "seed": 11,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_only_model": True,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
    }
    arguments = TrainingArguments(**(values | options))
    torch.manual_seed(0)
    model = get_peft_model(factories.llama(), LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"]))
    gradients = StepGradients()
    data: Any = rows(count)
    trainer = Recorded(model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[gradients])
    trainer.train()
    trainer.save_state()
    trainer.save_model()
    if keep_arguments:
        (out / "training_args.json").write_text(arguments.to_json_string())
    return trainer, gradients


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"gradient_accumulation_steps": 3, "num_train_epochs": 3},
        {"data_seed": 5, "seed": 3},
        {"max_steps": 6},
        {"train_sampling_strategy": "sequential", "gradient_accumulation_steps": 2},
        {"dataloader_drop_last": True, "num_train_epochs": 4},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_order_of_rows_is_the_one_that_trainer_took(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer, _ = train(tmp_path, **options)
    recipe = read_run(tmp_path, rows=7)
    assert recipe.steps == tuple(trainer.steps)
    assert recipe.reduction == "batch_token_mean"
    assert recipe.details["rows"] == 7


def test_a_checkpoint_has_the_steps_up_to_itself(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path)
    recipe = read_run(tmp_path / "checkpoint-4", rows=7)
    assert recipe.steps == tuple(trainer.steps[:4])
    assert recipe.training == read_run(tmp_path, rows=7).training


def encoded(ids: list[int]) -> Encoded:
    count = len(ids)
    return Encoded(tuple(ids), tuple(t > 0 for t in range(count)), ("completion",) * count, ((0, 1),) * count)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_steps_gradient_is_the_sum_of_its_rows_by_the_recipes_weights(tmp_path: Path, accumulation: int) -> None:
    """Trainer's num_items_in_batch is our batch_token_mean."""
    trainer, gradients = train(
        tmp_path, gradient_accumulation_steps=accumulation, learning_rate=0.0, max_grad_norm=0, num_train_epochs=1
    )
    recipe = read_run(tmp_path, rows=7)
    assert recipe.steps is not None
    data = rows(7)
    weights = example_weights([encoded(row["input_ids"]) for row in data], recipe.reduction, recipe.steps)
    model: Any = trainer.model
    for step, theirs in zip(recipe.steps, gradients.found, strict=True):
        model.zero_grad()
        for row in step:
            ids = torch.tensor([data[row]["input_ids"]])
            log_prob = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
            (-log_prob * weights[row]).backward()
        ours = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_every_field_is_read_from_the_arguments(tmp_path: Path) -> None:
    train(
        tmp_path,
        lr_scheduler_type="cosine",
        warmup_steps=0.3,
        weight_decay=0.02,
        adam_beta2=0.98,
        adam_epsilon=1e-7,
        max_grad_norm=0,
        gradient_accumulation_steps=2,
        optim="adamw_torch",
    )
    recipe = read_run(tmp_path, rows=7)
    assert recipe.training == Training(
        optimizer="adamw",
        learning_rate=0.01,
        schedule="cosine",
        warmup_share=0.5,  # ⌈0.3 · 4⌉ of 4 steps
        epochs=2,
        batch_size=2,
        accumulation=2,
        seed=11,
        weight_decay=0.02,
        betas=(0.9, 0.98),
        epsilon=1e-7,
        max_grad_norm=None,
        lora=Lora(2, 6.0, ("q_proj", "v_proj")),
    )
    assert (recipe.details["unknown"], recipe.details["unsupported"]) == ([], {})
    assert open_points(recipe) == ()
    save_recipe(tmp_path / "recipe.json", recipe)
    assert load_recipe(tmp_path / "recipe.json") == recipe


def test_without_arguments_the_schedule_is_fitted_and_the_rest_is_named(tmp_path: Path) -> None:
    train(tmp_path, keep_arguments=False, warmup_steps=3, num_train_epochs=3)
    recipe = read_run(tmp_path, rows=7)
    training = recipe.training
    assert training is not None
    assert (training.learning_rate, training.schedule) == (pytest.approx(0.01), "linear")
    assert training.warmup_share * 12 == pytest.approx(3)
    assert (training.epochs, training.batch_size) == (3, 2)
    assert recipe.details["unknown"] == [
        "accumulation", "betas", "epsilon", "max_grad_norm", "optimizer", "seed", "weight_decay"
    ]  # fmt: skip
    assert (recipe.steps, recipe.reduction) == (None, "token_sum")
    assert "seed" in recipe.details["order"]
    assert "pickle" in recipe.details["not_read"][0]
    told = " ".join(open_points(recipe))
    assert "token sums" in told
    assert "max_grad_norm" in told
    assert "training_args.bin" in told


def test_the_pickled_arguments_are_never_opened(tmp_path: Path) -> None:
    train(tmp_path, keep_arguments=False)
    for pickled in tmp_path.rglob("training_args.bin"):
        pickled.write_bytes(b"\x80\x04cos\nsystem\n(X\x08\x00\x00\x00touch xxtR.")
    assert read_run(tmp_path).details["not_read"]


def test_rows_are_told_by_the_runs_summary_or_its_batches(tmp_path: Path) -> None:
    for size in (2, 1):
        trainer, _ = train(tmp_path / f"batches-{size}", per_device_train_batch_size=size)
        recipe = read_run(tmp_path / f"batches-{size}")
        assert recipe.details["rows"] == 7
        assert recipe.steps == tuple(trainer.steps)
    for accumulation in (2, 3):
        out = tmp_path / f"accumulated-{accumulation}"
        train(out, count=13, gradient_accumulation_steps=accumulation)
        assert read_run(out).details["rows"] == 13
    train(tmp_path / "cut")
    assert read_run(tmp_path / "cut" / "checkpoint-4").details["rows"] == 7
    (tmp_path / "cut" / "trainer_state.json").unlink()  # the summary is only there
    recipe = read_run(tmp_path / "cut")
    assert "rows" not in recipe.details
    assert "number of training rows" in recipe.details["order"]


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(out)
    return out


def changed(run: Path, out: Path, name: str, **changes: Any) -> Path:
    """A copy of the run's JSON files with `name`'s values changed."""
    out.mkdir(exist_ok=True)
    for file in ("trainer_state.json", "training_args.json", "adapter_config.json"):
        (out / file).write_bytes((run / file).read_bytes())
    value = json.loads((out / name).read_text())
    (out / name).write_text(json.dumps(value | changes))
    return out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"packing": True}, "packed"),
        ({"shuffle_dataset": True}, "shuffled before"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length"),
        ({"group_by_length": True}, "grouped by length"),
        ({"accelerator_config": {"use_seedable_sampler": False}}, "accelerator_config"),
        ({"ignore_data_skip": True}, "anew"),
        ({"gradient_accumulation_steps": 2}, "several processes"),
    ],
)
def test_an_order_that_cannot_be_told_is_not_told(
    plain_run: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    recipe = read_run(changed(plain_run, tmp_path / "run", "training_args.json", **changes), rows=7)
    assert (recipe.steps, recipe.reduction) == (None, "token_sum")
    assert told in recipe.details["order"]


def test_another_number_of_rows_is_noticed(plain_run: Path) -> None:
    assert read_run(plain_run, rows=8).steps is not None  # 8 rows make as many steps: the index build notices them
    assert "9 rows make 10 steps, the run's were 8" in read_run(plain_run, rows=9).details["order"]


def test_a_run_that_left_rows_out_weighs_them_alike(tmp_path: Path) -> None:
    train(tmp_path, max_steps=2)
    recipe = read_run(tmp_path, rows=7)
    assert (recipe.steps, recipe.reduction) == (None, "token_sum")
    assert "not every row" in recipe.details["order"]
    assert recipe.details["unsupported"] == {"max_steps": 2}


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("adapter_config.json", {"use_dora": True}),
        ("adapter_config.json", {"use_rslora": True, "lora_dropout": 0.05}),
        ("adapter_config.json", {"modules_to_save": ["lm_head"]}),
        ("training_args.json", {"lr_scheduler_type": "polynomial"}),
        ("training_args.json", {"neftune_noise_alpha": 5.0, "bf16": True}),
    ],
)
def test_what_training_cannot_say_is_kept_as_it_was(
    plain_run: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    recipe = read_run(changed(plain_run, tmp_path / "run", file, **changes), rows=7)
    assert recipe.details["unsupported"] == changes
    for name in changes:
        assert name in " ".join(open_points(recipe))


def test_another_optimizer_keeps_its_name(plain_run: Path, tmp_path: Path) -> None:
    run = changed(plain_run, tmp_path / "run", "training_args.json", optim="OptimizerNames.PAGED_ADAMW_8BIT")
    training = read_run(run, rows=7).training
    assert training is not None
    assert training.optimizer == "paged_adamw_8bit"


def test_an_adapter_that_is_no_lora_has_no_training(plain_run: Path, tmp_path: Path) -> None:
    recipe = read_run(changed(plain_run, tmp_path / "run", "adapter_config.json", peft_type="IA3"))
    assert recipe.training is None
    assert recipe.details["unsupported"] == {"peft_type": "ia3"}


def test_settings_of_sfttrainer_reach_template_and_length(plain_run: Path, tmp_path: Path) -> None:
    run = changed(plain_run, tmp_path / "run", "training_args.json", assistant_only_loss=True, max_length=96)
    recipe = read_run(run, rows=7)
    assert (recipe.template.assistant_turns, recipe.max_length) == ("all", 96)
    older = changed(plain_run, tmp_path / "older", "training_args.json", max_seq_length=64, warmup_ratio=0.25)
    assert read_run(older).max_length == 64
    training = read_run(older).training
    assert training is not None
    assert training.warmup_share == 0.25


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("trainer_state.json", "{", "trainer_state.json"),
        ("trainer_state.json", '{"global_step": 1}', "max_steps"),
        ("trainer_state.json", "[1]", "trainer_state.json"),
        ("training_args.json", '{"seed": "x"}', "seed"),
        ("adapter_config.json", '{"r": 0}', "r: "),
    ],
)
def test_a_broken_file_is_named(plain_run: Path, tmp_path: Path, name: str, content: str, told: str) -> None:
    run = changed(plain_run, tmp_path / "run", name)
    (run / name).write_text(content)
    with pytest.raises(InvalidOption, match=told):
        read_run(run)


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"trainer_state\.json"):
        read_run(tmp_path)
