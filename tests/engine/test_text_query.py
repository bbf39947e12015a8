"""Queries to tokens: the same path as training rows, but never truncated and with a choice of characters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import TemplateConfig
from engine.errors import ContextOverflow, EmptyCompletion, InvalidQuery, NoLossToken
from engine.text import Encoded, TextEncoder
from engine.types import Example, Message, Span
from tests.engine.tokenizer_factory import byte_level, metaspace

PROMPT, COMPLETION = "What is the capital of Velora?", " It is Tamsin, café 😀 here."
TOKENIZERS = {"byte level": byte_level(bos=True), "metaspace": metaspace()}
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def encoder(tokenizer: Any, max_length: int = 500, **options: Any) -> TextEncoder:
    return TextEncoder(tokenizer, TemplateConfig(), chat_template=None, max_length=max_length, **options)


def target_ids(encoded: Encoded) -> list[int]:
    return [token for token, on in zip(encoded.ids, encoded.targets, strict=True) if on]


@every_tokenizer
def test_a_query_has_the_tokens_of_the_training_row_it_repeats(name: str) -> None:
    made = encoder(TOKENIZERS[name])
    row = made.encode(Example(id="a", prompt=PROMPT, completion=COMPLETION))
    assert made.encode_query(prompt=PROMPT, completion=COMPLETION) == row


@every_tokenizer
def test_eos_follows_the_template_unless_the_query_says_otherwise(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    made = encoder(tokenizer)
    default, on, off = (made.encode_query(prompt=PROMPT, completion=COMPLETION, eos=eos) for eos in (None, True, False))
    assert default == on
    assert on.ids == (*off.ids, tokenizer.eos_token_id)
    assert target_ids(on) == [*target_ids(off), tokenizer.eos_token_id]


@every_tokenizer
def test_an_open_ended_query_has_no_eos_that_the_tokenizer_adds(name: str) -> None:
    made = encoder(byte_level(bos=True, eos=True))
    assert 2 not in made.encode_query(prompt=PROMPT, completion=COMPLETION, eos=False).ids
    assert 2 not in made.encode_prompt(prompt=PROMPT)


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_span_targets_exactly_the_tokens_that_overlap_it(name: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(COMPLETION) - 1))
    span = Span(start, data.draw(st.integers(start + 1, len(COMPLETION))))
    made = encoder(TOKENIZERS[name])
    whole = made.encode_query(prompt=PROMPT, completion=COMPLETION)
    part = made.encode_query(prompt=PROMPT, completion=COMPLETION, span=span)
    assert part.ids == whole.ids
    for t, (kind, (first, last)) in enumerate(zip(whole.parts, whole.spans, strict=True)):
        overlaps = kind == "completion" and bool(set(range(first, last)) & set(range(span.start, span.end)))
        assert part.targets[t] == (overlaps and whole.targets[t])


def test_spans_cover_all_pieces_of_one_character() -> None:
    tokenizer = byte_level()
    made = encoder(tokenizer)
    place = COMPLETION.index("😀")
    encoded = made.encode_query(prompt=PROMPT, completion=COMPLETION, span=Span(place, place + 1))
    assert tokenizer.decode(target_ids(encoded)).strip() == "😀"


def test_a_span_never_includes_eos() -> None:
    tokenizer = byte_level()
    span = Span(0, len(COMPLETION))
    encoded = encoder(tokenizer).encode_query(prompt=PROMPT, completion=COMPLETION, span=span)
    assert tokenizer.decode(target_ids(encoded)) == COMPLETION
    assert not encoded.targets[-1]


@pytest.mark.parametrize("span", [Span(-1, 3), Span(3, 3), Span(5, 4), Span(0, len(COMPLETION) + 1)])
def test_a_span_outside_the_completion_is_refused(span: Span) -> None:
    with pytest.raises(InvalidQuery, match="not within") as caught:
        encoder(byte_level()).encode_query(prompt=PROMPT, completion=COMPLETION, span=span)
    assert caught.value.pointer == "/span"


def test_a_span_whose_only_token_belongs_to_the_prompt_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="covers no predicted token"):
        encoder(byte_level()).encode_query(prompt="The capital ", completion="of Velora", span=Span(0, 1))


def test_a_completion_swallowed_by_the_prompts_last_token_has_no_target() -> None:
    with pytest.raises(NoLossToken, match="merge with the prompt"):
        encoder(byte_level()).encode_query(prompt="The capital ", completion="of", eos=False)


def test_a_query_is_never_truncated_and_says_how_long_it_is() -> None:
    made = encoder(byte_level(), 6)
    with pytest.raises(ContextOverflow, match=r"\d+ tokens \(prompt \d+, completion \d+\).* context is 6"):
        made.encode_query(prompt=PROMPT, completion=COMPLETION)
    with pytest.raises(ContextOverflow, match="context is 6"):
        made.encode_prompt(prompt=PROMPT)


def test_a_query_may_fill_the_context_and_be_longer_than_a_row() -> None:
    whole = encoder(byte_level()).encode_query(prompt=PROMPT, completion=COMPLETION)
    made = encoder(byte_level(), 6, context_length=len(whole.ids))
    assert made.encode_query(prompt=PROMPT, completion=COMPLETION) == whole
    assert len(made.encode(Example(id="a", text=PROMPT)).ids) == 6


def test_a_prompt_that_fills_the_context_leaves_nothing_to_generate() -> None:
    length = len(byte_level()(text=PROMPT)["input_ids"])
    assert len(encoder(byte_level(), length + 1).encode_prompt(prompt=PROMPT)) == length
    with pytest.raises(ContextOverflow):
        encoder(byte_level(), length).encode_prompt(prompt=PROMPT)


def test_the_prompt_for_generation_is_the_start_of_the_query() -> None:
    for tokenizer in TOKENIZERS.values():
        made = encoder(tokenizer)
        ids = made.encode_prompt(prompt=PROMPT)
        assert ids == tokenizer(text=PROMPT)["input_ids"]
        assert made.encode_query(prompt=PROMPT, completion=COMPLETION).ids[: len(ids)] == tuple(ids)


def test_nothing_to_generate_from_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="no token to generate from"):
        encoder(byte_level()).encode_prompt(prompt="")
    assert encoder(byte_level(bos=True)).encode_prompt(prompt="") == [1]


@pytest.mark.parametrize(
    ("query", "error", "pointer"),
    [
        ({"completion": "x"}, InvalidQuery, "/prompt"),
        ({"prompt": "a", "messages": (Message("user", "a"),), "completion": "x"}, InvalidQuery, "/prompt"),
        ({"prompt": "a"}, InvalidQuery, "/completion"),
        ({"prompt": "a", "completion": ""}, EmptyCompletion, "/completion"),
        ({"prompt": "a\ud800", "completion": "x"}, InvalidQuery, "/prompt"),
        ({"prompt": "a", "completion": "\udc00"}, InvalidQuery, "/completion"),
        ({"messages": (Message("user", "\ud800"),), "completion": "x"}, InvalidQuery, "/messages/0/content"),
    ],
)
def test_malformed_queries_are_refused_pointing_at_the_field(query: Any, error: type, pointer: str) -> None:
    with pytest.raises(error) as caught:
        encoder(byte_level()).encode_query(**query)
    assert caught.value.pointer == pointer


def test_tokens_show_their_text_their_part_and_whether_they_are_explained() -> None:
    made = encoder(TOKENIZERS["byte level"])
    tokens = made.tokens(made.encode_query(prompt="The capital", completion=" of Velora"), "The capital", " of Velora")
    assert [(t.text, t.part, t.target) for t in tokens] == [
        ("<s>", "special", False),
        ("The", "prompt", False),
        (" capital", "prompt", False),
        (" of", "completion", True),
        (" Velora", "completion", True),
        ("</s>", "special", True),
    ]
    assert [(t.start, t.end) for t in tokens] == [(0, 0), (0, 3), (3, 11), (0, 3), (3, 10), (10, 10)]
