"""f of questions under the weights that lie in a model, or under each of the K adapters that lie in it side by side.

Shapes: K adapters, Q queries, S sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.batching import pad_batch, plan_batches
from engine.capture import forward
from engine.encoded import Encoded
from engine.loaded import LoadedModel
from engine.question import Question

_TOKENS = 16384  # pads included, all adapters together


@torch.no_grad()
def log_probs_of(
    model: LoadedModel, sequences: Sequence[Encoded], copies: int = 1, *, odds: bool = False
) -> np.ndarray:
    """float64 [K, S]: Σ log p (odds: Σ log(p/(1−p))) over the targets of every sequence.

    copies: K adapters of a stack (engine/causal/stack.py), already spread; 1 for a model as it is.
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    result_KS = np.zeros((copies, len(sequences)))
    for slots in plan_batches([len(s.ids) for s in sequences], max(1, _TOKENS // copies)):
        batch = pad_batch([sequences[slot] for slot in slots] * copies, None, model.pad_id, dtype).to(model.device)
        value_B = forward(model, batch, odds=odds).log_prob_B
        result_KS[:, slots] = value_B.view(copies, -1).double().cpu().numpy()
    return result_KS


def measure_questions(model: LoadedModel, questions: Sequence[Question], copies: int = 1) -> np.ndarray:
    """float64 [K, Q]: f in nats."""
    sequences = [sequence for question in questions for sequence in question.sequences]
    weights_S = np.array([weight for question in questions for weight in question.weights])
    owner_S = [i for i, question in enumerate(questions) for _ in question.sequences]
    odds_S = np.array([question.odds for question in questions for _ in question.sequences], bool)
    values_KS = log_probs_of(model, sequences, copies)
    if odds_S.any():
        values_KS = np.where(odds_S, log_probs_of(model, sequences, copies, odds=True), values_KS)
    result_QK = np.zeros((len(questions), copies))
    np.add.at(result_QK, owner_S, (values_KS * weights_S).T)
    return result_QK.T.copy()
