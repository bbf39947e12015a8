# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Bergson (EleutherAI): gradient dot product and cosine, K-FAC, EK-FAC, the full Gram, TrackStar, TRAK and SOURCE
(bergson_source.py), on every lora_A and lora_B.

Runs in Bergson's own environment; see run.py. Shapes: Q queries, N rows.

Bergson reads tokens and labels as they are, loads the adapter itself and takes the gradient of −log p summed over
labels on both sides: a positive score is a proponent. TRAK takes the log odds instead, as Bergson demands.
Damping is a share of the mean eigenvalue (of a module, or of the projected Gram).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from bergson.build import build_query
from bergson.cli.trackstar import trackstar
from bergson.cli.trak import trak
from bergson.config.config import (
    HessianConfig,
    HessianPipelineConfig,
    InversionConfig,
    PreprocessConfig,
    ScoreConfig,
    TrackstarConfig,
    TrakConfig,
)
from bergson.hessians.hessian_approximations import approximate_hessians
from bergson.hessians.pipeline import hessian_pipeline
from bergson.score.score import score_dataset

from benchmarks.quality.peers.bergson_session import Session, prepare, write_scores
from benchmarks.quality.peers.bergson_source import source
from benchmarks.quality.peers.written import Stopwatch, arguments, each

METHODS = ("dot", "cosine", "kfac", "ekfac", "gram", "trackstar", "trak", "source")
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
TRACKSTAR_DAMPINGS = (0.1, 1.0)
TRAK_CHOICES = ((256, 0.0), (256, 1.0), (1024, 1.0))  # (projection_dim, damping); 0.0 is Bergson's own


def main() -> None:
    torch.set_num_threads(1)
    asked = arguments(METHODS)
    session = prepare(asked)
    runs = {
        "dot": lambda: _plain(session, "dot", unit_normalize=False),
        "cosine": lambda: _plain(session, "cosine", unit_normalize=True),
        "kfac": lambda: _factored(session, "kfac", corrected=False),
        "ekfac": lambda: _factored(session, "ekfac", corrected=True),
        "gram": lambda: _gram(session),
        "trackstar": lambda: _trackstar(session),
        "trak": lambda: _trak(session),
        "source": lambda: source(session),
    }
    each(asked, lambda method: _seeded(runs[method]))


def _seeded(run: Any) -> None:
    torch.manual_seed(0)
    run()


def _plain(session: Session, method: str, unit_normalize: bool) -> None:
    watch, preprocess = Stopwatch(), PreprocessConfig(unit_normalize=unit_normalize)
    with watch("fit"):
        build_query(session.config(f"{method}/query"), session.queries, PreprocessConfig())
    with watch("score"):
        _score(session, method, f"{method}/query", preprocess)
    write_scores(session, method, session.scores(method), watch, linear=not unit_normalize)


def _score(session: Session, run: str, query: str, preprocess: PreprocessConfig) -> None:
    choice = ScoreConfig(query_path=str(session.scratch / query))
    score_dataset(session.config(f"{run}/scores"), choice, preprocess)


def _factored(session: Session, method: str, corrected: bool) -> None:
    """The factors and the queries' gradients once, the inverse and the scores for every damping."""
    fit = _timed_fit(session, method, corrected)
    for damping in DAMPINGS:
        session.clear(f"{method}/kfac_query", f"{method}/scores")
        watch = Stopwatch(dict(fit.seconds))
        with watch("score"):
            _pipeline(session, method, corrected, damping)
        write_scores(session, method, session.scores(method), watch, options={"damping": damping})


def _timed_fit(session: Session, method: str, corrected: bool) -> Stopwatch:
    watch = Stopwatch()
    with watch("fit"):
        _pipeline_fit(session, method, corrected)
    return watch


def _pipeline_fit(session: Session, method: str, corrected: bool) -> None:
    """The first two steps of hessian_pipeline, which it then finds done."""
    build_query(session.config(f"{method}/query"), session.queries, PreprocessConfig())
    approximate_hessians(session.config(f"{method}/hessian/kfac"), HessianConfig("kfac", ev_correction=corrected))


def _pipeline(session: Session, method: str, corrected: bool, damping: float) -> None:
    inversion = InversionConfig(damping_factor=damping, apply_batch_size=64)
    hessian_pipeline(
        session.config(method),
        HessianConfig("kfac", ev_correction=corrected),
        ScoreConfig(),
        PreprocessConfig(),
        HessianPipelineConfig(query=session.queries, inversion_cfg=inversion, resume=True),
    )


def _gram(session: Session) -> None:
    """Each module's full matrix of second moments over all rows, without a projection: small for LoRA."""
    fit = Stopwatch()
    with fit("fit"):
        build_query(session.config("gram/query"), session.queries, PreprocessConfig())
        approximate_hessians(session.config("gram/hessian"), HessianConfig("autocorrelation", use_dataset_labels=True))
    for damping in DAMPINGS[1:]:
        session.clear("gram/scores")
        watch = Stopwatch(dict(fit.seconds))
        with watch("score"):
            _score(session, "gram", "gram/query", _whitened(session, "gram/hessian", damping))
        write_scores(session, "gram", session.scores("gram"), watch, options={"damping": damping})


def _whitened(session: Session, hessian: str, damping: float) -> PreprocessConfig:
    path = str(session.scratch / hessian)
    return PreprocessConfig(hessian_path=path, inversion_cfg=InversionConfig(damping_factor=damping))


def _trackstar(session: Session) -> None:
    """Projected to 16 × 16 a module (its default), whitened on both sides, normalised: Chang et al. 2024."""
    for mixed, damping in _trackstar_choices():
        session.clear("trackstar")
        watch = Stopwatch({"fit": 0.0})
        with watch("score"):
            _trackstar_once(session, mixed, damping)
        options = {"mixed": mixed, "damping": damping}
        about = {"options": options, "linear": False, "notes": "seconds: of all steps"}
        write_scores(session, "trackstar", session.scores("trackstar"), watch, **about)


def _trackstar_choices() -> Iterator[tuple[bool, float]]:
    for mixed in (True, False):
        for damping in TRACKSTAR_DAMPINGS:
            yield mixed, damping


def _trackstar_once(session: Session, mixed: bool, damping: float) -> None:
    preprocess = PreprocessConfig(unit_normalize=True, inversion_cfg=InversionConfig(damping_factor=damping))
    choice = TrackstarConfig(query=session.queries, preprocess_cfg=preprocess, mix_hessians=mixed)
    trackstar(session.config("trackstar", projection_dim=16), choice)


def _trak(session: Session) -> None:
    for dimensions, damping in TRAK_CHOICES:
        run = f"trak/{dimensions}"
        session.clear(run)
        watch = Stopwatch({"fit": 0.0})
        with watch("score"):
            preprocess = PreprocessConfig(inversion_cfg=InversionConfig(damping_factor=damping))
            config = session.config(
                run, projection_dim=dimensions, projection_target="global", projection_seed=0, loss_fn="log_odds"
            )
            trak(config, TrakConfig(query=session.queries, preprocess_cfg=preprocess))
        options = {"dimensions": dimensions, "damping": damping}
        write_scores(session, "trak", session.scores(run), watch, options=options, notes="seconds: of all steps")


if __name__ == "__main__":
    main()
