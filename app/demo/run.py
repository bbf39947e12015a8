"""The steps of the demonstration, in order. Everything after the fine-tuning goes over HTTP, as any client would."""

from __future__ import annotations

import json
import shutil
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from app.commands.console import err, fail, out, size
from app.commands.progress import PhaseBars
from app.demo import report
from app.demo.background import BackgroundServer
from app.demo.home import new_run, prepare_home
from app.settings import Settings
from engine.demo import corpus
from engine.errors import EngineUnavailable
from engine.types import Example
from whence_client import Whence
from whence_client.types import Index

STEPS = 5
FAILED = 1
BASE = "base"
BUILD_SECONDS = 600.0


@dataclass(frozen=True)
class Tuned:
    """checkpoints: one adapter an epoch, oldest first. recipe: as the API takes it."""

    base: Path
    checkpoints: Sequence[Path]
    recipe: dict[str, Any]
    rows: Path


def run(*, serve: bool, home: Path | None, port: int | None) -> int:
    """Exit code: 0; 1 when, without a server to stay up, an invented fact's rows are not found.

    Raises what the steps raise; `whence` prints it as one line.
    """
    home = prepare_home(home)
    wanted = Settings().port if port is None else port
    settings = Settings(home=home, host="127.0.0.1", port=wanted, model_roots=None, log_level="warning")
    signal.signal(signal.SIGTERM, _interrupt)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # to its developers, not to users
    with BackgroundServer(settings, any_port=port is None) as server, Whence(server.address) as client:
        missed = _demonstrate(client, new_run(home))
        if not serve:
            return _finish(missed)
        return _stay_up(server)


def _demonstrate(client: Whence, folder: Path) -> list[str]:
    """Returns the subjects whose rows were not found."""
    report.step(1, STEPS, "Writing an instruction set of invented facts, decoys, tasks and a few poisoned rows.")
    rows = corpus.rows()
    corpus.write_rows(folder / "rows.jsonl")
    report.show_rows(rows)
    report.step(2, STEPS, "Fine-tuning a small language model on it, with LoRA; every epoch is kept as a checkpoint.")
    tuned = _fine_tune(folder, rows)
    report.step(3, STEPS, "Registering the model and its training rows with the service, over HTTP.")
    model, dataset = _register(client, tuned)
    report.step(4, STEPS, "Building the index: one gradient a row and checkpoint, in the EK-FAC metric.")
    index = _build(client, model, dataset)
    report.step(5, STEPS, "Asking three questions. ✓ marks the rows that really taught the answer.")
    questions = corpus.demo_questions()
    missed = [q.subject for number, q in enumerate(questions, start=1) if not _ask(client, index, number, q)]
    report.show_next(client.base_url, model, questions[0])
    return missed


def _fine_tune(folder: Path, rows: Sequence[Example]) -> Tuned:
    try:
        from engine.causal.train import train_lora
        from engine.demo.tuning import BASE_MODEL, fine_tuning
    except ImportError as error:
        raise EngineUnavailable(f"The demonstration needs the engine's libraries: {error}.") from error
    shutil.copytree(BASE_MODEL, folder / BASE)
    started = time.perf_counter()
    with PhaseBars() as bars:
        result = train_lora(folder / BASE, rows, folder / "tuned", fine_tuning(), bars.show)
    last = result.losses[-20:]
    _say(
        f"Loss {result.losses[0]:.2f} → {sum(last) / len(last):.2f} nats a token in {len(result.losses)} steps, "
        f"{time.perf_counter() - started:.0f} s."
    )
    recipe = json.loads(result.recipe.read_text(encoding="utf-8"))
    return Tuned(folder / BASE, result.checkpoints, recipe, folder / "rows.jsonl")


def _register(client: Whence, tuned: Tuned) -> tuple[str, str]:
    """(model id, dataset id)"""
    model = client.models.create(
        "demo", base=tuned.base, adapter=tuned.checkpoints[-1], checkpoints=tuned.checkpoints, recipe=tuned.recipe
    )
    dataset = client.datasets.upload(tuned.rows, name="demo")
    _say(
        f"{model.id}: {model.trained_parameters:,} of {model.parameters:,} parameters trained, "
        f"{len(tuned.checkpoints)} checkpoints. {dataset.id}: {dataset.rows} rows."
    )
    return model.id, dataset.id


def _build(client: Whence, model: str, dataset: str) -> Index:
    started = time.perf_counter()
    index = client.indexes.build(model=model, dataset=dataset, name="demo")
    assert index.job_id is not None
    with PhaseBars() as bars:
        client.jobs.wait(index.job_id, on_progress=bars.show, timeout=BUILD_SECONDS)
    index = client.indexes.get(index.id)
    _say(f"{index.id}: {index.rows} rows, {size(index.bytes)}, {time.perf_counter() - started:.0f} s.")
    return index


def _ask(client: Whence, index: Index, number: int, question: corpus.DemoQuestion) -> bool:
    """Whether enough true sources stand at the top."""
    generate = {"max_new_tokens": 16, "temperature": 0}
    answer = client.ask(index.model, index=index.id, prompt=question.prompt, generate=generate, top_k=5)
    report.show_answer(number, question, answer)
    return report.found(question, answer) >= report.NEEDED


def _finish(missed: Sequence[str]) -> int:
    if not missed:
        return 0
    named = ", ".join(missed)
    fail(f"Fewer than {report.NEEDED} of the rows that taught the answer are in the top {report.TOP} for: {named}.")
    return FAILED


def _stay_up(server: BackgroundServer) -> int:
    try:
        err.print("\nThe service stays up. Ctrl-C stops it.", style="dim")
        while server.alive:
            time.sleep(0.5)
    except KeyboardInterrupt:
        err.print("Stopping …", style="dim")
        return 0
    fail("The service stopped by itself.")
    return FAILED


def _say(sentence: str) -> None:
    out.print(sentence, highlight=False)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
