"""How the checkpoints of an index add up to one score.

Shapes: Q queries, N rows, C checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from engine.causal.steps import learning_rate
from engine.config import Recipe, Training
from engine.curvature import get_metric
from engine.errors import InvalidOption, MissingNeed
from engine.loaded import LoadedModel, State
from engine.methods import GradientMethod
from engine.moments import saved_step
from engine.plan import Plan
from engine.store import IndexStore

Combine = Literal["scaled", "learning_rate", "sum"]
RATES = "rates"
HORIZONS = "horizons"
_REMEDY = (
    "Register the model with the run's `recipe` (its training filled in) and one checkpoint an epoch, or checkpoints "
    "as `whence train` or a Hugging Face Trainer leaves them."
)


def ensemble_factors(
    self_Q: np.ndarray, checkpoints: int, *, unit_norm: bool, combine: Combine = "scaled", rate: float = 1.0
) -> np.ndarray:
    """What a checkpoint's query gradient is multiplied by; 0 for a zero gradient.

    scaled (DESIGN §4, p = 0): 1 for a single checkpoint, 1/√s_c(q) in an ensemble, 1/(C·√s_c(q)) where a mean of
    cosines is meant. learning_rate: η_c (TracIn), η_c/√s_c(q) with unit norm (LESS). sum: 1, 1/√s_c(q) with unit norm.
    """
    if combine == "scaled":
        scale, normed = (1 / checkpoints if unit_norm else 1.0), unit_norm or checkpoints > 1
    else:
        scale, normed = (rate if combine == "learning_rate" else 1.0), unit_norm
    if not normed:
        return np.full_like(self_Q, scale)
    roots_Q = np.sqrt(self_Q)
    return np.divide(scale, roots_Q, out=np.zeros_like(roots_Q), where=roots_Q > 0)


def row_factors(self_N: np.ndarray, power: float) -> np.ndarray:
    """1/s_c(z)^{p/2}, what checkpoint c's stored row vectors are multiplied by; [N] or [N, C], 0 where s is 0.

    With the query's 1/√s_c(q): p = 0 leaves the score additive, p = 1 is a sum of cosines (ℓ-RelatIF, Barshan et al.
    2020, arXiv:2003.11630). s: the self-scores before this.
    """
    return np.power(self_N, -power / 2, out=np.zeros_like(self_N), where=self_N > 0)


def self_influence(self_NC: np.ndarray) -> np.ndarray:
    """float64 [N]: s(z) of one checkpoint, Σ_c √s_c(z) of several, as a row's score on itself adds up."""
    self_NC = self_NC.astype(np.float64)
    return self_NC[:, 0] if self_NC.shape[1] == 1 else np.sqrt(self_NC).sum(1)


def checkpoint_rates(store: IndexStore, checkpoints: int) -> np.ndarray:
    """float64 [C]: η_c as recorded when the index was built; ones where the method does not use them."""
    return store.load_tensors(RATES)[RATES] if store.has_tensors(RATES) else np.ones(checkpoints)


def record_schedule(store: IndexStore, model: LoadedModel, states: Sequence[State], plan: Plan) -> None:
    """Keep with the index what its method needs: its answers must not change with a recipe that is edited later.

    Raises MissingNeed, InvalidOption.
    """
    if not isinstance(plan.method, GradientMethod):
        return
    if plan.method.combine == "learning_rate" and not store.has_tensors(RATES):
        store.save_tensors(RATES, {RATES: mean_rates(model, states)})
    if get_metric(plan.method.metric, plan.method_options).needs_horizons and not store.has_tensors(HORIZONS):
        _require_one_run(plan, len(states))
        store.save_tensors(HORIZONS, {HORIZONS: horizons(model, states)})


def recorded_horizons(store: IndexStore, checkpoints: int) -> np.ndarray:
    """float64 [C]: as `horizons` were when the index was built; zeros where the method does not use them."""
    return store.load_tensors(HORIZONS)[HORIZONS] if store.has_tensors(HORIZONS) else np.zeros(checkpoints)


def _require_one_run(plan: Plan, checkpoints: int) -> None:
    if plan.options.replicas:
        raise InvalidOption(
            f"{plan.method.name} unrolls one run from checkpoint to checkpoint; replicas are other runs.",
            remedy="Set replicas to 0.",
            pointer="/options/replicas",
        )
    if checkpoints < 2:
        raise MissingNeed(
            f"{plan.method.name} unrolls training from checkpoint to checkpoint and needs at least two; the index "
            f"would have {checkpoints}.",
            remedy="Register the model with the checkpoints of its run (`whence train` leaves one an epoch) and build "
            "with checkpoints: all; or choose ekfac, which needs the last one alone.",
            pointer="/checkpoints",
        )


def mean_rates(model: LoadedModel, states: Sequence[State]) -> np.ndarray:
    """float64 [C]: the mean learning rate of the steps between the checkpoint before and this one.

    η_i of TracInCP (Pruthi et al. 2020, arXiv:2002.08484), η̄_i of LESS (Xia et al. 2024, arXiv:2402.04333, §2).
    A count of steps that does not grow is the start of another run (a replica). Raises MissingNeed, InvalidOption.
    """
    return np.array([math.fsum(rates.values()) / len(rates) for rates in _rates_between(model, states)])


def horizons(model: LoadedModel, states: Sequence[State]) -> np.ndarray:
    """float64 [C]: t_c = Σ η·(rows whose gradients the step adds up), over the steps since the checkpoint before.

    SOURCE's η̄K (Bae et al. 2024, arXiv:2405.12186, §3.1), for a curvature that is the mean over rows: a step's token
    mean, Σ_z w_z ℓ_z with w = 1/(the step's tokens), is worth as many rows of that mean as the step has. Any other
    reduction is taken as the mean over the step's rows of w ℓ, which is worth one. Raises as `mean_rates`.
    """
    sums = model.recipe.reduction == "batch_token_mean"
    return np.array(
        [
            math.fsum(rate * (_rows_of(model.recipe, step) if sums else 1) for step, rate in rates.items())
            for rates in _rates_between(model, states)
        ]
    )


def _rows_of(recipe: Recipe, step: int) -> int:
    assert recipe.steps is not None  # the reduction needs them
    return len(recipe.steps[step % len(recipe.steps)])


def _rates_between(model: LoadedModel, states: Sequence[State]) -> list[dict[int, float]]:
    """Of every checkpoint, step → η of the steps since the one before."""
    training, total = _schedule(model.recipe)
    rates, before = [], 0
    for state in states:
        step = _step(model, state, training, total)
        if not 0 < step <= total:
            raise InvalidOption(
                f"Checkpoint {state.label} was saved at step {step}, and the recipe has {total} steps: it is not "
                "the recipe of this run.",
                remedy=_REMEDY,
                pointer="/method",
            )
        start = before if before < step else 0
        rates.append({s: learning_rate(s, total, training) for s in range(start, step)})
        before = step
    return rates


def _schedule(recipe: Recipe) -> tuple[Training, int]:
    """(the optimizer's settings, steps of the whole run)."""
    if recipe.training is None:
        raise _missing("the training recipe (its learning rates), and this model's is not known")
    unknown, unsupported = recipe.details.get("unknown") or (), recipe.details.get("unsupported") or ()
    doubtful = {"learning_rate", "schedule", "lr_scheduler_type", "warmup_steps"} & {*unknown, *unsupported}
    if doubtful:
        raise _missing(f"the recipe's learning rates, and this recipe does not hold the {min(doubtful)} of its run")
    total = _total_steps(recipe, recipe.training)
    if total is None:
        raise _missing("the number of steps of the run, and the recipe names neither steps nor rows")
    return recipe.training, total


def _total_steps(recipe: Recipe, training: Training) -> int | None:
    """A Hugging Face recipe's `steps` end with the model at hand; its max_steps is what the schedule ran towards."""
    recorded, rows = recipe.details.get("max_steps"), recipe.details.get("rows")
    if isinstance(recorded, int) and recorded > 0:
        return recorded
    if recipe.steps is not None:
        return len(recipe.steps)
    if isinstance(rows, int) and rows > 0:
        return training.epochs * math.ceil(rows / (training.batch_size * training.accumulation))
    return None


def _step(model: LoadedModel, state: State, training: Training, total: int) -> int:
    """As the files beside the checkpoint say; else checkpoints are epochs where they are as many; one alone is the end.

    Raises MissingNeed.
    """
    step = saved_step(model, state)
    if step is not None:
        return step
    names = [known.label for known in model.states]
    if len(names) == 1:
        return total
    if len(names) != training.epochs or state.label not in names:
        raise _missing(
            f"the step at which each checkpoint was saved: nothing beside {state.path} tells, and the recipe's "
            f"{training.epochs} epochs are not the model's {len(names)} checkpoints"
        )
    return round(total * (names.index(state.label) + 1) / training.epochs)


def _missing(what: str) -> MissingNeed:
    return MissingNeed(
        f"The method weighs checkpoints by learning rate; it needs {what}.", remedy=_REMEDY, pointer="/method"
    )
