"""Tiny real tokenizers, trained on the spot: byte-level and metaspace BPE, with and without a BOS post-processor."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The capital of Velora is Tamsin. What is the capital of Velora? It is Tamsin.",
    "user: How many apples are left? assistant: Three apples are left on the table.",
    'naïve café — 100% of 3.14, "quoted"\n\tand a new line; größer, 東京, emoji 😀 here.',
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


def byte_level(*, bos: bool = False, eos: bool = False, chat_template: str | None = None) -> Any:
    """GPT-2's kind. bos, eos: the post-processor adds them to every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, pre_tokenizers.ByteLevel.alphabet(), bos, eos, chat_template)


def metaspace(*, bos: bool = True, chat_template: str | None = None) -> Any:
    """Llama's kind: a space is prepended to every text, unknown characters fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no token spans two words
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finish(tokenizer, [], bos, False, chat_template)


def _finish(tokenizer: Tokenizer, alphabet: list[str], bos: bool, eos: bool, chat_template: str | None) -> Any:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if not alphabet else []
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        initial_alphabet=alphabet,
        special_tokens=["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *bytes_],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=chat_template
    )
