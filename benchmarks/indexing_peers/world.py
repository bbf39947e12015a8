"""The model, the rows and the questions that everybody is given.

<work>/task/    what benchmarks/quality/peers/task.py writes, and the rows and questions as text
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.peers.given import Given
from benchmarks.quality.peers.task import write_task
from benchmarks.random_llama import RANK, SHAPE
from engine.config import ModelConfig, Recipe
from engine.types import Query
from tests import factories


@dataclass(frozen=True)
class Size:
    """shape: of benchmarks/random_llama, what is other. shortest, longest: tokens of a row."""

    layers: int
    width: int
    shape: dict[str, Any]
    shortest: int
    longest: int


# Positions beyond any row: Bergson's token batches are no longer than the model's context.
_POSITIONS = {"max_position_embeddings": 4096}
_FOUR_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
SIZES = {
    "1M": Size(4, 128, {"vocab_size": 1024, "intermediate_size": 344, **_FOUR_HEADS, **_POSITIONS}, 24, 256),
    "110M": Size(12, 768, _POSITIONS, 256, 256),
}
MEDIAN, SPREAD = 80, 0.7  # tokens of a row; log-normal between the bounds
_LETTERS = "abcdefghijklmnopqrstuvwxyz "


def write_world(work: Path, rows: int, queries: int, size: Size = SIZES["1M"]) -> Given:
    """In place of an earlier one: a random Llama with LoRA r=8 on every Linear, A and B random; rows and questions."""
    shutil.rmtree(work, ignore_errors=True)
    base = factories.llama(hidden=size.width, layers=size.layers, **(SHAPE | size.shape))
    factories.save_base(work / "base", base)
    adapter = factories.save_adapter(work / "adapter", base, 1, r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0)
    generator = random.Random(0)
    texts = [_row(generator, size) for _ in range(rows)]
    asked = [_row(generator, size) for _ in range(queries)]
    model = ModelConfig(str(work / "base"), adapter=str(adapter), recipe=Recipe())
    data = factories.dataset(work / "rows", texts)
    write_task(model, data, [_query(question) for question in asked], work / "task")
    for name, lines in (("text", texts), ("questions", asked)):
        text = "\n".join(json.dumps(line) for line in lines)
        (work / "task" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Given((work / "task").absolute())


def _row(generator: random.Random, size: Size) -> dict[str, str]:
    """A third of the tokens and no more are the completion's: one a letter, BOS and EOS beside them."""
    length = round(MEDIAN * generator.lognormvariate(0, SPREAD))
    letters = min(max(length, size.shortest), size.longest) - 2
    text = "".join(generator.choices(_LETTERS, k=letters))
    prompt = letters - max(8, letters // 3)
    return {"prompt": text[:prompt], "completion": text[prompt:]}


def config(task: Path) -> ModelConfig:
    """The task's model as Whence loads it: its gradients are token sums, as the peers' are."""
    adapter = Given(task).adapter(Given(task).checkpoints[-1])
    return ModelConfig(str(task / "base"), adapter=str(adapter), recipe=Recipe())


def questions(task: Path) -> list[Query]:
    lines = (task / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [_query(json.loads(line)) for line in lines]


def _query(question: dict[str, str]) -> Query:
    return Query(prompt=question["prompt"], completion=question["completion"])
