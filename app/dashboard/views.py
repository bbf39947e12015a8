"""From stored answers to what the templates show: words, percentages, bar widths."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

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
SHORT = 160


@dataclass(frozen=True)
class HitView:
    """One ranked row. bar: width in percent of the longest bar on the page. tie, cluster, effect: words,
    empty when there is none."""

    rank: int
    example_id: str
    score: str
    bar: float
    percentile: str
    tags: tuple[str, ...]
    prompt: str
    text: str
    tie: str = ""
    cluster: str = ""
    effect: str = ""


@dataclass(frozen=True)
class ClusterView:
    """Near-duplicates among the rows shown."""

    name: str
    example_ids: tuple[str, ...]
    score: str


@dataclass(frozen=True)
class QuestionView:
    """One of the two questions that a verdict can be about."""

    title: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class TokenView:
    """A piece of the completion; `target`: its log-probability is what is being explained."""

    text: str
    target: bool


@dataclass(frozen=True)
class AnswerView:
    id: str
    prompt: str
    tokens: tuple[TokenView, ...]
    measured: str
    fine_tuning: str
    raised: bool | None
    verdict: str
    verdict_text: str
    verdict_reason: str
    remedy: str
    questions: tuple[QuestionView, ...]
    reliability: str
    unreliable: bool
    scorecard: str | None
    proponents: tuple[HitView, ...]
    opponents: tuple[HitView, ...]
    clusters: tuple[ClusterView, ...]
    signed: bool
    warnings: tuple[str, ...]
    method: str
    index: str
    searched: str
    milliseconds: str


@dataclass(frozen=True)
class RecentView:
    id: str
    prompt: str
    completion: str
    when: str
    state: str


def answer_view(body: dict[str, Any]) -> AnswerView:
    """`body`: an attribution as GET /v1/attributions/{id} gives it."""
    longest = max((abs(hit["score"] or 0.0) for hit in body["proponents"] + body["opponents"]), default=0.0)
    diagnostics: dict[str, Any] = body["diagnostics"]
    trust: dict[str, Any] = body["trust"]
    return AnswerView(
        id=body["id"],
        prompt=body["query"]["prompt"],
        tokens=completion_tokens(body["query"]),
        measured=_measured(body["measurement"]),
        fine_tuning=_fine_tuning(body["tuned_minus_base"]),
        raised=None if body["tuned_minus_base"] is None else body["tuned_minus_base"] > 0,
        verdict=trust["verdict"],
        verdict_text=_verdict(trust),
        verdict_reason=trust["reason"],
        remedy=trust["remedy"] or "",
        questions=_questions(trust),
        reliability=trust["reliability"]["words"] if trust["reliability"] else "",
        unreliable=trust["reliability"] is not None and trust["reliability"]["level"] == "low",
        scorecard=trust["scorecard"],
        proponents=tuple(_hit(hit, longest) for hit in body["proponents"]),
        opponents=tuple(_hit(hit, longest) for hit in body["opponents"]),
        clusters=tuple(_cluster(cluster) for cluster in body.get("clusters", ())),
        signed=body["signed"],
        warnings=tuple(diagnostics["warnings"]),
        method=body["method"],
        index=body["index"],
        searched=f"{diagnostics['searched']:,} of {diagnostics['total']:,} rows",
        milliseconds=f"{body['timings_ms'].get('total') or 0.0:,.0f} ms",
    )


def _verdict(trust: dict[str, Any]) -> str:
    said = VERDICTS.get(trust["verdict"], str(trust["verdict"]))
    beyond = " (Extrapolated: this answer lies beyond what was measured.)" if trust["scope"]["extrapolated"] else ""
    return said + beyond


def _questions(trust: dict[str, Any]) -> tuple[QuestionView, ...]:
    """Once something was measured; before that both say the same."""
    if trust["scorecard"] is None:
        return ()
    asked = trust["questions"]
    return tuple(
        QuestionView(title, asked[name]["verdict"], asked[name]["reason"]) for name, title in QUESTIONS.items()
    )


def completion_tokens(query: dict[str, Any]) -> tuple[TokenView, ...]:
    """The completion cut at its tokens. Characters between two tokens (spaces, with some tokenizers) are kept."""
    completion, pieces, end = query["completion"], [], 0
    for token in query["tokens"]:
        if token["part"] != "completion" or token["end"] <= end or token.get("member"):
            continue
        if token["start"] > end:
            pieces.append(TokenView(completion[end : token["start"]], False))
        pieces.append(TokenView(completion[max(end, token["start"]) : token["end"]], token["target"]))
        end = token["end"]
    rest = completion[end:]
    return (*pieces, TokenView(rest, False)) if rest else tuple(pieces)


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


def shorten(text: str, limit: int = SHORT) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def moment(value: datetime | str) -> str:
    then = datetime.fromisoformat(value) if isinstance(value, str) else value
    return then.strftime("%Y-%m-%d %H:%M UTC")


def _hit(hit: dict[str, Any], longest: float) -> HitView:
    score = hit["score"] or 0.0
    tags = dict(hit["tags"]) | ({"label": hit["label"]} if hit.get("label") else {})
    prompt = hit["prompt"] or ""
    return HitView(
        rank=hit["rank"],
        example_id=hit["example_id"],
        score=f"{score:+.4g}",
        bar=round(100.0 * abs(score) / longest, 2) if longest else 0.0,
        percentile="" if hit["percentile"] is None else f"{hit['percentile']:.1f}",
        tags=tuple(f"{key}: {value}" for key, value in tags.items()),
        prompt=prompt,
        text=hit["completion"] if hit["completion"] is not None else hit["text"] or "",
        tie=_tie(hit),
        cluster=f"near-duplicates {hit['cluster']}" if hit.get("cluster") else "",
        effect=_effect(hit["predicted_effect"]),
    )


def _effect(effect: dict[str, Any] | None) -> str:
    if effect is None:
        return ""
    interval = f"{effect['level']:.0%}: {effect['low']:+.2g} to {effect['high']:+.2g}"
    return f"left out: {effect['value']:+.2g} nats ({interval})"


def _tie(hit: dict[str, Any]) -> str:
    """Answers stored by earlier versions say nothing of ties."""
    if not hit.get("tied"):
        return ""
    about = "about " if hit["rank_estimated"] else ""
    return f"tied with rank {about}{hit['rank_low']}–{hit['rank_high']}"


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
