"""Values as JSON and Parquet can hold them, near to what is expected and far from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "a\x00b",
        "\ud800",
        "\udfff x",
        "\ufeff",
        "\u2028",
        "é",
        "𝄞",
        "=1+1",
        "null",
        "NaN",
        "-",
        "\r\n",
    ),
    *("x" * 600, "x" * 70_000, "../../x", "/etc/passwd", "user", "assistant", "system", "row-0", "0" * 64),
)
ODD_NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1e308, 5e-324)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


def chosen(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of them. By its number: hypothesis would write them all out, and some are long."""
    return st.integers(0, len(values) - 1).map(values.__getitem__)


texts = st.one_of(chosen(ODD_TEXTS), st.text(max_size=12), st.text(st.characters(), max_size=6))
numbers = st.one_of(chosen(ODD_NUMBERS + NOT_FINITE), st.integers(), st.floats())
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
foreign = st.sampled_from((b"bytes", Decimal("1.5"), datetime(2026, 1, 1, tzinfo=UTC), (1, 2), {"a"}))


def trees(names: Sequence[str] = (), leaf: st.SearchStrategy[Any] = leaves) -> st.SearchStrategy[Any]:
    """Anything; its objects have some of these names."""
    keys = st.one_of(st.sampled_from(names), texts) if names else texts
    return st.recursive(
        leaf, lambda part: st.lists(part, max_size=4) | st.dictionaries(keys, part, max_size=4), max_leaves=8
    )


def nearly(valid: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> st.SearchStrategy[Any]:
    """One of these objects with a few of its fields changed, left out or added; sometimes anything at all."""
    names = sorted({*names, *(name for one in valid for name in one)})
    tree = trees(names)
    changes = st.dictionaries(st.sampled_from(names) | texts, tree, max_size=2)
    without = st.sets(st.sampled_from(names), max_size=1)

    def changed(one: Mapping[str, Any], other: dict[str, Any], gone: set[str]) -> dict[str, Any]:
        return {name: value for name, value in {**one, **other}.items() if name not in gone}

    close = st.builds(changed, chosen(valid), changes, without)
    return st.one_of(close, close, close, deeper(valid), tree)


def deeper(valid: Sequence[Mapping[str, Any]]) -> st.SearchStrategy[Any]:
    """One of these objects with one value of it, at any depth, in another's place."""
    places = [(one, path) for one in valid for path in [(), *_paths(one)]]
    return st.builds(lambda place, value: _put(place[0], place[1], value), chosen(places), trees())


def _paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, part in parts for path in ((*above, key), *_paths(part, (*above, key)))]


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[path[0]] = _put(copy[path[0]], path[1:], new)
    return copy


def substituted(valid: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> list[Any]:
    """These objects with each of the values in each place in turn."""
    return [_put(one, path, value) for one in valid for path in _paths(one) for value in values]


def written(value: Any, ascii: bool = True) -> bytes:
    """As JSON; half of a surrogate pair comes out as bytes that are no UTF-8, NaN as the word."""
    return json.dumps(value, ensure_ascii=ascii, default=str).encode("utf-8", "surrogatepass")


def documents(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return st.builds(written, values, st.booleans())
