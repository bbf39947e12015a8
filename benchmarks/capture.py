"""What attribution costs beyond the passes it cannot do without.

    python -m benchmarks.capture

1. capture + sketch + write of training rows, against a bare forward + activation-only backward of the same batches
   (100M random Llama, LoRA r=8, 256 tokens, EK-FAC metric). Curvature's passes are timed apart.
2. one query against an index of 1,000 rows and one checkpoint, against the query's own forward + backward as plain
   PyTorch does it (adapter weights asking for gradients).

Ratios only: both sides are timed in turn, batch by batch, in one process; the median over pairs is reported.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.random_llama import save_model, text_rows
from benchmarks.report import report
from engine.answer import attribute
from engine.batching import PaddedBatch
from engine.build import build_index, draft_manifest
from engine.capture import GradientCapture
from engine.checkpoints import checkpoint_features
from engine.config import IndexConfig, IndexOptions
from engine.curvature import get_metric
from engine.curvature.fit import LabelDraws, fit_statistics, statistics_to_arrays
from engine.errors import EngineError
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.plan import make_plan
from engine.rows import Batcher, encode_rows
from engine.store import IndexStore
from engine.types import AskOptions, Attribution, Progress, Query

TOKENS = 256
BATCH_ROWS = 4
INDEX_ROWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="timed pairs of each comparison (default 7)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        model = load_model(save_model(root), arguments.device)
        rows = [*capture_cost(model, root, arguments.pairs), *query_cost(model, root, arguments.pairs)]
    report("capture", f"python -m benchmarks.capture --pairs {arguments.pairs} --device {arguments.device}", rows)


# --- 1: training rows ---


def capture_cost(model: LoadedModel, root: Path, pairs: int) -> list[dict[str, Any]]:
    data = text_rows(root / "rows", BATCH_ROWS * (pairs + 1), TOKENS)
    options = IndexOptions(token_budget=BATCH_ROWS * TOKENS, shard_rows=BATCH_ROWS, curvature_rows=BATCH_ROWS)
    # The sketch an index of 1,000 rows would choose for itself.
    width = make_plan(model, INDEX_ROWS, IndexConfig(options=options)).projection_width
    plan = make_plan(model, len(data), IndexConfig("ekfac", options=_with_width(options, width)))
    encoded = encode_rows(model, data, None, lambda _done: None)
    store = IndexStore.open_or_create(root / "capture-index", draft_manifest(plan, model, data))
    batcher = Batcher(model, options.token_budget)
    batches = list(batcher.batches(encoded.rows, encoded.weights, range(len(data))))
    with GradientCapture(model, plan.tracked) as capture:
        curvature_s = _fit(capture, batches[0].padded, store, LabelDraws(0, 0, encoded.keys))
        features = checkpoint_features(model, plan, store, 0, model.states[-1])

        def ours(number: int) -> None:
            vectors_BD, self_B = features.finish(features.compute(capture, batches[number].padded))
            lengths_B = np.full(BATCH_ROWS, TOKENS, np.int32)
            store.write_shard(number, vectors_BD.cpu().numpy(), self_B.cpu().numpy()[:, None], lengths_B)

        ratio, bare_s = _paired(ours, lambda number: activation_only(model, batches[number].padded), pairs)
    passes = 2 * bare_s
    common = {"projection": width, "pairs": pairs}
    return [
        {"what": "capture + sketch + write / bare forward + activation-only backward", "ratio": ratio, **common},
        {"what": "curvature of one batch (A, S; eigenbases; Λ) / two passes", "ratio": curvature_s / passes, **common},
    ]


def _with_width(options: IndexOptions, width: int | None) -> IndexOptions:
    return IndexOptions(**{**options.__dict__, "projection_dim": width or 0})


def _fit(capture: GradientCapture, batch: PaddedBatch, store: IndexStore, draws: LabelDraws) -> float:
    started = time.perf_counter()
    statistics_ = fit_statistics(capture, lambda: [batch], get_metric("ekfac"), draws)
    elapsed = time.perf_counter() - started
    store.save_tensors("checkpoint-000", statistics_to_arrays(statistics_, torch.float32))
    return elapsed


def activation_only(model: LoadedModel, batch: PaddedBatch) -> Tensor:
    """The reference: no hooks, no sketch; the gradient of the loss with respect to the embedding's output."""
    embedded = model.module.get_input_embeddings()(batch.ids_BT).detach().requires_grad_(True)  # type: ignore[operator]
    logits = model.module(inputs_embeds=embedded, use_cache=False).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids_BT[:, 1:].flatten(), reduction="sum")
    return torch.autograd.grad(loss, embedded)[0]


# --- 2: one query ---


def query_cost(model: LoadedModel, root: Path, pairs: int) -> list[dict[str, Any]]:
    data = text_rows(root / "index-rows", INDEX_ROWS, 10)
    config = IndexConfig("ekfac", options=IndexOptions(curvature_rows=32))
    print(f"building an index of {INDEX_ROWS} short rows …")
    build_index(model, data, config, root / "query-index", _print_progress)
    query = _long_query(root)
    with OpenIndex(model, data, root / "query-index") as index:

        def ours(_number: int) -> None:
            answer = attribute(index, [(query, AskOptions())])[0]
            if isinstance(answer, EngineError):
                raise answer
            timings.append(answer)

        timings: list[Attribution] = []
        encoded = index.model.encoder().encode_query(prompt=query.prompt, completion=query.completion)
        batch = next(index.batcher.batches([encoded], [1.0], [-1])).padded
        ratio, _ = _paired(ours, lambda _number: plain_backward(model, batch), pairs)
    phases = {phase: statistics.median(t.timings_ms[phase] for t in timings) for phase in timings[0].timings_ms}
    whole = sum(phases.values())
    shares = ", ".join(f"{phase} {value / whole:.0%}" for phase, value in phases.items())
    what = f"one query ({len(encoded.ids)} tokens), N = {INDEX_ROWS} / its forward + backward ({shares})"
    return [{"what": what, "ratio": ratio, "projection": index.plan.projection_width, "pairs": pairs}]


def _long_query(root: Path) -> Query:
    text = text_rows(root / "query", 1, TOKENS)[0].text or ""
    return Query(prompt=text[:192], completion=text[192:])


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


def _paired(ours: Callable[[int], object], reference: Callable[[int], object], pairs: int) -> tuple[float, float]:
    """(median of ours/reference over pairs, median seconds of the reference); pair 0 warms up and is not counted."""
    ratios, bare = [], []
    for number in range(pairs + 1):
        first, second = _seconds(ours, number), _seconds(reference, number)
        if number:
            ratios.append(first / second)
            bare.append(second)
    return statistics.median(ratios), statistics.median(bare)


def _seconds(work: Callable[[int], object], number: int) -> float:
    _synchronize()
    started = time.perf_counter()
    work(number)
    _synchronize()
    return time.perf_counter() - started


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _print_progress(progress: Progress) -> None:
    if progress.done == progress.total or progress.done % 200 < 8:
        print(f"  {progress.phase} {progress.done}/{progress.total}", flush=True)


if __name__ == "__main__":
    main()
