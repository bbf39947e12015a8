"""How a training row is shown beside a score: the same fields wherever rows are ranked."""

from __future__ import annotations

from typing import Any

from engine.dataset import example_text
from engine.types import Example


def shown(example: Example) -> dict[str, Any]:
    """{prompt, completion, text, tags, label}; a conversation is rendered as `text`."""
    text = example_text(example) if example.messages is not None else example.text
    return {
        "prompt": example.prompt,
        "completion": example.completion,
        "text": text,
        "tags": dict(example.tags),
        "label": example.label,
    }
