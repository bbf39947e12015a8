"""Replay: the exact derivative of f(q) with respect to every row's weight, through the recorded training run.

Reverse mode through the optimizer's steps (MAGIC, Ilyas and Engstrom 2025; Maclaurin, Duvenaud and Adams 2015). One
step of training is a map (θ, m, v) → (θ', m', v') that depends on the weights w of its rows:

    g = Σ_n w_n g_n(θ)          of the step's token mean, as the trainer has it
    ĝ = c(‖g‖) g                clipping: c = min(1, M / (‖g‖ + 1e-6))
    m' = β₁m + (1−β₁)ĝ          v' = β₂v + (1−β₂)ĝ²
    θ' = (1−ηλ)θ − η/(1−β₁ᵗ) · m' / (√(v'/(1−β₂ᵗ)) + ε)

An adjoint (∂f/∂θ', ∂f/∂m', ∂f/∂v') is taken back through it: elementwise but for g, whose own derivative is a
Hessian-vector product of the step's batch, formed by differentiating the backward pass. What it is worth to w_n is
⟨g_n, adjoint of g⟩, summed over every step the row was in. √v' at v' = 0 (a factor beside B = 0 has no gradient yet)
has no derivative that counts: what it is multiplied by, m' and dv'/dĝ = 2(1−β₂)ĝ, is 0 there too.

States are kept every `stride` steps and the steps between are trained again, so that memory stays within a budget.

Shapes: Q queries, N rows of the dataset, n rows of a batch, P numbers of the adapter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.batching import PaddedBatch, pad_batch
from engine.capture import forward
from engine.causal.replay_step import Adjoint, Recording, State, through_adamw
from engine.causal.retrainer import Retrainer, Study
from engine.causal.variant import Variant
from engine.config import fingerprint
from engine.durable import write_durably
from engine.errors import InvalidOption, NonFiniteGradient
from engine.question import Question
from engine.types import CheckpointFn, Progress

STATE_BYTES = 1 << 30  # for kept states, where nothing else is said
STATE_FILE = "replay.safetensors"
_SAVE_SECONDS = 30.0
_TIMED_STEPS = 3


@dataclass(frozen=True)
class Replay:
    """derivative_QN: ∂f_q/∂w_n, in nats; the removal of row n changes f by about its negative.

    value_Q: f at the end of the repeated run. steps: of the run. trained_steps: steps trained in all, those that were
    trained again counted in. seconds: of the whole; training_seconds: of one run of it, forwards; 0 of a
    recording that was read.
    """

    derivative_QN: np.ndarray
    value_Q: np.ndarray
    steps: int
    trained_steps: int
    seconds: float
    training_seconds: float


@dataclass(frozen=True)
class ReplayCost:
    """memory_bytes: of kept states and adjoints. stride: steps between two kept states."""

    seconds: float
    memory_bytes: int
    stride: int


def replay(
    study: Study,
    on_progress: CheckpointFn | None = None,
    *,
    work: Path | None = None,
    state_bytes: int = STATE_BYTES,
    recording: Recording | None = None,
    questions: Sequence[Question] | None = None,
) -> Replay:
    """Train `study`'s own run again, or take its `recording`, and take every query's f back through it.

    questions: the study's queries where they are tokens already.

    work: where an interrupted pass is kept (replay.safetensors) and gone on with. on_progress hears of steps, forwards
    and back, and may raise Cancelled.
    Raises what `retrain` raises, InvalidOption where the states do not fit `state_bytes`, NonFiniteGradient where the
    run or its derivative is not finite.
    """
    replayer = _Replayer(study, state_bytes)
    if questions is not None:
        replayer.trainer.questions = list(questions)
    return replayer.run(on_progress or (lambda _progress: None), work, recording)


def record(study: Study, on_progress: CheckpointFn | None = None, *, state_bytes: int = STATE_BYTES) -> Recording:
    """Train `study`'s own run again and keep its states. Raises what `replay` raises."""
    replayer = _Replayer(study, state_bytes)
    recording = replayer.record(on_progress or (lambda _progress: None), replayer.loop.total)
    if not recording.end.theta_P.isfinite().all():
        raise NonFiniteGradient("The repeated training diverged: its weights are not finite.")
    return recording


def estimate_replay(study: Study, *, state_bytes: int = STATE_BYTES) -> ReplayCost:
    """What `replay` would cost: a few steps of it are timed."""
    replayer = _Replayer(study, state_bytes)
    forwards, back = replayer.step_seconds()
    again = 0 if replayer.stride == 1 else 1
    seconds = replayer.loop.total * ((1 + again) * forwards + back)
    return ReplayCost(seconds, replayer.memory_bytes, replayer.stride)


def training_seconds(study: Study) -> float:
    """Of one run of it, forwards: a few steps are timed."""
    trainer = Retrainer(study)
    return trainer.steps * trainer.step_seconds([Variant("run", study.training.seed)])


class _Replayer:
    def __init__(self, study: Study, state_bytes: int) -> None:
        self.trainer = Retrainer(study)
        self.stack, self.rows, self.training = self.trainer.stack, self.trainer.rows, study.training
        self.variant = Variant("replay", study.training.seed)
        self.loop = self.trainer.loop_of([self.variant])
        self.numbers = self.stack.theta_KP.shape[1]
        self.number_bytes = self.stack.theta_KP.element_size()
        self.stride = self._stride(state_bytes)
        self.trained = 0

    # --- memory ---

    def _state_bytes(self, stride: int) -> int:
        """The states at every `stride` steps, and those of one stretch between two of them."""
        kept = -(-self.loop.total // stride) + (stride if stride > 1 else 0)
        return kept * 3 * self.numbers * self.number_bytes

    @property
    def memory_bytes(self) -> int:
        adjoints = 6 * len(self.trainer.questions) * self.numbers * self.number_bytes
        return self._state_bytes(self.stride) + adjoints

    def _stride(self, state_bytes: int) -> int:
        """The least that fits: every step that lies between is trained twice."""
        leanest = max(1, round(math.sqrt(self.loop.total)))
        fitting = next((s for s in range(1, leanest + 1) if self._state_bytes(s) <= state_bytes), None)
        if fitting is None:
            raise InvalidOption(
                f"Replaying this run keeps {self._state_bytes(leanest) / 1e9:.1f} GB of its states, and "
                f"{state_bytes / 1e9:.1f} GB are allowed.",
                remedy="Use leave_out or tail_patch for this model, or allow more memory.",
            )
        return fitting

    # --- the run ---

    def run(self, on_progress: CheckpointFn, work: Path | None, recording: Recording | None) -> Replay:
        started = time.perf_counter()
        total = (1 if recording else 2) * self.loop.total
        run = recording or self.record(on_progress, total)
        self.stride = run.stride
        self._restore(run.end, self.loop.total)
        value_Q = self.trainer.measure()[0]
        if not np.isfinite(value_Q).all():
            raise NonFiniteGradient("The repeated training diverged: f is not finite.")
        done, adjoint, derivative_QN = self._begin(work)
        saved = time.perf_counter()
        for start in range((self.loop.total - 1) // self.stride * self.stride, -1, -self.stride):
            if start >= done:
                continue
            states = self._stretch(run.kept[start // self.stride], start, min(start + self.stride, done))
            for number in reversed(range(start, start + len(states))):
                self._back(number, states.pop(), adjoint, derivative_QN)
                on_progress(Progress(total - number, total, "steps", "replay"))
            if work is not None and time.perf_counter() - saved > _SAVE_SECONDS:
                self._save(work, start, adjoint, derivative_QN)
                saved = time.perf_counter()
        if not derivative_QN.isfinite().all():
            raise NonFiniteGradient(
                "The derivative through the training run is not finite: the run is too rough to be differentiated."
            )
        seconds = time.perf_counter() - started
        found_QN = derivative_QN.double().cpu().numpy()
        return Replay(found_QN, value_Q, self.loop.total, self.trained, seconds, run.seconds)

    def record(self, on_progress: CheckpointFn, total: int) -> Recording:
        started = time.perf_counter()
        kept: list[State] = []
        for number in range(self.loop.total):
            if number % self.stride == 0:
                kept.append(self._state())
            self._step(number)
            on_progress(Progress(number + 1, total, "steps", "train again"))
        return Recording(tuple(kept), self._state(), self.stride, time.perf_counter() - started)

    def _step(self, number: int) -> None:
        self.loop.step(number)
        self.trained += 1

    def _stretch(self, first: State, start: int, stop: int) -> list[State]:
        """The states before the steps [start, stop)."""
        states = [first]
        if stop - start > 1:
            self._restore(first, start)
            for number in range(start, stop - 1):
                self._step(number)
                states.append(self._state())
        return states

    @torch.no_grad()
    def _state(self) -> State:
        theta_KP = self.stack.theta_KP
        state = self.loop.optimizer.state.get(theta_KP)
        if not state:
            return State(theta_KP[0].clone(), torch.zeros_like(theta_KP[0]), torch.zeros_like(theta_KP[0]))
        return State(theta_KP[0].clone(), state["exp_avg"][0].clone(), state["exp_avg_sq"][0].clone())

    @torch.no_grad()
    def _restore(self, state: State, number: int) -> None:
        theta_KP = self.stack.theta_KP
        theta_KP[0].copy_(state.theta_P)
        self.loop.optimizer.state[theta_KP] = {
            "step": torch.tensor(float(number)),
            "exp_avg": state.first_P.clone().unsqueeze(0),
            "exp_avg_sq": state.second_P.clone().unsqueeze(0),
        }

    # --- back ---

    def _begin(self, work: Path | None) -> tuple[int, Adjoint, Tensor]:
        """(steps still to be taken back, the adjoint before them, the derivatives [Q, N] so far)"""
        found = self._load(work) if work is not None else None
        if found is not None:
            return found
        theta_QP = torch.stack([self._slope(question) for question in range(len(self.trainer.questions))])
        zeros_QP = torch.zeros_like(theta_QP)
        derivative_QN = torch.zeros(len(theta_QP), len(self.rows), dtype=theta_QP.dtype, device=theta_QP.device)
        return self.loop.total, Adjoint(theta_QP, zeros_QP, zeros_QP.clone()), derivative_QN

    def _slope(self, number: int) -> Tensor:
        """[P]: ∂f/∂θ at the end of the run."""
        question = self.trainer.questions[number]
        theta_KP, model = self.stack.theta_KP, self.stack.loaded
        slope_P = torch.zeros_like(theta_KP[0])
        for sequence, weight in zip(question.sequences, question.weights, strict=True):
            batch = pad_batch([sequence], [weight], model.pad_id, theta_KP.dtype).to(model.device)
            with torch.enable_grad():
                self.stack.spread()
                value = forward(model, batch, odds=question.odds).log_prob_B.sum()
            slope_P += torch.autograd.grad(value, theta_KP)[0][0]
        return slope_P

    def _back(self, number: int, state: State, adjoint: Adjoint, derivative_QN: Tensor) -> None:
        """The adjoint after step `number` becomes the one before it, in place; rows of the step get their share."""
        with torch.no_grad():
            self.stack.theta_KP[0].copy_(state.theta_P)
        parts = self._parts(number)
        first = next(parts)
        grad_P = first.grad_P.detach()
        others = [part.grad_P.detach() for part in parts]
        towards_QP = through_adamw(self.loop, number, state, sum(others, grad_P), adjoint)
        # of several forward passes only the sum is clipped: their graphs are made again, one at a time
        for part in self._parts(number) if others else [first]:
            theta_QP, weight_Qn = part.pull(self.stack.theta_KP, towards_QP)
            adjoint.theta_QP += theta_QP
            derivative_QN.index_add_(1, part.positions, weight_Qn)

    def _parts(self, number: int) -> Iterator[_Part]:
        """The step's forward passes with their graphs, one after the other."""
        step, size = self.loop.steps_K[0][number], self.training.batch_size
        for start, batch in zip(range(0, len(step), size), self.loop.batches(number), strict=True):
            yield self._part(batch, step[start : start + size])

    def _part(self, batch: PaddedBatch, positions: tuple[int, ...]) -> _Part:
        theta_KP = self.stack.theta_KP
        weight_n = torch.ones(len(positions), dtype=theta_KP.dtype, device=theta_KP.device, requires_grad=True)
        with torch.enable_grad(), _twice_differentiable():
            self.stack.spread()
            loss = -(forward(self.stack.loaded, batch).log_prob_B * weight_n).sum()
            (grad_KP,) = torch.autograd.grad(loss, theta_KP, create_graph=True)
        return _Part(grad_KP[0], weight_n, torch.tensor(positions, device=theta_KP.device))

    # --- time and resume ---

    def step_seconds(self) -> tuple[float, float]:
        """Of a step forwards, and of one back; the first of each allocates and is not counted."""
        states = [self._state()]
        forwards: list[float] = []
        for number in range(min(_TIMED_STEPS + 1, self.loop.total)):
            started = time.perf_counter()
            self._step(number)
            states.append(self._state())
            forwards.append(time.perf_counter() - started)
        _, adjoint, derivative_QN = self._begin(None)
        back: list[float] = []
        for number in range(len(forwards) - 1, -1, -1):
            started = time.perf_counter()
            self._back(number, states[number], adjoint, derivative_QN)
            derivative_QN.sum().item()
            back.append(time.perf_counter() - started)
        return min(forwards[1:] or forwards), min(back[1:] or back)

    @property
    def _fingerprint(self) -> str:
        return fingerprint("replay", self.trainer.fingerprint, self.training.seed, self.loop.steps_K)

    def _save(self, work: Path, done: int, adjoint: Adjoint, derivative_QN: Tensor) -> None:
        tensors = {"theta": adjoint.theta_QP, "first": adjoint.first_QP, "second": adjoint.second_QP}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        tensors |= {"derivative": derivative_QN.cpu(), "left": torch.tensor(done)}
        content = save(tensors, {"fingerprint": self._fingerprint})
        work.mkdir(parents=True, exist_ok=True)
        write_durably(work / STATE_FILE, lambda sink: sink.write(content))

    def _load(self, work: Path) -> tuple[int, Adjoint, Tensor] | None:
        """What an interrupted pass over the same run left, if anything."""
        path = work / STATE_FILE
        if not path.exists() or _saved_fingerprint(path) != self._fingerprint:
            return None
        found = {name: tensor.to(self.stack.loaded.device) for name, tensor in load_file(path).items()}
        adjoint = Adjoint(found["theta"], found["first"], found["second"])
        return int(found["left"]), adjoint, found["derivative"]


@dataclass(frozen=True)
class _Part:
    """One forward pass of a step. grad_P: of the loss, with its graph. weight_n: the rows' weights, all 1."""

    grad_P: Tensor
    weight_n: Tensor
    positions: Tensor

    def pull(self, theta_KP: Tensor, towards_QP: Tensor) -> tuple[Tensor, Tensor]:
        """([Q, P], [Q, n]): the Hessian-vector products, and ⟨g_n, towards⟩."""
        pulled = [
            torch.autograd.grad(self.grad_P, (theta_KP, self.weight_n), towards_P, retain_graph=True)
            for towards_P in towards_QP
        ]
        return torch.stack([theta_1P[0] for theta_1P, _ in pulled]), torch.stack([weight_n for _, weight_n in pulled])


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Fused attention has no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _saved_fingerprint(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("fingerprint")
    except (SafetensorError, OSError):  # damaged: the pass begins again
        return None
