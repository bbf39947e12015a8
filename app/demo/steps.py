"""The steps of the demonstration, in order. Everything after the fine-tuning goes over HTTP, as any client would."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.commands.console import out, size
from app.commands.progress import PhaseBars
from app.commands.scorecard import show_scorecard
from app.demo import evaluation, report, verdicts
from engine.demo import corpus
from engine.errors import EngineUnavailable
from engine.types import Example
from whence_client import Attribution, Whence
from whence_client.types import Index

Asked = tuple[corpus.DemoQuestion, Attribution]

STEPS, STEPS_OF_TRUST = 5, 2
MEASURING = "Measuring how far these rankings can be trusted: training again without some of the rows, and comparing."
BASE = "base"
BUILD_SECONDS = 600.0


@dataclass(frozen=True)
class Tuned:
    """checkpoints: one adapter an epoch, oldest first. recipe: as the API takes it."""

    base: Path
    checkpoints: Sequence[Path]
    recipe: dict[str, Any]
    rows: Path


@dataclass(frozen=True)
class Place:
    """folder: of this run, in the home. stays: whether the service is there afterwards."""

    home: Path
    folder: Path
    stays: bool


def demonstrate(client: Whence, place: Place, evaluate: bool) -> list[str]:
    """Returns the subjects whose rows were not found."""
    steps = STEPS + STEPS_OF_TRUST if evaluate else STEPS
    report.step(1, steps, "Writing an instruction set of invented facts, decoys, tasks and a few poisoned rows.")
    rows = corpus.rows()
    corpus.write_rows(place.folder / "rows.jsonl")
    report.show_rows(rows)
    report.step(2, steps, "Fine-tuning a small language model on it, with LoRA; every epoch is kept as a checkpoint.")
    tuned = _fine_tune(place.folder, rows)
    report.step(3, steps, "Registering the model and its training rows with the service, over HTTP.")
    model, dataset = _register(client, tuned)
    report.step(4, steps, "Building the index: one gradient a row and checkpoint, in the EK-FAC metric.")
    index = _build(client, model, dataset)
    report.step(5, steps, "Asking three questions. ✓ marks the rows that really taught the answer.")
    questions = corpus.demo_questions()
    answers = [_ask(client, index, number, question) for number, question in enumerate(questions, start=1)]
    if evaluate:
        _judge(client, place, index.id, rows, list(zip(questions, answers, strict=True)))
    report.show_next(client.base_url, model, questions[0])
    asked = zip(questions, answers, strict=True)
    return [question.subject for question, answer in asked if report.found(question, answer) < report.NEEDED]


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


def _ask(client: Whence, index: Index, number: int, question: corpus.DemoQuestion) -> Attribution:
    generate = {"max_new_tokens": 16, "temperature": 0}
    answer = client.ask(index.model, index=index.id, prompt=question.prompt, generate=generate, top_k=5)
    report.show_answer(number, question, answer)
    return answer


def _judge(client: Whence, place: Place, index: str, rows: Sequence[Example], asked: Sequence[Asked]) -> None:
    """A small scorecard; then the same answers, read again, say how far they can be trusted."""
    report.step(STEPS + 1, STEPS + STEPS_OF_TRUST, MEASURING)
    questions = place.folder / evaluation.QUESTIONS_FILE
    evaluation.write_questions(questions, rows)
    plan = evaluation.plan(client, index, questions)
    verdicts.show_plan(plan)
    begun, started = time.perf_counter(), evaluation.start(client, index, questions, plan.config)
    address = client.base_url if place.stays else None
    measured = evaluation.finished(client, started)
    if measured is None:
        verdicts.show_unfinished(evaluation.typed(["jobs", "watch", str(started.job_id)], place.home, address))
        return
    _say(f"{measured.retrainings} retrainings and all scores: {time.perf_counter() - begun:.0f} s.")
    out.print()
    show_scorecard(measured)
    report.step(STEPS + 2, STEPS + STEPS_OF_TRUST, "The same three answers, now with their verdicts.")
    again = [(question, client.attributions.get(answer.id)) for question, answer in asked]
    verdicts.show_verdicts([(question, answer) for question, answer in again if isinstance(answer, Attribution)])
    unknown = verdicts.still_open(measured)
    if unknown and plan.left:
        finish = ["evaluate", index, "--queries", str(questions)]
        verdicts.show_going_on(unknown, plan, evaluation.typed(finish, place.home, address))


def _say(sentence: str) -> None:
    out.print(sentence, highlight=False)
