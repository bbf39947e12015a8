"""`whence train`: a LoRA fine-tune with its recipe on record, straight on the engine."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from app.commands.console import err, facts, out, print_json
from app.commands.options import Json
from app.commands.progress import PhaseBars
from app.commands.recipes import read_recipe
from app.models.schemas import RecipeBody, first_cause
from engine.config import Lora, Recipe, Training
from engine.dataset import open_dataset, store_dataset
from engine.errors import EngineUnavailable

if TYPE_CHECKING:
    from engine.causal.train import TrainResult
    from engine.types import Example

INTERRUPTED = 130
_MOST_CHECKPOINTS = 64  # that a model is registered with


@dataclass(frozen=True)
class Run:
    """What is trained, on what, and into which directory."""

    base: Path
    data: Path
    out: Path
    device: str
    threads: int


def train(
    base: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Base model.")],
    data: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Rows: JSONL, JSON, CSV, Parquet.")],
    out_: Annotated[Path, typer.Option("--out", "-o", help="A new directory: epoch-1 …, recipe.json.")],
    like: Annotated[
        Path | None, typer.Option(exists=True, help="Take the recipe of this run: ours or Hugging Face's, or a file.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, show_default="5")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a forward pass.", show_default="8")] = None,
    accumulation: Annotated[int | None, typer.Option(min=1, help="Forward passes of a step.", show_default="1")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak.", show_default="0.005")] = None,
    schedule: Annotated[
        Literal["linear", "cosine", "constant"] | None,
        typer.Option(help="How the rate falls.", show_default="linear"),
    ] = None,
    warmup_share: Annotated[
        float | None, typer.Option(help="Of all steps, in which it rises.", show_default="0.1")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(show_default="0")] = None,
    betas: Annotated[tuple[float, float] | None, typer.Option(help="Adam's.", show_default="0.9 0.999")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Adam's.", show_default="1e-8")] = None,
    max_grad_norm: Annotated[float | None, typer.Option(min=0, help="0: no clipping.", show_default="1")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order and start.", show_default="0")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA's.", show_default="8")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's.", show_default="16")] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(help="PEFT's target_modules; may be repeated.", show_default="all-linear"),
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Rows are cut to as many tokens.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Other numbers may change the last bits.")] = 1,
    json_: Json = False,
) -> None:
    """Fine-tune a LoRA adapter with every choice on record. Run it again after an interruption: it goes on."""
    rates = {"learning_rate": learning_rate, "schedule": schedule, "warmup_share": warmup_share}
    sizes = {"epochs": epochs, "batch_size": batch_size, "accumulation": accumulation, "seed": seed}
    adam = {"weight_decay": weight_decay, "betas": betas, "epsilon": epsilon, "max_grad_norm": max_grad_norm}
    lora = {"rank": rank, "alpha": alpha, "targets": targets}
    recipe = chosen_recipe(like, rates | sizes | adam, lora, max_length)
    run = Run(base, data, out_, device, threads)
    try:
        result = carry_out(run, recipe)
    except KeyboardInterrupt:
        err.print("Stopped. The same command again goes on at the last finished epoch.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    _print_json(run, result) if json_ else _show(run, result)


def chosen_recipe(like: Path | None, training: dict[str, Any], lora: dict[str, Any], max_length: int | None) -> Recipe:
    """The recipe of `like`, or the defaults, with the options that were given. Raises typer.BadParameter."""
    recipe = Recipe() if like is None else read_recipe(like, "--like", order_matters=False)
    if like is not None and recipe.training is None:
        raise typer.BadParameter("this recipe does not say how the model was trained", param_hint="--like")
    if training["max_grad_norm"] == 0:
        training, recipe = training | {"max_grad_norm": None}, _without_clipping(recipe)
    known = recipe.training or Training()
    adapter = replace(known.lora or Lora(), **_given(lora | {"targets": _targets(lora["targets"])}))
    known = replace(known, **_given(training), lora=adapter)
    recipe = replace(recipe, training=known, max_length=max_length or recipe.max_length)
    return _checked(recipe)


def _without_clipping(recipe: Recipe) -> Recipe:
    return replace(recipe, training=replace(recipe.training or Training(), max_grad_norm=None))


def _targets(names: list[str] | None) -> str | tuple[str, ...] | None:
    """One name stays text: it is `all-linear`, or a pattern as PEFT reads it; several are a list of endings."""
    return None if not names else names[0] if len(names) == 1 else tuple(names)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _checked(recipe: Recipe) -> Recipe:
    """The same bounds, and the same numbers as numbers, as over HTTP."""
    try:
        return RecipeBody.model_validate(asdict(recipe)).recipe()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = f"--{str(first['loc'][-1]).replace('_', '-')}" if first["loc"] else None
        raise typer.BadParameter(first_cause(error), param_hint=option) from None


def carry_out(run: Run, recipe: Recipe) -> TrainResult:
    """Raises EngineError; EngineUnavailable where torch is not installed."""
    try:
        from engine.causal.train import train_lora
    except ImportError as error:
        raise EngineUnavailable(f"`whence train` needs the engine's libraries: {error}.") from error
    with PhaseBars() as bars:
        return train_lora(
            run.base,
            _rows(run.data, bars),
            run.out,
            recipe.training,
            bars.show,
            template=recipe.template,
            max_length=recipe.max_length,
            device=run.device,
            threads=run.threads,
        )


def _rows(data: Path, bars: PhaseBars) -> list[Example]:
    with tempfile.TemporaryDirectory(prefix="whence-train-") as scratch:
        stored = store_dataset(data, format=None, root=Path(scratch), checkpoint=bars.show)
        return list(open_dataset(Path(scratch) / stored.sha256))


def _show(run: Run, result: TrainResult) -> None:
    last = result.losses[-(len(result.losses) // len(result.checkpoints)) :]
    loss = f"{result.losses[0]:.2f} at first, {sum(last) / len(last):.2f} in the last epoch (nats a token)"
    pairs = [("checkpoints", f"{result.checkpoints[0]} … {result.checkpoints[-1].name}"), ("recipe", result.recipe)]
    out.print(facts([*pairs, ("steps", len(result.losses)), ("loss", loss)]))
    out.print("Register it:", highlight=False)
    out.print(f"  {register_command(run, result)}", highlight=False, markup=False, soft_wrap=True)


def register_command(run: Run, result: TrainResult) -> str:
    words = ["whence", "model", "add", run.out.resolve().name, "--base", run.base, "--adapter", result.checkpoints[-1]]
    earlier = result.checkpoints[:-1]
    for checkpoint in earlier if len(earlier) <= _MOST_CHECKPOINTS else ():
        words += ["--checkpoint", checkpoint]
    return shlex.join([str(word) for word in [*words, "--recipe", result.recipe]])


def _print_json(run: Run, result: TrainResult) -> None:
    print_json(
        {
            "checkpoints": [str(path) for path in result.checkpoints],
            "recipe": str(result.recipe),
            "losses": list(result.losses),
            "register": register_command(run, result),
        }
    )
