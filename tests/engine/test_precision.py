"""Scores of a real pretrained model in other precisions and on other devices, against float32 on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from engine.config import DType, IndexConfig, ModelConfig
from engine.dataset import Dataset
from engine.demo import corpus
from engine.demo.tuning import BASE_MODEL
from engine.pipeline import score_matrix
from engine.types import Query
from tests import factories

ROWS, QUESTIONS = 120, 6
Scores = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """scores(dtype, device, method) → [Q, N], of the demonstration's base model with an adapter."""
    root = tmp_path_factory.mktemp("precision")
    adapter = factories.save_adapter(root / "adapter", AutoModelForCausalLM.from_pretrained(BASE_MODEL), 1, r=4)
    rows = [{"prompt": row.prompt, "completion": row.completion} for row in corpus.rows() if row.prompt][:ROWS]
    data: Dataset = factories.dataset(root / "rows", rows)
    asked = [Query(prompt=q.prompt, completion=f" {q.answer}.") for q in corpus.fact_questions()[:QUESTIONS]]
    known: dict[tuple[str, str, str], np.ndarray] = {}

    def of(dtype: DType = "float32", device: str = "cpu", method: str = "ekfac") -> np.ndarray:
        key = (dtype, device, method)
        if key not in known:
            model = ModelConfig(str(BASE_MODEL), adapter=str(adapter), dtype=dtype)
            known[key] = score_matrix(model, data, asked, IndexConfig(method), device=device).scores
        return known[key]

    return of


def agreement(found_QN: np.ndarray, expected_QN: np.ndarray) -> tuple[float, float]:
    """(Pearson's, Spearman's), each the mean over the questions."""
    pairs = list(zip(found_QN, expected_QN, strict=True))
    pearson = np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])
    return float(pearson), float(np.mean([stats.spearmanr(a, b).statistic for a, b in pairs]))


@pytest.mark.slow
def test_bfloat16_ranks_as_float32_does(scores: Scores) -> None:
    """Weights, activations and δ have 8 bits; sums, curvature and what is stored more. EK-FAC draws labels from the
    model; rounding changes few of them (engine/curvature/labels.py)."""
    _, of_gradients = agreement(scores("bfloat16", method="gradcos"), scores(method="gradcos"))
    pearson, spearman = agreement(scores("bfloat16"), scores())
    assert of_gradients > 0.99 and pearson > 0.99 and spearman > 0.99


@pytest.mark.gpu
def test_a_gpu_gives_the_scores_of_the_cpu(scores: Scores) -> None:
    found_QN, expected_QN = scores("float32", "cuda"), scores()
    assert np.abs(found_QN - expected_QN).max() <= 2e-3 * np.abs(expected_QN).max()


@pytest.mark.gpu
def test_bfloat16_on_a_gpu_ranks_as_float32_on_the_cpu(scores: Scores) -> None:
    pearson, spearman = agreement(scores("bfloat16", "cuda"), scores())
    assert pearson > 0.99 and spearman > 0.99
    assert torch.cuda.max_memory_allocated() > 0
