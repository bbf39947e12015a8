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
SHORT = 160


@dataclass(frozen=True)
class HitView:
    """One ranked row. bar: width in percent of the longest bar on the page."""

    rank: int
    example_id: str
    score: str
    bar: float
    percentile: str
    tags: tuple[str, ...]
    prompt: str
    text: str


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
    proponents: tuple[HitView, ...]
    opponents: tuple[HitView, ...]
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
    trust: dict[str, str] = body["trust"]
    return AnswerView(
        id=body["id"],
        prompt=body["query"]["prompt"],
        tokens=completion_tokens(body["query"]),
        measured=_measured(body["measurement"]),
        fine_tuning=_fine_tuning(body["tuned_minus_base"]),
        raised=None if body["tuned_minus_base"] is None else body["tuned_minus_base"] > 0,
        verdict=trust["verdict"],
        verdict_text=VERDICTS.get(trust["verdict"], trust["verdict"]),
        verdict_reason=trust.get("reason") or "",
        proponents=tuple(_hit(hit, longest) for hit in body["proponents"]),
        opponents=tuple(_hit(hit, longest) for hit in body["opponents"]),
        signed=body["signed"],
        warnings=tuple(diagnostics["warnings"]),
        method=body["method"],
        index=body["index"],
        searched=f"{diagnostics['searched']:,} of {diagnostics['total']:,} rows",
        milliseconds=f"{body['timings_ms'].get('total') or 0.0:,.0f} ms",
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
    )


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
