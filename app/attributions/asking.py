"""A request's question in the engine's words. What is not well formed is refused here, with a pointer."""

from __future__ import annotations

from dataclasses import replace

from app.attributions.schemas import AttributionCreate, MemberBody, RemovalBody, SpanBody
from app.errors import InvalidRequest
from engine.errors import EmptyCompletion, InvalidQuery
from engine.types import AskOptions, Filter, Generate, Message, Query, RemovalSet, Span


def check_size(body: AttributionCreate, max_queries: int, max_query_chars: int) -> None:
    """Raises InvalidRequest."""
    if body.queries is not None and len(body.queries) > max_queries:
        detail = f"There are {len(body.queries)} queries; this server takes at most {max_queries} in one set."
        raise InvalidRequest(detail, pointer="/queries")
    for number, asked in enumerate(body.queries or [body]):
        length = sum(len(text or "") for text in (asked.prompt, asked.completion, asked.contrast))
        length += sum(len(turn.role) + len(turn.content) for turn in asked.messages or ())
        if length > max_query_chars:
            detail = f"The query has {length} characters; this server takes at most {max_query_chars}."
            raise InvalidRequest(detail, pointer=None if body.queries is None else f"/queries/{number}")


def query_of(body: AttributionCreate) -> Query:
    """Raises InvalidQuery, EmptyCompletion."""
    if body.queries is not None:
        return _set_of(body, body.queries)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidQuery("Give exactly one of prompt and messages.", pointer="/prompt")
    if body.completion is not None and body.generate is not None:
        raise InvalidQuery("Give either completion or generate, not both.", pointer="/generate")
    generate = body.generate and Generate(**body.generate.model_dump())
    return replace(_one(body, "", generates=generate is not None), generate=generate, measurement=body.measurement)


def _set_of(body: AttributionCreate, members: list[MemberBody]) -> Query:
    for name in ("prompt", "messages", "completion", "generate", "contrast", "span"):
        if getattr(body, name) is not None:
            detail = f"Give either queries or {name}, not both: every query of a set brings its own."
            raise InvalidQuery(detail, pointer=f"/{name}")
    asked = tuple(query_of_member(member, f"/queries/{number}") for number, member in enumerate(members))
    return Query(members=asked, measurement=body.measurement)


def query_of_member(body: MemberBody, at: str) -> Query:
    """One of several queries. Raises InvalidQuery, EmptyCompletion, pointing below `at`."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidQuery("Give exactly one of prompt and messages.", pointer=f"{at}/prompt")
    return _one(body, at)


def _one(body: AttributionCreate | MemberBody, at: str, *, generates: bool = False) -> Query:
    """at: the pointer of `body` in the request."""
    completion = None if generates else _completion(body, at)
    _check_contrast(body.contrast, completion, at)
    _check_span(body.span, completion, at)
    return Query(
        prompt=body.prompt,
        messages=None if body.messages is None else tuple(Message(m.role, m.content) for m in body.messages),
        completion=body.completion,
        contrast=body.contrast,
        span=body.span and Span(body.span.start, body.span.end),
    )


def ask_of(body: AttributionCreate, max_top_k: int) -> AskOptions:
    """Raises InvalidRequest."""
    check_top_k(body.top_k, max_top_k)
    return AskOptions(
        method=body.method,
        normalize=body.normalize,
        top_k=body.top_k,
        opponents=body.opponents,
        tokens=body.tokens,
        modules=body.modules,
        filter=body.filter and Filter(dict(body.filter.tags), tuple(body.filter.exclude_ids)),
        group_by=body.group_by,
        search=body.search,
        removal=body.removal and _removal(body.removal),
    )


def check_top_k(top_k: int, highest: int) -> None:
    """Raises InvalidRequest."""
    if top_k > highest:
        raise InvalidRequest(f"top_k is {top_k}; this server gives at most {highest}.", pointer="/top_k")


def _removal(body: RemovalBody) -> RemovalSet:
    if not body.tags and not body.ids:
        raise InvalidRequest("Name the rows to take out: by tags, by ids, or by both.", pointer="/removal")
    return RemovalSet(dict(body.tags), tuple(body.ids))


def _completion(body: AttributionCreate | MemberBody, at: str) -> str:
    """The completion that is not left to the model to generate."""
    if body.completion is not None:
        return _not_empty(body.completion, f"{at}/completion", "completion")
    if body.messages is None:
        raise InvalidQuery("Give the completion to explain, or generate.", pointer=f"{at}/completion")
    last = len(body.messages) - 1
    if body.messages[last].role != "assistant" or last == 0:
        cause = "There is nothing to explain: messages do not end with the assistant's answer to an earlier turn."
        remedy = "End messages with an assistant turn, or give completion or generate."
        raise InvalidQuery(cause, remedy=remedy, pointer=f"{at}/messages/{last}")
    return _not_empty(body.messages[last].content, f"{at}/messages/{last}/content", "last assistant turn")


def _not_empty(text: str, pointer: str, name: str) -> str:
    if not text:
        raise EmptyCompletion(f"The {name} is empty.", pointer=pointer)
    return text


def _check_contrast(contrast: str | None, completion: str | None, at: str) -> None:
    if contrast is None:
        return
    _not_empty(contrast, f"{at}/contrast", "contrast")
    if contrast == completion:
        cause = "The contrast equals the completion, so nothing differs between them."
        raise InvalidQuery(cause, pointer=f"{at}/contrast")


def _check_span(span: SpanBody | None, completion: str | None, at: str) -> None:
    if span is None:
        return
    if span.start >= span.end:
        raise InvalidQuery(f"The span [{span.start}, {span.end}) is empty.", pointer=f"{at}/span")
    if completion is not None and span.end > len(completion):
        detail = f"The span ends at {span.end}, but the completion has {len(completion)} characters."
        raise InvalidQuery(detail, pointer=f"{at}/span/end")
