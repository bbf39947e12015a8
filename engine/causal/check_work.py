"""Everything that one check is made from, and what every kind of check makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.causal.audited import audited_study
from engine.causal.check_requirements import positions_of, training_of
from engine.causal.checks import CheckConfig, RankedRow
from engine.causal.retrainer import Study
from engine.config import ModelConfig, Training
from engine.dataset import Dataset
from engine.loaded import LoadedModel
from engine.model import load_model
from engine.types import Query


@dataclass(frozen=True)
class CheckWork:
    """query: with its completion spelled out. ranked: the answer's proponents, best first. directory: where what is
    finished lies. The model is always one of the check's own: the served one is never touched."""

    model: ModelConfig
    dataset: Dataset
    index_dir: Path
    query: Query
    ranked: Sequence[RankedRow]
    config: CheckConfig
    directory: Path
    device: str = "cpu"

    @property
    def named(self) -> Sequence[RankedRow]:
        """The first rows, which are tried."""
        return self.ranked[: self.config.rows]

    @property
    def top(self) -> list[int]:
        """Their positions."""
        return self.positions(self.named)

    def positions(self, rows: Sequence[RankedRow]) -> list[int]:
        return positions_of([row.id for row in rows], self.dataset.position_of, "/ranked")

    @property
    def training(self) -> Training:
        """The run that is repeated. Raises MissingNeed, InvalidOption."""
        return training_of(self.model, len(self.dataset))

    def study(self, greedy: Sequence[Query] = ()) -> Study:
        """The audited run and its question. Raises MissingNeed, InvalidOption, UnsupportedModel."""
        return audited_study(self.model, self.dataset, self.training, [self.query], self.device, greedy=greedy)

    def tuned(self) -> LoadedModel:
        """The model that was explained, on the base as it is stored."""
        return load_model(replace(self.model, quantization=None), self.device)

    def predicted(self, ids: Sequence[str]) -> float | None:
        """−Σ score/N of these rows; None where one of them is not in the ranking or its score is in no unit."""
        scores = {row.id: row.score for row in self.ranked if row.in_nats}
        return -sum(scores[name] for name in ids) / len(self.dataset) if all(name in scores for name in ids) else None
