"""TrackStar's queries of a task: their own second moment is mixed into the rows' before whitening (appendix A.1.3).

Shapes: S rows of the sample, Q queries, D numbers of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.capture import GradientCapture
from engine.curvature.trackstar import mixed
from engine.errors import InputError
from engine.features import GradientFeatures
from engine.methods.trackstar import TaskQuery
from engine.plan import Plan
from engine.question import prepare
from engine.rows import Batcher
from engine.text import Encoded
from engine.types import Query


def with_queries(
    sample_SD: Tensor,
    columns: Sequence[slice],
    features: GradientFeatures,
    capture: GradientCapture,
    batcher: Batcher,
    plan: Plan,
) -> Tensor:
    """The sample itself where the method was given no queries. Raises what an invalid query raises."""
    queries: Sequence[TaskQuery] = getattr(plan.method_options, "queries", ())
    if not queries:
        return sample_SD
    encoded = [_encoded(batcher, plan, number, query) for number, query in enumerate(queries)]
    queries_QD = torch.zeros(len(encoded), features.width, dtype=sample_SD.dtype)
    for batch in batcher.batches(encoded, [1.0] * len(encoded), [-1] * len(encoded)):
        queries_QD[list(batch.slots)] = features.query(capture, batch.padded).vectors_BD.cpu()
    return mixed(sample_SD, queries_QD, columns)[0]


def _encoded(batcher: Batcher, plan: Plan, number: int, query: TaskQuery) -> Encoded:
    try:
        question = prepare(
            batcher.model, plan.options.max_length, Query(prompt=query.prompt, completion=query.completion)
        )
    except InputError as error:
        error.pointer = f"/options/queries/{number}{error.pointer or ''}"
        raise
    return question.sequences[0]
