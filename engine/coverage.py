"""How much of what was trained must be tracked before an index may speak for the model (DESIGN §2.7)."""

from __future__ import annotations

from engine.errors import LowCoverage
from engine.loaded import LoadedModel
from engine.plan import Plan

LEAST_SHARE = 0.5
_NAMED = 3


def require_coverage(model: LoadedModel, plan: Plan) -> None:
    """Raises LowCoverage when less than half of the trained parameters could be tracked, unless `allow_partial`.

    What the option `modules` leaves out counts as tracked here: whoever narrows an index knows that it is narrow, and
    the index's own coverage says so.
    """
    if plan.options.allow_partial or not plan.tracked:
        return
    possible = model.coverage(model.tracked(None))
    if possible.share >= LEAST_SHARE:
        return
    largest = sorted(possible.untracked, key=lambda module: -module.parameters)[:_NAMED]
    named = "; ".join(
        f"{module.module} ({module.parameters / possible.trained_parameters:.1%}: {module.reason})"
        for module in largest
    )
    raise LowCoverage(
        f"Only {possible.share:.1%} of the trained parameters can be tracked, less than {LEAST_SHARE:.0%}. "
        f"Largest of {len(possible.untracked)} untracked modules: {named}.",
        pointer="/options/allow_partial",
        share=possible.share,
        untracked=[module.module for module in largest],
    )
