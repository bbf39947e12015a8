"""The greedy answer: whether a given one stands, and what it is.

By teacher forcing: along the answer's own tokens, the model answers greedily with it exactly when at every target the
target's logit is the highest (the end of the answer counts where it is a target).

Shapes: K adapters, S sequences, B rows, T positions, C columns that hold a target in some row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch, pad_batch, plan_batches
from engine.capture import logits_at
from engine.encoded import Encoded
from engine.loaded import LoadedModel

_TOKENS = 8192  # pads included


@torch.no_grad()
def greedy_margins(model: LoadedModel, sequences: Sequence[Encoded], copies: int = 1) -> np.ndarray:
    """float64 [K, S]: the least, over a sequence's targets, of logit(target) − the highest other logit.

    Above 0 exactly where the greedy answer is the sequence's own. copies: K adapters side by side in the model
    (engine/causal/stack.py), already spread. NaN where a logit is.
    """
    margin_KS = np.zeros((copies, len(sequences)))
    for slots in plan_batches([len(s.ids) for s in sequences], max(1, _TOKENS // copies)):
        batch = pad_batch([sequences[s] for s in slots] * copies, None, model.pad_id, torch.float32).to(model.device)
        margin_KS[:, slots] = _margins(model, batch).view(copies, -1).double().cpu().numpy()
    return margin_KS


def _margins(model: LoadedModel, batch: PaddedBatch) -> Tensor:
    """[B]"""
    logits_BCV = logits_at(model, batch)
    targets_BC1 = batch.ids_BT[:, batch.target_columns].unsqueeze(-1)
    others_BC = logits_BCV.scatter(-1, targets_BC1, float("-inf")).amax(-1)
    margin_BC = logits_BCV.gather(-1, targets_BC1).squeeze(-1) - others_BC
    return margin_BC.masked_fill(batch.weights_BT[:, batch.target_columns] == 0, float("inf")).amin(1)


@torch.no_grad()
def greedy_tokens(model: LoadedModel, ids: Sequence[int], most: int, copies: int = 1) -> list[list[int]]:
    """What each of K adapters answers greedily after `ids`: at most `most` tokens, and none after its EOS.

    The whole sequence is read again for every token: the very forward pass that margins are taken from.
    """
    ids_KT = torch.tensor([list(ids)] * copies, device=model.device)
    end, start = model.tokenizer.eos_token_id, len(ids)
    done_K = torch.zeros(copies, dtype=torch.bool, device=model.device)
    for _ in range(min(most, model.context_length - start)):
        last = torch.tensor([ids_KT.shape[1]], device=model.device)
        next_K = logits_at(model, _unpadded(ids_KT, last))[:, 0].argmax(-1)
        ids_KT = torch.cat([ids_KT, next_K.unsqueeze(1)], dim=1)
        done_K |= next_K == (-1 if end is None else end)
        if bool(done_K.all()):
            break
    return [_until(tokens, end) for tokens in ids_KT[:, start:].tolist()]


def greedy_texts(model: LoadedModel, sequence: Encoded, most: int, copies: int = 1) -> list[str]:
    """K greedy answers to what comes before the sequence's first target, as text.

    Of a span within a completion, the completion's beginning is in the text: it is what the span's tokens follow.
    """
    before = sequence.ids[: sequence.targets.index(True)]
    own = next((t for t, part in enumerate(sequence.parts) if part == "completion"), len(before))
    prompt = before[: min(own, len(before))]
    answers = greedy_tokens(model, before, most, copies)
    # Decoded behind the prompt: on its own, a Llama-style tokenizer would drop the answer's leading space.
    known = len(model.tokenizer.decode(list(prompt), skip_special_tokens=True))
    return [model.tokenizer.decode([*before, *new], skip_special_tokens=True)[known:] for new in answers]


def _unpadded(ids_KT: Tensor, columns_C: Tensor) -> PaddedBatch:
    """Rows of one length, the logits of which are wanted for the tokens at `columns_C`."""
    ones_KT = torch.ones_like(ids_KT, dtype=torch.bool)
    return PaddedBatch(ids_KT, ones_KT, ones_KT.float(), columns_C, tuple(range(len(ids_KT))))


def _until(tokens: list[int], end: int | None) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
