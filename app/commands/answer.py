"""An attribution as text: verdict first, then the rows, then what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from app.commands.console import one_line, out, table, warn
from app.commands.trust import effect_lines, effect_text, measured_text, trust_lines
from whence_client import Attribution, Hit
from whence_client.types import Cluster, Diagnostics, Group, Removal

NOT_PROVEN = (
    "A high score predicts that training on this row more would raise this output; it does not prove that the model "
    "copied it, nor that without it the output would be gone."
)


def show_answer(answer: Attribution) -> None:
    out.print(question_line(answer))
    for line in trust_lines(answer):
        out.print(line)
    out.print(fine_tuning_line(answer))
    out.print()
    out.print(hit_table("Proponents: they speak for this output", answer.proponents))
    if answer.opponents:
        out.print()
        out.print(hit_table("Opponents: they speak against it", answer.opponents))
    for line in (*effect_lines(answer), *tie_lines(answer), *map(cluster_line, answer.clusters)):
        out.print(line)
    if answer.groups:
        out.print()
        out.print(_group_table(answer.groups))
    if answer.removal is not None:
        out.print()
        out.print(removal_line(answer.removal))
    for message in answer.diagnostics.warnings:
        warn(message)
    out.print()
    out.print(Text(NOT_PROVEN, style="dim"))
    out.print(Text(f"{answer.id} · {answer.method} · index {answer.index}{searched(answer.diagnostics)}", style="dim"))


def question_line(answer: Attribution) -> Text:
    """The question and the output in one line, the output in bold."""
    line = one_line(answer.query.prompt, 300)
    line.append(" → ").append(one_line(answer.query.completion, 300).plain, style="bold")
    if answer.query.members is not None:
        line.append(f" (and {len(answer.query.members) - 1} more: the mean over {len(answer.query.members)} queries)")
    return line


def searched(figures: Diagnostics) -> str:
    """How, where not every row was read."""
    if figures.recall_at_10 is None:
        return ""
    return f" · approximate search: {figures.recall_at_10:.0%} of the ten best rows are found (exact: --flat)"


def removal_line(removal: Removal) -> Text:
    """What taking the rows out would do, as far as the scores predict it."""
    score = "not finite" if removal.score is None else f"{removal.score:+.4g}"
    line = Text(f"Taking out {removal.rows} rows: joint score {score}")
    if removal.predicted_change is not None:
        line.append(f", a predicted change of {removal.predicted_change:+.3g} in what is measured")
    return line.append(".")


def fine_tuning_line(answer: Attribution) -> Text:
    """What fine-tuning did to this output; when it did not raise it, that is the first thing to know."""
    gain = answer.tuned_minus_base
    if gain is None:
        return Text("What fine-tuning did to this output was not measured.", style="dim")
    what = "log-odds" if answer.measurement.kind.endswith("log_odds") else "log-probability"
    said = f"{what} tuned − base = {gain:+.2f}"
    if gain > 0:
        return Text(f"Fine-tuning raised this output: {said}.")
    return Text(
        f"Fine-tuning did not raise this output ({said}): look for its cause in the base model.", style="bold yellow"
    )


def hit_table(title: str, hits: Sequence[Hit]) -> Table:
    rows = [(rank_text(h), f"{h.score:+.4g}", _percentile(h), h.example_id, _tags(h), hit_text(h)) for h in hits]
    columns = [">#", ">score", ">pct", "example", "tags", "text"]
    known = {">effect": [effect_text(hit) for hit in hits], ">measured": [measured_text(hit) for hit in hits]}
    more = {name: cells for name, cells in known.items() if any(cells)}
    with_more = [(*row[:3], *(cells[at] for cells in more.values()), *row[3:]) for at, row in enumerate(rows)]
    return table(title, [*columns[:3], *more, *columns[3:]], with_more)


def rank_text(hit: Hit) -> str:
    """The rank, and of a tied row the ranks that its score's error allows."""
    if not hit.tied or hit.rank_low is None or hit.rank_high is None:
        return str(hit.rank)
    return f"{hit.rank} ({'≈' if hit.rank_estimated else ''}{hit.rank_low}–{hit.rank_high})"


def tie_lines(answer: Attribution) -> list[Text]:
    """What ranks in brackets mean, where there are any."""
    errors = {hit.rank_error for hit in (*answer.proponents, *answer.opponents) if hit.tied}
    if not errors:
        return []
    another_run = "as far as the checkpoints tell; another run might rank the row anywhere there"
    meant = another_run if "checkpoints" in errors else "the scores do not differ by more than rounding"
    return [Text(f"Ranks in brackets: tied, {meant}.", style="dim")]


def cluster_line(cluster: Cluster) -> Text:
    """A cluster of near-duplicates in one line."""
    score = "not finite" if cluster.score is None else f"{cluster.score:+.4g}"
    said = f"Near-duplicates {cluster.number}: {', '.join(cluster.example_ids)}; "
    return one_line(f"{said}{'together' if cluster.additive else 'the strongest'} {score}.", 400)


def hit_text(hit: Hit) -> Text:
    parts = [hit.prompt, hit.completion] if hit.prompt or hit.completion else [hit.text]
    return one_line(" → ".join(part.strip() for part in parts if part))


def _percentile(hit: Hit) -> str:
    return "" if hit.percentile is None else f"{hit.percentile:.1f}"


def _tags(hit: Hit) -> Text:
    return one_line(", ".join(f"{key}={value}" for key, value in hit.tags.items()), 60)


def _group_table(groups: Sequence[Group]) -> Table:
    rows = [(g.key, f"{g.score:+.4g}", f"{g.share:.1%}", g.count) for g in groups]
    return table("Groups", ["group", ">score", ">share", ">rows"], rows)
