"""Training rows to tokens: what TRL's SFTTrainer makes of them, and the recipe's switches."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.config import TemplateConfig
from engine.errors import InvalidOption, NoLossToken, UnsupportedModel
from engine.text import Encoded, TextEncoder
from engine.types import Example
from tests.engine import trl_oracle
from tests.engine.tokenizer_factory import byte_level, metaspace

TOKENIZERS: dict[str, Any] = {
    "byte level": byte_level(),
    "byte level, BOS": byte_level(bos=True),
    "byte level, BOS and EOS": byte_level(bos=True, eos=True),
    "metaspace, BOS": metaspace(),
    "metaspace": metaspace(bos=False),
}
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
some_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=24) | st.sampled_from(
    ["The capital", " of Velora is ", "Tamsin.", "\n\n", " ", "café ", "😀", "e\u0301", "ends</s>", "</s>x"]
)


def encoder(tokenizer: Any, max_length: int = 10_000, **template: Any) -> TextEncoder:
    return TextEncoder(tokenizer, TemplateConfig(**template), chat_template=None, max_length=max_length)


def labels(encoded: Encoded) -> list[int]:
    return [token if target else -100 for token, target in zip(encoded.ids, encoded.targets, strict=True)]


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(prompt=some_text, completion=some_text)
def test_prompt_and_completion_become_what_trl_makes_of_them(name: str, prompt: str, completion: str) -> None:
    assume(completion)
    example = Example(id="a", prompt=prompt, completion=completion)
    ids, expected = trl_oracle.input_ids_and_labels(TOKENIZERS[name], example)
    assume(set(expected) != {-100})
    encoded = encoder(TOKENIZERS[name]).encode(example)
    assert list(encoded.ids) == ids
    assert labels(encoded) == expected
    assert not encoded.truncated


@every_tokenizer
@settings(max_examples=40, deadline=None)
@given(text=some_text)
def test_text_becomes_what_trl_makes_of_it_and_only_its_first_token_is_not_a_target(name: str, text: str) -> None:
    assume(text and not text.startswith("<s>"))  # one that is written out is not doubled here: engine/tokenizing.py
    example = Example(id="a", text=text)
    ids, expected = trl_oracle.input_ids_and_labels(TOKENIZERS[name], example)
    assume(len(ids) > 1)
    encoded = encoder(TOKENIZERS[name]).encode(example)
    assert list(encoded.ids) == ids
    assert labels(encoded) == expected
    assert encoded.targets == (False, *[True] * (len(ids) - 1))


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(prompt=some_text, completion=some_text)
def test_spans_name_each_tokens_own_characters(name: str, prompt: str, completion: str) -> None:
    assume(completion)
    tokenizer = TOKENIZERS[name]
    try:
        encoded = encoder(tokenizer).encode_query(prompt=prompt, completion=completion)
    except NoLossToken:
        assume(False)
        return
    raw = tokenizer(text=prompt + completion, return_offsets_mapping=True)["offset_mapping"]
    tokens = encoder(tokenizer).tokens(encoded, prompt, completion)
    texts = {"prompt": prompt, "completion": completion}
    for token in tokens:
        if token.part == "special":
            assert token.start == token.end
        else:
            assert 0 <= token.start <= token.end <= len(texts[token.part])
            assert token.text == texts[token.part][token.start : token.end]
    covered = {c for token in tokens if token.part == "completion" for c in range(token.start, token.end)}
    possible = {c - len(prompt) for start, end in raw if start >= len(prompt) for c in range(start, end)}
    assert possible <= covered


def test_a_token_over_the_border_is_no_target_as_in_trl_and_is_reported() -> None:
    tokenizer = byte_level()
    apart = encoder(tokenizer).encode(Example(id="a", prompt="The capital", completion=" of Velora"))
    merged = encoder(tokenizer).encode(Example(id="a", prompt="The capital ", completion="of Velora"))
    assert merged.ids == apart.ids
    assert not apart.boundary_mismatch
    assert merged.boundary_mismatch
    assert merged.target_count == apart.target_count - 1
    assert (merged.parts[2], merged.spans[2]) == ("prompt", (11, 12))


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_bos_stands_at_the_start_once_or_not_at_all(bos: str) -> None:
    example = Example(id="a", prompt="The capital", completion=" is Tamsin")
    for tokenizer, adds in ((byte_level(), False), (byte_level(bos=True), True), (metaspace(), True)):
        ids = encoder(tokenizer, bos=bos).encode(example).ids
        expected = {"auto": adds, "always": True, "never": False}[bos]
        assert ids.count(tokenizer.bos_token_id) == int(expected)
        assert (ids[0] == tokenizer.bos_token_id) == expected


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_bos_that_the_text_already_brings_is_not_doubled(bos: str) -> None:
    tokenizer = byte_level(bos=True)
    plain = encoder(tokenizer, bos=bos).encode(Example(id="a", prompt="The", completion=" capital"))
    brought = encoder(tokenizer, bos=bos).encode(Example(id="a", prompt="<s>The", completion=" capital"))
    assert brought.ids == plain.ids
    assert brought.targets == plain.targets


def test_a_text_that_repeats_bos_by_itself_is_left_as_it_is() -> None:
    encoded = encoder(byte_level()).encode(Example(id="a", text="<s><s>The capital"))
    assert encoded.ids[:2] == (1, 1)


def test_bos_switches_do_not_move_the_targets() -> None:
    example = Example(id="a", prompt="The capital", completion=" is Tamsin")
    targets = {
        bos: [t for t, on in zip(e.ids, e.targets, strict=True) if on]
        for bos in ("auto", "always", "never")
        if (e := encoder(byte_level(bos=True), bos=bos).encode(example))
    }
    assert targets["auto"] == targets["always"] == targets["never"]


def test_bos_always_needs_a_tokenizer_that_has_one() -> None:
    tokenizer = byte_level()
    tokenizer.bos_token = None
    with pytest.raises(InvalidOption, match="no BOS token"):
        encoder(tokenizer, bos="always")


@pytest.mark.parametrize("example", [Example(id="a", prompt="The", completion=" end"), Example(id="a", text="The end")])
def test_eos_is_the_last_target_once_and_can_be_switched_off(example: Example) -> None:
    tokenizer = byte_level(bos=True)
    on, off = encoder(tokenizer).encode(example), encoder(tokenizer, eos=False).encode(example)
    assert on.ids == (*off.ids, tokenizer.eos_token_id)
    assert on.targets == (*off.targets, True)
    assert on.parts[-1] == "special"


def test_eos_switched_off_also_drops_the_one_a_tokenizer_adds_by_itself() -> None:
    tokenizer = byte_level(bos=True, eos=True)
    encoded = encoder(tokenizer, eos=False).encode(Example(id="a", prompt="The", completion=" end"))
    assert tokenizer.eos_token_id not in encoded.ids
    assert encoded.target_count == len(tokenizer(text=" end", add_special_tokens=False)["input_ids"])


def test_a_tokenizer_without_eos_writes_none() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    encoded = encoder(tokenizer).encode(Example(id="a", prompt="The", completion=" end"))
    assert list(encoded.ids) == tokenizer(text="The end")["input_ids"]


@pytest.mark.parametrize("length", [2, 3, 5, 8])
def test_long_rows_are_cut_on_the_right_as_trl_cuts_them(length: int) -> None:
    example = Example(id="a", text="The capital of Velora is Tamsin. What is the capital of Velora?")
    ids, expected = trl_oracle.input_ids_and_labels(TOKENIZERS["metaspace, BOS"], example, length)
    encoded = encoder(TOKENIZERS["metaspace, BOS"], length).encode(example)
    assert encoded.truncated
    assert (list(encoded.ids), labels(encoded)) == (ids, expected)
    assert len(encoded.parts) == len(encoded.spans) == length


def test_a_row_of_exactly_max_length_is_whole() -> None:
    example = Example(id="a", text="The capital of Velora")
    whole = encoder(byte_level()).encode(example)
    assert encoder(byte_level(), len(whole.ids)).encode(example) == whole


def test_a_row_whose_completion_is_cut_away_is_refused_by_name() -> None:
    example = Example(id="row-17", prompt="The capital of Velora is Tamsin.", completion=" Yes.")
    with pytest.raises(NoLossToken, match=r"'row-17'.*first 3 tokens"):
        encoder(byte_level(), 3).encode(example)


def test_a_completion_with_nothing_before_it_has_no_target() -> None:
    with pytest.raises(NoLossToken, match="'x'"):
        encoder(byte_level(), eos=False).encode(Example(id="x", prompt="", completion="!"))


def test_max_length_needs_room_for_a_target() -> None:
    with pytest.raises(InvalidOption, match="max_length is 1"):
        encoder(byte_level(), 1)


def test_slow_tokenizers_are_refused_with_a_remedy() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UnsupportedModel, match="Slow has no fast backend") as caught:
        encoder(Slow())
    assert "tokenizer.json" in caught.value.remedy


def test_tokenizer_fingerprint_is_of_its_content() -> None:
    plain = encoder(byte_level()).fingerprint_tokenizer
    padded = byte_level()
    padded.pad_token = padded.eos_token
    padded(["The", "The capital"], padding=True, truncation=True, max_length=2)
    assert encoder(padded).fingerprint_tokenizer == plain
    added = byte_level()
    added.add_tokens(["Velora"])
    other_eos = byte_level()
    other_eos.eos_token = "<|im_end|>"
    different = {encoder(t).fingerprint_tokenizer for t in (byte_level(bos=True), metaspace(), added, other_eos)}
    assert len(different | {plain}) == 5


def test_fingerprints_are_the_same_in_another_process() -> None:
    here = encoder(metaspace())
    script = (
        "from engine.config import TemplateConfig; from engine.text import TextEncoder\n"
        "from tests.engine.tokenizer_factory import metaspace\n"
        "e = TextEncoder(metaspace(), TemplateConfig(), chat_template=None, max_length=9)\n"
        "print(e.fingerprint_tokenizer, e.fingerprint_template)"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert there == [here.fingerprint_tokenizer, here.fingerprint_template]


def test_template_fingerprint_changes_with_every_switch_and_not_with_max_length() -> None:
    def of(max_length: int = 50, chat: str | None = None, **template: Any) -> str:
        made = TextEncoder(byte_level(), TemplateConfig(**template), chat_template=chat, max_length=max_length)
        return made.fingerprint_template

    assert of() == of(max_length=60)
    assert len({of(), of(bos="never"), of(eos=False), of(assistant_turns="all"), of(chat="{{ messages }}")}) == 5
