"""Module names by regular expression. Patterns come with requests, so none may take more than its time.

Python's own `re` can take longer than the universe for a name of forty characters, and no other thread runs meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import regex

from engine.errors import InvalidOption

SECONDS = 1.0  # for all names together


def matching(pattern: str, names: Iterable[str], *, whole: bool, pointer: str) -> list[str]:
    """The names in which the pattern is found; `whole`: that it matches. Raises InvalidOption, pointing there."""
    try:
        compiled = regex.compile(pattern)
        look = compiled.fullmatch if whole else compiled.search
        left, found = SECONDS, []
        for name in names:
            began = time.monotonic()
            if look(name, timeout=left, concurrent=True):
                found.append(name)
            left = max(0.001, left - (time.monotonic() - began))
        return found
    except TimeoutError:
        cause = f"it takes more than {SECONDS:g} s to look for"
    except (regex.error, RecursionError, OverflowError) as error:
        cause = f"it is broken: {error}"
    remedy = "Write a plainer pattern, or name the modules one by one."
    raise InvalidOption(f"The pattern {pattern[:200]!r} cannot be used: {cause}.", remedy=remedy, pointer=pointer)
