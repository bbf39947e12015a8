"""Valid files, damaged at random: bits, cuts, splices, hostile pieces, other encodings."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from random import Random

from hypothesis import strategies as st

MOST_BYTES = 200_000
# Pieces that readers of JSON, CSV, numbers and text have stumbled over.
PIECES = [
    *(b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-0.0",
        b"1E400",
        b"0x10",
        b"-1",
        b"0",
        b"9" * 30,
        b"9" * 5000,
        b"0." + b"9" * 400,
    ),
    *(b"null", b"true", b'""', b"{}", b"[]", b"[[]]", b'"\\ud800"', b'"\\u0000"', b"\\", b"\\x", b"\\u12"),
    *(b'"', b"'", b'"""', b",", b":", b"{", b"}", b"[", b"]", b"\r", b"\n", b"\r\n", b"\t", b"\x1a", b" "),
    *(b"[" * 2000, b'{"a":' * 2000, b"]" * 2000, b"[" * 100_000, b"x" * 70_000, b"\n" * 3000, b"," * 3000),
    *(
        b"..",
        b"../../etc/passwd",
        b"/",
        b"PAR1",
        b"PK\x03\x04",
        b"ARROW1\x00\x00",
        b"18446744073709551616",
        b"2147483648",
    ),
]


def damaged(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the valid files after one to four changes."""
    return st.integers(0, 2**64 - 1).map(lambda seed: mutate(Random(seed), seeds))


def mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
    content = random.choice(seeds)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        content = random.choice(CHANGES)(random, content, seeds)
    return content[:MOST_BYTES]


def _span(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randint(0, len(content))
    return start, min(len(content), start + random.choice((1, 1, 2, 4, 8, 16, 64, 256, len(content))))


def _flip(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _overwrite(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _span(random, content)
    return content[:start] + random.randbytes(stop - start) + content[stop:]


def _cut_off(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return content[: random.randint(0, len(content))]


def _cut_out(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _span(random, content)
    return content[:start] + content[stop:]


def _repeat(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _span(random, content)
    return content[:stop] + content[start:stop] * random.choice((1, 1, 2, 50)) + content[stop:]


def _splice(random: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    other = random.choice(seeds)
    start, stop = _span(random, other)
    at, until = _span(random, content)
    return content[:at] + other[start:stop] + content[until:]


def _insert(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(content))
    return content[:at] + random.choice(PIECES) + content[at:]


def _replace(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _span(random, content)
    return content[:start] + random.choice(PIECES) + content[stop:]


def _swap(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    first, second = sorted(random.randint(0, len(content)) for _ in range(2))
    return content[second:] + content[first:second] + content[:first]


def _number(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Another number in the place of one."""
    places = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return content
    start = stop = random.choice(places)
    while stop < len(content) and 48 <= content[stop] <= 57:
        stop += 1
    numbers = (b"0", b"-1", b"1e308", b"1.5", b"4294967296", b"9223372036854775808", b"1" * 4400, b"true", b'"1"')
    return content[:start] + random.choice(numbers) + content[stop:]


def _recode(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    marks = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8 * 2)
    coding = random.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", ""))
    if not coding:
        return random.choice(marks) + content
    return content.decode("latin-1").encode(coding, "replace")


def _lines(random: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Other line ends, or lines in another order."""
    lines = content.split(b"\n")
    if random.random() < 0.5:
        random.shuffle(lines)
    return random.choice((b"\n", b"\r\n", b"\r", b"\n\n", b" ")).join(lines)


CHANGES: Sequence[Callable[[Random, bytes, Sequence[bytes]], bytes]] = (
    *(_flip, _flip, _overwrite, _cut_off, _cut_out, _repeat, _splice),
    *(_insert, _insert, _replace, _replace, _swap, _number, _number, _recode, _lines),
)
