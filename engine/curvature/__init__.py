"""Metrics, one strategy a file. Importing this package registers them."""

from engine.curvature import (  # noqa: F401
    astra,
    datainf,
    ekfac,
    fisher,
    identity,
    kfac,
    less,
    lissa,
    logra,
    source,
    trackstar,
    trak,
)
from engine.curvature.base import Metric, get_metric

__all__ = ["Metric", "get_metric"]
