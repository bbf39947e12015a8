"""Datasets: training files in, ordered and immutable rows out. No torch.

formats.py   a JSONL, JSON, CSV or Parquet file → raw rows, with their lines (reading.py, *_rows.py)
rows.py      a raw row → a checked `Example`, and its canonical bytes
arrow.py     `Dataset`: the memory-mapped rows.arrow
storing.py   `store_dataset`: parse, check, hash, write atomically
"""

from engine.dataset.arrow import Dataset, open_dataset
from engine.dataset.formats import FORMATS, detect_format
from engine.dataset.rows import example_text, example_to_row
from engine.dataset.storing import parse_rows, store_dataset

__all__ = [
    "FORMATS",
    "Dataset",
    "detect_format",
    "example_text",
    "example_to_row",
    "open_dataset",
    "parse_rows",
    "store_dataset",
]
