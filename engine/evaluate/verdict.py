"""From measured evidence to one of four words: trusted, weak, untrusted, unmeasured. The sentences: verdict_words.py.

trusted     the LDS is above every control by the paired test, on at least FEWEST_SUBSETS subsets, and leaving out the
            top rows lowers f more than leaving out random rows does.
weak        it only beats random scores: some control is not clearly behind, or the leave-out did not separate.
untrusted   it is behind a control; or a sanity test fails; or leaving out its top rows lowers f less than random rows
            do; or it does not beat random scores, although the interval is narrow enough to have shown it.
unmeasured  nothing was measured, or whether random scores are beaten is still open.

A comparison is decided as soon as its 95 % interval excludes 0, however wide it is. One that does not is *equal* when
the interval's half-width is at most NARROW, else *open*. NARROW = 0.1: about what 60 subsets give on the quality
benchmark, and a difference below it would change no ranking that people look at. Where comparisons disagree, a decided
defect comes first, so that no verdict gets worse when every interval moves up.

Half-widths shrink like 1/√M over subsets (engine/evaluate/jackknife.py), so M·((half-width/target)² − 1) more subsets
are asked for, with target = max(NARROW, |difference|): a difference as large as it looks is decided once the half-width
falls below it. The queries' own part of the interval does not shrink, so it is "at least" that many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.evaluate import verdict_words as words
from engine.evaluate.scorecard import CONTROLS, Compared, LdsEvidence, LeaveOutEvidence, Question, Verdict

NARROW = 0.1
FEWEST_SUBSETS = (
    25  # from here on intervals are known to cover what they claim (tests/engine/evaluate/test_coverage.py)
)
Finding = Literal["above", "below", "equal", "open", "undefined"]
_RANDOM = "random"
_ITSELF = Compared(0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Judged:
    """The evidence about one method for one question. against: every control but the method itself."""

    question: Question
    lds: LdsEvidence
    leave_out: LeaveOutEvidence | None
    sanity: Mapping[str, Compared]
    name: str | None
    metasmoothness: float | None

    @property
    def against(self) -> dict[str, Compared]:
        return {control: found for control, found in self.lds.against.items() if control != self.name}

    @property
    def chance(self) -> Compared:
        """The method minus random scores. Random scores are no better than themselves; where they were not measured,
        their LDS is 0 in the mean."""
        if self.name == _RANDOM:
            return _ITSELF
        measured = self.against.get(_RANDOM)
        if measured is not None and finding(measured) != "undefined":
            return measured
        return Compared(self.lds.value, self.lds.low, self.lds.high, None)

    @property
    def missing(self) -> list[str]:
        return [control for control in CONTROLS if control != self.name and control not in self.lds.against]

    def controls(self, *wanted: Finding) -> list[str]:
        return [control for control, compared in self.against.items() if finding(compared) in wanted]

    @property
    def missing_retrains(self) -> int:
        """Until intervals are known to hold."""
        return max(0, FEWEST_SUBSETS - self.lds.subsets) * max(1, self.lds.seeds)

    @property
    def open_retrains(self) -> int | None:
        """What would decide every control that is still open, by intervals that hold; None where none is and they do,
        or no number would."""
        needed = [retrains_to_decide(self.lds, self.against[control]) for control in self.controls("open")]
        needed.append(self.missing_retrains or None)
        return max((number for number in needed if number is not None), default=None)


def verdict(
    question: Question,
    lds: LdsEvidence,
    leave_out: LeaveOutEvidence | None,
    sanity: Mapping[str, Compared],
    *,
    name: str | None = None,
    metasmoothness: float | None = None,
) -> Verdict:
    """What the evidence about one method says for one question.

    sanity: twin's name → LDS of the method minus its twin's, paired. name: the method's; a control is not compared
    with itself, and `random` is no better than itself. metasmoothness: of the run, told as a bound for `this_run`.
    """
    judged = Judged(question, lds, leave_out, sanity, name, metasmoothness)
    if lds.value is None:
        return Verdict("unmeasured", words.nothing_measured(lds), words.MEASURE)
    return _untrusted(judged) or _trusted(judged) or _weak(judged) or _unmeasured(judged)


def finding(compared: Compared) -> Finding:
    """undefined: the other scores are constant, so they predict nothing and stand in nobody's way."""
    low, high = compared.low, compared.high
    if low is None or high is None:
        return "undefined" if compared.difference is None else "open"
    if low > 0:
        return "above"
    if high < 0:
        return "below"
    return "equal" if (high - low) / 2 <= NARROW else "open"


def retrains_to_decide(lds: LdsEvidence, compared: Compared) -> int | None:
    """How many more retrainings (subsets × seeds) would decide a comparison that is open; None where more retrainings
    cannot: an interval needs two queries."""
    seeds = max(1, lds.seeds)
    if compared.low is None or compared.high is None:
        return None if words.too_few_queries(lds) else max(1, FEWEST_SUBSETS - lds.subsets) * seeds
    target = max(NARROW, abs(compared.difference or 0.0))
    ratio = (compared.high - compared.low) / 2 / target
    return max(1, math.ceil(round(lds.subsets * (ratio**2 - 1), 6))) * seeds


def _untrusted(judged: Judged) -> Verdict | None:
    below = judged.controls("below")
    if below:
        worst = min(below, key=lambda control: judged.against[control].high or 0.0)
        reason = words.behind(worst, judged.against[worst])
        return _verdict(judged, "untrusted", reason, words.use_instead(worst))
    failed = [twin for twin, compared in judged.sanity.items() if finding(compared) in ("below", "equal")]
    if failed:
        reason = words.insane(failed[0], judged.sanity[failed[0]])
        return _verdict(judged, "untrusted", reason, words.CHECK_INDEX)
    if judged.leave_out is not None and judged.leave_out.high is not None and judged.leave_out.high < 0:
        return _verdict(judged, "untrusted", words.wrong_way(judged.leave_out), words.ANOTHER_METHOD)
    if finding(judged.chance) in ("below", "equal"):
        return _verdict(judged, "untrusted", words.like_random(judged.chance), words.ANOTHER_METHOD)
    return None


def _trusted(judged: Judged) -> Verdict | None:
    if finding(judged.chance) != "above" or judged.missing or judged.controls("equal", "open"):
        return None
    if judged.missing_retrains:
        return None
    if judged.leave_out is None or not _separates(judged.leave_out):
        return None
    undecided = [twin for twin, compared in judged.sanity.items() if finding(compared) == "open"]
    reason = words.ahead(judged.against, judged.controls("above"), judged.leave_out, undecided)
    return _verdict(judged, "trusted", reason, None)


def _weak(judged: Judged) -> Verdict | None:
    if finding(judged.chance) != "above":
        return None
    doubts = [words.not_ahead(control, judged.against[control]) for control in judged.controls("equal", "open")]
    if judged.missing:
        doubts.append(words.not_compared(judged.missing))
    if judged.missing_retrains:
        doubts.append(words.too_few_subsets(judged.lds.subsets, FEWEST_SUBSETS))
    if judged.leave_out is None or not _separates(judged.leave_out):
        doubts.append(words.not_separated(judged.leave_out))
    more = judged.open_retrains
    rivals = judged.controls("equal", "open")
    remedy = words.more_retrains(more) if more else words.read_beside(rivals) if rivals else words.LEAVE_OUT
    return _verdict(judged, "weak", words.only_beats_random(doubts, more), remedy, more)


def _unmeasured(judged: Judged) -> Verdict:
    more = retrains_to_decide(judged.lds, judged.chance)
    remedy = words.MORE_QUERIES if more is None else words.more_retrains(more)
    return _verdict(judged, "unmeasured", words.undecided(judged.chance, more), remedy, more)


def _separates(leave_out: LeaveOutEvidence) -> bool:
    return leave_out.low is not None and leave_out.low > 0


def _verdict(
    judged: Judged,
    name: Literal["trusted", "weak", "untrusted", "unmeasured"],
    reason: str,
    remedy: str | None,
    more: int | None = None,
) -> Verdict:
    bound = words.bound(judged.question, judged.metasmoothness)
    return Verdict(name, f"{words.agreement(judged.question, judged.lds)}{reason}{bound}.", remedy, more)
