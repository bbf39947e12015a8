"""An index opened for questions: its model, rows, store and the very sketches it was built with.

Shapes: Q queries, N rows, C checkpoints, D numbers of a row over all checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.capture import GradientCapture
from engine.causal.replicas import LABEL
from engine.checkpoints import ROWS_TENSORS, checkpoint_features, index_states
from engine.config import IndexConfig, IndexOptions
from engine.dataset import Dataset, example_text
from engine.draft import index_fingerprints
from engine.ensemble import row_factors
from engine.errors import FingerprintMismatch
from engine.features import GradientFeatures
from engine.ivf import Lists, open_lists
from engine.lexical import Corpus
from engine.methods import GradientMethod, RepresentationMethod
from engine.model import LoadedModel
from engine.plan import Plan, make_plan
from engine.representation import RepresentationFeatures, open_representation
from engine.rows import Batcher
from engine.scan_device import DeviceRows
from engine.solved import with_solvers
from engine.store import IndexStore


class OpenIndex:
    """Raises FingerprintMismatch when model, tokenizer, template, dataset or projection are not the index's own.

    A context manager: the model's hooks are removed when it closes.
    """

    def __init__(self, model: LoadedModel, dataset: Dataset, path: Path) -> None:
        self.model = model
        self.dataset = dataset
        self.between: Callable[[], None] = lambda: None  # called between the steps of a question that takes minutes
        self.store = IndexStore.open(path)
        if model.device.type == "cuda":
            self.store.device_rows = DeviceRows(model.device)
        self.plan = plan_of(self.store, model)
        self.store.manifest.require_fingerprints(index_fingerprints(self.plan, model, dataset))
        self.batcher = Batcher(model, int(self.store.manifest.plan["token_budget"]), self.plan.max_batch_rows)
        self.features = self._gradient_features()
        self.capture = GradientCapture(model, self.plan.tracked)  # last: its hooks stay when what follows fails

    def __enter__(self) -> OpenIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self.capture.__exit__(*exception)

    @property
    def revision(self) -> str:
        return self.store.manifest.revision

    def _gradient_features(self) -> list[GradientFeatures]:
        if not isinstance(self.plan.method, GradientMethod):
            return []
        states = index_states(self.model, self.plan, self.store)
        plain = [
            checkpoint_features(self.model, self.plan, self.store, number, state) for number, state in enumerate(states)
        ]
        return with_solvers(self, plain)

    @cached_property
    def representation(self) -> RepresentationFeatures | None:
        if not isinstance(self.plan.method, RepresentationMethod):
            return None
        return open_representation(self.model, self.plan.method, self.plan.method_options, self.store)

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus([example_text(example) for example in self.dataset], self.revision)

    @cached_property
    def weights_N(self) -> np.ndarray:
        """float64 [N]: the weight of each row's targets in the recipe's loss."""
        return self.store.load_tensors(ROWS_TENSORS)["weights"]

    @cached_property
    def lengths_N(self) -> np.ndarray:
        return self.store.lengths()

    @cached_property
    def row_factors_NC(self) -> np.ndarray:
        """float64 [N, C]: what each checkpoint's row was multiplied by after its self-score was taken."""
        power = 0.0 if self.features and self.features[0].unit_norm else self.power
        return row_factors(self.self_scores_NC.astype(np.float64), power)

    @cached_property
    def lists(self) -> Lists | None:
        """None where every query reads every row."""
        return open_lists(self.store)

    @property
    def power(self) -> float:
        """p of the ensemble (engine/ensemble.py)."""
        return getattr(self.plan.method_options, "ensemble_power", 0.0)

    @cached_property
    def self_scores_NC(self) -> np.ndarray:
        return self.store.self_scores()


def plan_of(store: IndexStore, model: LoadedModel) -> Plan:
    """The plan an index was built by, from its manifest alone."""
    manifest = store.manifest
    known = IndexOptions.__dataclass_fields__
    shared: dict[str, Any] = {key: value for key, value in manifest.options.items() if key in known}
    if shared.get("modules") is not None:
        shared["modules"] = tuple(shared["modules"])
    labels = {label for state in model.states for label in state.labels}
    own = tuple(label for label in manifest.checkpoints if not label.startswith(LABEL))
    missing = [label for label in own if label not in labels]
    if missing:
        raise FingerprintMismatch(f"The index was built on checkpoint {missing[0]!r}, which this model does not have.")
    config = IndexConfig(
        method=manifest.method,
        checkpoints=own,
        options=IndexOptions(**shared),
        method_options={key: value for key, value in manifest.options.items() if key not in known},
    )
    return make_plan(model, manifest.rows, config)
