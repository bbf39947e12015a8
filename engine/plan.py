"""What a build will do, decided once, recorded in the manifest and reused on resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.causal.check_requirements import training_of
from engine.causal.replicas import replica_training
from engine.config import IndexConfig, IndexOptions, fingerprint
from engine.curvature import get_metric
from engine.errors import InvalidOption
from engine.manifest import row_bytes
from engine.methods import (
    GradientMethod,
    Method,
    ReplayMethod,
    RepresentationMethod,
    RowMethod,
    all_methods,
    get_method,
)
from engine.model import LoadedModel
from engine.modules import TrackedModule
from engine.sketch import Projection
from engine.widths import Widths, choose_widths

_SHARD_BYTES = 128 << 20
_EXACT_GRADIENT_BYTES = 256 << 20
# Calibration takes a sixteenth of the rows, within these bounds: about an eighth of a long build's time, and where it
# costs next to nothing the steadier ranking (docs/decisions.md 12).
_LEAST_CALIBRATION, _MOST_CALIBRATION, _CALIBRATION_SHARE = 512, 2048, 16
# they change how rows are cut up, not what they are; or what they decide is told by another
_LAYOUT_ONLY = ("shard_rows", "token_budget", "exact_limit_mb", "bytes_per_row", "search", "allow_partial")
_OF_LEARNED = ("sketch", "learned_dim", "sketch_rows")


@dataclass(frozen=True)
class Plan:
    """dims: numbers a row takes over all checkpoints. checkpoint_indices: into the model's states; behind them come the
    checkpoints `replica_epochs` of every replica.
    """

    method: Method
    method_options: Any
    options: IndexOptions
    tracked: tuple[TrackedModule, ...]
    checkpoint_indices: tuple[int, ...]
    replica_epochs: tuple[int, ...]
    widths: Widths
    rows: int
    shard_rows: int
    curvature_rows: int
    max_batch_rows: int | None

    @property
    def projection_width(self) -> int | None:
        return self.widths.projection

    @property
    def dims(self) -> int:
        return self.widths.dims

    def projection(self, checkpoint: int) -> Projection:
        return Projection(self.projection_width, self.options.seed, checkpoint)

    @property
    def vectors(self) -> int:
        """Checkpoints a row has a vector of, the replicas' counted in."""
        return len(self.checkpoint_indices) + self.options.replicas * len(self.replica_epochs)

    @property
    def sketched(self) -> bool:
        """Whether some side of some module is really projected, or a learned sketch follows."""
        exact = Projection(None, 0, 0)
        return self.widths.learned is not None or any(
            self.projection(0).shape(m) != exact.shape(m) for m in self.tracked
        )

    @property
    def serves(self) -> tuple[str, ...]:
        """This index's own method, and the controls that need nothing stored."""
        controls = [method.name for method in all_methods() if isinstance(method, RowMethod)]
        return tuple(dict.fromkeys([self.method.name, *controls]))

    def fingerprint(self) -> str:
        """Of everything that decides what a stored number means."""
        modules = [(m.name, m.outputs, m.inputs, m.group) for m in self.tracked]
        silent = _LAYOUT_ONLY if self.widths.learned else (*_LAYOUT_ONLY, *_OF_LEARNED)
        resolved = {key: value for key, value in self.as_options().items() if key not in silent}
        return fingerprint(self.method.name, modules, self.checkpoint_indices, resolved)

    def as_options(self) -> dict[str, Any]:
        """The options as they were resolved, for the manifest and the API."""
        shared = asdict(self.options) | {
            "projection_dim": self.projection_width or 0,
            "sketch": "learned" if self.widths.learned else "random" if self.projection_width else "none",
            "bytes_per_row": row_bytes(self.widths.stored, self.options.dtype),
            "learned_dim": self.widths.learned,
            "sketch_rows": self.widths.sketch_rows,
            "shard_rows": self.shard_rows,
            "curvature_rows": self.curvature_rows,
        }
        return shared | asdict(self.method_options)


def make_plan(model: LoadedModel, rows: int, config: IndexConfig) -> Plan:
    """Raises UnknownMethod or InvalidOption (also for a checkpoint label the model does not have)."""
    method = get_method(resolve_method(config.method, model))
    options = config.options
    if isinstance(method, ReplayMethod):
        training_of(model.config, rows)
    states = select_checkpoints(model, config) if isinstance(method, GradientMethod) else (len(model.states) - 1,)
    tracked = model.tracked(options.modules) if isinstance(method, GradientMethod) else ()
    epochs = _replica_epochs(model, method, rows, options, len(states))
    count = len(states) + options.replicas * len(epochs)
    widths = choose_widths(options, tracked, count, rows) if tracked else Widths(None, 0)
    if isinstance(method, RepresentationMethod):
        widths = Widths(None, method.parts * model.hidden_size)
    return Plan(
        method=method,
        method_options=method.parse(config.method_options),
        options=options,
        tracked=tracked,
        checkpoint_indices=states,
        replica_epochs=epochs,
        widths=widths,
        rows=rows,
        shard_rows=options.shard_rows or _shard_rows(widths.stored),
        curvature_rows=min(rows, options.curvature_rows or default_curvature_rows(rows)),
        max_batch_rows=1 if model.single_rows else _max_batch_rows(method, tracked),
    )


def default_curvature_rows(rows: int) -> int:
    """Of an index of so many; more than there are where there are few."""
    return min(_MOST_CALIBRATION, max(_LEAST_CALIBRATION, rows // _CALIBRATION_SHARE))


def _replica_epochs(model: LoadedModel, method: Method, rows: int, options: IndexOptions, own: int) -> tuple[int, ...]:
    """All epochs where the model's own run has several checkpoints in the index, else the last."""
    if not options.replicas:
        return ()
    if options.replicas < 0 or not isinstance(method, GradientMethod):
        cause = f"replicas is {options.replicas}" if options.replicas < 0 else f"{method.name} reads no gradients"
        raise InvalidOption(f"No replicas can be made: {cause}.", pointer="/options/replicas")
    if model.config.quantization is not None:
        raise InvalidOption("Replicas are trained on a base in full precision.", pointer="/options/replicas")
    last = replica_training(model, rows).epochs
    return tuple(range(1, last + 1)) if own > 1 else (last,)


def resolve_method(name: str, model: LoadedModel) -> str:
    """`auto`: EK-FAC for LoRA fine-tunes, K-FAC for dense ones (DESIGN §4)."""
    return ("ekfac" if model.lora else "kfac") if name == "auto" else name


def select_checkpoints(model: LoadedModel, config: IndexConfig) -> tuple[int, ...]:
    labels = {label: place for place, state in enumerate(model.states) for label in state.labels}
    if config.checkpoints == "all":
        return tuple(range(len(model.states)))
    if config.checkpoints == "final":
        return (len(model.states) - 1,)
    for label in config.checkpoints:
        if label not in labels:
            raise InvalidOption(f"No checkpoint {label!r}; the model has {', '.join(labels)}.", pointer="/checkpoints")
    return tuple(sorted({labels[label] for label in config.checkpoints}))


def _shard_rows(dims: int) -> int:
    return max(64, min(8192, _SHARD_BYTES // max(4 * dims, 1)))


def _max_batch_rows(method: Method, tracked: tuple[TrackedModule, ...]) -> int | None:
    """EK-FAC, and what works on Adam's state, form a module's exact gradients of a whole batch: bound that memory."""
    if not isinstance(method, GradientMethod):
        return None
    metric = get_metric(method.metric)
    if not (metric.needs_eigen or metric.needs_moments):
        return None
    largest = max(module.parameters for module in tracked)
    return max(1, _EXACT_GRADIENT_BYTES // (4 * largest))
