"""Cells of a CSV that somebody opens in a spreadsheet, where a text may be a formula."""

from __future__ import annotations

# OWASP, CSV injection. Full-width signs too: some spreadsheets take them for the plain ones.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def safe_cell(value: object) -> object:
    """The value as the `csv` module may write it: a text that a spreadsheet would compute begins with an apostrophe.

    Numbers stay numbers, None an empty cell. Commas, quotes and line breaks are left to `csv`, which quotes them.
    """
    if value is None or isinstance(value, (int, float)):
        return value
    text = str(value).replace("\x00", "")
    return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(_FORMULA) else text
