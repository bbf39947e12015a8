"""Which modules are tracked, which are not and why, and which of them read the same input.

LoRA: `lora_A` and `lora_B` are the modules. Dense: every Linear and Conv1D in the blocks (DESIGN §4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from engine.errors import InvalidOption, UnsupportedModel
from engine.types import Coverage, Untracked

Kind = Literal["linear", "conv1d"]

_NOT_BY_ROW = "its input is not [batch, position, width] (a routed expert): rows cannot be told apart"


@dataclass(frozen=True)
class TrackedModule:
    """One module y = W a. inputs: I, the appended 1 of a trained bias included. outputs: O.

    name: stable across processes, without PEFT's wrapping. group: the input group (shared a, R, A).
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


def find_tracked(model: nn.Module, *, lora: bool, patterns: Sequence[str] | None) -> tuple[TrackedModule, ...]:
    """All trackable modules (or those that match one of `patterns`), in the model's own order, still ungrouped."""
    blocks = None if lora else largest_module_list(model)
    found = [
        tracked
        for path, module in model.named_modules()
        if (tracked := _as_tracked(path, module, lora=lora, blocks=blocks)) is not None
    ]
    if patterns is not None:
        found = [tracked for tracked in found if any(re.search(pattern, tracked.name) for pattern in patterns)]
        if not found:
            raise InvalidOption(f"No module matches {list(patterns)}.", pointer="/options/modules")
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
    """(kind, I, O) of a plain Linear or Conv1D. Subclasses may compute something else: they are not trusted."""
    if type(module) is nn.Linear:
        return "linear", module.in_features, module.out_features
    if type(module) is Conv1D:
        return "conv1d", module.weight.shape[0], module.weight.shape[1]
    return None


def is_adapter_part(path: str) -> bool:
    """Whether a module or parameter belongs to what PEFT trains."""
    return "lora_" in path or ".modules_to_save." in path


def clean_name(path: str) -> str:
    """`base_model.model.layers.0.q_proj.lora_A.default` → `layers.0.q_proj.lora_A`."""
    name = path.removeprefix("base_model.model.")
    return re.sub(r"\.(lora_\w+|modules_to_save)\.default(?=\.|$)", r".\1", name)


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
        key = (*inputs_seen.get(module.path, (module.path,)), module.bias)
        grouped.append(replace(module, group=first.setdefault(key, module.name)))
    return tuple(grouped)


def input_identity(a: Tensor) -> tuple[object, ...]:
    """Equal for two views of the same memory; the caller keeps the tensors alive while comparing."""
    return a.data_ptr(), tuple(a.shape), a.stride(), a.dtype


def reached(
    found: Iterable[TrackedModule], inputs_seen: dict[str, tuple[object, ...]]
) -> tuple[tuple[TrackedModule, ...], frozenset[str]]:
    """(modules that saw [batch, position, width], paths of the others): routed experts see tokens of many
    examples mixed, or none at all, so their rows' gradients cannot be told apart."""
    kept, dropped = [], set()
    for module in found:
        shape = inputs_seen[module.path][1] if module.path in inputs_seen else ()
        if len(shape) == 3:  # type: ignore[arg-type]
            kept.append(module)
        else:
            dropped.add(module.path)
    if not kept:
        raise UnsupportedModel("No module of the model reads [batch, position, width]; none can be tracked.")
    return tuple(kept), frozenset(dropped)


def coverage(
    model: nn.Module, tracked: Iterable[TrackedModule], *, lora: bool, unreached: frozenset[str] = frozenset()
) -> Coverage:
    """Share of the trained parameters whose gradient is attributed; every other trained parameter is named.

    unreached: paths of modules that no forward pass feeds row by row (see `reached`).
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
    modules = dict(model.named_modules())
    untracked = tuple(
        Untracked(clean_name(path), count, _NOT_BY_ROW if path in unreached else _why_untracked(modules.get(path)))
        for path, count in sorted(missed.items())
    )
    return Coverage(total - lost, total, (total - lost) / total if total else 0.0, untracked)


def _why_untracked(module: nn.Module | None) -> str:
    if module is None or isinstance(module, (nn.ParameterDict, nn.ParameterList)):
        return "a bare parameter, not a Linear or Conv1D module"
    if linear_shape(module) is not None:
        return "outside the transformer blocks, or left out by the option `modules`"
    if isinstance(module, nn.Linear):
        return f"{type(module).__name__} replaces Linear's forward: its gradient is not δaᵀ"
    return f"{type(module).__name__} is not a Linear or Conv1D module"


def freeze(model: nn.Module) -> None:
    """No parameter asks for a gradient, so backward computes activations' gradients only; dropout off."""
    model.requires_grad_(False)
    model.eval()
