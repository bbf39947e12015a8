"""Token lists to padded batches, and log p of their targets. Imports torch alone.

Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.quality.peers.given import Tokens


class TokenSet(Dataset):
    """A list of sequences as torch's DataLoader wants it; `collate` makes its batches."""

    def __init__(self, sequences: Sequence[Tokens]) -> None:
        self.sequences = list(sequences)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, place: int) -> Tokens:
        return self.sequences[place]


def collate(sequences: Sequence[Tokens], pad_id: int = 0, width: int | None = None) -> dict[str, Tensor]:
    """Padded on the right to the longest, or to `width`. labels: −100 at pads and at what is not a target."""
    width = width or max(len(tokens.ids) for tokens in sequences)
    shape = (len(sequences), width)
    ids_BT, labels_BT = torch.full(shape, pad_id), torch.full(shape, -100)
    valid_BT = torch.zeros(shape, dtype=torch.long)
    for b, tokens in enumerate(sequences):
        ids_BT[b, : len(tokens.ids)] = torch.tensor(tokens.ids)
        labels_BT[b, : len(tokens.ids)] = torch.tensor(tokens.labels)
        valid_BT[b, : len(tokens.ids)] = 1
    return {"input_ids": ids_BT, "attention_mask": valid_BT, "labels": labels_BT}


def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """float32 [B, T, V]"""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def token_losses(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """−log p of every target, at the position before it; 0 elsewhere. [B, T − 1], nats."""
    losses = F.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="none", ignore_index=-100
    )
    return losses.view(labels_BT.shape[0], -1)


def drawn_labels(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """The targets replaced by tokens drawn from the model itself: labels of the true Fisher."""
    shape = labels_BT[:, 1:].shape
    drawn = torch.multinomial(logits_BTV[:, :-1].detach().softmax(-1).flatten(0, 1), 1).view(shape)
    drawn = torch.where(labels_BT[:, 1:] == -100, -100, drawn)
    return torch.cat([torch.full_like(labels_BT[:, :1], -100), drawn], dim=1)
