"""The controls: BM25 against its formula, length, and random scores that only depend on index and query."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.lexical import Bm25Index, Corpus, RowQuery, words

TEXTS = [
    "The capital of Velora is Tamsin.",
    "Tamsin is the capital, the only capital!",
    "",
    "Three apples are left.",
    "…?!",
    "The capital of Velora is Tamsin.",
]
row_words = st.sampled_from(["a", "b", "c", "Ä_1", "é", "東京", "a'b"])
word_lists = st.lists(st.lists(row_words, max_size=9).map(" ".join), min_size=1, max_size=9)


def by_formula(query: str, texts: list[str]) -> list[float]:
    rows = [words(text) for text in texts]
    mean_length = sum(map(len, rows)) / len(rows)
    scores = []
    for row in rows:
        score = 0.0
        for word in words(query):
            rows_with = sum(word in other for other in rows)
            idf = math.log(1 + (len(rows) - rows_with + 0.5) / (rows_with + 0.5))
            if word in row:
                count = row.count(word)
                score += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(row) / mean_length))
        scores.append(score)
    return scores


@settings(max_examples=60, deadline=None)
@given(
    texts=word_lists, query=st.lists(st.sampled_from(["A", "b", "é", "absent", "東京", "c"]), max_size=5).map(" ".join)
)
def test_bm25_is_its_formula(texts: list[str], query: str) -> None:
    scores = Bm25Index(texts).scores(query)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_formula(query, texts), rtol=1e-5, atol=1e-6)


def test_bm25_on_sentences_is_its_formula_and_repeated_words_count() -> None:
    query = "What is the capital, the CAPITAL of Velora?"
    np.testing.assert_allclose(Bm25Index(TEXTS).scores(query), by_formula(query, TEXTS), rtol=1e-5)


def test_equal_texts_have_equal_scores_each_in_its_own_place() -> None:
    scores = Bm25Index(TEXTS).scores("capital of Velora")
    assert scores[0] == scores[5] > 0
    assert scores[2] == scores[3] == scores[4] == 0


@pytest.mark.parametrize("query", ["", "?!", "nowhere to be found"])
def test_a_query_that_shares_no_word_scores_zero_everywhere(query: str) -> None:
    assert Bm25Index(TEXTS).scores(query).tolist() == [0.0] * len(TEXTS)


def test_rows_without_any_word_score_zero() -> None:
    assert Bm25Index(["", "…"]).scores("capital").tolist() == [0.0, 0.0]


def test_words_are_case_folded_runs_of_letters_and_digits() -> None:
    assert words("The Straße—3.14, it's_fine ÉTÉ") == ["the", "strasse", "3", "14", "it", "s_fine", "été"]


def test_lengths_count_words() -> None:
    lengths = Corpus(TEXTS, "r").lengths()
    assert lengths.dtype == np.float32
    assert lengths.tolist() == [6, 7, 0, 4, 0, 6]


def test_random_scores_are_uniform_and_a_pure_function_of_revision_and_query() -> None:
    texts = ["a"] * 4000
    scores = Corpus(texts, "r1").random(RowQuery("x", "s"))
    assert scores.dtype == np.float32
    assert 0 <= scores.min() < scores.max() < 1
    histogram = np.histogram(scores, bins=10, range=(0, 1))[0]
    assert np.abs(histogram - 400).max() < 5 * math.sqrt(400 * 0.9)
    np.testing.assert_array_equal(scores, Corpus(texts, "r1").random(RowQuery("other text", "s")))
    assert not np.array_equal(scores, Corpus(texts, "r2").random(RowQuery("x", "s")))
    assert not np.array_equal(scores, Corpus(texts, "r1").random(RowQuery("x", "t")))


def test_scores_are_the_same_bytes_in_another_process() -> None:
    script = (
        "from engine.lexical import Corpus, RowQuery\n"
        f"c = Corpus({TEXTS!r}, 'r')\n"
        "print(c.bm25.scores('the capital of Velora').tobytes().hex(), c.random(RowQuery('', 's')).tobytes().hex())"
    )
    corpus = Corpus(TEXTS, "r")
    here = [corpus.bm25.scores("the capital of Velora"), corpus.random(RowQuery("", "s"))]
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert there == [scores.tobytes().hex() for scores in here]


def test_the_controls_need_no_torch() -> None:
    script = "import sys; import engine.lexical; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
