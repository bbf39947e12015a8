"""An answer's question as a program would ask it: curl, and our own client."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from app.attributions.schemas import AttributionCreate


@dataclass(frozen=True)
class Snippets:
    curl: str
    python: str


def snippets(request: dict[str, Any], address: str, *, with_key: bool) -> Snippets:
    """request: as it is stored. address: of this server. with_key: whether it wants one (read from WHENCE_API_KEY)."""
    asked = {name: value for name, value in request.items() if value is not None and value != _default(name)}
    key = ['-H "Authorization: Bearer $WHENCE_API_KEY"'] if with_key else []
    lines = [
        f"curl -sS {shlex.quote(f'{address}/v1/attributions')}",
        "-H 'Content-Type: application/json'",
        *key,
        f"-d {shlex.quote(json.dumps(asked))}",
    ]
    return Snippets(" \\\n  ".join(lines), _python(asked, address, with_key=with_key))


def _python(asked: dict[str, Any], address: str, *, with_key: bool) -> str:
    fields = "".join(f"        {name}={value!r},\n" for name, value in asked.items())
    key = "  # the key: WHENCE_API_KEY" if with_key else ""
    return (
        "from whence_client import Whence\n\n"
        f"with Whence({address!r}) as whence:{key}\n"
        f"    answer = whence.ask(\n{fields}    )\n"
        "for hit in answer.proponents:\n"
        "    print(hit.rank, hit.score, hit.example_id)\n"
    )


def _default(name: str) -> Any:
    field = AttributionCreate.model_fields.get(name)
    return None if field is None else field.get_default(call_default_factory=True)
