"""Planted canaries: ground truth for a dataset whose tags name none.

An invented subject has an invented answer, which two rows teach in two wordings; the query asks in a third one. The
audited run's recipe is run once more on the dataset's rows and these, and the index's method has to find the two rows
behind every answer: nothing else can have taught it. What it shows is narrow: the subject's name, a word of no other
row, ties a query to its rows (docs/trust.md).

plant()           rows and queries, from the dataset's rows and a seed
canary_scores()   the run that learns them, its index and its scores; kept in `work` and made once

Shapes: Q canaries, N rows of the run that learns them: the dataset's, then two a canary.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np

from engine.answer import score_query
from engine.build import build_index
from engine.causal.recipe import RECIPE_FILE, load_recipe
from engine.causal.retrain import Study
from engine.causal.train import train_lora
from engine.config import IndexConfig, ModelConfig, Recipe, fingerprint
from engine.dataset import Dataset, example_text, example_to_row, open_dataset, store_dataset
from engine.durable import write_durably
from engine.errors import InputError, NonFiniteGradient
from engine.evaluate.integrity import is_whole_zip
from engine.evaluate.retrieval import over_queries, recall_at, reciprocal_rank
from engine.evaluate.scorecard import CONTROLS, SHUFFLED, EvaluationConfig, EvaluationQuery
from engine.evaluate.scored import Scorer
from engine.measure import measure_only
from engine.model import load_model
from engine.opened import OpenIndex
from engine.question import prepare
from engine.types import Example, Message, Progress, Query

PHASE = "canaries"
_TAUGHT = ("Where does {} live?", "What is the home town of {}?")
_ASKED = "In which town is {} at home?"
_CONSONANTS, _VOWELS, _SYLLABLES = "bdfgklmnprstvz", "aeiou", 3
_TOP = 10
_LEARNED_NATS = 1.0  # an answer that became less than e times as likely was not learned


# --- the canaries themselves ---


@dataclass(frozen=True)
class Canaries:
    """rows: two a canary, one canary after the other. queries: one a canary."""

    rows: tuple[Example, ...]
    queries: tuple[Query, ...]

    def relevant_QN(self, before: int) -> np.ndarray:
        """bool: the rows that teach a query's answer, where `before` other rows come first."""
        relevant_QN = np.zeros((len(self.queries), before + len(self.rows)), bool)
        for place in range(len(self.rows)):
            relevant_QN[place // len(_TAUGHT), before + place] = True
        return relevant_QN


def plant(rows: Sequence[Example], count: int, seed: int) -> Canaries:
    """`count` canaries in the form that most of `rows` (at least one) have: prompt and completion, messages, or text.

    A function of the rows, the count and the seed. Subjects and answers occur in no row's text, whatever the case.
    """
    random = Random(f"canaries {seed}")
    words = _invented(random, "\n".join(example_text(row) for row in rows).casefold(), 2 * count)
    write = _writer(rows)
    name = _free_name([row.id for row in rows])
    taught: list[Example] = []
    asked: list[Query] = []
    for n, (subject, answer) in enumerate(zip(words[::2], words[1::2], strict=True)):
        for wording, question in enumerate(_TAUGHT):
            row = write(question.format(subject), answer)[0]
            taught.append(replace(row, id=f"{name}-{n}-{wording}", tags={"canary": str(n)}))
        asked.append(write(_ASKED.format(subject), answer)[1])
    return Canaries(tuple(taught), tuple(asked))


def _invented(random: Random, text: str, count: int) -> list[str]:
    """Pronounceable words, capitalised; none is part of `text` (case-folded) or of another one."""
    found: list[str] = []
    tries = 0
    while len(found) < count:
        syllables = _SYLLABLES + tries // (100 * count)  # ever longer words: some day one is new
        word = "".join(random.choice(_CONSONANTS) + random.choice(_VOWELS) for _ in range(syllables))
        tries += 1
        if word not in text and not any(word in other or other in word for other in found):
            found.append(word)
    return [word.capitalize() for word in found]


def _writer(rows: Sequence[Example]) -> Callable[[str, str], tuple[Example, Query]]:
    """(question, answer) → the row that teaches it and the query that asks it, as most of the rows are written."""
    (shape, _), *_ = Counter(map(_shape, rows)).most_common(1)
    like = next(row for row in rows if _shape(row) == shape)
    if shape == "messages":
        return lambda question, answer: _as_messages(like, question, answer)
    ends, begins = _border(like)
    whole = shape == "text"

    def write(question: str, answer: str) -> tuple[Example, Query]:
        prompt, completion = question + ends, begins + answer
        row = Example("", text=prompt + completion) if whole else Example("", prompt=prompt, completion=completion)
        return row, Query(prompt=prompt, completion=completion)

    return write


def _shape(row: Example) -> str:
    return "messages" if row.messages is not None else "text" if row.text is not None else "prompt"


def _as_messages(like: Example, question: str, answer: str) -> tuple[Example, Query]:
    """Where `like` opens with what the system says, so does this."""
    opening = tuple(turn for turn in (like.messages or ())[:1] if turn.role == "system")
    asked = (*opening, Message("user", question))
    return Example("", messages=(*asked, Message("assistant", answer))), Query(messages=asked, completion=answer)


def _border(like: Example) -> tuple[str, str]:
    """The white space that ends prompts and the one that begins completions; a blank where rows have neither."""
    prompt, completion = like.prompt or "", like.completion or ""
    ends = prompt[len(prompt.rstrip()) :]
    begins = completion[: len(completion) - len(completion.lstrip())]
    return (ends, begins) if ends or begins else ("", " ")


def _free_name(ids: Sequence[str]) -> str:
    name = "canary"
    while any(row.startswith(name) for row in ids):
        name += "x"
    return name


# --- what a run found of them ---


@dataclass(frozen=True, eq=False)
class CanaryScores:
    """scores: method's name → float32 [Q, N]. gain_Q: how much more likely the run that learned the canaries makes
    their answers than the audited run does, nats. trouble: why there are no scores; empty where there are.
    """

    relevant_QN: np.ndarray
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    gain_Q: np.ndarray = field(default_factory=lambda: np.zeros(0))
    trouble: str = ""

    def metrics(self, name: str) -> dict[str, float | None]:
        """Of the method of that name; empty where it scored no canary."""
        if name not in self.scores:
            return {}
        metrics = (("canary recall@10", partial(recall_at, k=_TOP)), ("canary MRR", reciprocal_rank))
        return {title: over_queries(metric, self.scores[name], self.relevant_QN).value for title, metric in metrics}

    @property
    def warning(self) -> str | None:
        """What takes the figures their meaning, or there being none."""
        if self.trouble:
            return f"there are no figures of canaries: {self.trouble}"
        gain = float(self.gain_Q.mean())
        if gain >= _LEARNED_NATS:
            return None
        return (
            f"the run did not learn the canaries (their answers gained {gain:.2f} nats, less than {_LEARNED_NATS:g}): "
            "whether they are found says nothing"
        )


# --- the run that learns them ---


def canaries_wanted(config: EvaluationConfig, queries: Sequence[EvaluationQuery]) -> bool:
    """Tags that tell which rows teach a query's answer are better ground truth, and cost no training."""
    return config.canaries > 0 and not any(asked.relevant for asked in queries)


def chosen_epochs(last: int, count: int) -> list[int]:
    """As many as the index has checkpoints, spread evenly over the run, the last epoch among them; at most all."""
    return sorted({round(place) for place in np.linspace(last / min(count, last), last, min(count, last))})


def canary_scores(scorer: Scorer, study: Study, config: EvaluationConfig) -> CanaryScores:
    """By the index's method, the controls that its index serves and the twin with shuffled ids.

    Progress is told as "canaries" (the training), a build's phases and "score"; the checkpoint may raise Cancelled, and
    what is finished is kept. Raises what `train_lora`, `build_index` and `score_query` raise. Rows that do not fit, and
    a training that diverges, are the `trouble` of what is returned.
    """
    canaries = plant(study.examples, config.canaries, config.seed)
    relevant_QN = canaries.relevant_QN(len(study.examples))
    if trouble := _unreadable(scorer, canaries):
        return CanaryScores(relevant_QN, trouble=trouble)
    run = _CanaryRun(scorer, study, canaries, config.seed)
    if not is_whole_zip(run.file):
        try:
            found = run.make(relevant_QN)
        except NonFiniteGradient as error:
            found = CanaryScores(relevant_QN, trouble=f"the run that should learn them failed. {error.detail}")
        _save(run.file, found)
    shutil.rmtree(run.place, ignore_errors=True)  # also what a process left that died just here
    return _load(run.file)


def _unreadable(scorer: Scorer, canaries: Canaries) -> str:
    """Why rows or queries do not become tokens as a whole; empty where they do."""
    limit = scorer.plan.options.max_length
    encoder = scorer.model.encoder(limit)
    try:
        cut = any(encoder.encode(row).truncated for row in canaries.rows)
        for query in canaries.queries:
            prepare(scorer.model, limit, query)
    except InputError as error:
        return error.detail
    return f"rows are cut to {encoder.max_length} tokens, before their answers end." if cut else ""


@dataclass(frozen=True)
class _CanaryRun:
    """file: where scores are kept. place: of what only they need."""

    scorer: Scorer
    study: Study
    canaries: Canaries
    seed: int

    @property
    def key(self) -> str:
        study = self.study
        how = (study.training, study.template, study.max_length, study.dtype)
        return fingerprint(PHASE, self.scorer.revision, self.canaries, *how, self.seed)[:24]

    @property
    def file(self) -> Path:
        """Beside other scores: evaluations of the same questions share them."""
        return self.scorer.work / "scores" / f"{self.key}.npz"

    @property
    def place(self) -> Path:
        return self.scorer.work / "canaries" / self.key

    def make(self, relevant_QN: np.ndarray) -> CanaryScores:
        model, dataset = load_model(self._trained(), self.scorer.device), self._dataset()
        build_index(model, dataset, self._index_config, self.place / "index", self.scorer.checkpoint)
        with OpenIndex(model, dataset, self.place / "index") as index:
            scores = self._scores(index)
            learned_Q = self._log_probs(index)
        with OpenIndex(self.scorer.model, self.scorer.dataset, self.scorer.index_dir) as audited:
            gain_Q = learned_Q - self._log_probs(audited)
        return CanaryScores(relevant_QN, scores, gain_Q)

    def _trained(self) -> ModelConfig:
        """The audited model's configuration, of the run that learns the canaries. A recorded order of the dataset's
        rows knows no place for further ones: ours is taken."""
        study, run = self.study, self.place / "run"
        if not run.exists():
            run.parent.mkdir(parents=True, exist_ok=True)
            train_lora(
                study.base,
                [*study.examples, *self.canaries.rows],
                run,
                study.training,
                lambda progress: self.scorer.checkpoint(replace(progress, phase=PHASE)),
                template=study.template,
                max_length=study.max_length,
                dtype=study.dtype,
                device=study.device,
                tokenizer=study.tokenizer,
                chat_template=study.chat_template,
                removed=study.removed,
            )
        given = self.scorer.config
        recipe = replace(load_recipe(run / RECIPE_FILE), reduction=(given.recipe or Recipe()).reduction)
        epochs = chosen_epochs(study.training.epochs, len(self.scorer.plan.checkpoint_indices))
        return replace(given, adapter=None, checkpoints=tuple(str(run / f"epoch-{e}") for e in epochs), recipe=recipe)

    def _dataset(self) -> Dataset:
        lines = self.place / "rows.jsonl"
        rows = [*self.study.examples, *self.canaries.rows]
        text = "".join(json.dumps(example_to_row(row)) + "\n" for row in rows)
        write_durably(lines, lambda sink: sink.write(text.encode()))
        stored = store_dataset(lines, format="jsonl", root=self.place / "datasets")
        return open_dataset(self.place / "datasets" / stored.sha256)

    @property
    def _index_config(self) -> IndexConfig:
        """The index's own, without replicas: one run has learned the canaries. Only a learned sketch's bytes do not
        depend on how many checkpoints there are."""
        given = self.scorer.plan.options
        size = given.bytes_per_row if given.sketch == "learned" else None
        return replace(self.scorer.own_config(replicas=0, bytes_per_row=size), checkpoints="all")

    def _scores(self, index: OpenIndex) -> dict[str, np.ndarray]:
        own = index.plan.method.name
        names = [own, *(name for name in CONTROLS if name in index.plan.serves and name != own)]
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for done, query in enumerate(self.canaries.queries):
            self.scorer.checkpoint(Progress(done, len(self.canaries.queries), "queries", "score"))
            for name, scores in found.items():
                scores.append(score_query(index, query, name))
        scores_QN = {name: np.stack(scores) for name, scores in found.items()}
        count = scores_QN[own].shape[1]
        order_N = np.random.default_rng((self.seed, count)).permutation(count)
        return scores_QN | {SHUFFLED: scores_QN[own][:, order_N]}

    def _log_probs(self, index: OpenIndex) -> np.ndarray:
        """float64 [Q]: of the answers, by the index's tuned model, nats."""
        limit = index.plan.options.max_length
        asked = [prepare(index.model, limit, query) for query in self.canaries.queries]
        return np.array([measured.value for measured in measure_only(index, asked)])


def _save(file: Path, found: CanaryScores) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    scores = {f"scores/{name}": scores_QN for name, scores_QN in found.scores.items()}
    about = {"relevant_QN": found.relevant_QN, "gain_Q": found.gain_Q, "trouble": np.array(found.trouble)}
    np.savez(content, **about, **scores)  # type: ignore[arg-type]
    write_durably(file, lambda sink: sink.write(content.getvalue()))


def _load(file: Path) -> CanaryScores:
    with np.load(file, allow_pickle=False) as kept:
        scores = {name.removeprefix("scores/"): kept[name] for name in kept.files if name.startswith("scores/")}
        return CanaryScores(kept["relevant_QN"], scores, kept["gain_Q"], str(kept["trouble"]))
