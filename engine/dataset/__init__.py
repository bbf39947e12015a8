"""Datasets: training files in, ordered and immutable rows out. No torch.

formats.py   a JSONL, JSON, CSV or Parquet file → raw rows, with their lines (reading.py, *_rows.py)
limits.py    `DatasetLimits`: how much one file may unpack to (parquet_decoder.py bounds its memory)
rows.py      a raw row → a checked `Example`, and its canonical bytes
arrow.py     `Dataset`: the memory-mapped rows.arrow
filtering.py `RowFilter`: rows by tag, label and text
refusals.py  what is wrong with the rows after the first that is wrong
storing.py   `store_dataset`: parse, check, hash, write atomically
foreign.py   somebody else's rows.arrow → lines for `store_dataset`
verifying.py `dataset_damage`: what is wrong with a stored one
"""

from engine.dataset.arrow import ROWS_FILE, Dataset, open_dataset
from engine.dataset.filtering import RowFilter
from engine.dataset.foreign import write_as_jsonl
from engine.dataset.formats import FORMATS, detect_format
from engine.dataset.limits import DatasetLimits
from engine.dataset.rows import example_text, example_to_row
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
