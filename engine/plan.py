"""What a build will do, decided once, recorded in the manifest and reused on resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.config import IndexConfig, IndexOptions, fingerprint
from engine.curvature import get_metric
from engine.errors import InvalidOption
from engine.methods import GradientMethod, Method, RepresentationMethod, RowMethod, all_methods, get_method
from engine.model import LoadedModel
from engine.modules import TrackedModule
from engine.sketch import Projection

_WIDTHS = (256, 128, 64, 32, 16, 8)
_SHARD_BYTES = 128 << 20
_EXACT_GRADIENT_BYTES = 256 << 20
_CURVATURE_ROWS = 2048  # docs/decisions.md 12: fewer change the ranking of weakly related rows
_LAYOUT_ONLY = ("shard_rows", "token_budget", "exact_limit_mb")  # they change how rows are cut up, not what they are


@dataclass(frozen=True)
class Plan:
    """dims: numbers a row takes over all checkpoints. checkpoint_indices: into the model's states."""

    method: Method
    method_options: Any
    options: IndexOptions
    tracked: tuple[TrackedModule, ...]
    checkpoint_indices: tuple[int, ...]
    projection_width: int | None
    dims: int
    rows: int
    shard_rows: int
    curvature_rows: int
    max_batch_rows: int | None

    def projection(self, checkpoint: int) -> Projection:
        return Projection(self.projection_width, self.options.seed, checkpoint)

    @property
    def sketched(self) -> bool:
        """Whether some side of some module is really projected."""
        exact = Projection(None, 0, 0)
        return any(self.projection(0).shape(m) != exact.shape(m) for m in self.tracked)

    @property
    def serves(self) -> tuple[str, ...]:
        """This index's own method, and the controls that need nothing stored."""
        controls = [method.name for method in all_methods() if isinstance(method, RowMethod)]
        return tuple(dict.fromkeys([self.method.name, *controls]))

    def fingerprint(self) -> str:
        """Of everything that decides what a stored number means."""
        modules = [(m.name, m.outputs, m.inputs, m.group) for m in self.tracked]
        resolved = {key: value for key, value in self.as_options().items() if key not in _LAYOUT_ONLY}
        return fingerprint(self.method.name, modules, self.checkpoint_indices, resolved)

    def as_options(self) -> dict[str, Any]:
        """The options as they were resolved, for the manifest and the API."""
        shared = asdict(self.options) | {
            "projection_dim": self.projection_width or 0,
            "shard_rows": self.shard_rows,
            "curvature_rows": self.curvature_rows,
        }
        return shared | asdict(self.method_options)


def make_plan(model: LoadedModel, rows: int, config: IndexConfig) -> Plan:
    """Raises UnknownMethod or InvalidOption (also for a checkpoint label the model does not have)."""
    method = get_method(resolve_method(config.method, model))
    options = config.options
    states = select_checkpoints(model, config) if isinstance(method, GradientMethod) else (len(model.states) - 1,)
    tracked = model.tracked(options.modules) if isinstance(method, GradientMethod) else ()
    width = _projection_width(options, tracked, rows * len(states)) if tracked else None
    dims = len(states) * _dims(tracked, width)
    if isinstance(method, RepresentationMethod):
        dims = model.hidden_size
    return Plan(
        method=method,
        method_options=method.parse(config.method_options),
        options=options,
        tracked=tracked,
        checkpoint_indices=states,
        projection_width=width,
        dims=dims,
        rows=rows,
        shard_rows=options.shard_rows or _shard_rows(dims),
        curvature_rows=min(rows, options.curvature_rows or _CURVATURE_ROWS),
        max_batch_rows=_max_batch_rows(method, tracked),
    )


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


def _projection_width(options: IndexOptions, tracked: tuple[TrackedModule, ...], vectors: int) -> int | None:
    """None = exact. `auto` keeps gradients exact while the index fits, else takes the widest sketch that does."""
    if options.projection_dim != "auto":
        return options.projection_dim or None
    budget = options.exact_limit_mb << 20
    number = 2 if options.dtype == "float16" else 4
    for width in (None, *_WIDTHS):
        if vectors * _dims(tracked, width) * number <= budget:
            return width
    return _WIDTHS[-1]


def _dims(tracked: tuple[TrackedModule, ...], width: int | None) -> int:
    shapes = (Projection(width, 0, 0).shape(module) for module in tracked)
    return sum(rows * cols for rows, cols in shapes)


def _shard_rows(dims: int) -> int:
    return max(64, min(8192, _SHARD_BYTES // max(4 * dims, 1)))


def _max_batch_rows(method: Method, tracked: tuple[TrackedModule, ...]) -> int | None:
    """EK-FAC forms one module's exact gradients of a whole batch at a time: bound that memory."""
    if not isinstance(method, GradientMethod) or not get_metric(method.metric).needs_eigen:
        return None
    largest = max(module.parameters for module in tracked)
    return max(1, _EXACT_GRADIENT_BYTES // (4 * largest))
