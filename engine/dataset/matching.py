"""Which rows of a batch a filter lets through. Almost every batch of a large file has none, so each condition is first
put to all of the batch's bytes at once; only where these may hold a match are its rows looked at one by one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute

from engine.dataset.filtering import RowFilter

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

TEXTS = ("prompt", "completion", "text")
# Characters outside ASCII that are a small or capital form of one inside: the Kelvin sign and the long s.
_FOREIGN_FORMS = frozenset("ks")


def matching_rows(wanted: RowFilter, batch: pa.RecordBatch) -> list[int]:
    """The matching rows of a validated batch, ascending."""
    if wanted.query and not _may_contain(batch, wanted.query):
        return []
    masks: list[pa.Array] = []
    for key, value in wanted.tags.items():
        if (mask := _tagged(batch, key, value)) is None:
            return []
        masks.append(mask)
    if wanted.label is not None:
        masks.append(pc.fill_null(pc.equal(batch.column("label"), wanted.label), False))
    if wanted.query:
        masks.append(_contains(batch, wanted.query))
    if not masks:
        return list(range(batch.num_rows))
    mask = masks[0]
    for another in masks[1:]:
        mask = pc.and_(mask, another)
    return pc.indices_nonzero(mask).to_pylist()


def _tagged(batch: pa.RecordBatch, key: str, value: str) -> pa.Array | None:
    """None: no row has it."""
    tags = batch.column("tags")
    hits = pc.and_(pc.equal(tags.keys, key), pc.equal(tags.items, value))
    if not pc.any(hits).as_py():
        return None
    owners = pc.list_parent_indices(pa.ListArray.from_arrays(tags.offsets, tags.items))
    return _mask(batch.num_rows, pc.filter(owners, hits))


def _contains(batch: pa.RecordBatch, query: str) -> pa.Array:
    """Rows of which any text contains `query`."""
    mask = pa.repeat(pa.scalar(False), batch.num_rows)
    for column in (batch.column(name) for name in TEXTS):
        if column.null_count < len(column):
            mask = pc.or_(mask, _text_contains(column, query))
    messages = batch.column("messages")
    if messages.null_count == len(messages):
        return mask
    turns = _text_contains(_turns(messages), query)
    return pc.or_(mask, _mask(batch.num_rows, pc.filter(pc.list_parent_indices(messages), turns)))


def _text_contains(column: pa.Array, query: str) -> pa.Array:
    return pc.fill_null(pc.match_substring(column, query, ignore_case=True), False)


def _mask(length: int, rows: pa.Array) -> pa.Array:
    return pc.is_in(pa.array(range(length), rows.type), value_set=rows)


def _turns(messages: pa.Array) -> pa.Array:
    return pc.struct_field(pc.list_flatten(messages), "content")


def _may_contain(batch: pa.RecordBatch, query: str) -> bool:
    """False: certainly no text of the batch contains `query`."""
    if not query.isascii():
        return True
    wanted = query.lower()
    texts = (*(batch.column(name) for name in TEXTS), _turns(batch.column("messages")))
    return any(_bytes_may_contain(text, wanted) for text in texts if text.null_count < len(text))


def _bytes_may_contain(text: pa.Array, wanted: str) -> bool:
    """All of the texts as one: a match may also lie across two of them, and be none."""
    data = pc.ascii_lower(text).buffers()[2].to_pybytes()
    return wanted.encode() in data or not (_FOREIGN_FORMS.isdisjoint(wanted) or data.isascii())
