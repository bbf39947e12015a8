# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Bergson's SOURCE (Bae et al. 2024): training unrolled approximately, over all checkpoints at once.

Every checkpoint is a segment of its own. Bergson sums a row's losses, training takes the mean over a step's targets:
learning rates are divided by the mean number of targets a row. "adam" uses the run's own second moments.
"""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bergson.approx_unrolling.pipeline import approx_unrolling_pipeline
from bergson.config.config import ApproxUnrollingConfig, HessianConfig, InversionConfig
from bergson.data import load_scores
from safetensors.torch import load_file

from benchmarks.quality.peers.bergson_session import Session, copy_adapter, write_scores
from benchmarks.quality.peers.written import ALL_CHECKPOINTS, Stopwatch

DAMPINGS = (0.1, 1.0)  # of the EK-FAC inverse that the Adam variant ends with
_SECOND = "exp_avg_sq."


def source(session: Session) -> None:
    """The factors are fitted in a first run, whose scores are thrown away; the others find them done."""
    if not session.given.epochs:
        raise ValueError("The task does not tell the learning rates of its checkpoints.")
    checkpoints = _checkpoints(session)
    choices = [("sgd", None), *(("adam", damping) for damping in DAMPINGS if _has_moments(checkpoints))]
    fit = Stopwatch()
    with fit("fit"):
        _unroll(session, checkpoints, None)
    for optimizer, damping in choices:
        _forget_scores(session.scratch / "source")
        watch = Stopwatch(dict(fit.seconds))
        with watch("score"):
            _unroll(session, checkpoints, damping)
        options = {"optimizer": optimizer} | ({} if damping is None else {"damping": damping})
        # Bergson's sign here is that of the query's loss: a proponent lowers it.
        scores_QN = -np.asarray(load_scores(session.scratch / "source" / "scores")[:]).T
        write_scores(
            session,
            "source",
            scores_QN,
            watch,
            options=options,
            checkpoint=ALL_CHECKPOINTS,
            notes="fit seconds: of a first run of all steps",
        )


def _checkpoints(session: Session) -> list[Path]:
    folders = [session.scratch / "source-checkpoints" / name for name in session.given.checkpoints]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        copy_adapter(session.given, folder.name, folder)
        shutil.copy(session.given.base / "config.json", folder)
        if (folder / "optimizer.safetensors").exists():
            moments = load_file(folder / "optimizer.safetensors")
            torch.save(_as_torch_saves(moments, session.given.adam), folder / "optimizer.pt")
    return folders


def _as_torch_saves(moments: dict[str, Any], adam: dict[str, Any]) -> dict[str, Any]:
    """Adam's second moments as Bergson reads them, by the names that a PEFT model gives its weights."""
    names = [name for name in moments if name.startswith(_SECOND)]
    state = {
        place: {
            "exp_avg_sq": moments[name],
            "step": moments["step"],
            "param_name": name.removeprefix(_SECOND).removesuffix(".weight") + ".default.weight",
        }
        for place, name in enumerate(names)
    }
    return {"state": state, "param_groups": [{"params": list(state), **adam}]}


def _has_moments(checkpoints: list[Path]) -> bool:
    return all((folder / "optimizer.pt").exists() for folder in checkpoints)


def _forget_scores(folder: Path) -> None:
    for part in (*folder.glob("segment_*/query_grad*"), *folder.glob("segment_*/scores*"), folder / "scores"):
        shutil.rmtree(part, ignore_errors=True)


def _unroll(session: Session, checkpoints: list[Path], damping: float | None) -> None:
    epochs, targets = session.given.epochs, [sum(row.targets) for row in session.given.rows]
    choice = ApproxUnrollingConfig(
        checkpoints=[str(folder) for folder in checkpoints],
        segments=len(checkpoints),
        lr_list=[float(epoch["learning_rate"]) / float(np.mean(targets)) for epoch in epochs],
        step_size_list=[int(epoch["steps"]) for epoch in epochs],
        use_adam_preconditioner=damping is not None,
        query=deepcopy(session.queries),
    )
    if damping is not None:
        choice.inversion_cfg = InversionConfig(damping_factor=damping)
    approx_unrolling_pipeline(session.config("source"), HessianConfig("kfac", ev_correction=True), choice)
