"""A request's question in the engine's words. What is not well formed is refused here, with a pointer."""

from __future__ import annotations

from app.attributions.schemas import AttributionCreate
from app.errors import InvalidRequest
from engine.errors import EmptyCompletion, InvalidQuery
from engine.types import AskOptions, Filter, Generate, Message, Query, Span


def query_of(body: AttributionCreate) -> Query:
    """Raises InvalidQuery, EmptyCompletion."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidQuery("Give exactly one of prompt and messages.", pointer="/prompt")
    if body.completion is not None and body.generate is not None:
        raise InvalidQuery("Give either completion or generate, not both.", pointer="/generate")
    completion = _completion(body)
    _check_contrast(body.contrast, completion)
    _check_span(body, completion)
    return Query(
        prompt=body.prompt,
        messages=None if body.messages is None else tuple(Message(m.role, m.content) for m in body.messages),
        completion=body.completion,
        generate=body.generate and Generate(**body.generate.model_dump()),
        contrast=body.contrast,
        span=body.span and Span(body.span.start, body.span.end),
    )


def ask_of(body: AttributionCreate, max_top_k: int) -> AskOptions:
    """Raises InvalidRequest."""
    if body.top_k > max_top_k:
        raise InvalidRequest(f"top_k is {body.top_k}; this server gives at most {max_top_k}.", pointer="/top_k")
    return AskOptions(
        method=body.method,
        normalize=body.normalize,
        top_k=body.top_k,
        opponents=body.opponents,
        tokens=body.tokens,
        modules=body.modules,
        filter=body.filter and Filter(dict(body.filter.tags), tuple(body.filter.exclude_ids)),
        group_by=body.group_by,
    )


def _completion(body: AttributionCreate) -> str | None:
    """The completion as far as it is known: None when the model is to generate it."""
    if body.generate is not None:
        return None
    if body.completion is not None:
        return _not_empty(body.completion, "/completion", "completion")
    if body.messages is None:
        raise InvalidQuery("Give the completion to explain, or generate.", pointer="/completion")
    last = len(body.messages) - 1
    if body.messages[last].role != "assistant" or last == 0:
        cause = "There is nothing to explain: messages do not end with the assistant's answer to an earlier turn."
        remedy = "End messages with an assistant turn, or give completion or generate."
        raise InvalidQuery(cause, remedy=remedy, pointer=f"/messages/{last}")
    return _not_empty(body.messages[last].content, f"/messages/{last}/content", "last assistant turn")


def _not_empty(text: str, pointer: str, name: str) -> str:
    if not text:
        raise EmptyCompletion(f"The {name} is empty.", pointer=pointer)
    return text


def _check_contrast(contrast: str | None, completion: str | None) -> None:
    if contrast is None:
        return
    _not_empty(contrast, "/contrast", "contrast")
    if contrast == completion:
        raise InvalidQuery("The contrast equals the completion, so nothing differs between them.", pointer="/contrast")


def _check_span(body: AttributionCreate, completion: str | None) -> None:
    span = body.span
    if span is None:
        return
    if span.start >= span.end:
        raise InvalidQuery(f"The span [{span.start}, {span.end}) is empty.", pointer="/span")
    if completion is not None and span.end > len(completion):
        detail = f"The span ends at {span.end}, but the completion has {len(completion)} characters."
        raise InvalidQuery(detail, pointer="/span/end")
