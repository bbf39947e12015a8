"""What the model says, alone: the text that a question with the same `generate` explains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import question
from engine.config import IndexConfig, ModelConfig, Recipe
from engine.errors import ContextOverflow, InvalidQuery, ModelPathNotFound, QueueFull
from engine.lane import Lane
from engine.model import load_model
from engine.question import generate_only
from engine.types import AskOptions, Generate, Query
from tests import factories


class World:
    def __init__(self, root: Path) -> None:
        base = factories.llama(hidden=8, layers=1)
        factories.save_base(root / "base", base)
        self.model = ModelConfig(
            str(root / "base"), str(factories.save_adapter(root / "adapter", base, 1, r=2)), recipe=Recipe()
        )
        self.dataset = factories.dataset(root / "data", factories.sentences(6))
        self.index = root / "index"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("generating"))


@pytest.fixture
def lane() -> Iterator[Lane]:
    lane = Lane(max_queue=3)
    yield lane
    lane.close()


def asking(**generate: float) -> Query:
    return Query(prompt="the cat", generate=Generate(**{"max_new_tokens": 6} | generate))  # type: ignore[arg-type]


def test_it_is_the_text_that_a_question_explains_and_is_made_once(
    world: World, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Generate] = []

    def counted(model: object, ids: object, options: Generate) -> tuple[str, bool]:
        made.append(options)
        return generate(model, ids, options)  # type: ignore[arg-type]

    generate = question.generate
    monkeypatch.setattr(question, "generate", counted)
    lane.build_index(world.model, world.dataset.path, IndexConfig("graddot"), world.index, factories.ignore)
    for query in (asking(), asking(temperature=1.5, seed=3), asking(temperature=1.5, seed=4)):
        said = lane.submit_generation(world.model, query).result(30)
        answer = lane.submit_attribution(world.model, world.dataset.path, world.index, query, AskOptions()).result(30)
        assert said.text == answer.completion
        assert lane.submit_generation(world.model, query).result(30) == said
    assert [(options.temperature, options.seed) for options in made] == [(0, 0), (1.5, 3), (1.5, 4)]


def test_whether_the_model_ended_it_itself_is_told(world: World) -> None:
    model = load_model(world.model)
    eos = model.tokenizer.eos_token_id
    with torch.no_grad():  # the embedding is the head too: an end that answers every state is the likeliest token
        said = generate_only(model, asking())
        assert not said.ended
        head = model.module.get_output_embeddings().weight  # type: ignore[operator]
        head[eos] = head[:].abs().sum(0) * head.sum(0).sign()
    ended = [generate_only(model, asking(max_new_tokens=40, temperature=1.0, seed=seed)).ended for seed in range(6)]
    assert any(ended)


def test_other_weights_say_it_anew(world: World) -> None:
    model = load_model(world.model)
    generate_only(model, asking())
    assert len(model.generated) == 1
    model.exchange(model.states)
    assert model.generated == {}


def test_only_the_last_texts_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question, "_REMEMBERED", 2)
    model = load_model(world.model)
    for seed in range(4):
        generate_only(model, asking(seed=seed))
    assert [options.seed for _, options in model.generated] == [2, 3]


def test_what_cannot_be_generated_is_named_and_the_lane_goes_on(world: World, lane: Lane) -> None:
    with pytest.raises(ContextOverflow, match="context"):
        lane.submit_generation(world.model, asking(max_new_tokens=4000)).result(30)
    with pytest.raises(InvalidQuery, match="how much"):
        lane.submit_generation(world.model, Query(prompt="the cat")).result(30)
    with pytest.raises(ModelPathNotFound):
        lane.submit_generation(ModelConfig("/nowhere"), asking()).result(30)
    assert lane.submit_generation(world.model, asking()).result(30).text


def test_it_stands_in_the_bounded_queue(world: World, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_serve_waiting", lambda: None)  # nothing is taken from the queue
    waiting = [lane.submit_generation(world.model, asking()) for _ in range(3)]
    with pytest.raises(QueueFull):
        lane.submit_generation(world.model, asking())
    waiting[0].cancel()
    assert not lane.submit_generation(world.model, asking()).done()  # the cancelled one holds no place
