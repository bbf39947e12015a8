"""Tiny random models, tokenizers and datasets, saved as the real ones are. Fixed seeds; milliseconds each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.dataset import Dataset, open_dataset, store_dataset
from engine.types import Progress

WORDS = "the a cat dog sat on mat ran to home and saw red blue big small bird tree sky old new".split()
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]


def ignore(_progress: Progress) -> None:
    """A checkpoint that never stops the work."""


def save_tokenizer(path: Path, *, bos: bool = True, chat: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level characters: every text has tokens, and the border of prompt and completion is always clean."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    if chat:
        fast.chat_template = (
            "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
            "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
        )
    fast.save_pretrained(path)
    return fast


VOCABULARY = len(SPECIALS) + 256


def llama(seed: int = 0, *, hidden: int = 16, layers: int = 2, **overrides: Any) -> LlamaForCausalLM:
    """Grouped-query attention, no biases unless asked for; larger weights than usual, so that nothing is near zero."""
    torch.manual_seed(seed)
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden + 4,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**(values | overrides)))


def gpt2(seed: int = 0, *, hidden: int = 16, layers: int = 2) -> GPT2LMHeadModel:
    """Conv1D layers with biases; dropout in the configuration, which must be off when gradients are taken."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=hidden,
        n_layer=layers,
        n_head=4,
        n_positions=128,
        initializer_range=0.15,
        resid_pdrop=0.3,
        embd_pdrop=0.3,
        attn_pdrop=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # biases start at zero: give them something to say
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def save_base(path: Path, model: nn.Module, **tokenizer: Any) -> Path:
    model.save_pretrained(path)  # type: ignore[operator]
    save_tokenizer(path, **tokenizer)
    return path


def save_adapter(path: Path, base: nn.Module, seed: int, *, zero_b: bool = False, **lora: Any) -> Path:
    """A LoRA adapter with random A and B, as if trained for a while."""
    torch.manual_seed(seed)
    values = {"r": 3, "lora_alpha": 6, "target_modules": "all-linear", "lora_dropout": 0.2, "task_type": "CAUSAL_LM"}
    import copy

    peft = get_peft_model(copy.deepcopy(base), LoraConfig(**(values | lora)))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
                if zero_b and "lora_B" in name:
                    parameter.zero_()
    peft.save_pretrained(str(path))
    return path


def sentences(count: int, seed: int = 0, longest: int = 6) -> list[dict[str, Any]]:
    """prompt+completion rows of various lengths."""
    generator = torch.Generator().manual_seed(seed)

    def some(least: int) -> str:
        length = int(torch.randint(least, longest + 1, (1,), generator=generator))
        picks = torch.randint(0, len(WORDS), (length,), generator=generator).tolist()
        return " ".join(WORDS[i] for i in picks)

    return [
        {"id": f"ex-{i}", "prompt": some(1), "completion": " " + some(1), "tags": {"parity": str(i % 2)}}
        for i in range(count)
    ]


def dataset(root: Path, rows: Sequence[dict[str, Any]]) -> Dataset:
    source = root / "rows.jsonl"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    info = store_dataset(source, format="jsonl", root=root / "datasets")
    return open_dataset(root / "datasets" / info.sha256)
