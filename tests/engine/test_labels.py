"""Labels drawn from the model: rightly distributed, independent, and hardly moved by rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from engine.batching import PaddedBatch, pad_batch
from engine.curvature.labels import LabelDraws, gumbel_table
from engine.text import Encoded

CPU = torch.device("cpu")


def batch_of(rows: int, columns: int) -> PaddedBatch:
    ids, targets = (0,) * (columns + 1), (False,) + (True,) * columns
    row = Encoded(ids, targets, ("completion",) * len(ids), ((0, 0),) * len(ids))
    return pad_batch([row] * rows, None, 0, torch.float32)


def drawn(logits_BCV: Tensor, seed: int = 0, fresh: bool = False) -> Tensor:
    rows, columns, _ = logits_BCV.shape
    draws = LabelDraws(seed, 0, [f"row {n}" for n in range(rows)], fresh=fresh)
    batch = batch_of(rows, columns)
    return draws.sampler(batch)(logits_BCV, batch.target_columns)


def test_the_table_holds_gumbel_numbers() -> None:
    table_S = gumbel_table(CPU)
    assert table_S.isfinite().all()
    assert stats.kstest(table_S.numpy(), "gumbel_r").statistic < 1.63 / len(table_S) ** 0.5  # the 1 % point


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), vocabulary=st.sampled_from([2, 7, 60]), spread=st.floats(0, 3))
def test_labels_follow_the_softmax(seed: int, vocabulary: int, spread: float) -> None:
    logits_V = spread * torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))
    labels = drawn(logits_V.expand(40, 500, -1), seed).flatten()
    expected_V = logits_V.softmax(0).double().numpy() * len(labels)
    found_V = torch.bincount(labels, minlength=vocabulary).numpy()
    rare_V = expected_V < 5
    pairs = [(found_V[~rare_V], expected_V[~rare_V]), (found_V[rare_V].sum(), expected_V[rare_V].sum())]
    found, expected = (np.append(*both) for both in zip(*pairs, strict=True))
    chi2 = ((found - expected) ** 2 / np.maximum(expected, 5)).sum()
    assert chi2 < stats.chi2.ppf(1 - 1e-5, len(found) - 1)


def test_positions_rows_and_passes_draw_independently() -> None:
    logits_BCV = torch.zeros(200, 200, 8)
    labels_BC, fresh_BC = drawn(logits_BCV), drawn(logits_BCV, fresh=True)
    pairs = [(labels_BC[:, 1:], labels_BC[:, :-1]), (labels_BC[1:], labels_BC[:-1]), (labels_BC, fresh_BC)]
    for one, other in pairs:
        table = np.zeros((8, 8))
        np.add.at(table, (one.flatten().numpy(), other.flatten().numpy()), 1)
        assert stats.chi2_contingency(table)[1] > 1e-4  # the p value


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_rounding_changes_few_labels(spread: float) -> None:
    """At most 2t/(1+t) of them at total variation t; a cumulative sum would change many times as many."""
    generator = torch.Generator().manual_seed(0)
    logits_BCV = spread * torch.randn(20, 100, 1000, generator=generator)
    rounded_BCV = logits_BCV + 0.02 * torch.randn(logits_BCV.shape, generator=generator)
    apart = (logits_BCV.softmax(-1) - rounded_BCV.softmax(-1)).abs().sum(-1).mean() / 2
    changed = (drawn(logits_BCV) != drawn(rounded_BCV)).double().mean()
    assert 0 < changed <= 2 * apart + 4 * (2 * apart / 2000) ** 0.5


def test_the_same_in_float64_and_beside_longer_rows() -> None:
    logits_BCV = torch.randn(3, 9, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn(logits_BCV), drawn(logits_BCV.double()))
    assert torch.equal(drawn(logits_BCV)[:, :4], drawn(logits_BCV[:, :4]))
