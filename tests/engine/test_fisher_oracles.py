"""K-FAC and EK-FAC against Fisher matrices that can be written down: one linear layer under a softmax.

logits_t = W a_t, a_t the embedding of token t, so with labels drawn from the model, independently at every position,
the Fisher of whole examples is F = 1/N Σ_n Σ_t a_t a_tᵀ ⊗ (diag p_t − p_t p_tᵀ).

Shapes: N examples, T positions, I inputs, O outputs (the vocabulary).
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.batching import pad_batch
from engine.capture import GradientCapture
from engine.config import ModelConfig
from engine.consumers import CovarianceConsumer, EigenMomentConsumer, SketchConsumer
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics, symmetric_eigen
from engine.curvature.fit import fit_statistics
from engine.curvature.labels import LabelDraws, row_key
from engine.encoded import Encoded
from engine.loaded import LoadedModel, State
from engine.modules import TrackedModule
from engine.sketch import Projection

VOCABULARY = 8
DAMPING = 0.1


class OneLayer(nn.Module):
    """A bigram model: the next token depends on this one alone."""

    def __init__(self, inputs: int, scale: float) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.embedding = nn.Embedding(VOCABULARY, inputs)
        self.layers = nn.ModuleList([nn.Linear(inputs, VOCABULARY, bias=False)])
        nn.init.normal_(self.layers[0].weight, std=scale)
        self.requires_grad_(False).double()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layers[0](self.embedding(input_ids)))


def one_layer(inputs: int = 5, scale: float = 0.7, seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    config = ModelConfig(base="one layer", dtype="float64")
    state = State(("final",), "one layer", {}, Path())
    return LoadedModel(config, OneLayer(inputs, scale), None, [state], None, lora=False, device=torch.device("cpu"))


def rows(count: int, seed: int = 0) -> list[Encoded]:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(generator.integers(3, 9))
        ids = tuple(int(token) for token in generator.integers(0, VOCABULARY, length))
        found.append(Encoded(ids, (False, *[True] * (length - 1)), ("completion",) * length, ((0, 0),) * length))
    return found


def fit(model: LoadedModel, examples: list[Encoded], metric: str) -> Statistics:
    batch = pad_batch(examples, None, 0, torch.float64)
    draws = LabelDraws(0, 0, [f"{n} {row_key(row.ids)}" for n, row in enumerate(examples)])
    with GradientCapture(model, model.tracked(None)) as capture:
        return fit_statistics(capture, lambda: [batch], get_metric(metric), draws)


def parts(model: LoadedModel, examples: list[Encoded]) -> list[tuple[Tensor, Tensor]]:
    """Of every example: the inputs a [T−1, I] of its predicting positions and their probabilities [T−1, O]."""
    module = model.module
    found = []
    for row in examples:
        ids = torch.tensor(row.ids[:-1])
        found.append((module.embedding(ids), module(ids).logits.softmax(-1)))  # type: ignore[operator]
    return found


def closed_form_outputs(model: LoadedModel, examples: list[Encoded]) -> Tensor:
    """Σ over positions of E[δδᵀ] = diag p − ppᵀ."""
    return sum(p_TO.sum(0).diag() - p_TO.T @ p_TO for _, p_TO in parts(model, examples))  # type: ignore[return-value]


def explicit_fisher(model: LoadedModel, examples: list[Encoded]) -> Tensor:
    """[I·O, I·O], of vec of G's transpose (I outermost)."""
    total = sum(
        torch.kron(torch.outer(a_I, a_I), p_O.diag() - torch.outer(p_O, p_O))
        for a_TI, p_TO in parts(model, examples)
        for a_I, p_O in zip(a_TI, p_TO, strict=True)
    )
    return total / len(examples)  # type: ignore[return-value]


def gradients(model: LoadedModel, examples: list[Encoded]) -> Tensor:
    """[N, I·O]: Σ_t a_t ⊗ (onehot − p_t), written down."""
    found = []
    for row, (a_TI, p_TO) in zip(examples, parts(model, examples), strict=True):
        d_TO = torch.nn.functional.one_hot(torch.tensor(row.ids[1:]), VOCABULARY) - p_TO
        found.append(torch.einsum("ti,to->io", a_TI, d_TO).flatten())
    return torch.stack(found)


def whitened(
    model: LoadedModel, examples: list[Encoded], statistics: Statistics, metric: str, damping: float
) -> Tensor:
    tracked = model.tracked(None)
    setting = Setting(statistics, Projection(None, 0, 0), damping, torch.float64, torch.device("cpu"))
    consumer = SketchConsumer(tracked, get_metric(metric).module_sketches(tracked, setting))
    batch = pad_batch(examples, None, 0, torch.float64)
    consumer.begin(len(examples), torch.device("cpu"), torch.float64)
    with GradientCapture(model, tracked) as capture:
        capture.run(batch, consumer)
    return consumer.vectors_BD


def test_kfac_of_a_softmax_has_its_closed_form() -> None:
    """S = E[diag p − ppᵀ] within 5 %, A exactly; both over all positions, as DESIGN §4 counts them."""
    model, examples = one_layer(), rows(1500)
    statistics = fit(model, examples, "kfac")
    (name,), (group,) = statistics.outputs, statistics.inputs
    expected = closed_form_outputs(model, examples)
    assert float((statistics.outputs[name] - expected).norm() / expected.norm()) < 0.05
    every = torch.cat([model.module.embedding(torch.tensor(row.ids)) for row in examples])  # type: ignore[operator]
    torch.testing.assert_close(statistics.inputs[group], every.T @ every, rtol=1e-10, atol=1e-10)
    assert statistics.positions == len(every)


def test_kfac_metric_of_a_softmax_has_its_closed_form() -> None:
    """The whitened gradients' products against the closed form's inverse, within 5 %, where p is the same everywhere.

    W = 0: every p_t is uniform and F = E[Σ aaᵀ] ⊗ (I/8 − 1/64) is a Kronecker product. S has a null direction (δ sums
    to 0), which no gradient has a part in.
    """
    model, examples = one_layer(scale=0.0), rows(3000)
    statistics = fit(model, examples, "kfac")
    few = examples[:30]
    found = whitened(model, few, statistics, "kfac", damping=1e-8)
    g_ND = gradients(model, few)
    every = torch.cat([model.module.embedding(torch.tensor(row.ids)) for row in examples])  # type: ignore[operator]
    uniform = torch.eye(VOCABULARY, dtype=torch.float64) / VOCABULARY - 1 / VOCABULARY**2
    share = sum(len(row.ids) - 1 for row in examples) / len(every)  # of the positions, those with a target
    closed = torch.kron(every.T @ every / len(every), share * uniform) * statistics.mean_length
    expected = g_ND @ torch.linalg.pinv(closed, hermitian=True) @ g_ND.T
    assert float((found @ found.T - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("scale", [0.15, 0.7, 1.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_ekfac_agrees_with_the_explicit_fisher(scale: float, seed: int) -> None:
    """At an initialisation's usual scale, correlation ≥ 0.95. The sharper p_t follows a_t, the further F is from any
    Kronecker product's eigenbasis; EK-FAC then still equals its own closed form, and beats plain gradients."""
    model, examples = one_layer(scale=scale, seed=seed), rows(4000)
    few = rows(60, seed=1)
    g_ND, fisher = gradients(model, few), explicit_fisher(model, examples)
    statistics = fit(model, examples, "ekfac")
    found = products(whitened(model, few, statistics, "ekfac", DAMPING))
    exact = products(g_ND, damped(fisher))
    assert correlation(found, products(g_ND, damped(_eigen_form(model, examples, fisher)))) > 0.98
    assert correlation(found, exact) > correlation(products(g_ND), exact)
    assert scale > 0.15 or correlation(found, exact) >= 0.95


def damped(fisher: Tensor) -> Tensor:
    return fisher + DAMPING * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=torch.float64)


def products(vectors_ND: Tensor, h: Tensor | None = None) -> Tensor:
    """vᵢᵀ H⁻¹ vⱼ of different i, j."""
    right_DN = vectors_ND.T if h is None else torch.linalg.solve(h, vectors_ND.T)
    return (vectors_ND @ right_DN)[~torch.eye(len(vectors_ND), dtype=torch.bool)]


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def _eigen_form(model: LoadedModel, examples: list[Encoded], fisher: Tensor) -> Tensor:
    """Q diag(QᵀFQ) Qᵀ with Q the Kronecker product of the exact A's and S's eigenvectors."""
    a_II = sum(a_TI.T @ a_TI for a_TI, _ in parts(model, examples))
    q = torch.kron(symmetric_eigen(a_II)[1], symmetric_eigen(closed_form_outputs(model, examples))[1])  # type: ignore[arg-type]
    return q * (q.T @ fisher @ q).diagonal() @ q.T


@given(
    inputs=st.integers(1, 6), outputs=st.integers(1, 6), many=st.integers(1, 7), seed=st.integers(0, 2**31),
    damping=st.sampled_from([1e-3, 0.03, 1.0]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_ekfac_is_the_inverse_where_the_fisher_is_a_kronecker_product(
    inputs: int, outputs: int, many: int, seed: int, damping: float
) -> None:
    """Every input with every output gradient: F = A ⊗ S, so its eigenvectors are EK-FAC's and Λ its eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    a_ND = torch.randn(many, inputs, generator=generator, dtype=torch.float64)
    d_MD = torch.randn(many + 1, outputs, generator=generator, dtype=torch.float64)
    module = TrackedModule("layer", "layer", "linear", inputs, outputs, False, "layer")
    pairs = [(a.view(1, 1, -1), d.view(1, 1, -1)) for a in a_ND for d in d_MD]
    statistics = _statistics(module, pairs)
    setting = Setting(statistics, Projection(None, 0, 0), damping, torch.float64, torch.device("cpu"))
    sketch = get_metric("ekfac").module_sketches([module], setting)["layer"]
    white = torch.stack([sketch.sketch(sketch.prepare(a), d).flatten() for a, d in pairs])
    g_PD = torch.stack([torch.outer(a.flatten(), d.flatten()).flatten() for a, d in pairs])
    fisher = g_PD.T @ g_PD / len(pairs)
    h = fisher + damping * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=torch.float64)
    torch.testing.assert_close(white @ white.T, g_PD @ torch.linalg.solve(h, g_PD.T), rtol=1e-8, atol=1e-8)


def _statistics(module: TrackedModule, pairs: list[tuple[Tensor, Tensor]]) -> Statistics:
    covariances = CovarianceConsumer()
    for a, d in pairs:
        covariances.begin(torch.ones(1, 1, dtype=torch.bool))
        covariances.take(module, covariances.keep(module, a), d)
    sums = covariances.statistics()
    bases = ({"layer": symmetric_eigen(sums.inputs["layer"])[1]}, {"layer": symmetric_eigen(sums.outputs["layer"])[1]})
    moments = EigenMomentConsumer(*bases)
    for a, d in pairs:
        moments.take(module, moments.keep(module, a), d)
    return Statistics(sums.examples, sums.positions, sums.inputs, sums.outputs, moments.moments, *bases)
