"""Adam's state beside a checkpoint, laid out as gradients are.

`optimizer.safetensors` (engine/causal/train.py writes it) holds `step` and, under the names by which the weights beside
it are saved, `exp_avg.<name>` and `exp_avg_sq.<name>`. A Hugging Face Trainer's optimizer.pt is not read: it is a
pickle and names its parameters by number alone, so nothing proves whose moments they are.

Shapes: I/O a module's input/output width (I counts the appended 1 of a trained bias).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.causal.train import MOMENTS_FILE
from engine.config import Training
from engine.curvature.base import Moments
from engine.errors import FingerprintMismatch, MissingNeed
from engine.loaded import LoadedModel, State
from engine.modules import TrackedModule
from engine.store import IndexStore
from engine.weights import directory_fingerprint

_PICKLED = "optimizer.pt"
_REMEDY = (
    f"Train with `whence train`, which keeps {MOMENTS_FILE} beside every checkpoint, or choose a method that does not "
    "need Adam's state (`whence methods` lists the needs)."
)
Read = Callable[[str], Tensor]


def read_moments(model: LoadedModel, state: State, tracked: Sequence[TrackedModule]) -> Moments:
    """Of a checkpoint. Raises MissingNeed: no file, one that is damaged or of another model, or no recipe."""
    training = _training(model, state)
    with _opened(model, state) as (read, file):
        step = int(read("step").reshape(-1)[0])
        first = {m.name: _as_gradient(m, "exp_avg", read, file, state) for m in tracked}
        second = {m.name: _as_gradient(m, "exp_avg_sq", read, file, state) for m in tracked}
    if step < 1 or any(not bool((v >= 0).all()) for v in second.values()):
        raise _unusable(state, file, "no step was taken, or a mean of squares is negative or NaN")
    if any(not bool(m.isfinite().all()) for m in (*first.values(), *second.values())):
        raise _unusable(state, file, "it holds infinities or NaN")
    return Moments(step, first, second, training.betas, training.epsilon)


def recorded_moments(
    store: IndexStore, number: int, model: LoadedModel, state: State, tracked: Sequence[TrackedModule]
) -> Moments:
    """As `read_moments`, and the same as when checkpoint `number` of the index was first built.

    Raises FingerprintMismatch: a model's fingerprint does not cover its optimizer's state.
    """
    moments, name = read_moments(model, state, tracked), f"moments-{number:03d}"
    digest = np.frombuffer(_digest(moments), np.uint8)
    if not store.has_tensors(name):
        store.save_tensors(name, {"digest": digest})
    elif not np.array_equal(store.load_tensors(name)["digest"], digest):
        raise FingerprintMismatch(
            f"The Adam state of checkpoint {state.label} is not the one the index was built with.",
            remedy=f"Put {MOMENTS_FILE} back as it was, or build the index again; nothing was recomputed.",
        )
    return moments


def saved_step(model: LoadedModel, state: State) -> int | None:
    """Steps taken when the checkpoint was saved; None where nothing beside it tells. Raises MissingNeed (damaged)."""
    if _find(model, state) is not None:
        with _opened(model, state) as (read, _):
            return int(read("step").reshape(-1)[0])
    matches = (re.fullmatch(r"checkpoint-(\d+)", place.name) for place in _places(model, state))
    return next((int(match[1]) for match in matches if match), None)


def saved_name(module: TrackedModule) -> str:
    """What a checkpoint's files call the module: PEFT leaves the adapter's own name out when it saves."""
    name = re.sub(r"\.modules_to_save\.[^.]+", "", module.path)
    return re.sub(r"\.(lora_\w+)\.[^.]+$", r".\1", name)


def _training(model: LoadedModel, state: State) -> Training:
    if model.recipe.training is None:
        raise MissingNeed(
            f"Adam's step at checkpoint {state.label} needs the training recipe (betas and epsilon), "
            "and this model's is not known.",
            remedy="Register the model with `recipe`, its `training` filled in.",
            pointer="/method",
        )
    return model.recipe.training


def _places(model: LoadedModel, state: State) -> list[Path]:
    """Every directory of this very content: an adapter is often a bare copy of a checkpoint."""
    named = [Path(path) for path in model.config.checkpoints]
    return [state.path, *(p for p in named if p != state.path and directory_fingerprint(p) == state.fingerprint)]


def _find(model: LoadedModel, state: State) -> Path | None:
    return next((file for place in _places(model, state) if (file := place / MOMENTS_FILE).is_file()), None)


@contextmanager
def _opened(model: LoadedModel, state: State) -> Iterator[tuple[Read, Path]]:
    """(tensor by name, file). Every way the file can be wrong is a MissingNeed."""
    file = _find(model, state)
    if file is None:
        pickled = (state.path / _PICKLED).is_file()
        note = f" ({_PICKLED} is there, but it is a pickle and is not read)" if pickled else ""
        raise MissingNeed(
            f"The method needs Adam's state at every checkpoint: {state.path} (checkpoint {state.label}) holds no "
            f"{MOMENTS_FILE}{note}.",
            remedy=_REMEDY,
            pointer="/method",
        )
    try:
        with safe_open(file, "pt") as tensors:
            yield tensors.get_tensor, file
    except (SafetensorError, OSError) as error:
        raise _unusable(state, file, str(error).splitlines()[0]) from None


def _as_gradient(module: TrackedModule, kind: str, read: Read, file: Path, state: State) -> Tensor:
    """[O, I] on the CPU. Conv1D keeps its weight as [I, O], and so its moments."""
    name, inputs = saved_name(module), module.inputs - module.bias
    turned = module.kind == "conv1d"
    weight = _shaped(read, f"{kind}.{name}.weight", (module.outputs, inputs)[:: -1 if turned else 1], file, state)
    weight_OI = weight.T if turned else weight
    if module.bias:
        bias_O = _shaped(read, f"{kind}.{name}.bias", (module.outputs,), file, state)
        weight_OI = torch.cat([weight_OI, bias_O.unsqueeze(1)], dim=1)
    return weight_OI.contiguous()


def _shaped(read: Read, key: str, shape: tuple[int, ...], file: Path, state: State) -> Tensor:
    tensor = read(key)
    if tuple(tensor.shape) != shape:
        found = " × ".join(map(str, tensor.shape))
        raise _unusable(state, file, f"{key} is {found}, and the model's weight is {' × '.join(map(str, shape))}")
    return tensor


def _unusable(state: State, file: Path, cause: str) -> MissingNeed:
    detail = f"The method needs Adam's state at checkpoint {state.label}, and {file} cannot be used: {cause}."
    return MissingNeed(detail, remedy=_REMEDY, pointer="/method")


def _digest(moments: Moments) -> bytes:
    digest = hashlib.blake2b(repr((moments.step, moments.betas, moments.epsilon)).encode(), digest_size=16)
    for part in (moments.first, moments.second):
        for name, tensor_OI in part.items():
            digest.update(name.encode())
            digest.update(tensor_OI.contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
