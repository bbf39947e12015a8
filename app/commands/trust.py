"""How far an answer can be trusted, in words: the verdict, why, what to do, and what is expected of this question."""

from __future__ import annotations

from rich.text import Text

from app.checks.words import effect_name
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
    if trust.measured is not None:
        lines.append(one_line(trust.measured.words, LONGEST))
    return lines


def trust_line(answer: Attribution) -> Text:
    beyond = ", extrapolated" if answer.trust.scope.extrapolated else ""
    return _judged("Trust: ", answer.trust.verdict, answer.trust.reason, beyond)


def effect_text(hit: Hit) -> str:
    """What leaving the row out would do, with its interval; empty where it is not known."""
    effect = hit.predicted_effect
    return "" if effect is None else f"{effect.value:+.2g} ({effect.low:+.2g} to {effect.high:+.2g})"


def measured_text(hit: Hit) -> str:
    """What a check measured of the row; empty where none did."""
    effect = hit.effect
    if effect is None:
        return ""
    between = "" if effect.low is None or effect.high is None else f" ({effect.low:+.2g} to {effect.high:+.2g})"
    return f"{effect.measured:+.2g}{between}"


def effect_lines(answer: Attribution) -> list[Text]:
    """What the columns of effects mean, where there are any."""
    hits, lines = (*answer.proponents, *answer.opponents), list[Text]()
    if known := [hit.predicted_effect for hit in hits if hit.predicted_effect]:
        meant = "predicted change of this output, in nats, if the row were left out of this run"
        lines.append(Text(f"Effect: {meant} ({known[0].level:.0%} interval).", style="dim"))
    if kinds := dict.fromkeys(effect_name(hit.effect.kind) for hit in hits if hit.effect):
        lines.append(Text(f"Measured: change of this output, in nats, by {' or '.join(kinds)}.", style="dim"))
    return lines


def _judged(about: str, verdict: str, reason: str | None, beyond: str = "") -> Text:
    line = Text(about).append(clean(verdict).plain, style=VERDICT_STYLE.get(verdict, "yellow")).append(beyond)
    return line.append(f" ({one_line(reason, LONGEST).plain})") if reason else line
