"""What attribution costs beyond the passes it cannot do without.

    python -m benchmarks.capture

1. capture + sketch + write of training rows, against a bare forward + activation-only backward of the same batches:
   a 110M-parameter random Llama, 256 tokens, with LoRA r=8 (EK-FAC) and without (every weight, p=16). EK-FAC's bases
   are random ones here: what a row costs does not depend on them, and real ones of this size take minutes.
2. the whole EK-FAC index of one checkpoint of a small model, against one plain training pass (forward, backward, AdamW
   on the adapter) over the same rows, and the curvature's share of it, at as many rows as the calibration sample is
   small beside. Nothing is made up there.

Ratios only: both sides are timed in turn, batch by batch, in one process; the median over pairs is reported.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.random_llama import save_model, save_tiny_model, text_rows
from benchmarks.report import report
from engine.batching import PaddedBatch
from engine.build import build_index, draft_manifest
from engine.capture import GradientCapture
from engine.checkpoints import checkpoint_features
from engine.config import IndexConfig, IndexOptions, ModelConfig
from engine.curvature.base import Statistics
from engine.curvature.fit import statistics_to_arrays
from engine.model import LoadedModel, load_model
from engine.modules import TrackedModule
from engine.plan import default_curvature_rows, make_plan
from engine.rows import Batcher, encode_rows
from engine.store import IndexStore


@dataclass(frozen=True)
class Kind:
    """width: p of the sketch, None = the index's own choice."""

    name: str
    method: str
    width: int | None
    target: float


LORA = Kind("LoRA r=8, EK-FAC", "ekfac", None, 1.10)
# K-FAC's whitening is within the projections' own matrices, so its rows cost what plain ones do; its eigenbases of 84
# dense modules would take minutes.
DENSE = Kind("dense, p=16, plain or K-FAC", "graddot", 16, 1.15)
WHOLE, SHARE = 2.0, 0.15  # targets: the whole index in training passes, the curvature's share of it
SHORT = 24
TOKENS = 256
BATCH_ROWS = 4
INDEX_ROWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="timed pairs of each comparison (default 5)")
    parser.add_argument("--rows", type=int, default=10_000, help="of the whole index")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        config = save_model(root)
        rows = capture_cost(load_model(config, arguments.device), root / "lora", arguments.pairs, LORA)
        dense = ModelConfig(config.base, recipe=config.recipe)
        rows += capture_cost(load_model(dense, arguments.device), root / "dense", arguments.pairs, DENSE)
        rows += index_cost(root / "whole", arguments.rows)
    report("capture", "python -m benchmarks.capture", rows)


# --- 1: training rows ---


def capture_cost(model: LoadedModel, root: Path, pairs: int, kind: Kind) -> list[dict[str, Any]]:
    data = text_rows(root / "rows", BATCH_ROWS * (pairs + 1), TOKENS)
    options = IndexOptions(token_budget=BATCH_ROWS * TOKENS, shard_rows=BATCH_ROWS, curvature_rows=BATCH_ROWS)
    # None: the sketch an index of 1,000 rows would choose for itself.
    width = kind.width or make_plan(model, INDEX_ROWS, IndexConfig(options=options)).projection_width
    plan = make_plan(model, len(data), IndexConfig(kind.method, options=_with_width(options, width)))
    encoded = encode_rows(model, data, None, lambda _done: None)
    store = IndexStore.open_or_create(root / "capture-index", draft_manifest(plan, model, data))
    batcher = Batcher(model, options.token_budget)
    batches = list(batcher.batches(encoded.rows, encoded.weights, range(len(data))))
    with GradientCapture(model, plan.tracked) as capture:
        if kind.method == "ekfac":
            store.save_tensors("checkpoint-000", statistics_to_arrays(random_statistics(plan.tracked), torch.float32))
        features = checkpoint_features(model, plan, store, 0, model.states[-1])

        def ours(number: int) -> None:
            vectors_BD, self_B = features.finish(features.compute(capture, batches[number].padded))
            lengths_B = np.full(BATCH_ROWS, TOKENS, np.int32)
            store.write_shard(number, vectors_BD.cpu().numpy(), self_B.cpu().numpy()[:, None], lengths_B)

        ratio = _paired(ours, lambda number: activation_only(model, batches[number].padded), pairs)
    what = f"capture + sketch + write / bare forward + activation-only backward, {kind.name}"
    return [{"what": what, "ratio": ratio, "target": kind.target, "projection": width, "pairs": pairs}]


def _with_width(options: IndexOptions, width: int | None) -> IndexOptions:
    return IndexOptions(**{**options.__dict__, "projection_dim": width or 0})


def random_statistics(tracked: Sequence[TrackedModule]) -> Statistics:
    """Of EK-FAC: an orthogonal basis for each width, and eigenvalues around 1."""
    generator = torch.Generator().manual_seed(0)
    widths = {width for module in tracked for width in (module.inputs, module.outputs)}
    bases = {n: torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for n in sorted(widths)}
    return Statistics(
        examples=BATCH_ROWS,
        positions=BATCH_ROWS * TOKENS,
        eigen={m.name: torch.rand(m.outputs, m.inputs, generator=generator) + 0.5 for m in tracked},
        inputs_basis={m.group: bases[m.inputs] for m in tracked},
        outputs_basis={m.name: bases[m.outputs] for m in tracked},
    )


def activation_only(model: LoadedModel, batch: PaddedBatch, forward: Callable[..., Any] | None = None) -> Tensor:
    """The reference: no hooks, no sketch; the gradient of the loss with respect to the embedding's output.

    forward: called in place of the model.
    """
    embedded = model.module.get_input_embeddings()(batch.ids_BT).detach().requires_grad_(True)  # type: ignore[operator]
    logits = (model.module if forward is None else forward)(inputs_embeds=embedded, use_cache=False).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids_BT[:, 1:].flatten(), reduction="sum")
    return torch.autograd.grad(loss, embedded)[0]


# --- 2: a whole index ---


def index_cost(root: Path, rows: int) -> list[dict[str, Any]]:
    """A training pass over half of the rows, the build, the other half: a slow minute hits both."""
    model = load_model(save_tiny_model(root, lora=True))
    data, options = text_rows(root / "rows", rows, SHORT), IndexOptions(search="flat")
    encoded = encode_rows(model, data, None, lambda _done: None)
    steps = [
        batch.padded
        for batch in Batcher(model, options.token_budget).batches(encoded.rows, encoded.weights, range(len(data)))
    ]
    half = len(steps) // 2
    trained = seconds(lambda _: training_pass(model, steps[:half]), 0)
    built = seconds(
        lambda _: build_index(
            model, data, IndexConfig("ekfac", options=options), root / "index", lambda _progress: None
        ),
        0,
    )
    trained += seconds(lambda _: training_pass(model, steps[half:]), 0)
    share = IndexStore.open(root / "index").manifest.timings_s["curvature"] / built
    common = {"projection": None, "pairs": 1}
    named = f"EK-FAC index, {rows:,} rows of {SHORT} tokens, one checkpoint"
    sample = f"the curvature's share of that index (sample of {default_curvature_rows(rows):,})"
    return [
        {"what": f"{named} / a plain training pass", "ratio": built / trained, "target": WHOLE, **common},
        {"what": sample, "ratio": share, "target": SHARE, **common},
    ]


def training_pass(model: LoadedModel, batches: Sequence[PaddedBatch]) -> None:
    """Forward, the gradient of every adapter weight, and AdamW, batch by batch; the weights move by nothing (lr 0)."""
    weights = [p for name, p in model.module.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(weights, lr=0.0)
    for weight in weights:
        weight.requires_grad_(True)
    for batch in batches:
        logits = model.module(input_ids=batch.ids_BT, use_cache=False).logits
        log_prob = -F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids_BT[:, 1:].flatten(), reduction="none")
        optimizer.zero_grad()
        (-(log_prob * batch.weights_BT[:, 1:].flatten()).sum()).backward()
        optimizer.step()
    for weight in weights:
        weight.requires_grad_(False)
        weight.grad = None


def plain_backward(model: LoadedModel, batch: PaddedBatch) -> None:
    """The reference: this query's loss, and the gradient of every adapter weight, as any training step does it."""
    weights = [p for name, p in model.module.named_parameters() if "lora_" in name]
    for weight in weights:
        weight.requires_grad_(True)
    logits = model.module(input_ids=batch.ids_BT, use_cache=False).logits
    log_prob_BT = -F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids_BT[:, 1:].flatten(), reduction="none")
    torch.autograd.grad((log_prob_BT * batch.weights_BT[:, 1:].flatten()).sum(), weights)
    for weight in weights:
        weight.requires_grad_(False)


# --- timing ---


def _paired(ours: Callable[[int], object], reference: Callable[[int], object], pairs: int) -> float:
    """Median of ours/reference over pairs; pair 0 warms up and is not counted."""
    ratios = []
    for number in range(pairs + 1):
        first, second = seconds(ours, number), seconds(reference, number)
        if number:
            ratios.append(first / second)
    return statistics.median(ratios)


def seconds(work: Callable[[int], object], number: int) -> float:
    _synchronize()
    started = time.perf_counter()
    work(number)
    _synchronize()
    return time.perf_counter() - started


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
