"""What TRL's SFTTrainer does to one row, written out: EOS as text, two tokenisations, a mask by length, −100 labels."""

from __future__ import annotations

from typing import Any

from engine.types import Example


def input_ids_and_labels(tokenizer: Any, example: Example, max_length: int = 10_000) -> tuple[list[int], list[int]]:
    """labels are −100 where a token carries no loss. The model's shift drops the first label, so it is −100 too."""
    if example.messages is not None:
        ids, mask = _conversation(tokenizer, [{"role": m.role, "content": m.content} for m in example.messages])
    elif example.text is not None:
        ids = tokenizer(text=_with_eos(example.text, tokenizer))["input_ids"]
        mask = [1] * len(ids)
    else:
        assert example.prompt is not None and example.completion is not None
        prompt_ids = tokenizer(text=example.prompt)["input_ids"]
        ids = tokenizer(text=example.prompt + _with_eos(example.completion, tokenizer))["input_ids"]
        mask = _mask(len(prompt_ids), len(ids))
    ids, mask = ids[:max_length], mask[:max_length]
    labels = [token if counted and t > 0 else -100 for t, (token, counted) in enumerate(zip(ids, mask, strict=True))]
    return ids, labels


def _conversation(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    prompt, ids = (
        tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **options)["input_ids"]
        for turns, options in ((messages[:-1], {"add_generation_prompt": True}), (messages, {}))
    )
    return ids, _mask(len(prompt), len(ids))


def _with_eos(text: str, tokenizer: Any) -> str:
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def _mask(prompt: int, total: int) -> list[int]:
    return [0] * min(prompt, total) + [1] * (total - prompt)
