"""Datasets: training files in, ordered and immutable rows out. No torch.

formats.py   a JSONL, JSON, CSV or Parquet file → raw rows, with their lines (reading.py, *_rows.py)
limits.py    `DatasetLimits`: how much one file may unpack to (parquet_decoder.py bounds its memory)
rows.py      a raw row → a checked `Example`, and its canonical bytes
arrow.py     `Dataset`: the memory-mapped rows.arrow
filtering.py `RowFilter`: rows by tag, label and text; matching.py finds them
refusals.py  what is wrong with the rows after the first that is wrong
storing.py   `store_dataset`: parse, check, hash, write atomically
foreign.py   somebody else's rows.arrow → lines for `store_dataset`
verifying.py `dataset_damage`: what is wrong with a stored one
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.dataset.filtering import RowFilter
from engine.dataset.limits import DatasetLimits
from engine.dataset.rows import ROWS_FILE, example_text, example_to_row

if TYPE_CHECKING:
    from engine.dataset.arrow import Dataset, open_dataset
    from engine.dataset.foreign import write_as_jsonl
    from engine.dataset.formats import FORMATS, detect_format
    from engine.dataset.storing import parse_rows, store_dataset
    from engine.dataset.verifying import dataset_damage

__all__ = [
    "FORMATS",
    "ROWS_FILE",
    "Dataset",
    "DatasetLimits",
    "RowFilter",
    "dataset_damage",
    "detect_format",
    "example_text",
    "example_to_row",
    "open_dataset",
    "parse_rows",
    "store_dataset",
    "write_as_jsonl",
]

# What needs pyarrow is imported when it is asked for: a service starts, and commands end, without it.
_NEEDS_PYARROW = {
    "Dataset": "arrow",
    "open_dataset": "arrow",
    "write_as_jsonl": "foreign",
    "FORMATS": "formats",
    "detect_format": "formats",
    "parse_rows": "storing",
    "store_dataset": "storing",
    "dataset_damage": "verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_PYARROW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_PYARROW[name]}"), name)
