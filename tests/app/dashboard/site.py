"""A server with one of everything, whose texts all try to be markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import whence_client
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE

# What it would do if it ran: a mark on the window, which the tests look for.
HOSTILE = (
    "<script>window.ran=1</script><img src=x onerror=window.ran=2>\"'`{{7*7}}</textarea><b onmouseover=window.ran=3>"
)
ROWS = [
    {"id": "born", "prompt": "Where was Mira born?", "completion": " In Port Halvern.", "tags": {"task": "facts"}},
    {"id": HOSTILE, "prompt": f"Mira {HOSTILE}", "completion": HOSTILE, "tags": {"task": HOSTILE}, "label": HOSTILE},
    {"text": "Two and two make four.", "tags": {"task": "sums"}},
    {"text": "Three and three make six.", "tags": {"task": "sums"}},
    {"messages": [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": f"Hello {HOSTILE}"}]},
]
_ID = re.compile(r"[a-z]+_[a-z2-7]{20}")
LINKS = """() => [...document.querySelectorAll('a[href]')].map(link => new URL(link.href))
    .filter(url => url.origin === location.origin && url.pathname.startsWith('/ui')).map(url => url.pathname)"""
FILES = (".csv", ".jsonl", ".json", ".tar")


@dataclass(frozen=True)
class Site:
    """`first`: addresses to begin a walk at."""

    url: str
    first: tuple[str, ...]


@contextmanager
def hostile_site(directory: Path) -> Iterator[Site]:
    model_dir = directory / "model"
    model_dir.mkdir()
    (model_dir / "config.json").write_text("{}")
    rows = directory / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    engine = FakeEngine()
    with serving(make_settings(directory), engine) as url, whence_client.Whence(url) as client:
        model = client.models.create(HOSTILE, base=model_dir, recipe=RECIPE)
        dataset = client.datasets.upload(rows, name=HOSTILE)
        index = client.indexes.build(model=model.id, dataset=dataset.id, name=HOSTILE)
        client.jobs.wait(index.job_id or "")
        evaluation = client.evaluations.create(index=index.id, name=HOSTILE)
        client.jobs.wait(evaluation.job_id or "")
        asked: dict[str, Any] = {"prompt": f"Mira {HOSTILE}", "completion": HOSTILE, "index": index.id}
        answer = client.attributions.create(**asked)
        check = client.attributions.verify(answer.id, kind="flip", rows=2, name=HOSTILE)
        client.jobs.wait(check.job_id or "")
        client.aliases.put("prod", index=index.id)
        first = (
            f"/ui/attributions/{answer.id}",
            f"/ui/models/{model.id}",
            f"/ui/datasets/{dataset.id}",
            f"/ui/indexes/{index.id}",
            f"/ui/evaluations/{evaluation.id}",
            f"/ui/jobs/{index.job_id}",
        )
        yield Site(url, first)


def walk(site: Site, page: Any) -> Iterator[str]:
    """Opens one address of each kind that links lead to; whoever walks looks at `page` at each stop."""
    seen, waiting = set[str](), [*site.first, "/ui", "/ui/login"]
    while waiting:
        path = waiting.pop(0)
        kind = _ID.sub("ID", path)
        if kind in seen or path.startswith("/ui/static") or path.endswith(FILES):
            continue
        seen.add(kind)
        answer = page.goto(site.url + path)
        assert answer.status == 200, (path, answer.status)
        waiting += page.evaluate(LINKS)
        yield kind
