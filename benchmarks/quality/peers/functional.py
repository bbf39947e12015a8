"""The tuned model as torch.func wants it: functions of its LoRA weights and of one sequence, or of a batch.

For peers that take gradients by vmap (dattri, TRAK). Imports torch alone. Shapes: B sequences, T positions,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality.peers.batch import token_losses


def batch_losses(model: Any, weights: Mapping[str, Tensor], ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """−log p of every target [B, T − 1]. Pads are on the right, so that causal attention needs no mask."""
    return token_losses(_logits(model, weights, ids_BT), labels_BT)


def log_odds(losses_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Σ over targets of log(p / (1 − p)): TRAK's model output, summed as Bergson's. [B]"""
    counted_BT = labels_BT[:, 1:] != -100
    # Where nothing is counted the loss is 0, and log(1 − e⁰) would make the gradient of 0 · ∞.
    safe_BT = torch.where(counted_BT, losses_BT, torch.ones_like(losses_BT)).clamp_min(1e-6)
    odds_BT = -safe_BT - torch.log(-torch.expm1(-safe_BT))
    return torch.where(counted_BT, odds_BT, torch.zeros_like(odds_BT)).sum(1)


def mean_probability(losses_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean p of the targets [B]."""
    counted_BT = (labels_BT[:, 1:] != -100).float()
    return (torch.exp(-losses_BT) * counted_BT).sum(1) / counted_BT.sum(1)


def _logits(model: Any, weights: Mapping[str, Tensor], ids_BT: Tensor) -> Tensor:
    inputs = {"input_ids": ids_BT, "use_cache": False}
    return torch.func.functional_call(model, dict(weights), args=(), kwargs=inputs).logits.float()
