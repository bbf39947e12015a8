"""What lies beside a model: its configuration, its recipe, the files that a Trainer left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from engine.causal.recipe import RECIPE_FILE, load_recipe, save_recipe
from engine.causal.recorded import find_recipe, recipe_at
from engine.causal.trainer_files import ADAPTER_FILE, ARGUMENT_FILES, STATE_FILE
from engine.config import ModelConfig, Recipe
from engine.weights import check_directory, directory_fingerprint
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, nearly

CONFIG: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1}
STATE: dict[str, Any] = {
    "global_step": 6, "max_steps": 6, "num_train_epochs": 2, "train_batch_size": 4, "epoch": 2.0,
    "log_history": [{"loss": 1.5, "learning_rate": 1e-4, "step": 1}, {"step": 6, "train_loss": 1.0}],
}  # fmt: skip
ARGUMENTS: dict[str, Any] = {
    "optim": "adamw_torch", "learning_rate": 1e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0,
    "num_train_epochs": 2, "per_device_train_batch_size": 4, "seed": 42, "max_grad_norm": 1.0, "max_length": 64,
}  # fmt: skip
ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
RECIPE = json.loads(json.dumps(asdict(Recipe())))
FILES = {"config.json": CONFIG, STATE_FILE: STATE, ARGUMENT_FILES[0]: ARGUMENTS, ADAPTER_FILE: ADAPTER}


def changed(values: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return damaged([json.dumps(values).encode()]) | documents(nearly([values]))


@contextmanager
def beside(work: Path) -> Iterator[Callable[[tuple[str, bytes]], None]]:
    for weights in ("model.safetensors", "adapter_model.safetensors"):
        (work / weights).write_bytes(b"")

    def check(given: tuple[str, bytes]) -> None:
        name, content = given
        for other, values in FILES.items():
            (work / other).write_text(json.dumps(values))
        if name != ADAPTER_FILE:
            (work / ADAPTER_FILE).unlink()  # with it the directory is an adapter's
        (work / name).write_bytes(content)
        try:
            found = find_recipe(ModelConfig(str(work)))
            assert found is None or all(isinstance(note, str) for note in found.notes)
            recipe_at(work, rows=12)
            check_directory(work)
            assert directory_fingerprint(work)
        finally:
            (work / RECIPE_FILE).unlink(missing_ok=True)

    yield check


@contextmanager
def recipe(work: Path) -> Iterator[Callable[[bytes], None]]:
    def check(content: bytes) -> None:
        (work / RECIPE_FILE).write_bytes(content)
        found = load_recipe(work / RECIPE_FILE)
        save_recipe(work / RECIPE_FILE, found)
        again = load_recipe(work / RECIPE_FILE)
        assert _text(again) == _text(found)

    yield check


def _text(found: Recipe) -> str:
    """NaN is no NaN's equal."""
    return json.dumps(asdict(found), sort_keys=True)


parts = st.one_of(*(st.tuples(st.just(name), changed(values)) for name, values in FILES.items()))
every = [(name, piece) for name in FILES for piece in PIECES[::3]]
TARGETS = [
    Target("files beside a model", parts, beside, always=every),
    Target("recipe.json", changed(RECIPE), recipe, always=PIECES),
]
