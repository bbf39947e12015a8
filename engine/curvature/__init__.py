"""Metrics, one strategy a file. Importing this package registers them."""

from engine.curvature import ekfac, identity, kfac  # noqa: F401
from engine.curvature.base import Metric, get_metric

__all__ = ["Metric", "get_metric"]
