"""The form of a question: from its fields to a request of the API, and from a stored request back to the fields."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from app.attributions.schemas import AttributionCreate
from app.errors import InvalidRequest
from app.problems import pointer_of

DEFAULT_TOP_K = "5"
DEFAULT_NEW_TOKENS = "64"
# Of the API's fields, what the form calls them: a refusal names the field that a person filled in.
_LABELS = {"max_new_tokens": "Longest generated output", "top_k": "Rows a list (top_k)", "span": "Words to explain"}


class AskForm(BaseModel):
    """Fields as they were sent: texts, an empty one for what was left open. A checkbox sends `on`, or nothing.

    tags: one `key=value` a line. span_start, span_end: characters [start, end) of the completion.
    """

    model_config = ConfigDict(frozen=True)

    index: str = ""
    prompt: str = ""
    completion: str = ""
    span_start: str = ""
    span_end: str = ""
    contrast: str = ""
    method: str = ""
    top_k: str = DEFAULT_TOP_K
    no_opponents: str = ""
    tokens: str = ""
    log_odds: str = ""
    group_by: str = ""
    tags: str = ""
    exclude_ids: str = ""
    max_new_tokens: str = DEFAULT_NEW_TOKENS

    @field_validator("prompt", "completion", "contrast", "tags", "exclude_ids")
    @classmethod
    def _lines_end_as_in_rows(cls, text: str) -> str:
        """Browsers send CRLF for a line break in a text area; training rows hold LF."""
        return text.replace("\r\n", "\n")

    def fields(self, **changes: str) -> dict[str, str]:
        """What a form sends to ask this, with some of it changed."""
        return {name: value for name, value in (self.model_dump() | changes).items() if value}

    @property
    def folded(self) -> tuple[str, ...]:
        """What is said in fields that the form keeps folded away, in words."""
        said = (
            (self.contrast, "rather than another output"),
            (self.method, f"method {self.method}"),
            (self.tokens, "scores by token"),
            (self.no_opponents, "no opponents"),
            (self.log_odds, "log-odds"),
            (self.group_by, f"summed by {self.group_by}"),
            (self.tags, "some tags only"),
            (self.exclude_ids, "without some rows"),
        )
        return tuple(words for value, words in said if value)


def question_of(form: AskForm, *, method: str | None = None) -> AttributionCreate:
    """An empty completion asks the model for one. Raises InvalidRequest."""
    asked: dict[str, Any] = {
        "index": form.index,
        "prompt": form.prompt,
        "contrast": form.contrast or None,
        "method": method or form.method or None,
        "top_k": _number(form.top_k, "top_k"),
        "opponents": not form.no_opponents,
        "tokens": bool(form.tokens),
        "measurement": "log_odds" if form.log_odds else "log_prob",
        "span": _span(form),
        "filter": _filter(form),
        "group_by": f"tags.{form.group_by.strip().removeprefix('tags.')}" if form.group_by.strip() else None,
    }
    asked |= {"completion": form.completion} if form.completion else {"generate": generate_of(form)}
    try:
        return AttributionCreate(**asked)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = pointer_of(("body", *first["loc"]))
        raise InvalidRequest(f"{field.lstrip('/')}: {first['msg']}.", pointer=field) from error


def generate_of(form: AskForm) -> dict[str, int]:
    """Raises InvalidRequest."""
    return {"max_new_tokens": _number(form.max_new_tokens, "max_new_tokens")}


def form_of(request: dict[str, Any], query: dict[str, Any] | None) -> AskForm:
    """The form that asks a stored request again. query: of its answer, once there is one."""
    asked = query or request
    generated = request.get("generate")
    span, wanted = request.get("span") or {}, request.get("filter") or {}
    return AskForm(
        index=request["index"] or "",
        prompt=asked.get("prompt") or "",
        completion=asked.get("completion") or "",
        span_start=str(span.get("start", "")),
        span_end=str(span.get("end", "")),
        contrast=request.get("contrast") or "",
        method=request.get("method") or "",
        top_k=str(request["top_k"]),
        no_opponents="" if request.get("opponents", True) else "on",
        tokens="on" if request.get("tokens") else "",
        log_odds="on" if request.get("measurement") == "log_odds" else "",
        group_by=(request.get("group_by") or "").removeprefix("tags."),
        tags="\n".join(f"{key}={value}" for key, value in (wanted.get("tags") or {}).items()),
        exclude_ids="\n".join(wanted.get("exclude_ids") or ()),
        max_new_tokens=str(generated["max_new_tokens"]) if generated else DEFAULT_NEW_TOKENS,
    )


def _number(text: str, field: str) -> int:
    stripped = text.strip()
    if not (stripped.isascii() and stripped.isdecimal()) or len(stripped) > 9:
        raise InvalidRequest(f"{_LABELS[field]}: {text[:40]!r} is no whole number.", pointer=f"/{field}")
    return int(stripped)


def _span(form: AskForm) -> dict[str, int] | None:
    if not form.span_start.strip() and not form.span_end.strip():
        return None
    if not form.completion:
        remedy = "Press Generate first, then select the words to explain; or explain the whole output."
        raise InvalidRequest("Words to explain: there is no output yet.", remedy=remedy, pointer="/span")
    return {"start": _number(form.span_start, "span"), "end": _number(form.span_end, "span")}


def _filter(form: AskForm) -> dict[str, Any] | None:
    tags = dict(_tag(line) for line in form.tags.split("\n") if line.strip())
    excluded = [line.strip() for line in form.exclude_ids.split("\n") if line.strip()]
    return {"tags": tags, "exclude_ids": excluded} if tags or excluded else None


def _tag(line: str) -> tuple[str, str]:
    key, given, value = line.strip().partition("=")
    if not given or not key.strip():
        remedy = "Write one tag a line, as key=value."
        raise InvalidRequest(
            f"Only rows with the tags: {line.strip()[:60]!r} is no tag.", remedy=remedy, pointer="/filter"
        )
    return key.strip(), value.strip()
