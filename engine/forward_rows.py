"""What a build stores for the methods that need no gradient index: one forward of each row, or none.

Shapes: B examples, C columns that hold a target in some example, D numbers a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import forward
from engine.loaded import LoadedModel, State
from engine.methods import LossMethod, RepresentationMethod
from engine.plan import Plan
from engine.representation import open_representation
from engine.store import IndexStore

# A batch → (vectors_BD, self_B): what a row's vector and its self-score gain by this pass.
RowPass = Callable[[PaddedBatch], tuple[Tensor, Tensor]]


def row_passes(model: LoadedModel, plan: Plan, store: IndexStore) -> list[RowPass]:
    """One pass over the rows for a representation, one a checkpoint for a loss, none where the text is enough."""
    if isinstance(plan.method, RepresentationMethod):
        features = open_representation(model, plan.method, plan.method_options, store)
        return [lambda batch: with_self_score(features.compute(batch))]
    if isinstance(plan.method, LossMethod):
        states = model.states if plan.method_options.average else model.states[-1:]
        return [_loss_share(model, state, len(states)) for state in states]
    return []


def with_self_score(vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
    return vectors_BD, vectors_BD.square().sum(1)


def _loss_share(model: LoadedModel, state: State, states: int) -> RowPass:
    """Nothing but the self-score: there it stays in float32, and self-influence reads it from the files."""

    def share(batch: PaddedBatch) -> tuple[Tensor, Tensor]:
        loss_B = mean_token_loss(model, state, batch)
        return loss_B.new_zeros(len(loss_B), 1), loss_B / states

    return share


@torch.no_grad()
def mean_token_loss(model: LoadedModel, state: State, batch: PaddedBatch) -> Tensor:
    """[B], in nats a token: −(1/T_z) Σ_t log p(token_t) over the row's targets, under one checkpoint's weights.

    Whatever the recipe's reduction, so that long and short rows compare; pads and prompt tokens do not count.
    """
    model.use(state)
    outcome = forward(model, batch)
    is_target_BC = batch.weights_BT[:, outcome.columns_C] != 0
    return -(outcome.target_log_prob_BC * is_target_BC).sum(1) / is_target_BC.sum(1)
