"""A fast tokenizer with the recipe's BOS rule, and the fingerprint of what it does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from engine.config import fingerprint
from engine.errors import InvalidOption, UnsupportedModel


@dataclass(frozen=True)
class Tokenised:
    """ids; spans: characters [start, end) of the text a token covers; added: the token is not from the text."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    added: tuple[bool, ...]

    def without(self, index: int) -> Tokenised:
        keep = [t for t in range(len(self.ids)) if t != index % len(self.ids)]
        return Tokenised(
            tuple(self.ids[t] for t in keep), tuple(self.spans[t] for t in keep), tuple(self.added[t] for t in keep)
        )


class TextTokenizer:
    """Text to tokens as the tokenizer itself does it, but for the BOS rule of the recipe's template.

    Raises UnsupportedModel for a tokenizer without a fast backend (no character offsets), InvalidOption for
    bos="always" on a tokenizer that has no BOS.
    """

    def __init__(self, tokenizer: Any, bos: Literal["auto", "always", "never"]) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedModel(
                f"{type(tokenizer).__name__} has no fast backend, so its tokens have no places in the text.",
                remedy="Put a tokenizer.json beside it (AutoTokenizer.from_pretrained(…).save_pretrained(…)).",
            )
        if bos == "always" and tokenizer.bos_token_id is None:
            raise InvalidOption(
                "The recipe's template says bos='always', but the tokenizer has no BOS token.",
                pointer="/recipe/template/bos",
                remedy="Set template.bos to 'auto', or set bos_token in the tokenizer's configuration.",
            )
        self._tokenizer = tokenizer
        self._bos_rule = bos
        self.eos_token: str | None = tokenizer.eos_token

    @cached_property
    def fingerprint(self) -> str:
        """Of vocabulary, merges, normaliser, post-processor and special tokens; never of paths or padding."""
        backend = json.loads(self._tokenizer.backend_tokenizer.to_str())
        rules = {name: part for name, part in backend.items() if name not in ("padding", "truncation")}
        special = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        return fingerprint("tokenizer", rules, special, bool(getattr(self._tokenizer, "split_special_tokens", False)))

    def __call__(self, text: str, *, chat: bool, keep_eos: bool = True) -> Tokenised:
        """chat: the text was rendered by a chat template, which writes its special tokens itself.

        keep_eos False: an EOS that the tokenizer itself puts at the end of every text is left out.
        """
        output = self._tokenizer(
            text=text,
            add_special_tokens=not chat,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            verbose=False,
        )
        added = tuple(bool(flag) and start == end for flag, (start, end) in _flags(output))
        tokens = Tokenised(tuple(output["input_ids"]), tuple(tuple(span) for span in output["offset_mapping"]), added)
        if not keep_eos and tokens.ids and tokens.added[-1] and tokens.ids[-1] == self._tokenizer.eos_token_id:
            tokens = tokens.without(-1)
        return self._with_bos(tokens)

    def decode_each(self, ids: tuple[int, ...]) -> list[str]:
        """Every token on its own, specials spelled out."""
        return self._tokenizer.batch_decode([[token] for token in ids], skip_special_tokens=False)

    def _with_bos(self, tokens: Tokenised) -> Tokenised:
        bos = self._tokenizer.bos_token_id
        if bos is None:
            return tokens
        if tokens.ids[:2] == (bos, bos) and tokens.added[0]:
            tokens = tokens.without(1)  # the text brought its own BOS (rendered beforehand): once is enough
        begins_with_bos = tokens.ids[:1] == (bos,)
        if self._bos_rule == "never" and begins_with_bos:
            return tokens.without(0)
        if self._bos_rule == "always" and not begins_with_bos:
            return Tokenised((bos, *tokens.ids), ((0, 0), *tokens.spans), (True, *tokens.added))
        return tokens


def _flags(output: Any) -> zip[tuple[int, tuple[int, int]]]:
    return zip(output["special_tokens_mask"], output["offset_mapping"], strict=True)
