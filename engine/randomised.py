"""A model's twin that has learned nothing: every weight's numbers in random order.

Sanity check by randomisation (Adebayo et al. 2018, arXiv:1810.03292): what a score says of the twin as well, it does
not say because of what the model learned. The numbers are kept, so that scales, norms and gradients stay ordinary.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from engine.loaded import LoadedModel


@torch.no_grad()
def randomise(model: LoadedModel, seed: int) -> None:
    """In place: the base and every checkpoint. The same seed gives the same twin."""
    states = [
        replace(
            state,
            tensors={name: _shuffled(tensor, seed, state.label, name) for name, tensor in state.tensors.items()},
        )
        for state in model.states
    ]
    trained = set(model.states[-1].tensors)
    for name, parameter in model.module.named_parameters():
        if name not in trained:
            parameter.copy_(_shuffled(parameter, seed, "", name))
    model.exchange(states)


def _shuffled(tensor: Tensor, seed: int, *names: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor  # packed numbers of a quantised base have no order that could be changed
    key = hashlib.blake2b("|".join((str(seed), *names)).encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.detach().flatten()[order].view_as(tensor)
