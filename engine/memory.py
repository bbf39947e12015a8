"""What a batch takes of memory, measured on one row, and what is free: together, how many tokens a batch may have.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from engine.batching import PaddedBatch
from engine.capture import GradientCapture
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics
from engine.features import GradientFeatures
from engine.loaded import LoadedModel
from engine.modules import TrackedModule
from engine.sketch import Projection

Result = TypeVar("Result")

_SHARE = 0.5  # of what is free: the allocator keeps gaps, and queries are answered meanwhile
_PROBED_TOKENS = 128
_STEP = 256  # budgets are rounded down to it, so that a few MB more or less do not cut the rows up in another way
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
_BYTES_PER_TOKEN: weakref.WeakKeyDictionary[LoadedModel, dict[tuple[TrackedModule, ...], float]] = (
    weakref.WeakKeyDictionary()
)


def token_budget(bytes_per_token: float, fixed_bytes: int, free: int, most: int) -> int:
    """Tokens of a batch: `most`, or fewer where `free` bytes would not hold them beside `fixed_bytes`; at least 1."""
    fitting = int((_SHARE * free - fixed_bytes) / bytes_per_token)
    if fitting >= most:
        return most
    return max(fitting // _STEP * _STEP, min(_STEP, most), 1)


def free_bytes(device: torch.device) -> int:
    """What this process could still take: of the GPU, or of the machine and of its control group's limit."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(available, _group_bytes("memory.max", "memory.current", "inactive_file"), _group_bytes_v1())


def _group_bytes(limit: str, used: str, cache: str) -> int:
    """Left below a control group's limit; files' pages that can be dropped do not count as used."""
    try:
        most = int((_CGROUP / limit).read_text())
        taken = int((_CGROUP / used).read_text())
        stat = (_CGROUP / limit).with_name("memory.stat").read_text()
    except (OSError, ValueError):  # no such group, or "max"
        return _UNLIMITED
    dropped = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{cache} ")), 0)
    return max(0, most - taken + dropped)


def _group_bytes_v1() -> int:
    return _group_bytes("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")


def bytes_per_token(model: LoadedModel, tracked: tuple[TrackedModule, ...]) -> float:
    """As `_measured`, once for a model and what is tracked of it."""
    known = _BYTES_PER_TOKEN.setdefault(model, {})
    if tracked not in known:
        known[tracked] = _measured(model, tracked)
    return known[tracked]


def _measured(model: LoadedModel, tracked: tuple[TrackedModule, ...]) -> float:
    """Peak memory of one forward and backward of a made-up row whose every token but the first is a target, by token.

    Rows with fewer targets take less: most of it are the logits and their gradients, 4 V bytes each a target.
    """
    length = min(_PROBED_TOKENS, model.context_length)
    ids_BT = torch.full((1, length), model.pad_id)  # any id serves
    targets_BT = torch.arange(length) > 0
    weights_BT = targets_BT.unsqueeze(0).to(torch.promote_types(model.dtype, torch.float32))
    batch = PaddedBatch(ids_BT, torch.ones_like(ids_BT, dtype=torch.bool), weights_BT, targets_BT.nonzero()[:, 0], (0,))
    batch = batch.to(model.device)
    features = plain_features(model, tracked)
    with GradientCapture(model, tracked) as capture:
        return peak_bytes(lambda: features.compute(capture, batch), model.device) / length


def plain_features(model: LoadedModel, tracked: tuple[TrackedModule, ...]) -> GradientFeatures:
    """Small sketches in no metric: what a pass takes before any curvature is known."""
    setting = Setting(Statistics(0, 0), Projection(8, 0, 0), 0.0, model.dtype, model.device)
    sketches = get_metric("identity").module_sketches(tracked, setting)
    return GradientFeatures(model, model.states[-1], tracked, sketches, unit_norm=False)


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most that `work` holds at once in tensors it makes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _Allocations() as allocations:
        work()
    return allocations.peak


def leaving_nothing(work: Callable[[], Result]) -> Result:
    """work(); then what it has freed goes back to the system. glibc would keep most of what a build's batches took."""
    try:
        return work()
    finally:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trim is not None:
            trim(0)


class _Allocations(TorchDispatchMode):
    """Adds up the storages that operations return, from their first appearance until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._seen[tensor.untyped_storage()] = True  # it was there before: a weight, say
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage not in self._seen:
                self._seen[storage] = True
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _count(self, change: int) -> None:
        self.now += change
        self.peak = max(self.peak, self.now)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
