# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Kronfluence's EK-FAC factors, then the pairwise scores of all queries at once, in float32.

No index: every call for scores takes the gradients of all rows anew. Runs in Kronfluence's own environment.
Rows come sorted by length, since Kronfluence pads a batch of whatever follows each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kronfluence import version
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.utils.dataset import DataLoaderKwargs

from benchmarks.indexing_peers.contender import Contender, seconds, share
from benchmarks.quality.peers.batch import TokenSet, collate
from benchmarks.quality.peers.given import Given, Tokens, load_tuned, lora_modules
from benchmarks.quality.peers.kronfluence_scores import TokenSums


class Loaded(Contender):
    version = version.__version__
    runs = ("ekfac",)
    settings = (8, 16)  # rows a batch

    def __init__(self, given: Given, scratch: Path) -> None:
        self.rows = {few: TokenSet(_by_length(share(given.rows, few))) for few in (False, True)}
        self.queries = TokenSet(given.queries)
        model = load_tuned(given, given.checkpoints[-1])
        task = TokenSums(lora_modules(model))
        self.analyzer = Analyzer(
            "indexing",
            model=prepare_model(model, task),
            task=task,
            cpu=True,
            disable_tqdm=True,
            output_dir=str(scratch),
        )
        self.analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=partial(collate, pad_id=given.pad_id)))

    def run(self, name: str, setting: int, few: bool) -> dict[str, float]:
        index = seconds(lambda: self._factors(name, setting, few))
        return {"index": index, "queries": seconds(lambda: self._scores(name, setting, few))}

    def _factors(self, name: str, rows: int, few: bool) -> None:
        self.analyzer.fit_all_factors(
            factors_name=name,
            dataset=self.rows[few],
            per_device_batch_size=rows,
            factor_args=FactorArguments(strategy=name),
            overwrite_output_dir=True,
        )

    def _scores(self, name: str, rows: int, few: bool) -> None:
        self.analyzer.compute_pairwise_scores(
            scores_name=name,
            factors_name=name,
            query_dataset=self.queries,
            train_dataset=self.rows[few],
            per_device_query_batch_size=len(self.queries),
            per_device_train_batch_size=rows,
            score_args=ScoreArguments(),
            overwrite_output_dir=True,
        )


def _by_length(rows: Sequence[Tokens]) -> list[Tokens]:
    return sorted(rows, key=lambda row: -len(row.ids))
