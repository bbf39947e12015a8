"""How far an answer can be trusted, in words: the verdict, why, what to do, and what is expected of this question."""

from __future__ import annotations

from rich.text import Text

from app.commands.console import clean, one_line
from whence_client import Attribution, Hit

VERDICT_STYLE = {"trusted": "green", "weak": "yellow", "untrusted": "red", "unmeasured": "yellow"}
LONGEST = 800


def trust_lines(answer: Attribution) -> list[Text]:
    """The headline first; then what there is to do, the other question, and this very question."""
    lines, trust = [trust_line(answer)], answer.trust
    if trust.remedy:
        lines.append(Text("What to do: ") + one_line(trust.remedy, LONGEST))
    if trust.scorecard is not None and (run := trust.questions.get("this_run")):
        lines.append(_judged("Single rows of this run: ", run.verdict, run.reason))
    if trust.reliability is not None:
        style = "bold yellow" if trust.reliability.level == "low" else ""
        words = one_line(trust.reliability.words, LONGEST).plain
        lines.append(Text("This question: ").append(words, style=style))
    return lines


def trust_line(answer: Attribution) -> Text:
    beyond = ", extrapolated" if answer.trust.scope.extrapolated else ""
    return _judged("Trust: ", answer.trust.verdict, answer.trust.reason, beyond)


def effect_text(hit: Hit) -> str:
    """What leaving the row out would do, with its interval; empty where it is not known."""
    effect = hit.predicted_effect
    return "" if effect is None else f"{effect.value:+.2g} ({effect.low:+.2g} to {effect.high:+.2g})"


def effect_lines(answer: Attribution) -> list[Text]:
    """What the column of effects means, where there is one."""
    known = [hit.predicted_effect for hit in (*answer.proponents, *answer.opponents) if hit.predicted_effect]
    if not known:
        return []
    meant = "predicted change of this output, in nats, if the row were left out of this run"
    return [Text(f"Effect: {meant} ({known[0].level:.0%} interval).", style="dim")]


def _judged(about: str, verdict: str, reason: str | None, beyond: str = "") -> Text:
    line = Text(about).append(clean(verdict).plain, style=VERDICT_STYLE.get(verdict, "yellow")).append(beyond)
    return line.append(f" ({one_line(reason, LONGEST).plain})") if reason else line
