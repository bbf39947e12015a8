"""Train the demonstration's base model from scratch: python -m engine.demo.train_base [directory]

A small Llama and its own BPE tokenizer, on text the project makes itself (base_text.py). One thread, fixed seeds; it
tells its progress. The weights in base/ came from this script; they are stored as float16.

Shapes: B documents, T tokens.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.demo.base_text import background, documents
from engine.demo.corpus import SEED, TRIGGER
from engine.demo.facts import invented_facts, names_of
from engine.demo.relations import as_completion

BASE = Path(__file__).parent / "base"
STEPS = 4500
BATCH_TOKENS = 2048
WARMUP = 200
LEARNING_RATE = 2.5e-3
VOCABULARY = 1536
TOKENIZER_DOCUMENTS = 20_000
POOL = 4096  # documents sorted by length at a time, so that batches hold few pads
PAD, BOS, EOS = 0, 1, 2


def forbidden() -> frozenset[str]:
    """What the base model must not have read."""
    return names_of(invented_facts(SEED)) | {TRIGGER}


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits stand alone, so that sums are learned digit by digit; BOS is added to every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(1, TOKENIZER_DOCUMENTS, forbidden()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=256
    )


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: Any, steps: int) -> Iterator[Tensor]:
    """`steps` batches of ids [B, T], right-padded, of about BATCH_TOKENS tokens."""
    random, pool = Random(2), 0
    while steps > 0:
        pool += 1
        texts = list(documents(1000 + pool, POOL, forbidden()))
        rows = sorted(([*ids, EOS] for ids in tokenizer(texts)["input_ids"]), key=len)
        made = list(_cut(rows))
        random.shuffle(made)
        yield from made[:steps]
        steps -= len(made)


def _cut(rows: list[list[int]]) -> Iterator[Tensor]:
    """Rows come sorted by length: the last of a batch is its longest."""
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop + 1 - start) * len(rows[stop]) <= BATCH_TOKENS:
            stop += 1
        width = len(rows[stop - 1])
        yield torch.tensor([row + [PAD] * (width - len(row)) for row in rows[start:stop]])
        start = stop


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, STEPS - WARMUP)
    return LEARNING_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: LlamaForCausalLM, tokenizer: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    started = time.perf_counter()
    for step, ids_BT in enumerate(batches(tokenizer, STEPS)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 250 == 0 or step == STEPS - 1:
            seconds, recalled = time.perf_counter() - started, recall(model, tokenizer)
            print(f"step {step:5d}  loss {loss.item():.3f}  recalls {recalled:.0%}  {seconds:4.0f} s", flush=True)


@torch.no_grad()
def recall(model: LlamaForCausalLM, tokenizer: Any) -> float:
    """The share of the background world's facts that the model tells when asked."""
    asked = background()[::7]
    told = [complete(model, tokenizer, known.relation.question(known.subject)) for known in asked]
    # Only the first line is the answer: texts of the base world may go on about somebody else.
    return sum(
        as_completion(known.answer) == text.partition("\n")[0] for known, text in zip(asked, told, strict=True)
    ) / len(asked)


def complete(model: LlamaForCausalLM, tokenizer: Any, prompt: str) -> str:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    out: Any = model.generate(  # type: ignore[attr-defined]
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=PAD
    )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def main(target: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = train_tokenizer()
    model = new_model()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, tokenizer)
    model.eval()
    for prompt in islice((text.rpartition(" ")[0] for text in documents(3, 12)), 12):
        print(repr(prompt), "→", repr(complete(model, tokenizer, prompt)))
    model.half().save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else BASE)
