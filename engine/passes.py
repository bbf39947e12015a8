"""Which sequences of a micro-batch share a forward and backward pass.

A pass costs its padded tokens and something of its own: launching its operations, reading the weights. Sequences of
very different length side by side are mostly padding, so they are cut into passes of like length where that is cheaper.
What comes out of a pass does not depend on the company in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_LEAST_TOKENS = 32
# Launching a pass's operations takes as long as about so many parameters' work on a token.
_LAUNCH = {"cpu": 3e9, "cuda": 2e11}


def pass_tokens(parameters: int, device: torch.device) -> float:
    """How many tokens' work a pass costs on its own, about."""
    return _LEAST_TOKENS + _LAUNCH.get(device.type, _LAUNCH["cuda"]) / max(1, parameters)


def plan_passes(lengths: Sequence[int], own_tokens: float, token_budget: int) -> list[list[int]]:
    """Every index once, in passes of the least Σ (own_tokens + sequences × longest), longest first; ties by index.

    No pass of several sequences has more than token_budget tokens, pads included.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # least[n]: the cost of the n longest; begins[n]: where the pass that ends with the n-th begins
    least, begins = [0.0], [0]
    for stop in range(1, len(order) + 1):
        found = []
        for start in range(stop - 1, -1, -1):
            tokens = (stop - start) * lengths[order[start]]
            if start < stop - 1 and tokens > token_budget:
                break
            found.append((least[start] + own_tokens + tokens, start))
        cost, begin = min(found)
        least.append(cost)
        begins.append(begin)
    passes, stop = [], len(order)
    while stop:
        passes.append(order[begins[stop] : stop])
        stop = begins[stop]
    return passes[::-1]
