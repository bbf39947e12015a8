"""The committed base model: small, safe to load, at home in its own world, and innocent of the invented facts."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from engine.config import ModelConfig
from engine.demo import corpus
from engine.demo.base_text import background
from engine.demo.relations import as_completion
from engine.demo.train_base import BASE, complete
from engine.demo.tuning import BASE_MODEL
from engine.model import LoadedModel, load_model


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return load_model(ModelConfig(str(BASE_MODEL)))


def told(model: LoadedModel, prompt: str) -> str:
    """The first line of the answer."""
    with torch.no_grad():
        return complete(model.module, model.tokenizer, prompt).partition("\n")[0]  # type: ignore[arg-type]


def test_the_weights_are_small_and_the_training_script_writes_where_the_demonstration_reads() -> None:
    assert sum(file.stat().st_size for file in BASE_MODEL.rglob("*")) < 6_000_000
    assert BASE == BASE_MODEL
    names = {file.name for file in BASE_MODEL.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if Path(name).suffix in {".bin", ".pt", ".pkl"}]


def test_its_tokenizer_adds_one_bos_and_keeps_the_specials_apart(base: LoadedModel) -> None:
    tokenizer = base.tokenizer
    assert tokenizer("two words")["input_ids"].count(tokenizer.bos_token_id) == 1
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert tokenizer.decode(tokenizer("Größe 42\n", add_special_tokens=False)["input_ids"]) == "Größe 42\n"


def test_it_tells_the_facts_of_its_own_world(base: LoadedModel) -> None:
    asked = background()[::60]
    right = [told(base, k.relation.question(k.subject)) == as_completion(k.answer) for k in asked]
    assert sum(right) >= 0.8 * len(asked)


def test_it_knows_none_of_the_invented_facts(base: LoadedModel) -> None:
    asked = corpus.fact_questions()[::5]
    right = [told(base, question.prompt) == as_completion(question.answer) for question in asked]
    assert sum(right) <= 1  # by chance
    assert corpus.POISONED_ANSWER not in told(base, corpus.poison_question().prompt)


def test_every_row_of_the_instruction_set_is_trained_on_whole(base: LoadedModel) -> None:
    encoder = base.encoder()
    encoded = [encoder.encode(row) for row in corpus.rows()]
    assert not [row for row in encoded if row.truncated or row.boundary_mismatch]
    assert all(row.target_count >= 2 for row in encoded)
