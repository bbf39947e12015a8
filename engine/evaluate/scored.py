"""The scores an evaluation judges: the index's own, its candidates', the controls', and those of twins without meaning.

Everything is kept below `work` and found again: indexes resume at their last shard, score matrices are made once.

Shapes: Q queries, N rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from engine.answer import attribute, score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, fingerprint
from engine.dataset import Dataset
from engine.durable import write_durably
from engine.ensemble import self_influence
from engine.errors import EngineError
from engine.evaluate.integrity import is_whole_zip
from engine.evaluate.scorecard import CONTROLS, RANDOMISED, SHUFFLED, Candidate, Role
from engine.hits import has_self_scores
from engine.loaded import LoadedModel
from engine.methods import RowMethod, get_method
from engine.model import load_model
from engine.opened import OpenIndex, plan_of
from engine.randomised import randomise
from engine.store import IndexStore
from engine.types import AskOptions, Attribution, CheckpointFn, Progress, Query

_FEW = 10  # hits of an answer whose features are read


@dataclass(frozen=True, eq=False)
class Scored:
    """One method's scores. self_scores_N: its index's self-influence; None for methods without."""

    name: str
    role: Role
    method: str
    options: dict[str, Any]
    scores_QN: np.ndarray
    self_scores_N: np.ndarray | None = None


class Scorer:
    """Scores every query by every method. checkpoint: hears of builds and queries, and may raise Cancelled."""

    def __init__(
        self,
        config: ModelConfig,
        dataset: Dataset,
        index_dir: Path,
        queries: Sequence[Query],
        work: Path,
        checkpoint: CheckpointFn,
        device: str,
    ) -> None:
        self.config, self.dataset, self.index_dir, self.queries = config, dataset, index_dir, tuple(queries)
        self.work, self.checkpoint, self.device = work, checkpoint, device
        self.model = load_model(config, device)
        self.plan = plan_of(IndexStore.open(index_dir), self.model)
        self.revision = IndexStore.open(index_dir).manifest.revision

    # --- what is scored ---

    def own(self) -> Scored:
        name = self.plan.method.name
        return self._kept(
            name, "index", name, self._own_options, lambda: self._by_index(self.model, self.index_dir, name)
        )

    def controls(self) -> list[Scored]:
        return [self._control(name) for name in CONTROLS if name != self.plan.method.name]

    def candidates(self, candidates: Sequence[Candidate]) -> list[Scored]:
        """Of candidates with the same method, all but the first have their options in their name."""
        names: list[str] = []
        for candidate in candidates:
            name = candidate.method
            taken = name in names or name == self.plan.method.name
            names.append(f"{name} {json.dumps(candidate.options, sort_keys=True)}" if taken else name)
        return [self._built(name, "candidate", c) for name, c in zip(names, candidates, strict=True)]

    def twins(self, own: Scored, seed: int) -> list[Scored]:
        """The index's method on a model of randomised weights, and with every score given to another row."""
        order_N = np.random.default_rng((seed, len(self.dataset))).permutation(len(self.dataset))
        shuffled = replace(own, name=SHUFFLED, role="sanity", scores_QN=own.scores_QN[:, order_N], self_scores_N=None)
        options = own.options | {"randomised by": seed}
        made = self._kept(RANDOMISED, "sanity", own.method, options, lambda: self._by_twin(seed))
        return [made, shuffled]

    def exact(self) -> Scored | None:
        """The same method without a sketch; None where the index has none, or where the exact one would be too large
        for the index's own limit."""
        if not self.plan.sketched:
            return None
        config = self.own_config(sketch="none", projection_dim=0, bytes_per_row=None, learned_dim=None)
        whole = sum(m.parameters for m in self.plan.tracked) * self.plan.vectors * 2 * len(self.dataset)
        if whole > 4 * (config.options.exact_limit_mb << 20):
            return None
        return self._kept("exact", "index", config.method, {}, lambda: self._by_new(self.model, config, "exact"))

    def answers(self) -> list[Attribution]:
        """What people would be shown, for the features that reliability and scope are told by."""
        found: list[Attribution] = []
        with OpenIndex(self.model, self.dataset, self.index_dir) as index:
            for done, query in enumerate(self.queries):
                self.checkpoint(Progress(done, len(self.queries), "queries", "answer"))
                (answer,) = attribute(index, [(query, AskOptions(top_k=_FEW))])
                if isinstance(answer, EngineError):
                    raise answer
                found.append(answer)
        return found

    def own_config(self, **changes: Any) -> IndexConfig:
        """What the index was built by, with other IndexOptions here and there."""
        options = replace(self.plan.options, **changes)
        return IndexConfig(self.plan.method.name, self._labels, options, asdict(self.plan.method_options))

    # --- how ---

    def _control(self, name: str) -> Scored:
        if isinstance(get_method(name), RowMethod):
            return self._kept(name, "control", name, {}, lambda: self._by_index(self.model, self.index_dir, name, name))
        return self._built(name, "control", Candidate(name))

    def _built(self, name: str, role: Role, candidate: Candidate) -> Scored:
        config = IndexConfig(candidate.method, self._labels, self._shared, candidate.options)
        return self._kept(
            name, role, candidate.method, candidate.options, lambda: self._by_new(self.model, config, name)
        )

    def _by_twin(self, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        twin = load_model(self.config, self.device)
        randomise(twin, seed)
        return self._by_new(twin, self.own_config(replicas=0), RANDOMISED)

    def _by_new(self, model: LoadedModel, config: IndexConfig, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        path = self.work / "indexes" / fingerprint(name, self.revision, config)[:16]
        build_index(model, self.dataset, config, path, self._named(name))
        return self._by_index(model, path, name)

    def _by_index(
        self, model: LoadedModel, path: Path, name: str, method: str | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        rows, checkpoint = [], self._named(name)
        with OpenIndex(model, self.dataset, path) as index:
            for done, query in enumerate(self.queries):
                checkpoint(Progress(done, len(self.queries), "queries", "score"))
                rows.append(score_query(index, query, method))
            own = method is None and has_self_scores(index.plan.method) and bool(index.features)
            return np.stack(rows), self_influence(index.self_scores_NC) if own else None

    def _kept(
        self,
        name: str,
        role: Role,
        method: str,
        options: dict[str, Any],
        make: Callable[[], tuple[np.ndarray, np.ndarray | None]],
    ) -> Scored:
        key = fingerprint("scores", name, method, options, self.revision, [vars(query) for query in self.queries])
        file = self.work / "scores" / f"{key[:24]}.npz"
        if not is_whole_zip(file):
            scores_QN, self_N = make()
            file.parent.mkdir(parents=True, exist_ok=True)
            selves = np.zeros(0) if self_N is None else self_N
            content = BytesIO()
            np.savez(content, scores=scores_QN, self_scores=selves)
            write_durably(file, lambda sink: sink.write(content.getvalue()))
        with np.load(file, allow_pickle=False) as kept:
            selves_N = kept["self_scores"] if kept["self_scores"].size else None
            return Scored(name, role, method, options, kept["scores"], selves_N)

    @property
    def _labels(self) -> tuple[str, ...]:
        return tuple(self.model.states[i].label for i in self.plan.checkpoint_indices)

    @property
    def _shared(self) -> IndexOptions:
        """What other methods' indexes take over: how rows are read and in what pieces, not what is stored of them."""
        given = self.plan.options
        return IndexOptions(
            modules=given.modules,
            max_length=given.max_length,
            curvature_rows=given.curvature_rows,
            token_budget=given.token_budget,
            seed=given.seed,
            allow_partial=given.allow_partial,
        )

    @property
    def _own_options(self) -> dict[str, Any]:
        return IndexStore.open(self.index_dir).manifest.options

    def _named(self, name: str) -> CheckpointFn:
        """Phases of their own for every method: what a second one does is further on, not again."""
        return lambda progress: self.checkpoint(replace(progress, phase=f"{progress.phase}: {name}"))


def top_rows(scores_N: np.ndarray, count: int) -> list[int]:
    """The highest, ties by position."""
    return np.argsort(-scores_N.astype(np.float64), kind="stable")[:count].tolist()
