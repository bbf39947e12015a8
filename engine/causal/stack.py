"""K LoRA adapters side by side on one frozen base: fewer and larger kernels than K models.

Shapes: K adapters, n rows of each, N = K·n rows of the batch, T positions, I/O a module's widths, r rank,
P numbers of one adapter.

A batch holds K blocks of n rows, block k for adapter k. The frozen layers see N rows and know nothing of it; every
LoRA layer multiplies each block by its own A and B. Blocks never meet, so an adapter's gradient is its own.
All adapters lie in one leaf θ [K, P]: one optimizer step, one norm a row, one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from engine.config import Lora
from engine.errors import UnsupportedModel
from engine.model import LoadedModel
from engine.patterns import matching


class StackedLora(nn.Module):
    """y = W x + s·B_k A_k x for every row of block k. The factors are set before each forward pass."""

    a_KrI: Tensor
    b_KOr: Tensor

    def __init__(self, base: nn.Module, scaling: float) -> None:
        super().__init__()
        self.base, self.scaling = base, scaling

    def forward(self, x_NTI: Tensor) -> Tensor:
        y_NTO = self.base(x_NTI)
        count = len(self.a_KrI)
        low = torch.bmm(x_NTI.reshape(count, -1, x_NTI.shape[-1]), self.a_KrI.to(x_NTI.dtype).transpose(1, 2))
        y = y_NTO.reshape(count, -1, y_NTO.shape[-1])
        return torch.baddbmm(y, low, self.b_KOr.to(y.dtype).transpose(1, 2), alpha=self.scaling).view_as(y_NTO)


@dataclass(frozen=True)
class _Factor:
    """Where A or B of one layer lies in θ. name: as PEFT saves it."""

    name: str
    layer: StackedLora
    first: bool
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]


class AdapterStack:
    """Takes over `loaded`: its target modules become stacked ones. `theta_KP` is what an optimizer moves."""

    def __init__(self, loaded: LoadedModel, lora: Lora, count: int) -> None:
        self.loaded = loaded
        self.config = _adapt(loaded, lora)
        self._factors = tuple(_replace_layers(loaded.module))
        self.sizes = [factor.size for factor in self._factors]
        self.resize(count)

    def resize(self, count: int) -> None:
        """`count` adapters of zeros."""
        dtype = torch.float64 if self.loaded.dtype == torch.float64 else torch.float32
        zeros = torch.zeros(count, sum(self.sizes), dtype=dtype, device=self.loaded.device)
        self.theta_KP = nn.Parameter(zeros)

    @property
    def count(self) -> int:
        return len(self.theta_KP)

    @torch.no_grad()
    def start(self, seeds: Sequence[int]) -> None:
        """A uniform as PEFT draws it, but from each adapter's own generator; B = 0."""
        for k, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for factor, part_P in zip(self._factors, self.theta_KP[k].split(self.sizes), strict=True):
                if factor.first:
                    bound = factor.shape[1] ** -0.5
                    part_P.copy_(((2 * torch.rand(factor.shape, generator=generator) - 1) * bound).flatten())
                else:
                    part_P.zero_()

    def spread(self) -> None:
        """Hand every layer its part of θ; part of the graph where gradients are enabled."""
        for factor, part in zip(self._factors, self.theta_KP.split(self.sizes, dim=1), strict=True):
            shaped = part.unflatten(1, factor.shape)
            if factor.first:
                factor.layer.a_KrI = shaped
            else:
                factor.layer.b_KOr = shaped

    def named(self, vector_P: Tensor) -> dict[str, Tensor]:
        """One adapter's numbers (weights, or moments) under the names PEFT saves weights by."""
        parts = vector_P.detach().cpu().split(self.sizes)
        return {f.name: part.view(f.shape).clone() for f, part in zip(self._factors, parts, strict=True)}

    def flat(self, named: dict[str, Tensor], prefix: str = "") -> Tensor:
        """[P]; the inverse of `named`."""
        return torch.cat([named[prefix + factor.name].flatten() for factor in self._factors])

    def save_config(self, path: Path) -> None:
        self.config.save_pretrained(str(path))


def _adapt(loaded: LoadedModel, lora: Lora) -> Any:
    """Let PEFT find the target modules; returns its configuration, as it saves one for inference."""
    targets = _target_names(loaded.module, lora.targets) if isinstance(lora.targets, str) else list(lora.targets)
    wanted = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")  # type: ignore[arg-type]
    try:
        adapted = get_peft_model(loaded.module, wanted)  # type: ignore[arg-type]
    except ValueError as error:
        raise UnsupportedModel(f"No adapter fits: {str(error).splitlines()[0]}", remedy="Name other targets.") from None
    loaded.module, loaded.lora = adapted, True
    config: Any = adapted.peft_config["default"]
    config.target_modules = sorted(config.target_modules)  # a set's order changes with the process
    config.inference_mode = True
    return config


def _target_names(module: nn.Module, pattern: str) -> str | list[str]:
    """PEFT would match the pattern itself, however long that takes."""
    if pattern == "all-linear":
        return pattern
    names = [name for name, _ in module.named_modules() if name]
    found = matching(pattern, names, whole=True, pointer="/recipe/training/lora/targets")
    if not found:
        raise UnsupportedModel(f"No adapter fits: no module matches {pattern[:200]!r}.", remedy="Name other targets.")
    return found


def _replace_layers(module: nn.Module) -> Iterator[_Factor]:
    for path, layer in list(module.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer, Linear):
            raise UnsupportedModel(f"{path} is a {type(layer).__name__}: only linear layers can be trained.")
        stacked = StackedLora(layer.get_base_layer(), layer.scaling["default"])
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, stacked)
        yield _Factor(f"{path}.lora_A.weight", stacked, True, tuple(a.shape))  # type: ignore[arg-type]
        yield _Factor(f"{path}.lora_B.weight", stacked, False, tuple(b.shape))  # type: ignore[arg-type]
    for parameter in module.parameters():
        parameter.requires_grad_(False)
