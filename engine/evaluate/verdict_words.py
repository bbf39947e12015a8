"""The sentences of a verdict, for people who have never heard of LDS: what was done, what came out, with the figures.

A verdict's reason is `agreement`, then what follows from it (each begins where the figures end), then `bound`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.evaluate.scorecard import RANDOMISED, SHUFFLED, Compared, LdsEvidence, LeaveOutEvidence, Question

MEASURE = "Evaluate the index with enough retrainings: predictions are then compared with what they really do."
CHECK_INDEX = "Check that the index was built from this model and these rows; until then do not act on its ranking."
ANOTHER_METHOD = "Do not act on this ranking; build an index with another method and evaluate that."
LEAVE_OUT = "Evaluate again with more queries whose top rows are left out."
MORE_QUERIES = "Evaluate again with more queries: two are the least that an interval needs, 20 or more are useful."

_CONTROLS = {
    "bm25": "BM25 (shared words)",
    "repsim": "RepSim (similar hidden states)",
    "length": "the rows' length",
    "random": "random scores",
}
_TWINS = {
    RANDOMISED: "the same method on a model whose weights were randomised",
    SHUFFLED: "the same scores handed to the wrong rows",
}
_RETRAINED = {
    "composition": "on random halves of the rows",
    "this_run": "of this run without a few random rows",
}


def agreement(question: Question, lds: LdsEvidence) -> str:
    retrainings = lds.subsets * max(1, lds.seeds)
    done = f"Predicted and measured outcomes of {retrainings} retrainings {_RETRAINED[question]}"
    best = "" if lds.ceiling is None else f"; a perfect method could reach {lds.ceiling:z.2f}"
    between = "no interval yet" if lds.low is None or lds.high is None else f"{lds.low:z.2f} to {lds.high:z.2f}"
    return f"{done} agree with rank correlation {lds.value:z.2f} ({between}{best})"


def bound(question: Question, metasmoothness: float | None) -> str:
    if question != "this_run" or metasmoothness is None:
        return ""
    return (
        f"; this run answers small changes of its rows with metasmoothness {metasmoothness:z.2f} (1: steadily, 0: "
        "erratically), which bounds what any method can say about single rows"
    )


def nothing_measured(lds: LdsEvidence) -> str:
    if not lds.subsets:
        return "How well these scores predict what retraining does was not measured: nothing was retrained for it."
    return (
        f"How well these scores predict what retraining does cannot be said from {lds.subsets} subsets of the rows: "
        "predictions or outcomes do not vary."
    )


def too_few_queries(lds: LdsEvidence) -> bool:
    return bool(lds.per_query) and sum(value is not None for value in lds.per_query) < 2


# --- trusted ---


def ahead(
    against: Mapping[str, Compared], above: Sequence[str], leave_out: LeaveOutEvidence, undecided: Sequence[str]
) -> str:
    said = f", better than {_listed([_control(name) for name in above])}" if above else ", better than chance"
    if above:
        least = min(above, key=lambda name: against[name].low or 0.0)
        said += f" (closest: {_control(least)}, {_difference(against[least])})"
    said += f", and {_left_out(leave_out)}"
    if undecided:
        said += f"; whether {_listed([_twin(name) for name in undecided], 'or')} would do as well is not decided yet"
    return said


# --- weak ---


def only_beats_random(doubts: Sequence[str], more: int | None) -> str:
    need = f"; underpowered: {more} more retrains would tell" if more else ""
    return f", better than random scores, but {_listed(doubts)}{need}"


def not_ahead(control: str, compared: Compared) -> str:
    return f"not clearly better than {_control(control)} ({_difference(compared)})"


def not_compared(missing: Sequence[str]) -> str:
    return f"not compared with {_listed([_control(name) for name in missing], 'or')}"


def too_few_subsets(subsets: int, needed: int) -> str:
    return f"on {subsets} subsets alone, and intervals are known to hold from {needed} on"


def not_separated(leave_out: LeaveOutEvidence | None) -> str:
    if leave_out is None:
        return "leaving out the top rows was not measured"
    return (
        f"leaving out an answer's {leave_out.rows} top rows was not clearly worse for it than leaving out random ones "
        f"({_nats(leave_out)})"
    )


def read_beside(rivals: Sequence[str]) -> str:
    return f"Read this ranking beside that of {_listed([_control(name) for name in rivals])}, which predicts as well."


# --- untrusted ---


def behind(control: str, compared: Compared) -> str:
    return f", worse than {_control(control)} ({_difference(compared)})"


def use_instead(control: str) -> str:
    if control == "random":
        return ANOTHER_METHOD
    return f"Ask with method {control} instead, or build an index with another method and evaluate that."


def insane(twin: str, compared: Compared) -> str:
    return f", but {_twin(twin)} would do as well ({_difference(compared)})"


def wrong_way(leave_out: LeaveOutEvidence) -> str:
    return (
        f", but leaving out an answer's {leave_out.rows} top rows harms it less than leaving out random ones "
        f"({_nats(leave_out)})"
    )


def like_random(compared: Compared) -> str:
    return f", no better than random scores ({_difference(compared)})"


# --- unmeasured ---


def undecided(chance: Compared, more: int | None) -> str:
    need = "an interval needs at least two queries" if more is None else f"underpowered: {more} more retrains"
    return f", which does not yet show whether they beat random scores ({_difference(chance)}); {need}"


def more_retrains(number: int) -> str:
    return (
        f"Evaluate again with the same questions and at least {number} more retrainings; those that were made are kept."
    )


# --- figures ---


def _left_out(leave_out: LeaveOutEvidence) -> str:
    return (
        f"leaving out an answer's {leave_out.rows} top rows lowers it by {leave_out.top:z.2f} nats, leaving out "
        f"{leave_out.rows} random rows by {leave_out.random:z.2f} ({_nats(leave_out)})"
    )


def _nats(leave_out: LeaveOutEvidence) -> str:
    interval = _interval(leave_out.low, leave_out.high)
    return f"difference {leave_out.difference:z.2f} nats{interval}"


def _difference(compared: Compared) -> str:
    value = "unknown" if compared.difference is None else f"{compared.difference:z.2f}"
    return f"difference {value}{_interval(compared.low, compared.high)}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f", {low:z.2f} to {high:z.2f}"


def _control(name: str) -> str:
    return _CONTROLS.get(name, name)


def _twin(name: str) -> str:
    return _TWINS.get(name, name)


def _listed(names: Sequence[str], link: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {link} {names[-1]}"
