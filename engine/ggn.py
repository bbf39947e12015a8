"""Exact Gauss-Newton products over a sample of rows, for the tracked modules alone.

    G v = (1/S) Σ_rows w Σ_t J_tᵀ (diag p_t − p_t p_tᵀ) J_t v

J_t is the Jacobian of the logits that predict token t, p_t their softmax, w the row's weight in the recipe's loss. For
a softmax this is the Fisher too: E over labels drawn from the model of the mean of (√w g)(√w g)ᵀ. It is divided by the
S rows, as EK-FAC's Λ is, so a damping λ means the same to both. Martens 2020 (arXiv:1412.1193), §8; the product as
J (forward mode), then Jᵀ (backward): Schraudolph 2002 (Neural Computation 14, 1723–1738), §3.

Shapes: B examples, T positions, C target columns, V vocabulary, I/O a module's input/output width, K vectors, D the
numbers of all tracked modules' gradients, [O, I] after [O, I] in the modules' order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.batching import PaddedBatch
from engine.capture import GradientCapture, LabelSampler, accepts_logits_to_keep
from engine.errors import UnsupportedModel
from engine.loaded import LoadedModel, State
from engine.modules import TrackedModule

Batches = Callable[[], Sequence[PaddedBatch]]
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class GaussNewton:
    """v [K, D] → G v [K, D] at one checkpoint. batches: the sample, w in its weights; called once a product.

    Raises UnsupportedModel where a layer has no forward-mode derivative (quantised weights, some kernels).
    """

    model: LoadedModel
    state: State
    tracked: tuple[TrackedModule, ...]
    batches: Batches

    def __call__(self, vectors_KD: Tensor) -> Tensor:
        self._require_plain_weights()
        self.model.use(self.state)
        tangents = [self._as_parameters(vector_D) for vector_D in vectors_KD]
        total_KD, rows = torch.zeros_like(vectors_KD), 0
        for batch in self.batches():
            with sdpa_kernel(SDPBackend.MATH), _naming_what_is_missing():  # fused attention has no forward mode
                self._add(total_KD, batch, tangents)
            rows += len(batch.positions)
        return total_KD / rows

    def _add(self, total_KD: Tensor, batch: PaddedBatch, tangents: Sequence[Parameters]) -> None:
        leaves = {name: p.detach().requires_grad_() for name, p in self._parameters().items()}
        with torch.enable_grad():
            logits_BCV = self._logits(batch, leaves)
        p_BCV = logits_BCV.detach().softmax(-1)
        weights_BC1 = batch.weights_BT[:, batch.target_columns].to(p_BCV.dtype).unsqueeze(-1)
        for number, tangent in enumerate(tangents):
            moved_BCV = self._pushed(batch, tangent, like=p_BCV)
            back_BCV = weights_BC1 * p_BCV * (moved_BCV - (p_BCV * moved_BCV).sum(-1, keepdim=True))
            more = number + 1 < len(tangents)
            found = torch.autograd.grad(
                logits_BCV, list(leaves.values()), back_BCV, retain_graph=more, allow_unused=True
            )
            total_KD[number] += self._flat(leaves, found).to(total_KD.dtype)

    @torch.no_grad()
    def _pushed(self, batch: PaddedBatch, tangent: Parameters, like: Tensor) -> Tensor:
        """J v, [B, C, V]: the logits' derivative along the weights' direction."""
        with forward_mode.dual_level():
            duals = {name: forward_mode.make_dual(p, tangent[name]) for name, p in self._parameters().items()}
            moved_BCV = forward_mode.unpack_dual(self._logits(batch, duals)).tangent
        return torch.zeros_like(like) if moved_BCV is None else moved_BCV

    def _logits(self, batch: PaddedBatch, parameters: Parameters) -> Tensor:
        """[B, C, V] in float32 or wider, those that predict the target columns; as `capture.forward` has them."""
        before_C = batch.target_columns - 1
        arguments = {"input_ids": batch.ids_BT, "use_cache": False}
        sliced = accepts_logits_to_keep(self.model)
        if sliced:
            arguments["logits_to_keep"] = before_C
        logits = functional_call(self.model.module, parameters, (), arguments).logits
        logits_BCV = logits if sliced else logits[:, before_C]
        return logits_BCV.to(torch.promote_types(logits_BCV.dtype, torch.float32))

    def _parameters(self) -> Parameters:
        named = dict(self.model.module.named_parameters())
        wanted = [f"{m.path}.{kind}" for m in self.tracked for kind in ("weight", "bias")[: 1 + m.bias]]
        return {name: named[name] for name in wanted}

    def _as_parameters(self, vector_D: Tensor) -> Parameters:
        """The opposite of `TrackedModule.lay_out`: each part shaped and typed like its parameter."""
        like, parts = self._parameters(), {}
        for module, part in zip(self.tracked, split(vector_D[None], self.tracked).values(), strict=True):
            w_OI = part[0]
            if module.bias:
                parts[f"{module.path}.bias"] = w_OI[:, -1]
                w_OI = w_OI[:, :-1]
            turned = w_OI.T if module.kind == "conv1d" else w_OI
            parts[f"{module.path}.weight"] = turned.reshape(like[f"{module.path}.weight"].shape)
        return {name: parts[name].to(parameter.dtype) for name, parameter in like.items()}

    def _flat(self, leaves: Parameters, found: Sequence[Tensor | None]) -> Tensor:
        """[D]; zeros for what the batch never reached."""
        named = {
            name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(leaves.items(), found, strict=True)
        }
        laid = [m.lay_out(named[f"{m.path}.weight"], named.get(f"{m.path}.bias")) for m in self.tracked]
        return torch.cat([part.flatten() for part in laid])

    def _require_plain_weights(self) -> None:
        if self.model.config.quantization is not None:
            raise UnsupportedModel(
                "The curvature product needs forward-mode derivatives, which quantised weights do not have.",
                remedy="Load the model without quantization, or choose ekfac.",
            )


class _SquaresConsumer:
    """Σ ‖G‖² per module over examples, in float64; no gradient is formed: ‖Σ δ aᵀ‖² = Σ_ts (δ_t·δ_s)(a_t·a_s)."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}

    def keep(self, module: TrackedModule, a_BTI: Tensor) -> Tensor:
        return a_BTI.to(torch.promote_types(a_BTI.dtype, torch.float32))

    def take(self, module: TrackedModule, kept: Tensor, d_BTO: Tensor) -> None:
        d_BTO = d_BTO.to(kept.dtype)
        both_BTT = (d_BTO @ d_BTO.transpose(1, 2)) * (kept @ kept.transpose(1, 2))
        self.sums[module.name] = self.sums.get(module.name, 0.0) + float(both_BTT.double().sum())


def mean_diagonals(
    capture: GradientCapture,
    state: State,
    batches: Sequence[PaddedBatch],
    labels: Callable[[PaddedBatch], LabelSampler],
) -> dict[str, float]:
    """Module → the mean of G's diagonal in it, by one label drawn for every target: EK-FAC's mean Λ.

    batches: with √w as weights (see engine/curvature/fit.py).
    """
    capture.model.use(state)
    consumer, rows = _SquaresConsumer(), 0
    for batch in batches:
        capture.run(batch, consumer, labels(batch))
        rows += len(batch.positions)
    return {m.name: consumer.sums.get(m.name, 0.0) / (rows * m.parameters) for m in capture.tracked}


def split(vectors_KD: Tensor, tracked: Sequence[TrackedModule]) -> dict[str, Tensor]:
    """Module → its part [K, O, I], a view."""
    sizes = [module.parameters for module in tracked]
    parts = vectors_KD.split(sizes, dim=1)
    return {m.name: part.unflatten(1, (m.outputs, m.inputs)) for m, part in zip(tracked, parts, strict=True)}


@contextmanager
def _naming_what_is_missing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's own kind for this is one of its subclasses
        if "forward AD" not in str(error):
            raise
        raise UnsupportedModel(
            f"The model has a layer without a forward-mode derivative: {str(error).splitlines()[0]}",
            remedy="Choose a method without curvature products: ekfac or source.",
        ) from None
