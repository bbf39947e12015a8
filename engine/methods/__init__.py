"""Every method, one a file. Importing this package registers them (the order is the order of `whence methods`)."""

from engine.methods import ekfac, kfac, graddot, gradcos, repsim, bm25, length, random  # noqa: F401, I001
from engine.methods.base import (
    GradientMethod,
    Method,
    RepresentationMethod,
    RowMethod,
    all_methods,
    get_method,
)

__all__ = ["GradientMethod", "Method", "RepresentationMethod", "RowMethod", "all_methods", "get_method"]
