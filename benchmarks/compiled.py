"""What torch.compile would gain on the passes that an index is made of.

    python -m benchmarks.compiled [--pairs 6]

A bare forward and activation-only backward (benchmarks/capture.py, the reference there: no hooks) of a 34M-parameter
random Llama with LoRA r = 8, batches of 4 rows of 256 tokens, one thread: compiled against as it is, in turns. The
first compiled call, with an empty cache, counts for itself: in rows that the eager model could have done meanwhile.

That is the most there is to gain. Capture needs hooks on every tracked module, at which a compiled graph breaks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.capture import BATCH_ROWS, TOKENS, activation_only, seconds
from benchmarks.random_llama import save_small_model, text_rows
from benchmarks.report import report
from engine.batching import PaddedBatch
from engine.model import load_model
from engine.rows import Batcher, encode_rows


def measure(root: Path, pairs: int) -> tuple[list[float], float]:
    """(compiled / eager, pair by pair; the first compiled call in rows)."""
    model = load_model(save_small_model(root))
    data = text_rows(root / "rows", BATCH_ROWS * pairs, TOKENS)
    encoded = encode_rows(model, data, None, lambda _done: None)
    planned = Batcher(model, BATCH_ROWS * TOKENS).batches(encoded.rows, encoded.weights, range(len(data)))
    batches: list[PaddedBatch] = [batch.padded for batch in planned]
    faster = torch.compile(model.module)

    def eager_pass(number: int) -> None:
        activation_only(model, batches[number])

    def compiled_pass(number: int) -> None:
        activation_only(model, batches[number], faster)

    seconds(eager_pass, 0)
    first = seconds(compiled_pass, 0)
    turns = [(seconds(compiled_pass, number), seconds(eager_pass, number)) for number in range(len(batches))]
    eager = statistics.median(eager for _, eager in turns)
    return [compiled / eager for compiled, eager in turns], BATCH_ROWS * first / eager


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(root) / "cache")
        ratios, rows = measure(Path(root), pairs)
    columns = {"compiled / eager": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    report("compiled", "python -m benchmarks.compiled", [columns | {"first call, in rows": round(rows)}])


if __name__ == "__main__":
    main()
