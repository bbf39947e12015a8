"""Unlearn: an adapter with the chosen rows' effect removed, to be registered as a new version of the model.

    retrain    the recorded run once more, the rows at weight 0: what the model would be without them
    influence  one influence step from the tuned weights (influence_step.py), no longer than rows that stay allow: an
               approximation, in seconds

The adapter lies whole in `<work>/adapter` as PEFT saves one, with the recipe beside it and, after a retraining,
Adam's state. Its effect is measured on the query and on rows that stay.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.causal.check_intervals import check_finite
from engine.causal.check_requirements import positions_of
from engine.causal.check_trainings import Trainings, resident_bytes, without
from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckCost, CheckResult, SetEffect
from engine.causal.greedy import greedy_texts
from engine.causal.influence_step import check_influence, influence_step, mean_loss, shortened
from engine.causal.measuring import measure_questions
from engine.causal.recipe import RECIPE_FILE, save_recipe
from engine.causal.retrainer import longest_answer
from engine.causal.train import train_lora
from engine.config import ModelConfig, Recipe, fingerprint
from engine.durable import alone_in, naming_full_disk, sync_directory, write_durably
from engine.encoded import Encoded
from engine.errors import InvalidOption
from engine.loaded import LoadedModel
from engine.model import load_model
from engine.opened import OpenIndex
from engine.question import Question, prepare
from engine.store import IndexStore
from engine.types import CheckpointFn, Progress
from engine.weights import directory_fingerprint

ADAPTER = "adapter"
_CLAIM = "unlearn.json"
_HELD_OUT = 200  # rows that stay, at most
_HARM = 0.05  # of their loss, above which it is told
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_*")


def run_unlearn(work: CheckWork, checkpoint: CheckpointFn) -> CheckResult:
    """Raises what `train_lora` raises (how: retrain) or `influence_step` (influence)."""
    started = time.perf_counter()
    task = _Task(work, _chosen(work))
    with alone_in(work.directory):
        task.claim()
        details = task.retrain(checkpoint) if work.config.how == "retrain" else task.step(checkpoint)
        before, after = task.compare(checkpoint)
    ids = tuple(work.dataset[position].id for position in task.positions)
    change = after.value - before.value
    changed = None if before.answer is None else float(before.answer != after.answer)
    return CheckResult(
        kind="unlearn",
        sets=(SetEffect("top", len(ids), before.value, after.value, change, None, None, 1, changed, ids),),
        answer_before=before.answer,
        answer_after=after.answer,
        adapter=task.adapter,
        held_out={"before": before.loss, "after": after.loss},
        retrainings=int(work.config.how == "retrain"),
        seconds=time.perf_counter() - started,
        details=details
        | {"how": work.config.how, "predicted": {"top": work.predicted(ids)}, "held_out_rows": len(task.held_out)},
        warnings=task.warnings(details.get("scale", 1.0), before, after),
    )


def estimate_unlearn(work: CheckWork) -> CheckCost:
    """A few steps (rows) are timed. Raises what `run_unlearn` raises."""
    task = _Task(work, _chosen(work))
    task.check_claim()
    if work.config.how == "influence":
        return task.step_cost()
    if task.adapter.exists():
        return CheckCost(0, 0.0, 2 * resident_bytes(Path(work.model.base), work.model.dtype))
    variant = without(task.positions, work.training.seed)
    return Trainings(work.study(), work.directory / "timing").cost([variant])


@dataclass(frozen=True)
class _State:
    """f of the query, the greedy answer (None of a set of queries), mean loss a token on the held-out rows."""

    value: float
    answer: str | None
    loss: float


@dataclass(frozen=True)
class _Task:
    """positions: of the rows to be unlearned."""

    work: CheckWork
    positions: list[int]

    @property
    def adapter(self) -> Path:
        return self.work.directory / ADAPTER

    @property
    def key(self) -> str:
        state = [directory_fingerprint(Path(path)) for path in self.work.model.directories]
        index = IndexStore.open(self.work.index_dir).manifest.revision if self.work.config.how == "influence" else ""
        rows = len(self.work.dataset)
        return fingerprint("unlearn", state, self.work.model.recipe, sorted(self.positions), rows, index)

    def check_claim(self) -> None:
        """The directory is this task's own. Raises InvalidOption."""
        file = self.work.directory / _CLAIM
        if file.exists() and json.loads(file.read_text())["key"] != self.key:
            raise InvalidOption(
                f"{self.work.directory} holds another unlearning.", remedy="Give a new directory, or remove that one."
            )

    def claim(self) -> None:
        self.check_claim()
        content = json.dumps({"key": self.key}).encode()
        write_durably(self.work.directory / _CLAIM, lambda sink: sink.write(content))

    # --- the adapter ---

    def retrain(self, checkpoint: CheckpointFn) -> dict[str, Any]:
        study, run = self.work.study(), self.work.directory / "run"
        if not self.adapter.exists():
            if not run.exists():
                train_lora(
                    study.base,
                    study.examples,
                    run,
                    study.training,
                    lambda progress: checkpoint(replace(progress, phase="retrain")),
                    template=study.template,
                    max_length=study.max_length,
                    dtype=study.dtype,
                    device=study.device,
                    tokenizer=study.tokenizer,
                    chat_template=study.chat_template,
                    steps=study.steps,
                    removed=(*study.removed, *self.positions),
                )
            last = run / f"epoch-{study.training.epochs}"
            with _whole(self.adapter, self.work.model) as aside:
                shutil.copytree(last, aside, dirs_exist_ok=True)
                shutil.copy2(run / RECIPE_FILE, aside / RECIPE_FILE)
        return {"seed": study.training.seed}

    def step(self, checkpoint: CheckpointFn) -> dict[str, Any]:
        about = self.work.directory / "influence.json"
        if not self.adapter.exists():
            loaded = self.work.tuned()
            found = influence_step(loaded, self.work.dataset, self.work.index_dir, self.positions, checkpoint)
            encoder = loaded.encoder()
            watched = [encoder.encode(self.work.dataset[position]) for position in self.watched]
            tensors, scale = shortened(loaded, found, watched)
            details = {"method": found.method, "coverage": found.coverage, "scale": scale}
            text = json.dumps(details | {"step_norm": scale * found.norm, "approximation": True}).encode()
            write_durably(about, lambda sink: sink.write(text))
            loaded.exchange([replace(loaded.states[-1], tensors=tensors)])
            recipe = self.work.model.recipe or Recipe()
            notes = {"unlearned": sorted(self.work.dataset[p].id for p in self.positions), "how": "influence"}
            with _whole(self.adapter, self.work.model) as aside:
                # the base's embeddings are the base's: PEFT would ask a hub whether they changed
                loaded.module.save_pretrained(str(aside), save_embedding_layers=False)  # type: ignore[operator]
                save_recipe(aside / RECIPE_FILE, replace(recipe, training=None, details=recipe.details | notes))
        return json.loads(about.read_text())

    def step_cost(self) -> CheckCost:
        """A hundredth of the rows, or one, is stepped by, and thrown away."""
        memory = 3 * resident_bytes(Path(self.work.model.base), self.work.model.dtype)
        if self.adapter.exists():
            return CheckCost(0, 0.0, memory)
        loaded = self.work.tuned()
        with OpenIndex(loaded, self.work.dataset, self.work.index_dir) as index:
            check_influence(index)
        some = self.positions[: max(1, len(self.positions) // 100)]
        started = time.perf_counter()
        influence_step(loaded, self.work.dataset, self.work.index_dir, some, lambda _progress: None)
        return CheckCost(0, (time.perf_counter() - started) * len(self.positions) / len(some), memory)

    # --- what it did ---

    @property
    def held_out(self) -> list[int]:
        """Positions of rows that stay, of which nothing is chosen by."""
        return sorted(self._staying[0::2][:_HELD_OUT])

    @property
    def watched(self) -> list[int]:
        """Other rows that stay: how long an influence step is, is chosen by their loss. The same where only one is."""
        return sorted(self._staying[1::2][:_HELD_OUT]) or self.held_out

    @property
    def _staying(self) -> list[int]:
        """In an order of chance."""
        gone = set(self.positions)
        rows = len(self.work.dataset)
        order = np.random.default_rng((self.work.config.seed, rows)).permutation(rows).tolist()
        return [position for position in order if position not in gone]

    def compare(self, checkpoint: CheckpointFn) -> tuple[_State, _State]:
        """Tokens are the tuned model's own, before and after."""
        checkpoint(Progress(0, 2, "models", "measure"))
        tuned = self.work.tuned()
        question, encoder = prepare(tuned, None, self.work.query), tuned.encoder()
        rows = [encoder.encode(self.work.dataset[position]) for position in self.held_out]
        before = _measured(tuned, question, rows)
        del tuned
        checkpoint(Progress(1, 2, "models", "measure"))
        config = replace(self.work.model, adapter=str(self.adapter), checkpoints=(), quantization=None)
        after = _measured(load_model(config, self.work.device), question, rows)
        checkpoint(Progress(2, 2, "models", "measure"))
        check_finite(np.array([after.value, after.loss]), "The new adapter")
        return before, after

    def warnings(self, scale: float, before: _State, after: _State) -> tuple[str, ...]:
        notes: list[str] = []
        if self.work.config.how == "influence":
            notes.append("an influence step is an approximation: how: retrain tells what the rows really did")
        if scale < 1:
            notes.append(f"the whole step would have cost rows that stay too much: {scale:g} of it was taken")
        if after.loss > (1 + _HARM) * before.loss:
            notes.append(f"the loss a token on rows that stay rose from {before.loss:.3f} to {after.loss:.3f} nats")
        if self.work.model.quantization:
            notes.append("measured on the base as it is stored, not quantised")
        return tuple(notes)


@contextmanager
def _whole(path: Path, model: ModelConfig) -> Iterator[Path]:
    """A directory that appears when it is whole, with the tokenizer that lies beside the tuned adapter."""
    aside = path.with_name(path.name + ".writing")
    with naming_full_disk(path):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tuned = [Path(source) for source in (model.adapter, *reversed(model.checkpoints)) if source is not None]
        beside = next((source for source in tuned if (source / "tokenizer.json").is_file()), None)
        for file in (file for pattern in _TOKENIZER_FILES if beside is not None for file in beside.glob(pattern)):
            shutil.copy2(file, aside / file.name)
        yield aside
        for written in (*aside.iterdir(), aside):
            sync_directory(written)  # a file is synced the same way
        os.rename(aside, path)
        sync_directory(path.parent)


def _chosen(work: CheckWork) -> list[int]:
    return positions_of(work.config.ids, work.dataset.position_of, "/ids") if work.config.ids else work.top


@torch.no_grad()
def _measured(model: LoadedModel, question: Question, rows: Sequence[Encoded]) -> _State:
    model.use(-1)
    value = float(measure_questions(model, [question])[0, 0])
    answer = None
    if len(question.explained) == 1:
        sequence = question.sequences[question.explained[0]]
        answer = greedy_texts(model, sequence, longest_answer(sequence))[0]
    return _State(value, answer, mean_loss(model, model.states[-1], rows))
