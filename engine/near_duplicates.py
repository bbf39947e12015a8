"""Near-duplicates among the rows of an answer: rows whose texts nearly coincide, put into clusters.

Two rows are near-duplicates when the Jaccard similarity of their sets of word 3-grams (Broder 1997, "On the resemblance
and containment of documents") is THRESHOLD or more, of the whole rows and of what they teach (the completion, the last
assistant turn, the text) alike. The second half keeps rows apart that share a long prompt and say different things: a
right and a wrong answer to one question are no duplicates. Clusters are single linkage.

Words are compared case-folded and NFKC-normalised, without punctuation. In a script without spaces every character is
a word; so is every symbol and dash. A text of fewer than three words is one shingle, one without words stands for
itself. No pair is missed: two sets of that similarity share one of the rarest shingles of each (the prefix filter of
Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity Search", §4), so only those pairs are compared.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from engine.dataset import example_text
from engine.types import Example

THRESHOLD = 0.8
SHINGLE_WORDS = 3
# Thai and Lao, Burmese, Khmer, kana, Han: scripts that put no space between words
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)

Shingles = frozenset[tuple[str, ...]]


class _Separated(dict[int, str]):
    """Character → itself, a space, or itself between spaces; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        character, category = chr(code), unicodedata.category(chr(code))
        if any(first <= code <= last for first, last in _UNSPACED) or category[0] == "S" or category == "Pd":
            spaced = f" {character} "
        else:
            spaced = character if category[0] in "LMN" else " "
        self[code] = spaced
        return spaced


_SEPARATED = _Separated()


def words(text: str) -> list[str]:
    return unicodedata.normalize("NFKC", text).casefold().translate(_SEPARATED).split()


def shingles(text: str) -> Shingles:
    """The set of the text's word 3-grams; never empty."""
    found = words(text)
    if not found:
        return frozenset({(text.strip(),)})
    if len(found) <= SHINGLE_WORDS:
        return frozenset({tuple(found)})
    return frozenset(zip(*(found[start:] for start in range(SHINGLE_WORDS)), strict=False))


def similarity(one: Shingles, other: Shingles) -> float:
    """Jaccard's: shared over all."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def near_duplicates(examples: Sequence[Example]) -> list[list[int]]:
    """Clusters of two or more, each as the numbers of its examples, ascending; ordered by their first."""
    sets = [(shingles(example_text(example)), shingles(_taught(example))) for example in examples]
    equal: defaultdict[tuple[Shingles, Shingles], list[int]] = defaultdict(list)
    for number, both in enumerate(sets):
        equal[both].append(number)
    distinct = list(equal)
    linked = list(range(len(distinct)))
    for a, b in _similar_pairs([whole for whole, _ in distinct]):
        if similarity(distinct[a][1], distinct[b][1]) >= THRESHOLD:
            linked[_root(linked, a)] = _root(linked, b)
    clusters: defaultdict[int, list[int]] = defaultdict(list)
    for number, both in enumerate(distinct):
        clusters[_root(linked, number)] += equal[both]
    return sorted(sorted(members) for members in clusters.values() if len(members) > 1)


def _taught(example: Example) -> str:
    if example.messages is not None:
        turns = [message.content for message in example.messages if message.role == "assistant"]
        return turns[-1] if turns else ""
    return example.text if example.text is not None else example.completion or ""


def _similar_pairs(sets: Sequence[Shingles]) -> Iterator[tuple[int, int]]:
    """Every pair of THRESHOLD or more, once."""
    counts = Counter(shingle for one in sets for shingle in one)
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, one in enumerate(sets):
        rarest = sorted(one, key=lambda shingle: (counts[shingle], shingle))
        # without these, fewer than THRESHOLD · |one| shingles are left to share
        prefix = rarest[: len(one) - math.ceil(THRESHOLD * len(one) - 1e-9) + 1]
        candidates = {other for shingle in prefix for other in holders[shingle]}
        yield from ((other, number) for other in sorted(candidates) if similarity(sets[other], one) >= THRESHOLD)
        for shingle in prefix:
            holders[shingle].append(number)


def _root(linked: list[int], number: int) -> int:
    while linked[number] != number:
        linked[number] = linked[linked[number]]
        number = linked[number]
    return number
