"""Messages to tokens: the chat template's text, the assistant's turns as targets."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import TemplateConfig
from engine.errors import EmptyCompletion, InvalidOption, InvalidQuery, MalformedRow
from engine.text import Encoded, TextEncoder
from engine.types import Example, Message, Span
from tests.engine import trl_oracle
from tests.engine.tokenizer_factory import CHATML, WITH_BOS, byte_level, metaspace

USER, ANSWER = Message("user", "What is the capital of Velora?"), Message("assistant", "It is Tamsin.")
AGAIN, SECOND = Message("user", "How many apples are left?"), Message("assistant", " Three  apples, café 😀 ")
TWO_TURNS = (USER, ANSWER, AGAIN, SECOND)
TOKENIZERS = [
    byte_level(chat_template=CHATML),
    byte_level(bos=True, chat_template=WITH_BOS),
    metaspace(chat_template=CHATML),
    metaspace(chat_template=WITH_BOS),
]
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS)


def encoder(tokenizer: Any, chat_template: str | None = None, **template: Any) -> TextEncoder:
    return TextEncoder(tokenizer, TemplateConfig(**template), chat_template=chat_template, max_length=500)


def target_text(tokenizer: Any, encoded: Encoded) -> str:
    return tokenizer.decode([t for t, on in zip(encoded.ids, encoded.targets, strict=True) if on])


@every_tokenizer
@pytest.mark.parametrize("messages", [(USER, ANSWER), TWO_TURNS])
def test_a_conversation_becomes_what_trl_makes_of_it(tokenizer: Any, messages: tuple[Message, ...]) -> None:
    example = Example(id="a", messages=messages)
    ids, labels = trl_oracle.input_ids_and_labels(tokenizer, example)
    encoded = encoder(tokenizer).encode(example)
    assert list(encoded.ids) == ids
    assert [t if on else -100 for t, on in zip(encoded.ids, encoded.targets, strict=True)] == labels


@pytest.mark.parametrize("tokenizer", [TOKENIZERS[1], TOKENIZERS[3]])
@pytest.mark.parametrize("bos", ["auto", "always"])
def test_a_template_that_writes_bos_gets_no_second_one(tokenizer: Any, bos: str) -> None:
    encoded = encoder(tokenizer, bos=bos).encode(Example(id="a", messages=(USER, ANSWER)))
    assert encoded.ids.count(tokenizer.bos_token_id) == 1
    assert encoded.ids[0] == tokenizer.bos_token_id


def test_bos_switches_reach_conversations_too() -> None:
    chatml, with_bos = TOKENIZERS[0], TOKENIZERS[1]
    example = Example(id="a", messages=(USER, ANSWER))
    assert encoder(chatml, bos="always").encode(example).ids[0] == chatml.bos_token_id
    assert with_bos.bos_token_id not in encoder(with_bos, bos="never").encode(example).ids


def test_all_assistant_turns_carry_loss_when_asked_for() -> None:
    tokenizer = TOKENIZERS[0]
    last = encoder(tokenizer).encode(Example(id="a", messages=TWO_TURNS))
    every = encoder(tokenizer, assistant_turns="all").encode(Example(id="a", messages=TWO_TURNS))
    assert every.ids == last.ids
    assert target_text(tokenizer, last) == f"{SECOND.content}<|im_end|>\n"
    assert target_text(tokenizer, every) == f"{ANSWER.content}<|im_end|>\n{SECOND.content}<|im_end|>\n"


def test_an_opening_assistant_turn_is_predicted_without_its_header() -> None:
    messages = (Message("assistant", "Three apples"), USER, ANSWER)
    encoded = encoder(TOKENIZERS[0], assistant_turns="all").encode(Example(id="a", messages=messages))
    assert target_text(TOKENIZERS[0], encoded) == f"Three apples<|im_end|>\n{ANSWER.content}<|im_end|>\n"


def test_turns_after_the_last_answer_are_read_and_not_predicted() -> None:
    encoded = encoder(TOKENIZERS[0]).encode(Example(id="a", messages=(USER, ANSWER, AGAIN)))
    assert target_text(TOKENIZERS[0], encoded) == f"{ANSWER.content}<|im_end|>\n"
    assert AGAIN.content in TOKENIZERS[0].decode(list(encoded.ids))


@every_tokenizer
def test_spans_find_the_answer_inside_the_rendered_text(tokenizer: Any) -> None:
    made = encoder(tokenizer)
    encoded = made.encode_query(messages=TWO_TURNS[:3], completion=SECOND.content)
    prompt = made.prompt_text(messages=TWO_TURNS[:3])
    tokens = made.tokens(encoded, prompt, SECOND.content)
    spelled = {c for token in tokens if token.part == "completion" for c in range(token.start, token.end)}
    assert {c for c, character in enumerate(SECOND.content) if not character.isspace()} <= spelled
    assert AGAIN.content in prompt
    assert all(token.target for token in tokens if token.part == "completion" and token.start > 0)
    assert all(token.start == token.end for token in tokens if token.part == "special")


@every_tokenizer
def test_a_span_chooses_its_characters_of_the_answer(tokenizer: Any) -> None:
    start = SECOND.content.index("apples")
    span = Span(start, start + len("apples"))
    encoded = encoder(tokenizer).encode_query(messages=[USER], completion=SECOND.content, span=span)
    assert target_text(tokenizer, encoded).strip() == "apples"


@every_tokenizer
def test_a_query_has_the_tokens_of_the_training_row_it_repeats(tokenizer: Any) -> None:
    made = encoder(tokenizer)
    row = made.encode(Example(id="a", messages=TWO_TURNS))
    assert made.encode_query(messages=TWO_TURNS) == row
    assert made.encode_query(messages=TWO_TURNS[:-1], completion=SECOND.content) == row


def test_a_completion_replaces_the_answer_at_the_end() -> None:
    made = encoder(TOKENIZERS[0])
    other = made.encode_query(messages=(USER, ANSWER), completion="Three apples")
    assert other == made.encode_query(messages=(USER,), completion="Three apples")
    assert made.encode_prompt(messages=(USER, ANSWER)) == made.encode_prompt(messages=(USER,))


def test_an_answer_that_was_cut_off_continues_the_generation_prompt() -> None:
    tokenizer = TOKENIZERS[0]
    made = encoder(tokenizer)
    encoded = made.encode_query(messages=(USER,), completion="It is", eos=False)
    prompt_ids = made.encode_prompt(messages=(USER,))
    assert list(encoded.ids[: len(prompt_ids)]) == prompt_ids
    assert target_text(tokenizer, encoded) == "It is"


def test_a_given_template_takes_the_place_of_the_tokenizers_own() -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    own, given = encoder(TOKENIZERS[0]), encoder(TOKENIZERS[0], template)
    assert given.prompt_text(messages=(USER,)) == f"user: {USER.content}\n"
    assert given.fingerprint_template != own.fingerprint_template


def test_a_template_that_prints_todays_date_prints_a_fixed_one() -> None:
    template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}"
    assert encoder(byte_level(), template).prompt_text(messages=(USER,)) == f"26 Jul 2024: {USER.content}"


def test_messages_without_any_template_are_refused_with_a_remedy() -> None:
    made = encoder(byte_level())
    for ask in (
        lambda: made.encode(Example(id="a", messages=(USER, ANSWER))),
        lambda: made.encode_query(messages=(USER, ANSWER)),
        lambda: made.encode_prompt(messages=(USER,)),
    ):
        with pytest.raises(InvalidOption, match="no chat template") as caught:
            ask()
        assert "chat_template" in caught.value.remedy


def test_what_the_template_refuses_is_a_clear_error_naming_the_row() -> None:
    system = (Message("system", "Be brief."), USER, ANSWER)
    made = encoder(TOKENIZERS[1])
    with pytest.raises(InvalidQuery, match="only user and assistant"):
        made.encode_query(messages=system)
    with pytest.raises(MalformedRow, match=r"'row-3'.*only user and assistant"):
        made.encode(Example(id="row-3", messages=system))


def test_a_broken_template_is_a_clear_error() -> None:
    with pytest.raises(InvalidQuery, match="refuses these messages"):
        encoder(byte_level(), "{% for %}").encode_query(messages=(USER, ANSWER))


@pytest.mark.parametrize("messages", [(), (ANSWER,)])
def test_a_query_needs_a_turn_before_the_answer(messages: tuple[Message, ...]) -> None:
    with pytest.raises(InvalidQuery):
        encoder(TOKENIZERS[0]).encode_query(messages=messages, completion="Yes")
    with pytest.raises(InvalidQuery):
        encoder(TOKENIZERS[0]).encode_query(messages=messages)


def test_a_query_needs_an_answer() -> None:
    with pytest.raises(InvalidQuery, match="no completion"):
        encoder(TOKENIZERS[0]).encode_query(messages=(USER,))
    with pytest.raises(EmptyCompletion):
        encoder(TOKENIZERS[0]).encode_query(messages=(USER, Message("assistant", "")))
