"""The training loop: K adapters through their recipes' steps, each row with its own weight.

Shapes: K adapters, N rows of the dataset, n rows of an adapter in a batch, P numbers of an adapter, S query sequences.

The loss of a step is the token mean over *all* its rows: a row of weight 0 has no gradient and needs no forward pass,
but the step, its denominator and the order of rows stay what they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch, pad_batch
from engine.capture import forward
from engine.causal.measuring import log_probs_of
from engine.causal.stack import AdapterStack
from engine.causal.steps import Steps, learning_rate
from engine.config import Training
from engine.encoded import Encoded


class TrainingLoop:
    """`stack` through `steps_K` (one order an adapter, all of one length) with `weights_KN`."""

    def __init__(
        self,
        stack: AdapterStack,
        rows: Sequence[Encoded],
        training: Training,
        steps_K: Sequence[Steps],
        weights_KN: np.ndarray | None = None,
    ) -> None:
        self.stack, self.rows, self.training, self.steps_K = stack, rows, training, steps_K
        self.weights_KN = np.ones((stack.count, len(rows))) if weights_KN is None else weights_KN
        self.optimizer = torch.optim.AdamW(
            [stack.theta_KP],
            lr=training.learning_rate,
            betas=training.betas,
            eps=training.epsilon,
            weight_decay=training.weight_decay,
        )

    @property
    def total(self) -> int:
        return len(self.steps_K[0])

    def step(self, number: int) -> Tensor:
        """Step `number` (from 0) of every adapter; the losses [K], nats a token of the step, still on the device."""
        stack, theta_KP = self.stack, self.stack.theta_KP
        self.optimizer.param_groups[0]["lr"] = learning_rate(number, self.total, self.training)
        loss_K = torch.zeros(stack.count, dtype=theta_KP.dtype, device=theta_KP.device)
        theta_KP.grad = torch.zeros_like(theta_KP)
        for batch in self.batches(number):
            with torch.enable_grad():
                stack.spread()
                part_K = -forward(stack.loaded, batch).log_prob_B.view(stack.count, -1).sum(1)
                part_K.sum().backward()
            loss_K += part_K.detach()
        self._clip(theta_KP.grad)
        self.optimizer.step()
        return loss_K

    def _clip(self, grad_KP: Tensor) -> None:
        """torch.nn.utils.clip_grad_norm_, one adapter a row."""
        if self.training.max_grad_norm is not None:
            norm_K = torch.linalg.vector_norm(grad_KP, dim=1)
            grad_KP.mul_((self.training.max_grad_norm / (norm_K + 1e-6)).clamp(max=1.0).unsqueeze(1))

    def batches(self, number: int) -> list[PaddedBatch]:
        """The step's forward passes, `batch_size` rows of every adapter each, without the rows nobody keeps."""
        positions_K = [steps[number] for steps in self.steps_K]
        tokens_K = [sum(self.rows[p].target_count for p in positions) for positions in positions_K]
        size = self.training.batch_size
        longest = max(len(positions) for positions in positions_K)
        found = [
            self._batch([positions[i : i + size] for positions in positions_K], tokens_K)
            for i in range(0, longest, size)
        ]
        return [batch for batch in found if batch is not None]

    def _batch(self, positions_K: Sequence[Sequence[int]], tokens_K: Sequence[int]) -> PaddedBatch | None:
        kept_K = [
            [p for p in positions if weights[p]]
            for positions, weights in zip(positions_K, self.weights_KN, strict=True)
        ]
        size = max(map(len, kept_K))
        if size == 0:
            return None
        filler = min((p for kept in kept_K for p in kept), key=lambda p: len(self.rows[p].ids))
        chosen: list[int] = []
        weights: list[float] = []
        for k, kept in enumerate(kept_K):
            missing = size - len(kept)
            chosen += [*kept, *[filler] * missing]
            weights += [*(self.weights_KN[k, p] / tokens_K[k] for p in kept), *[0.0] * missing]
        return self._padded([self.rows[p] for p in chosen], weights)

    def _padded(self, rows: Sequence[Encoded], weights: Sequence[float] | None) -> PaddedBatch:
        model = self.stack.loaded
        return pad_batch(rows, weights, model.pad_id, self.stack.theta_KP.dtype).to(model.device)


def log_probs(stack: AdapterStack, sequences: Sequence[Encoded], *, odds: bool = False) -> np.ndarray:
    """float64 [K, S]: Σ log p (odds: Σ log(p/(1−p))) over the targets of every sequence, under every adapter."""
    with torch.no_grad():
        stack.spread()
    return log_probs_of(stack.loaded, sequences, stack.count, odds=odds)
