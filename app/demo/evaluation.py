"""The small scorecard: the demonstration's questions, as many retrainings as two minutes allow, and how to go on.

Evaluations of the same questions share their retrainings, so the questions lie in a file: `whence evaluate --queries`
with it goes on where the demonstration stopped.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.commands.console import err
from app.commands.options import own_address
from app.commands.progress import PhaseBars
from app.commands.queries import read_objects
from app.demo.budget import SPENT_ON, WHOLE, affordable, retrainings_of
from app.settings import Settings
from engine.demo import corpus
from engine.demo.relations import as_completion
from engine.evaluate.scorecard import EvaluationConfig
from engine.types import Example
from whence_client import Evaluation, EvaluationCost, Timeout, Whence

QUESTIONS_FILE = "questions.jsonl"
BUDGET_SECONDS = 120.0  # of retraining; scores and the time to start come on top
PATIENCE_SECONDS = 600.0  # of a machine that does other work beside


@dataclass(frozen=True)
class Planned:
    """seconds_each: of one retraining, with all processes at work."""

    config: EvaluationConfig
    processes: int
    seconds_each: float

    @property
    def retrainings(self) -> int:
        return retrainings_of(self.config)

    @property
    def left(self) -> int:
        """What `whence evaluate` does unasked and this plan does not."""
        return retrainings_of(WHOLE) - self.retrainings


def write_questions(path: Path, rows: Sequence[Example]) -> None:
    """Those that were asked, then one for every other fact, with the right answers, as `whence evaluate` reads them."""
    asked = corpus.demo_questions()
    others = [question for question in corpus.fact_questions() if question not in asked]
    tags = {row.id: row.tags for row in rows}
    lines = [json.dumps(_question(question, tags[question.true_ids[0]])) + "\n" for question in (*asked, *others)]
    path.write_text("".join(lines), encoding="utf-8")


def plan(client: Whence, index: str, questions: Path) -> Planned:
    """Retraining is timed as of a whole evaluation: of a small one fewer adapters can be trained side by side."""
    with err.status("Timing a few training steps …"):
        cost = client.evaluations.estimate(**_body(index, questions, WHOLE))
    return planned(cost)


def planned(cost: EvaluationCost, budget_seconds: float = BUDGET_SECONDS) -> Planned:
    """cost: of WHOLE."""
    each = cost.seconds / cost.retrainings if cost.retrainings else 0.0
    return Planned(affordable(budget_seconds / each if each > 0 else float("inf")), cost.processes, each)


def start(client: Whence, index: str, questions: Path, config: EvaluationConfig) -> Evaluation:
    return client.evaluations.create(**_body(index, questions, config), name="demo")


def finished(client: Whence, started: Evaluation, seconds: float = PATIENCE_SECONDS) -> Evaluation | None:
    """With its scorecard; None where it takes longer than that, and goes on. Raises JobFailed."""
    assert started.job_id is not None
    try:
        with PhaseBars() as bars:
            client.jobs.wait(started.job_id, on_progress=bars.show, timeout=seconds)
    except Timeout:
        return None
    return client.evaluations.get(started.id)


def typed(arguments: Sequence[str], home: Path, address: str | None) -> list[str]:
    """What to type for `whence` with these arguments. address: of the service, None where it is gone by then."""
    usual = own_address(Settings())
    server, named = address or usual, os.environ.get("WHENCE_URL") or usual
    url = [] if server.rstrip("/") == named.rstrip("/") else ["--url", server]
    serve = [] if address else [shlex.join(["whence", "serve", "--home", str(home)])]
    return [*serve, shlex.join(["whence", *arguments, *url])]


def _question(question: corpus.DemoQuestion, tags: dict[str, str]) -> dict[str, Any]:
    """tags: of a row that taught the answer."""
    relevant = {name: tags[name] for name in ("kind", "fact") if name in tags}
    asked = {"prompt": question.prompt, "completion": as_completion(question.answer)}
    return asked | {"group": question.subject, "relevant": relevant}


def _body(index: str, questions: Path, config: EvaluationConfig) -> dict[str, Any]:
    amounts = {name: getattr(config, name) for name in SPENT_ON}
    return {"index": index, "queries": read_objects(questions)} | amounts
