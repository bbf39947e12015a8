"""Measured outcomes on disk: one small checksummed file a finished retraining, so that none is done twice.

<out>/plan.json             what all of them share: a fingerprint, the stack's width; which stacks were begun
<out>/runs/<key>.json       {"variant", "outcome", "answers" where some were looked at, "checksum"}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.causal.variant import Variant
from engine.config import fingerprint
from engine.durable import remove_partials, write_durably
from engine.errors import InvalidOption

PLAN_FILE = "plan.json"


class OutcomeStore:
    """Results of one study: same base, rows, recipe and queries."""

    def __init__(self, path: Path, study: str) -> None:
        """study: the fingerprint of all that the variants share. Raises InvalidOption when `path` holds another's."""
        self.path, self.study = path, study
        (path / "runs").mkdir(parents=True, exist_ok=True)
        remove_partials(path)
        found = self.plan().get("study", study)
        if found != study:
            raise InvalidOption(
                f"{path} holds retrainings of another base, dataset, recipe or set of queries.",
                remedy="Give a new directory, or remove that one.",
            )

    @classmethod
    def at(cls, path: Path) -> OutcomeStore:
        """Of whatever study `path` holds."""
        return cls(path, _read_plan(path).get("study", ""))

    def plan(self) -> dict[str, Any]:
        return _read_plan(self.path)

    def write_plan(self, **fields: Any) -> None:
        """In the place of what it was."""
        _write(self.path / PLAN_FILE, fields | {"study": self.study})

    def write(self, variant: Variant, outcome_Q: np.ndarray, answers: Sequence[str] = ()) -> None:
        record: dict[str, Any] = {"variant": asdict(variant), "outcome": outcome_Q.tolist()}
        record |= {"answers": list(answers)} if answers else {}
        _write(self._file(variant), record | {"checksum": _checksum(record)})

    def read(self, variant: Variant) -> np.ndarray | None:
        """float64 [Q]; None when it is not there or not whole: then it is to be done (again)."""
        record = self._record(variant)
        return None if record is None else np.array(record["outcome"], np.float64)

    def answers(self, variant: Variant) -> tuple[str, ...]:
        """The greedy answers after a retraining that is there."""
        record = self._record(variant)
        return () if record is None else tuple(record.get("answers", ()))

    def _record(self, variant: Variant) -> dict[str, Any] | None:
        try:
            record = json.loads(self._file(variant).read_text(encoding="utf-8"))
            checksum = record.pop("checksum")
            return record if checksum == _checksum(record) and "outcome" in record else None
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None

    def key(self, variant: Variant) -> str:
        return fingerprint(self.study, variant)

    def _file(self, variant: Variant) -> Path:
        return self.path / "runs" / f"{self.key(variant)}.json"


def _read_plan(path: Path) -> dict[str, Any]:
    file = path / PLAN_FILE
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidOption(f"{file} is damaged.", remedy="Remove that file; finished retrainings beside it are kept.")
    return found


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, sort_keys=True).encode()
    write_durably(path, lambda sink: sink.write(text))
