"""The model as it was before fine-tuning: a second tree of modules over the very same weights.

It takes no memory worth naming, nothing is switched or copied to read it, and another thread may read it while the
tuned model is busy.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def module_before(module: nn.Module, weights: Mapping[str, Tensor] | None) -> nn.Module:
    """weights: what the base has in place of the module's parameters (name → tensor), read where they lie; None: the
    module's own, with every adapter switched off. Hooks stay with the original.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in _tensors(module)}
    for name, parameter in module.named_parameters() if weights is not None else ():
        memo[id(parameter)] = nn.Parameter(weights[name], requires_grad=False)  # type: ignore[index]
    for part in module.modules():
        memo |= {id(getattr(part, name)): OrderedDict() for name in _HOOKS}
    before = copy.deepcopy(module, memo)
    for part in before.modules():
        if isinstance(part, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            # PEFT's own disable_adapter() makes the adapter, whose tensors both trees share, trainable.
            part._disable_adapters = True
    return before


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Whatever holds weights; bitsandbytes keeps some in a layer's `state`."""
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        state = getattr(part, "state", None)
        yield from (t for t in getattr(state, "__dict__", {}).values() if isinstance(t, Tensor))
