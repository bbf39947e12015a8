"""Every method, one a file. Importing this package registers them (the order is the order of `whence methods`)."""

from engine.methods import ekfac, kfac, graddot, gradcos, repsim, bm25, length, random  # noqa: F401, I001
from engine.methods import fisher, datainf, logra, trak  # noqa: F401
from engine.methods import rept, loss  # noqa: F401
from engine.methods import tracin, less, trackstar  # noqa: F401
from engine.methods import lissa, astra, source  # noqa: F401
from engine.methods import replay  # noqa: F401
from engine.methods.base import (
    GradientMethod,
    LossMethod,
    Method,
    ReplayMethod,
    RepresentationMethod,
    RowMethod,
    all_methods,
    get_method,
)

__all__ = [
    "GradientMethod",
    "LossMethod",
    "Method",
    "ReplayMethod",
    "RepresentationMethod",
    "RowMethod",
    "all_methods",
    "get_method",
]
