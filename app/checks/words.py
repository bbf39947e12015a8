"""What checks measured, as sentences: for answers, pages and the command line alike."""

from __future__ import annotations

import math
from typing import Any

Json = dict[str, Any]
SETS = {
    "none": "every row kept (chance alone)",
    "top": "without the top rows",
    "half": "without half of them",
    "random": "without as many random rows",
    "bm25": "without BM25's first rows",
}
SHORT = {"none": "nothing", "top": "top rows", "half": "half of them", "random": "random rows", "bm25": "BM25's rows"}
ADDED = {"top": "a step on each top row", "random": "a step on random rows"}  # of tail_patch
EFFECTS = {"tail_patch": "one more step on the row", "replay": "leaving the row out of the run (exact derivative)"}
LEAST_WHOLE = 0.001  # a whole output less likely than that says little to people: then it is told by the token


def measured_name(kind: str) -> str:
    """Of a measurement's kind: what is measured, in words."""
    name = "log-odds" if kind.endswith("log_odds") else "log-probability"
    name += " over the other completion's" if "contrastive" in kind else ""
    return f"mean {name}" if kind.startswith("mean") else name


def set_name(kind: str, name: str) -> str:
    """What was done to the training, by the kind of the check and the name of the set."""
    return (ADDED if kind == "tail_patch" else SETS).get(name, name)


def set_short(name: str) -> str:
    """Of a set alone, where there is little room."""
    return SHORT.get(name, name)


def effect_short(kind: str) -> str:
    """The same where there is little room."""
    return "one step more" if kind == "tail_patch" else "left out, measured"


def effect_name(kind: str) -> str:
    """What was done with each row, by the kind of the check."""
    return EFFECTS.get(kind, "leaving the row out")


def left_out_words(top: Json, control: Json | None, difference: Json | None, kind: str) -> str:
    """From where to where, how sure, and what as many random rows did. `top`, `control`: sets as the API gives them;
    `difference`: of their changes; `kind`: of the measurement."""
    rows, verb = top["rows"], "fell" if top["change"] < 0 else "rose"
    which = "top row was" if rows == 1 else f"{rows} top rows were"
    before, after = apart(top["before"], top["after"])
    said = f"The output's {measured_name(kind)} {verb} from {before} to {after} nats when the {which} left out"
    if None not in (top["low"], top["high"]):
        said += f" (change {signed(top['change'])}, 95 %: {signed(top['low'])} to {signed(top['high'])})"
    if control is not None and control["after"] is not None:
        others = "a random one" if rows == 1 else "as many random ones"
        said += f"; to {apart(top['before'], control['after'])[1]} without {others}"
    return f"{said}. {difference_words(difference)}".strip()


def difference_words(difference: Json | None, *, adds: bool = False) -> str:
    """Whether the rows did more than random ones; empty where that is not known. adds: they were trained on once more,
    not left out."""
    if difference is None or None in (difference["value"], difference["low"], difference["high"]):
        return ""
    low, high = signed(difference["low"]), signed(difference["high"])
    between = f"{signed(difference['value'])} nats, 95 %: {low} to {high}"
    if difference["low"] > 0 if adds else difference["high"] < 0:
        return f"These rows mattered more than chance explains ({between})."
    return f"That is not clearly more than random rows do ({between})."


def probability_words(before: float | None, after: float | None, kind: str, tokens: int) -> str:
    """The same in probabilities: of the whole output, or by the token where the whole is too unlikely to mean much.
    Empty for what is no log-probability."""
    if before is None or after is None or kind not in ("log_prob", "mean_log_prob") or tokens < 1:
        return ""
    whole = tokens == 1 or math.exp(min(before, 0.0)) >= LEAST_WHOLE
    share = 1 if whole else tokens
    of = "The output's probability" if whole else f"The mean probability of its {tokens} tokens (geometric)"
    start, end = (math.exp(min(value / share, 0.0)) for value in (before, after))
    return f"{of} {'fell' if end < start else 'rose'} from {percent(start)} to {percent(end)}."


def signed(value: float) -> str:
    """Two digits behind the point, or two that count."""
    return f"{value:+.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:+.2g}"


def apart(first: float, second: float) -> tuple[str, str]:
    """Two figures with as many digits as tell them apart, two behind the point at least."""
    for digits in (2, 3, 4):
        shown = f"{first:z.{digits}f}", f"{second:z.{digits}f}"
        if shown[0] != shown[1]:
            return shown
    return f"{first:z.2f}", f"{second:z.2f}"


def percent(share: float) -> str:
    """Two significant digits; of what is next to nothing, its order."""
    value = 100.0 * share
    if value >= 10:
        return f"{value:.0f} %"
    return f"{value:.2g} %" if value >= 0.01 else f"{value:.0e} %"
