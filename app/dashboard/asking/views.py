"""From stored answers to what the templates show: words, percentages, bar widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.dashboard.asking.groups import GroupsView, groups_view
from app.dashboard.asking.hits import HitView, hit_view
from app.dashboard.asking.tokens import Kind, TokenView, coloured, kind_of, output_tokens, parts_of
from app.dashboard.words import moment, shorten

NOT_PROVEN = (
    "A high score predicts that training on this row more would raise this output. It does not prove that the model "
    "copied the row, nor that without it the output would be gone."
)
VERDICTS = {
    "trusted": "Trusted: for this model, scores like these predicted what retraining really did.",
    "weak": "Weak evidence: for this model, scores like these predicted retraining only in part.",
    "untrusted": "Not to be trusted: for this model, scores like these did not predict what retraining did.",
    "unmeasured": "Not measured yet: how well these scores predict retraining is unknown for this model.",
}
QUESTIONS = {
    "composition": "What would a differently composed training set do?",
    "this_run": "What did these rows do in this very run?",
}
CHECKED = 5  # rows that the table of causal checks names


@dataclass(frozen=True)
class ClusterView:
    """Near-duplicates among the rows shown."""

    name: str
    example_ids: tuple[str, ...]
    score: str


@dataclass(frozen=True)
class QuestionView:
    """One of the two questions that a verdict can be about. measured: the figure behind it, empty where none is."""

    title: str
    verdict: str
    reason: str
    measured: str


@dataclass(frozen=True)
class TrustView:
    """scorecard: id of the evaluation that says so. measured: of this very answer, by a check; empty where none was."""

    verdict: str
    words: str
    reason: str
    remedy: str
    questions: tuple[QuestionView, ...]
    reliability: str
    unreliable: bool
    beyond: tuple[str, ...]
    scorecard: str | None
    measured: str


@dataclass(frozen=True)
class AnswerView:
    """parts: what the tokens' colours are made of. no_parts: why there are none, empty where there are."""

    id: str
    prompt: str
    completion: str
    contrast: str
    members: int
    tokens: tuple[TokenView, ...]
    parts: Kind
    no_parts: str
    measured: str
    fine_tuning: str
    raised: bool | None
    trust: TrustView
    proponents: tuple[HitView, ...]
    opponents: tuple[HitView, ...]
    clusters: tuple[ClusterView, ...]
    groups: GroupsView | None
    signed: bool
    warnings: tuple[str, ...]
    method: str
    model: str
    index: str
    searched: str
    milliseconds: str
    created: str

    @property
    def measured_rows(self) -> bool:
        """Whether a check has measured single rows: its chart shows them then."""
        return any(hit.measured for hit in self.proponents)

    @property
    def checked(self) -> tuple[HitView, ...]:
        """The rows that an experiment would look at first."""
        return self.proponents[:CHECKED]


@dataclass(frozen=True)
class RecentView:
    id: str
    prompt: str
    completion: str
    when: str
    state: str


def answer_view(body: dict[str, Any], request: dict[str, Any]) -> AnswerView:
    """`body`: an attribution as GET /v1/attributions/{id} gives it; `request`: as it is stored."""
    hits = body["proponents"] + body["opponents"]
    longest = max((abs(hit["score"] or 0.0) for hit in hits), default=0.0)
    diagnostics: dict[str, Any] = body["diagnostics"]
    pieces = output_tokens(body["query"])
    kind = kind_of(hits, len(body["query"]["tokens"]))
    tokens = coloured(pieces, [parts_of(hit, pieces, kind) for hit in hits]) if kind else pieces
    return AnswerView(
        id=body["id"],
        prompt=body["query"]["prompt"],
        completion=body["query"]["completion"],
        contrast=request.get("contrast") or "",
        members=len(body["query"].get("members") or ()),
        tokens=tokens,
        parts=kind,
        no_parts="" if kind or not hits else _no_parts(request, body["method"]),
        measured=_measured(body["measurement"]),
        fine_tuning=_fine_tuning(body["tuned_minus_base"]),
        raised=None if body["tuned_minus_base"] is None else body["tuned_minus_base"] > 0,
        trust=trust_view(body["trust"]),
        proponents=tuple(hit_view(hit, "for", longest, pieces, kind) for hit in body["proponents"]),
        opponents=tuple(hit_view(hit, "against", longest, pieces, kind) for hit in body["opponents"]),
        clusters=tuple(_cluster(cluster) for cluster in body.get("clusters", ())),
        groups=groups_view(body, (request.get("group_by") or "").removeprefix("tags.")),
        signed=body["signed"],
        warnings=tuple(diagnostics["warnings"]),
        method=body["method"],
        model=body["model"],
        index=body["index"],
        searched=_searched(diagnostics),
        milliseconds=f"{body['timings_ms'].get('total') or 0.0:,.0f} ms",
        created=moment(body["created_at"]),
    )


def _searched(diagnostics: dict[str, Any]) -> str:
    rows = f"{diagnostics['searched']:,} of {diagnostics['total']:,} rows"
    recall = diagnostics.get("recall_at_10")
    return rows if recall is None else f"{rows}, through lists that hold {recall:.0%} of the ten best,"


def trust_view(trust: dict[str, Any]) -> TrustView:
    said = VERDICTS.get(trust["verdict"], str(trust["verdict"]))
    beyond = trust["scope"]["extrapolated"]
    return TrustView(
        verdict=trust["verdict"],
        words=said + (" (Extrapolated: this answer lies beyond what was measured.)" if beyond else ""),
        reason=trust["reason"],
        remedy=trust["remedy"] or "",
        questions=_questions(trust),
        reliability=trust["reliability"]["words"] if trust["reliability"] else "",
        unreliable=trust["reliability"] is not None and trust["reliability"]["level"] == "low",
        beyond=tuple(trust["scope"]["reasons"]) if beyond else (),
        scorecard=trust["scorecard"],
        measured=(trust.get("measured") or {}).get("words", ""),
    )


def recent_view(body: dict[str, Any], request: dict[str, Any]) -> RecentView:
    """`body` may be pending; then the question is told from the request."""
    query = body.get("query") or request
    prompt = query.get("prompt") or " / ".join(turn["content"] for turn in query.get("messages") or ())
    return RecentView(
        id=body["id"],
        prompt=shorten(prompt),
        completion=shorten(query.get("completion") or "…"),
        when=moment(body["created_at"]),
        state=body["state"],
    )


def _no_parts(request: dict[str, Any], method: str) -> str:
    if request.get("tokens"):
        return f"{method} compares whole texts: it gives no scores by token."
    return (
        "Which token carries how much was not asked for: it takes one more backward pass for each token of the output."
    )


def _questions(trust: dict[str, Any]) -> tuple[QuestionView, ...]:
    """Once something was measured; before that both say the same."""
    if trust["scorecard"] is None:
        return ()
    asked = trust["questions"]
    return tuple(
        QuestionView(title, asked[name]["verdict"], asked[name]["reason"], _lds(asked[name]))
        for name, title in QUESTIONS.items()
    )


def _lds(question: dict[str, Any]) -> str:
    if question["lds"] is None:
        return ""
    said = f"Rank correlation of predicted and measured outcomes {question['lds']:.2f}"
    if None not in (question["low"], question["high"]):
        said += f" ({question['low']:.2f} to {question['high']:.2f})"
    return said + ("" if question["ceiling"] is None else f", of {question['ceiling']:.2f} at most") + "."


def _cluster(cluster: dict[str, Any]) -> ClusterView:
    score = "not finite" if cluster["score"] is None else f"{cluster['score']:+.4g}"
    together = f"together {score}" if cluster["additive"] else f"the strongest {score}"
    return ClusterView(f"near-duplicates {cluster['number']}", tuple(cluster["example_ids"]), together)


def _measured(measurement: dict[str, Any]) -> str:
    kind = measurement["kind"]
    what = "log-odds" if kind.endswith("log_odds") else "log p"
    what += " of this over the other completion" if "contrastive" in kind else ""
    what = f"mean {what}" if kind.startswith("mean") else what
    value = "not finite" if measurement["value"] is None else f"{measurement['value']:.2f}"
    return f"{what} = {value} over {measurement['tokens']} tokens"


def _fine_tuning(gain: float | None) -> str:
    if gain is None:
        return "What fine-tuning did to this output was not measured."
    said = f"log p tuned − base = {gain:+.2f}"
    if gain > 0:
        return f"Fine-tuning raised this output ({said})."
    return f"Fine-tuning did not raise this output ({said}): look for its cause in the base model."
