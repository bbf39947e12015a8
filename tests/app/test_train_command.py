"""`whence train`: its options, its recipe, its ends."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from app import cli
from app.commands import train as training_command
from engine.causal import train as trainer
from engine.causal.recipe import load_recipe, save_recipe
from engine.causal.train import TrainResult
from engine.config import Lora, Recipe, TemplateConfig, Training
from tests import factories
from tests.app.commands import refused, run_json

SMALL = ["--epochs", "2", "--batch-size", "4", "--rank", "2", "--alpha", "4", "--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.save_base(tmp_path_factory.mktemp("base") / "model", factories.llama())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in factories.sentences(7, longest=3)))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What train_lora is called with, which then does nothing."""
    calls: list[Any] = []

    def stand_in(_base: Path, _rows: Any, out: Path, training: Training, *_rest: Any, **options: Any) -> TrainResult:
        calls.append((training, options))
        return TrainResult((out / "epoch-1",), out / "recipe.json", (2.0, 1.0))

    monkeypatch.setattr(trainer, "train_lora", stand_in)
    return calls


def command(base: Path, data: Path, *more: str) -> list[str]:
    return ["train", str(base), str(data), "-o", str(data.parent / "run"), *more]


def test_it_trains_and_says_how_to_register(
    base: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    assert cli.main(["train", str(base), data.name, "-o", "run", *SMALL]) == 0
    printed = capsys.readouterr().out
    recipe = load_recipe(data.parent / "run" / "recipe.json")
    assert recipe.training == Training(epochs=2, batch_size=4, learning_rate=0.02, lora=Lora(2, 4.0))
    assert recipe.steps is not None
    assert "steps        4" in printed
    assert "in the last epoch" in printed
    words = shlex.split(printed.splitlines()[-1])
    assert words[:4] == ["whence", "model", "add", "run"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert set(given) == {"--base", "--adapter", "--checkpoint", "--recipe"}
    assert all(Path(path).exists() for path in given.values())
    assert given["--adapter"].endswith("epoch-2")


def test_json_holds_the_losses(base: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, *command(base, data, *SMALL))
    assert len(result["losses"]) == 4
    assert [Path(path).name for path in result["checkpoints"]] == ["epoch-1", "epoch-2"]


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    base: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show = training_command.PhaseBars.show
    seen: list[int] = []

    def interrupt(bars: Any, report: Any) -> None:
        show(bars, report)
        if report.phase == "fine-tune":
            seen.append(report.done)
            if report.done == 3 and seen.count(3) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(training_command.PhaseBars, "show", interrupt)
    assert cli.main(command(base, data, *SMALL)) == 130
    stopped = capsys.readouterr()
    assert stopped.out == ""
    assert stopped.err.count("\n") == 1
    assert "goes on at the last finished epoch" in stopped.err
    line = refused(capsys, *command(base, data, *SMALL, "--seed", "1"), code=2)
    assert "unfinished run of another recipe" in line
    assert cli.main(command(base, data, *SMALL)) == 0
    assert seen == [1, 2, 3, 3, 4]
    capsys.readouterr()
    assert "is there already" in refused(capsys, *command(base, data, *SMALL), code=2)


def test_every_option_reaches_the_trainer(base: Path, data: Path, asked: list[Any]) -> None:
    options = {
        "--epochs": "3", "--batch-size": "2", "--accumulation": "4", "--learning-rate": "1e-3", "--schedule": "cosine",
        "--warmup-share": "0.2", "--weight-decay": "0.01", "--epsilon": "1e-6", "--max-grad-norm": "0.5",
        "--seed": "7", "--rank": "16", "--alpha": "32", "--max-length": "64", "--device": "cuda:1", "--threads": "2",
    }  # fmt: skip
    flat = [word for pair in options.items() for word in pair]
    more = ["--betas", "0.8", "0.99", "--targets", "q_proj", "--targets", "v_proj"]
    assert cli.main(command(base, data, *flat, *more)) == 0
    (training, given), *_ = asked
    assert training == Training(
        learning_rate=1e-3,
        schedule="cosine",
        warmup_share=0.2,
        epochs=3,
        batch_size=2,
        accumulation=4,
        seed=7,
        weight_decay=0.01,
        betas=(0.8, 0.99),
        epsilon=1e-6,
        max_grad_norm=0.5,
        lora=Lora(16, 32.0, ("q_proj", "v_proj")),
    )
    assert given == {"template": TemplateConfig(), "max_length": 64, "device": "cuda:1", "threads": 2}


def test_without_options_it_trains_by_the_defaults(base: Path, data: Path, asked: list[Any]) -> None:
    assert cli.main(command(base, data)) == 0
    assert cli.main(command(base, data, "--max-grad-norm", "0", "--targets", "all-linear")) == 0
    assert asked[0][0] == Training()
    assert asked[1][0] == Training(max_grad_norm=None)


def test_like_takes_a_recipe_and_options_change_it(base: Path, data: Path, asked: list[Any]) -> None:
    lora = Lora(4, 8.0, ("q_proj",))
    recipe = Recipe(
        "batch_token_mean", TemplateConfig(eos=False), 50, ((0,),), Training(seed=9, betas=(0.5, 0.6), lora=lora)
    )
    save_recipe(data.parent / "recipe.json", recipe)
    for like in (data.parent, data.parent / "recipe.json"):
        assert cli.main(command(base, data, "--like", str(like), "--rank", "2", "--epochs", "1")) == 0
    first, second = asked
    assert first == second
    assert first[0] == Training(seed=9, betas=(0.5, 0.6), epochs=1, lora=Lora(2, 8.0, ("q_proj",)))
    assert (first[1]["template"], first[1]["max_length"]) == (TemplateConfig(eos=False), 50)


def test_like_a_hugging_face_run_warns_of_what_it_leaves_open(
    base: Path, data: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"global_step": 4, "max_steps": 4, "num_train_epochs": 2, "train_batch_size": 2, "log_history": []}
    (data.parent / "trainer_state.json").write_text(json.dumps(state))
    adapter = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"], "lora_dropout": 0.05}
    (data.parent / "adapter_config.json").write_text(json.dumps(adapter))
    assert cli.main(command(base, data, "--like", str(data.parent), "--learning-rate", "0.1")) == 0
    training = asked[0][0]
    assert (training.epochs, training.batch_size, training.learning_rate) == (2, 2, 0.1)
    assert training.lora == Lora(3, 6.0, ("q_proj",))
    told = capsys.readouterr().err
    assert "lora_dropout = 0.05" in told
    assert "seed" in told
    assert "order of rows" not in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--epochs", "0"], "epochs"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--learning-rate", "nan"], "learning_rate"),
        (["--warmup-share", "2"], "warmup_share"),
        (["--schedule", "wavy"], "cosine"),
        (["--betas", "0.9", "1"], "betas"),
        (["--seed", "-1"], "seed"),
        (["--alpha", "0"], "alpha"),
        (["--like", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    base: Path, data: Path, asked: list[Any], capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    assert told in refused(capsys, *command(base, data, *more), code=2)
    assert asked == []


def test_a_recipe_that_cannot_be_repeated_is_refused(
    base: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = ["--like", str(data.parent)]
    assert "no recipe.json and no trainer_state.json" in refused(capsys, *command(base, data, *like), code=2)
    save_recipe(data.parent / "recipe.json", Recipe())
    assert "does not say how" in refused(capsys, *command(base, data, *like), code=2)
    save_recipe(data.parent / "recipe.json", Recipe(training=Training(optimizer="adafactor")))
    assert "adafactor" in refused(capsys, *command(base, data, *like), code=1)


def test_errors_of_the_data_are_one_line(base: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.write_text('{"prompt": 3}')
    assert "line 1" in refused(capsys, *command(base, data), code=1)
