"""Every combination of evidence, and what it must and must not lead to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluate.scorecard import (
    CONTROLS,
    RANDOMISED,
    SHUFFLED,
    Compared,
    LdsEvidence,
    LeaveOutEvidence,
    Verdict,
)
from engine.evaluate.verdict import FEWEST_SUBSETS, NARROW, verdict

ABOVE = Compared(0.20, 0.10, 0.30, 0.001)
BARELY = Compared(0.60, 0.001, 1.20, 0.049)  # a decision, however wide
BELOW = Compared(-0.20, -0.30, -0.10, 0.001)
EQUAL = Compared(0.02, -0.05, 0.09, 0.6)
OPEN = Compared(0.05, -0.25, 0.35, 0.7)
NO_INTERVAL = Compared(0.2, None, None, None)
UNDEFINED = Compared(None, None, None, None)
ITSELF = Compared(0.0, 0.0, 0.0, 1.0)

TOP = LeaveOutEvidence(1.2, 0.1, 1.1, 0.8, 1.4, 0.001, rows=4, queries=10, seeds=2, draws=8)
NOT_SEPARATED = replace(TOP, difference=0.1, low=-0.2, high=0.4)
WRONG_WAY = replace(TOP, difference=-0.5, low=-0.9, high=-0.1)
NO_LEAVE_OUT_INTERVAL = replace(TOP, low=None, high=None)


def lds(against: dict[str, Compared] | None = None, **changes: object) -> LdsEvidence:
    """Above every control, unless told otherwise."""
    found = dict.fromkeys(CONTROLS, ABOVE) | (against or {})
    return replace(LdsEvidence(0.80, 0.74, 0.85, 0.93, 0.9, subsets=60, seeds=2, against=found), **changes)  # type: ignore[arg-type]


TABLE = {
    "above all, separated": (lds(), TOP, {}, "trusted"),
    "above all by a wide but decided interval": (lds(dict.fromkeys(CONTROLS, BARELY)), TOP, {}, "trusted"),
    "sanity passed": (lds(), TOP, {RANDOMISED: ABOVE, SHUFFLED: ABOVE}, "trusted"),
    "sanity still open": (lds(), TOP, {RANDOMISED: OPEN}, "trusted"),
    "a twin that predicts nothing at all": (lds(), TOP, {RANDOMISED: UNDEFINED}, "trusted"),
    "a control that predicts nothing at all": (lds({"length": UNDEFINED}), TOP, {}, "trusted"),
    "leave-out not measured": (lds(), None, {}, "weak"),
    "leave-out not separated": (lds(), NOT_SEPARATED, {}, "weak"),
    "leave-out without an interval": (lds(), NO_LEAVE_OUT_INTERVAL, {}, "weak"),
    "equal to BM25": (lds({"bm25": EQUAL}), TOP, {}, "weak"),
    "open against BM25": (lds({"bm25": OPEN}), TOP, {}, "weak"),
    "BM25 without an interval": (lds({"bm25": NO_INTERVAL}), TOP, {}, "weak"),
    "below BM25, above random": (lds({"bm25": BELOW}), TOP, {}, "untrusted"),
    "below BM25, open against random": (lds({"bm25": BELOW, "random": OPEN}), None, {}, "untrusted"),
    "randomised weights do as well": (lds(), TOP, {RANDOMISED: EQUAL}, "untrusted"),
    "randomised weights do better": (lds(), TOP, {RANDOMISED: BELOW}, "untrusted"),
    "a twin judged itself": (lds(), TOP, {SHUFFLED: ITSELF}, "untrusted"),
    "leaving out the top rows helps": (lds(), WRONG_WAY, {}, "untrusted"),
    "equal to random": (lds({"random": EQUAL}), TOP, {}, "untrusted"),
    "below random": (lds({"random": BELOW}), TOP, {}, "untrusted"),
    "open against random": (lds({"random": OPEN}), TOP, {}, "unmeasured"),
    "random without an interval": (lds({"random": NO_INTERVAL}, subsets=2), None, {}, "unmeasured"),
    "open against all": (lds(dict.fromkeys(CONTROLS, OPEN)), None, {RANDOMISED: OPEN}, "unmeasured"),
}


@pytest.mark.parametrize("question", ["composition", "this_run"])
@pytest.mark.parametrize("case", TABLE)
def test_every_combination_of_evidence(case: str, question: str) -> None:
    evidence, leave_out, sanity, expected = TABLE[case]
    found = verdict(question, evidence, leave_out, sanity, name="ekfac")  # type: ignore[arg-type]
    assert found.verdict == expected
    assert found.reason.endswith(".")
    assert "0.80" in found.reason
    assert (found.remedy is None) == (expected == "trusted")


def test_nothing_was_measured() -> None:
    none = LdsEvidence(None, None, None, None, None, subsets=0, seeds=0)
    found = verdict("composition", none, None, {})
    assert (found.verdict, found.more_retrains) == ("unmeasured", None)
    assert "nothing was retrained" in found.reason
    constant = verdict("this_run", replace(none, subsets=60, seeds=1), TOP, {})
    assert constant.verdict == "unmeasured"
    assert "do not vary" in constant.reason


def test_without_controls_chance_is_zero_and_nothing_is_trusted() -> None:
    alone = replace(lds(), against={})
    found = verdict("composition", alone, TOP, {})
    assert found.verdict == "weak"
    assert "not compared with BM25" in found.reason
    assert verdict("composition", replace(alone, low=-0.05, high=0.08), TOP, {}).verdict == "untrusted"
    assert verdict("composition", replace(alone, low=-0.3, high=0.4), TOP, {}).verdict == "unmeasured"


@pytest.mark.parametrize("missing", CONTROLS)
def test_a_missing_control_cannot_be_trusted_away(missing: str) -> None:
    against = {control: ABOVE for control in CONTROLS if control != missing}
    assert verdict("composition", replace(lds(), against=against), TOP, {}, name="ekfac").verdict == "weak"


def test_random_scores_are_untrusted_even_on_little_evidence() -> None:
    others = {control: BELOW for control in CONTROLS if control != "random"}
    below = replace(lds(), value=0.01, low=-0.05, high=0.06, against=others)
    assert "worse than" in verdict("composition", below, None, {}, name="random").reason
    for against in (others, dict.fromkeys(others, OPEN), {}):
        assert verdict("composition", replace(below, against=against), None, {}, name="random").verdict == "untrusted"
    lucky = replace(below, low=0.01, against=dict.fromkeys(others, ABOVE))
    assert verdict("composition", lucky, TOP, {}, name="random").verdict == "untrusted"


def test_a_control_is_not_compared_with_itself() -> None:
    assert verdict("composition", lds({"bm25": ITSELF}), TOP, {}, name="bm25").verdict == "trusted"
    without = {control: ABOVE for control in CONTROLS if control != "bm25"}
    assert verdict("composition", replace(lds(), against=without), TOP, {}, name="bm25").verdict == "trusted"


@pytest.mark.parametrize("seeds", [1, 2])
def test_retrains_needed_shrink_the_half_width_to_the_target(seeds: int) -> None:
    wide = Compared(0.03, -0.271, 0.331, 0.8)
    more = verdict("composition", lds({"random": wide}, subsets=20, seeds=seeds), None, {}).more_retrains
    assert more is not None
    assert more % seeds == 0
    needed = 20 + more // seeds
    assert 0.301 * math.sqrt(20 / needed) <= NARROW < 0.301 * math.sqrt(20 / (needed - 1))


def test_a_large_difference_needs_fewer_retrains() -> None:
    far, near = Compared(0.28, -0.02, 0.58, 0.06), Compared(0.0, -0.3, 0.3, 1.0)
    asked = [verdict("composition", lds({"random": c}, subsets=20), None, {}).more_retrains for c in (far, near)]
    assert asked[0] is not None and asked[1] is not None
    assert asked[0] < asked[1]


def test_nothing_is_trusted_on_fewer_subsets_than_intervals_are_known_to_hold_for() -> None:
    enough = verdict("composition", lds(subsets=FEWEST_SUBSETS), TOP, {}, name="own")
    few = verdict("composition", lds(subsets=FEWEST_SUBSETS - 1), TOP, {}, name="own")
    assert (enough.verdict, few.verdict) == ("trusted", "weak")
    assert few.more_retrains == 2 and "underpowered: 2 more retrains" in few.reason
    assert f"intervals are known to hold from {FEWEST_SUBSETS} on" in few.reason


def test_few_subsets_ask_for_enough_to_have_an_interval() -> None:
    tiny = lds({"random": NO_INTERVAL}, low=None, high=None, subsets=2, seeds=2)
    found = verdict("composition", tiny, None, {})
    assert found.more_retrains == (FEWEST_SUBSETS - 2) * 2
    assert f"underpowered: {found.more_retrains} more retrains" in found.reason


def test_one_query_needs_queries_not_retrains() -> None:
    one = lds({"random": NO_INTERVAL}, low=None, high=None, per_query=(0.8, None))
    found = verdict("composition", one, None, {})
    assert (found.verdict, found.more_retrains) == ("unmeasured", None)
    assert "two queries" in found.reason
    assert "queries" in (found.remedy or "")


def test_weak_says_what_would_decide_an_open_control() -> None:
    found = verdict("composition", lds({"bm25": OPEN}), TOP, {})
    assert found.more_retrains is not None
    assert f"underpowered: {found.more_retrains} more retrains" in found.reason
    assert verdict("composition", lds({"bm25": EQUAL}), TOP, {}).more_retrains is None


def test_reasons_give_the_figures_in_plain_words() -> None:
    trusted = verdict("composition", lds(), TOP, {RANDOMISED: OPEN}, name="ekfac", metasmoothness=0.5)
    assert trusted.reason == (
        "Predicted and measured outcomes of 120 retrainings on random halves of the rows agree with rank correlation "
        "0.80 (0.74 to 0.85; a perfect method could reach 0.93), better than BM25 (shared words), RepSim (similar "
        "hidden states), the rows' length and random scores (closest: BM25 (shared words), difference 0.20, 0.10 to "
        "0.30), and leaving out an answer's 4 top rows lowers it by 1.20 nats, leaving out 4 random rows by 0.10 "
        "(difference 1.10 nats, 0.80 to 1.40); whether the same method on a model whose weights were randomised would "
        "do as well is not decided yet."
    )
    untrusted = verdict("this_run", lds({"bm25": BELOW}, ceiling=None, seeds=1), TOP, {}, metasmoothness=0.31)
    assert untrusted.reason == (
        "Predicted and measured outcomes of 60 retrainings of this run without a few random rows agree with rank "
        "correlation 0.80 (0.74 to 0.85), worse than BM25 (shared words) (difference -0.20, -0.30 to -0.10); this run "
        "answers small changes of its rows with metasmoothness 0.31 (1: steadily, 0: erratically), which bounds what "
        "any method can say about single rows."
    )
    assert "metasmoothness" not in trusted.reason


def test_negative_zero_is_not_printed() -> None:
    found = verdict("composition", lds({"random": Compared(-0.001, -0.05, 0.04, 1.0)}), TOP, {})
    assert "difference 0.00" in found.reason


# --- properties ---

ORDER = ("untrusted", "unmeasured", "weak", "trusted")


@st.composite
def compared(draw: st.DrawFn) -> Compared:
    centre, half = draw(st.floats(-1, 1)), draw(st.floats(0, 0.6))
    return Compared(centre, centre - half, centre + half, None)


@st.composite
def evidence(draw: st.DrawFn) -> tuple[LdsEvidence, LeaveOutEvidence | None, dict[str, Compared]]:
    chosen = draw(st.sets(st.sampled_from(CONTROLS)))
    against = {control: draw(compared()) for control in sorted(chosen)}
    own, left = draw(compared()), draw(st.none() | compared())
    sanity = {twin: draw(compared()) for twin in draw(st.sampled_from([(), (RANDOMISED,), (RANDOMISED, SHUFFLED)]))}
    found = LdsEvidence(own.difference, own.low, own.high, None, None, draw(st.integers(0, 80)), 1, against)
    leave_out = None if left is None else replace(TOP, difference=left.difference or 0.0, low=left.low, high=left.high)
    return found, leave_out, sanity


def moved(one: Compared, by: float) -> Compared:
    assert one.difference is not None and one.low is not None and one.high is not None
    return Compared(one.difference + by, one.low + by, one.high + by, None)


def rank(found: Verdict) -> int:
    return ORDER.index(found.verdict)


@settings(max_examples=150, deadline=None)
@given(evidence())
def test_never_trusted_with_a_paired_low_at_or_below_zero(
    given_: tuple[LdsEvidence, LeaveOutEvidence | None, dict[str, Compared]],
) -> None:
    found, leave_out, sanity = given_
    result = verdict("composition", found, leave_out, sanity)
    if result.verdict == "trusted":
        assert all(c.low is not None and c.low > 0 for c in found.against.values())
        assert set(found.against) == set(CONTROLS)
        assert leave_out is not None and leave_out.low is not None and leave_out.low > 0
        assert not any(c.high is not None and c.high < 0 for c in sanity.values())


@settings(max_examples=150, deadline=None)
@given(evidence(), st.floats(0, 1))
def test_no_verdict_gets_worse_when_every_interval_moves_up(
    given_: tuple[LdsEvidence, LeaveOutEvidence | None, dict[str, Compared]], by: float
) -> None:
    found, leave_out, sanity = given_
    assert found.value is not None and found.low is not None and found.high is not None
    raised = replace(
        found,
        value=found.value + by,
        low=found.low + by,
        high=found.high + by,
        against={control: moved(c, by) for control, c in found.against.items()},
    )
    up = leave_out
    if leave_out is not None and leave_out.low is not None and leave_out.high is not None:
        up = replace(leave_out, difference=leave_out.difference + by, low=leave_out.low + by, high=leave_out.high + by)
    above = verdict("composition", raised, up, {twin: moved(c, by) for twin, c in sanity.items()})
    assert rank(above) >= rank(verdict("composition", found, leave_out, sanity))


@settings(max_examples=150, deadline=None)
@given(evidence(), st.floats(0, 1))
def test_narrower_from_below_never_takes_back_that_random_is_beaten(
    given_: tuple[LdsEvidence, LeaveOutEvidence | None, dict[str, Compared]], share: float
) -> None:
    """Lows alone move up (highs stay): a verdict of weak or trusted never falls."""

    def raised(one: Compared) -> Compared:
        assert one.low is not None and one.high is not None
        return replace(one, low=one.low + share * (one.high - one.low))

    found, leave_out, _ = given_
    assert found.low is not None and found.high is not None
    before = verdict("composition", found, leave_out, {})
    better = replace(
        found,
        low=found.low + share * (found.high - found.low),
        against={control: raised(c) for control, c in found.against.items()},
    )
    if rank(before) >= ORDER.index("weak"):
        assert rank(verdict("composition", better, leave_out, {})) >= rank(before)
