"""Which modules are tracked, which are not and why, and which of them read the same input.

LoRA: `lora_A` and `lora_B` are the modules, DoRA's magnitudes too, and the linear ones of `modules_to_save`.
Dense: every Linear and Conv1D in the blocks (DESIGN §4).

Shapes: B examples, T positions, I/O a module's input/output width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from engine.errors import InvalidOption, UnsupportedModel
from engine.patterns import matching
from engine.types import Coverage, Untracked

Kind = Literal["linear", "conv1d", "magnitude"]

_PATTERNS = "/options/modules"
# What PEFT trains: the adapter named `default`. Another one that is active too is held fixed.
_ADAPTER_PART = re.compile(r"\.(lora_\w+|modules_to_save|trainable_tokens_delta)\.default(?=\.|$)")


@dataclass(frozen=True)
class TrackedModule:
    """One module y = W a. inputs: I, the appended 1 of a trained bias included. outputs: O.

    name: stable across processes, without PEFT's wrapping. group: the input group (shared a, R, A).
    A `magnitude` m of DoRA scales unit outputs u: y = m∘u, so its gradient Σ_t δ_t∘u_t is that of a module whose only
    input is a constant 1 (I = 1) and whose output gradient is δ∘u.
    """

    name: str
    path: str  # name in model.named_modules()
    kind: Kind
    inputs: int
    outputs: int
    bias: bool
    group: str = ""

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs

    def lay_out(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """[O, I], as gradients are laid out, of tensors shaped like the module's weight and bias."""
        if self.kind == "magnitude":
            return weight.reshape(-1, 1)
        weight_OI = weight.T if self.kind == "conv1d" else weight
        return weight_OI if bias is None else torch.cat([weight_OI, bias.unsqueeze(1)], dim=1)


def find_tracked(model: nn.Module, *, lora: bool, patterns: Sequence[str] | None) -> tuple[TrackedModule, ...]:
    """All trackable modules (or those that match one of `patterns`), in the model's own order, still ungrouped."""
    blocks = None if lora else largest_module_list(model)
    tied = tied_parameters(model)
    found = [
        tracked
        for path, module in model.named_modules()
        if f"{path}.weight" not in tied and (tracked := _as_tracked(path, module, lora=lora, blocks=blocks)) is not None
    ]
    if patterns is not None:
        names = [tracked.name for tracked in found]
        asked = {name for p in patterns for name in matching(p, names, whole=False, pointer=_PATTERNS)}
        found = [tracked for tracked in found if tracked.name in asked]
        if not found:
            raise InvalidOption(f"No module matches {list(patterns)}.", pointer=_PATTERNS)
    if not found:
        raise UnsupportedModel("The model has no Linear, Conv1D or LoRA module whose gradient could be tracked.")
    return tuple(found)


def _as_tracked(path: str, module: nn.Module, *, lora: bool, blocks: str | None) -> TrackedModule | None:
    if lora and not is_adapter_part(path):
        return None
    if blocks is not None and not path.startswith(blocks + "."):
        return None
    shape = linear_shape(module)
    if shape is None:
        return None
    kind, inputs, outputs = shape
    bias = getattr(module, "bias", None) is not None
    return TrackedModule(clean_name(path), path, kind, inputs + bias, outputs, bias)


def linear_shape(module: nn.Module) -> tuple[Kind, int, int] | None:
    """(kind, I, O) of a plain Linear, Conv1D or DoRA magnitude. Subclasses may compute something else: they are not
    trusted.
    """
    if type(module) is nn.Linear:
        return "linear", module.in_features, module.out_features
    if type(module) is Conv1D:
        return "conv1d", module.weight.shape[0], module.weight.shape[1]
    if type(module) is DoraLinearLayer:
        return "magnitude", 1, module.weight.shape[0]
    return None


def tied_parameters(model: nn.Module) -> dict[str, str]:
    """Parameter name → another name of the very same parameter, for those that have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: next(o for o in same if o != name) for same in names.values() if len(same) > 1 for name in same}


def is_adapter_part(path: str) -> bool:
    """Whether a module or parameter belongs to what PEFT trains."""
    return _ADAPTER_PART.search(path) is not None


def clean_name(path: str) -> str:
    """`base_model.model.layers.0.q_proj.lora_A.default` → `layers.0.q_proj.lora_A`."""
    name = path.removeprefix("base_model.model.")
    return _ADAPTER_PART.sub(r".\1", name)


def largest_module_list(model: nn.Module) -> str:
    """The path of the transformer blocks: the ModuleList with the most parameters, outermost first."""
    sizes = {
        path: sum(parameter.numel() for parameter in module.parameters())
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    if not sizes:
        raise UnsupportedModel("The model has no list of transformer blocks.")
    return max(sizes, key=lambda path: (sizes[path], -len(path)))


def with_input_groups(
    tracked: Sequence[TrackedModule], inputs_seen: dict[str, tuple[object, ...]]
) -> tuple[TrackedModule, ...]:
    """Name each module's input group after the first module that saw the very same tensor.

    inputs_seen: path → identity of the input tensor in one probe forward (`input_identity`).
    """
    first: dict[tuple[object, ...], str] = {}
    grouped = []
    for module in tracked:
        seen = () if module.kind == "magnitude" else inputs_seen.get(module.path, ())  # a magnitude reads only a 1
        key = (*(seen or (module.path,)), module.bias)
        grouped.append(replace(module, group=first.setdefault(key, module.name)))
    return tuple(grouped)


def input_identity(a: Tensor) -> tuple[object, ...]:
    """Equal for two views of the same memory; the caller keeps the tensors alive while comparing."""
    return a.data_ptr(), tuple(a.shape), a.stride(), a.dtype


def coverage(
    model: nn.Module, tracked: Iterable[TrackedModule], *, lora: bool, unreached: Mapping[str, str] | None = None
) -> Coverage:
    """Share of the trained parameters whose gradient is attributed; every other trained parameter is named.

    unreached: path → why, of modules whose rows' gradients cannot be had (engine/probe.py).
    """
    trained = {name: p for name, p in model.named_parameters() if not lora or is_adapter_part(name)}
    covered = {f"{module.path}.weight" for module in tracked} | {
        f"{module.path}.bias" for module in tracked if module.bias
    }
    missed: dict[str, int] = {}
    for name, parameter in trained.items():
        if name not in covered:
            path = name.rpartition(".")[0]
            missed[path] = missed.get(path, 0) + parameter.numel()
    total = sum(parameter.numel() for parameter in trained.values())
    lost = sum(missed.values())
    reasons = _Reasons(model, unreached or {})
    untracked = tuple(Untracked(clean_name(path), count, reasons.of(path)) for path, count in sorted(missed.items()))
    return Coverage(total - lost, total, (total - lost) / total if total else 0.0, untracked)


class _Reasons:
    """Why a module's parameters are not attributed."""

    def __init__(self, model: nn.Module, unreached: Mapping[str, str]) -> None:
        self._modules = dict(model.named_modules())
        self._tied = tied_parameters(model)
        self._unreached = unreached

    def of(self, path: str) -> str:
        if path in self._unreached:
            return self._unreached[path]
        module = self._modules.get(path)
        if module is None or isinstance(module, (nn.ParameterDict, nn.ParameterList)):
            return "a bare parameter, not a Linear or Conv1D module"
        if linear_shape(module) is not None and (other := self._tied.get(f"{path}.weight")):
            return f"its weight is also {clean_name(other)}: δaᵀ would be a part of its gradient"
        if linear_shape(module) is not None:
            return "outside the transformer blocks, or left out by the option `modules`"
        return _of_kind(module)


def _of_kind(module: nn.Module) -> str:
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        return f"{kind} replaces Linear's forward: its gradient is not δaᵀ"
    if any(parameter.dim() == 3 for parameter in module.parameters(recurse=False)):
        return f"{kind} holds fused experts (a parameter of three dimensions), not Linear or Conv1D modules"
    return f"{kind} is not a Linear or Conv1D module"


def freeze(model: nn.Module) -> None:
    """No parameter asks for a gradient, so backward computes activations' gradients only; dropout off."""
    model.requires_grad_(False)
    model.eval()
