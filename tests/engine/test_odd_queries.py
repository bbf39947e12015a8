"""Queries that nobody sends on purpose: refused with a cause, or answered; never an exception from a library."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine import answer as answering
from engine.answer import attribute
from engine.build import build_index
from engine.config import IndexConfig
from engine.errors import EngineError, InvalidQuery, NonFiniteGradient
from engine.model import load_model
from engine.opened import OpenIndex
from engine.question import Question
from engine.types import AskOptions, Attribution, Generate, Message, Query
from tests import factories
from tests.engine.contract_world import save


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> OpenIndex:
    root = tmp_path_factory.mktemp("odd")
    model = load_model(save(root, "lora"))
    dataset = factories.dataset(root / "data", factories.sentences(8))
    build_index(model, dataset, IndexConfig("graddot", checkpoints="final"), root / "index", factories.ignore)
    return OpenIndex(model, dataset, root / "index")


def ask(index: OpenIndex, query: Query) -> Attribution | EngineError:
    return attribute(index, [(query, AskOptions(top_k=2))])[0]


def test_half_a_surrogate_pair_in_a_role_is_refused(index: OpenIndex) -> None:
    refusal = ask(index, Query(messages=(Message("us\ud800er", "a"), Message("assistant", "b"))))
    assert isinstance(refusal, InvalidQuery) and refusal.pointer == "/messages/0/role"


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6])
def test_a_temperature_that_would_overflow_the_logits_is_greedy(index: OpenIndex, temperature: float) -> None:
    greedy = ask(index, Query(prompt="the cat", generate=Generate(4)))
    nearly = ask(index, Query(prompt="the cat", generate=Generate(4, temperature=temperature)))
    assert isinstance(greedy, Attribution) and isinstance(nearly, Attribution)
    assert nearly.completion == greedy.completion


def test_a_gradient_that_overflows_fails_its_own_query_alone(index: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    real = answering.measure_with_gradients

    def overflowing(index: OpenIndex, questions: Sequence[Question]) -> object:
        if any(question.completion == " boom" for question in questions):
            raise NonFiniteGradient("The gradient of the query is not finite.")
        return real(index, questions)

    monkeypatch.setattr(answering, "measure_with_gradients", overflowing)
    queries = [Query(prompt="the cat", completion=text) for text in (" sat", " boom", " ran")]
    answers = attribute(index, [(query, AskOptions()) for query in queries])
    assert [type(answer) for answer in answers] == [Attribution, NonFiniteGradient, Attribution]


def test_token_shares_of_a_contrast_say_what_they_add_up_to(index: OpenIndex) -> None:
    query = Query(prompt="the cat", completion=" sat", contrast=" ran")
    with_tokens, without = (attribute(index, [(query, AskOptions(tokens=tokens))])[0] for tokens in (True, False))
    alone = attribute(index, [(Query(prompt="the cat", completion=" sat"), AskOptions(tokens=True, top_k=8))])[0]
    assert isinstance(with_tokens, Attribution) and isinstance(without, Attribution) and isinstance(alone, Attribution)
    assert any("of the completion alone" in warning for warning in with_tokens.diagnostics.warnings)
    assert not any("of the completion alone" in warning for warning in without.diagnostics.warnings)
    own = {hit.example_id: hit.score for hit in (*alone.proponents, *alone.opponents)}
    for hit in with_tokens.proponents:
        assert sum(hit.position_shares or ()) == pytest.approx(own[hit.example_id], rel=1e-3)
