"""The service's only way to the engine. What implements `EngineClient` may compute here or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from engine.causal.checks import CheckConfig, CheckCost, CheckResult, RankedRow
from engine.causal.recipe import FoundRecipe
from engine.config import IndexConfig, ModelConfig
from engine.errors import EngineUnavailable
from engine.evaluate.scorecard import EvaluationConfig, EvaluationCost, EvaluationQuery, Scorecard
from engine.methods.specs import method_specs
from engine.types import (
    AskOptions,
    Attribution,
    CheckpointFn,
    Generated,
    IndexEstimate,
    IndexInfo,
    MethodSpec,
    ModelInfo,
    Query,
    SelfInfluence,
)

if TYPE_CHECKING:
    from engine.dataset import Dataset, RowFilter
    from engine.lane import Lane

Order = Literal["desc", "asc"]


class EngineClient(Protocol):
    """All calls block and raise `engine.errors`, except `submit_attribution` and `submit_generation`, which never wait.

    build_index resumes by itself what an earlier attempt left in `index_dir`.
    find_recipe looks beside the model's files and opens none that does not lie below `roots`.
    submit_attribution raises QueueFull at once when the bounded queue has no place; `group`: who shares that queue
    with the others (a tenant). submit_generation stands in the same queue; it gives the text that asking with the same
    `generate` explains.
    evaluate and check go on with what an earlier attempt left in `work_dir`.
    check_index opens every file of a finished index that came from elsewhere; raises CorruptIndex and its kin.
    """

    def methods(self) -> list[MethodSpec]: ...

    def describe_model(self, model: ModelConfig) -> ModelInfo: ...

    def find_recipe(self, model: ModelConfig, roots: Sequence[Path]) -> FoundRecipe | None: ...

    def estimate_index(self, model: ModelConfig, dataset_dir: Path, config: IndexConfig) -> IndexEstimate: ...

    def build_index(
        self, model: ModelConfig, dataset_dir: Path, config: IndexConfig, index_dir: Path, checkpoint: CheckpointFn
    ) -> IndexInfo: ...

    def check_index(self, index_dir: Path, *, sketched: bool) -> IndexInfo: ...

    def submit_attribution(
        self, model: ModelConfig, dataset_dir: Path, index_dir: Path, query: Query, ask: AskOptions, group: str = ""
    ) -> Future[Attribution]: ...

    def submit_generation(self, model: ModelConfig, query: Query, group: str = "") -> Future[Generated]: ...

    def self_influence(
        self,
        dataset_dir: Path,
        index_dir: Path,
        order: Order,
        limit: int,
        start: int = 0,
        wanted: RowFilter | None = None,
    ) -> list[SelfInfluence]: ...

    def self_influence_of(
        self, dataset_dir: Path, index_dir: Path, positions: Sequence[int]
    ) -> list[SelfInfluence]: ...

    def evaluate(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        queries: Sequence[EvaluationQuery],
        config: EvaluationConfig,
        work_dir: Path,
        checkpoint: CheckpointFn,
    ) -> Scorecard: ...

    def estimate_evaluation(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        queries: Sequence[EvaluationQuery],
        config: EvaluationConfig,
        work_dir: Path,
    ) -> EvaluationCost: ...

    def check(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        query: Query,
        ranked: Sequence[RankedRow],
        config: CheckConfig,
        work_dir: Path,
        checkpoint: CheckpointFn,
    ) -> CheckResult: ...

    def estimate_check(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        query: Query,
        ranked: Sequence[RankedRow],
        config: CheckConfig,
        work_dir: Path,
    ) -> CheckCost: ...

    def status(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class LocalEngine:
    """The engine in this process. Its lane (torch, the device, the models) starts with the first use."""

    def __init__(
        self,
        *,
        device: str = "auto",
        threads: int | None = None,
        max_queue: int = 64,
        max_queue_per_group: int | None = None,
        model_bytes: int | None = None,
    ) -> None:
        self._model_bytes = model_bytes
        self._device, self._threads = device, threads
        self._max_queue, self._max_queue_per_group = max_queue, max_queue_per_group
        self._lane: Lane | None = None
        self._starting = Lock()

    def methods(self) -> list[MethodSpec]:
        return method_specs()

    def describe_model(self, model: ModelConfig) -> ModelInfo:
        return self._started().describe_model(model)

    def find_recipe(self, model: ModelConfig, roots: Sequence[Path]) -> FoundRecipe | None:
        """Files only: it neither starts nor waits for the lane."""
        try:
            from engine.causal.recorded import find_recipe
        except ImportError as error:
            raise _not_installed(error) from error
        return find_recipe(model, roots)

    def estimate_index(self, model: ModelConfig, dataset_dir: Path, config: IndexConfig) -> IndexEstimate:
        return self._started().estimate_index(model, dataset_dir, config)

    def build_index(
        self, model: ModelConfig, dataset_dir: Path, config: IndexConfig, index_dir: Path, checkpoint: CheckpointFn
    ) -> IndexInfo:
        return self._started().build_index(model, dataset_dir, config, index_dir, checkpoint)

    def check_index(self, index_dir: Path, *, sketched: bool) -> IndexInfo:
        """Files only: it neither starts nor waits for the lane."""
        try:
            from engine.imported import check_imported
        except ImportError as error:
            raise _not_installed(error) from error
        return check_imported(index_dir, sketched=sketched)

    def submit_attribution(
        self, model: ModelConfig, dataset_dir: Path, index_dir: Path, query: Query, ask: AskOptions, group: str = ""
    ) -> Future[Attribution]:
        return self._started().submit_attribution(model, dataset_dir, index_dir, query, ask, group)

    def submit_generation(self, model: ModelConfig, query: Query, group: str = "") -> Future[Generated]:
        return self._started().submit_generation(model, query, group)

    def self_influence(
        self,
        dataset_dir: Path,
        index_dir: Path,
        order: Order,
        limit: int,
        start: int = 0,
        wanted: RowFilter | None = None,
    ) -> list[SelfInfluence]:
        return self._started().self_influence(dataset_dir, index_dir, order, limit, start, wanted)

    def self_influence_of(self, dataset_dir: Path, index_dir: Path, positions: Sequence[int]) -> list[SelfInfluence]:
        return self._started().self_influence_of(dataset_dir, index_dir, positions)

    def evaluate(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        queries: Sequence[EvaluationQuery],
        config: EvaluationConfig,
        work_dir: Path,
        checkpoint: CheckpointFn,
    ) -> Scorecard:
        """In the caller's thread, with a model of its own: it takes hours, and the lane answers queries meanwhile."""
        evaluation, device = _evaluation(), self._started().device
        dataset = _dataset(dataset_dir)
        return evaluation.evaluate(model, dataset, index_dir, queries, config, work_dir, checkpoint, device=device)

    def estimate_evaluation(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        queries: Sequence[EvaluationQuery],
        config: EvaluationConfig,
        work_dir: Path,
    ) -> EvaluationCost:
        evaluation, device = _evaluation(), self._started().device
        dataset = _dataset(dataset_dir)
        return evaluation.estimate_evaluation(model, dataset, index_dir, queries, config, work_dir, device=device)

    def check(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        query: Query,
        ranked: Sequence[RankedRow],
        config: CheckConfig,
        work_dir: Path,
        checkpoint: CheckpointFn,
    ) -> CheckResult:
        """In the caller's thread, with a model of its own: the lane's weights stay as they are, and so do its
        answers meanwhile."""
        checking, device = _checking(), self._started().device
        places = model, _dataset(dataset_dir), index_dir
        return checking.run_check(checking.CheckWork(*places, query, ranked, config, work_dir, device), checkpoint)

    def estimate_check(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        query: Query,
        ranked: Sequence[RankedRow],
        config: CheckConfig,
        work_dir: Path,
    ) -> CheckCost:
        checking, device = _checking(), self._started().device
        places = model, _dataset(dataset_dir), index_dir
        return checking.estimate_check(checking.CheckWork(*places, query, ranked, config, work_dir, device))

    def status(self) -> dict[str, Any]:
        """Never starts the lane: asking how things stand costs nothing."""
        if self._lane is not None:
            return self._lane.status()
        idle = {"queue_depth": 0, "models_loaded": 0, "batches": 0}
        return {"device": self._device, "max_queue": self._max_queue} | idle

    def close(self) -> None:
        with self._starting:
            if self._lane is not None:
                self._lane.close()
                self._lane = None

    def _started(self) -> Lane:
        with self._starting:
            if self._lane is None:
                self._lane = self._start()
            return self._lane

    def _start(self) -> Lane:
        try:
            from engine.lane import Lane
        except ImportError as error:
            raise _not_installed(error) from error
        return Lane(
            device=self._device,
            threads=self._threads,
            max_queue=self._max_queue,
            max_queue_per_group=self._max_queue_per_group,
            model_bytes=self._model_bytes,
        )


def _dataset(directory: Path) -> Dataset:
    from engine.dataset import open_dataset  # here: a server starts without pyarrow

    return open_dataset(directory)


def _evaluation() -> ModuleType:
    try:
        from engine.evaluate import evaluation
    except ImportError as error:
        raise _not_installed(error) from error
    return evaluation


def _checking() -> ModuleType:
    try:
        from engine.causal import checking
    except ImportError as error:
        raise _not_installed(error) from error
    return checking


def _not_installed(error: ImportError) -> EngineUnavailable:
    return EngineUnavailable(f"The engine's libraries are not installed here: {error}.")
