"""Measures the cost of constraints per step, and checks that they hold, on random logits.

Logits are drawn once and canvases start at random rows of them, because drawing new logits would take longer than the
measured code. Times are CPU times of the running thread, so other work on the machine has little effect.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.vocabularies import Words
from diffusion_worker.constraints.inference.marginals import backward_masses, marginals
from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher, open_matcher
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import score_token_sets, weigh_token_sets
from diffusion_worker.constraints.inference.viterbi import best_path
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton

Floats = NDArray[np.float32]
Answer = TypeVar("Answer")
REPEATS: Final = 3
SCALES: Final = (0.0, 1.0, 3.0, 10.0)  # spread of the logits, from an uncertain to a confident model


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMs:
    """One step on one canvas, in ms. `best` includes scoring the classes, `marginals` includes their masses."""

    softmax: float  # of the same logits
    best: float  # best path
    marginals: float  # best path and marginals
    sample: float  # a joint sample, on top of the marginals

    @property
    def best_share(self) -> float:
        """Cost of the best path, relative to a softmax."""
        return self.best / self.softmax

    @property
    def marginals_share(self) -> float:
        """Cost of best path and marginals, relative to a softmax."""
        return self.marginals / self.softmax


class Noise:
    """Random logits, independent of the schema."""

    def __init__(self, *, canvas: int, vocab: int, seed: int) -> None:
        self.canvas = canvas
        self._rows = np.random.default_rng(seed).standard_normal((2 * canvas, vocab), dtype=np.float32)
        self._random = np.random.default_rng(seed + 1)

    def canvas_of(self, scale: float) -> Floats:
        """[canvas, vocab] the logits from a random row on."""
        first = int(self._random.integers(self.canvas))
        return self._rows[first : first + self.canvas] * np.float32(scale)

    def all_of(self) -> Floats:
        """[2 * canvas, vocab] all logits, unscaled."""
        return self._rows

    def uniforms(self) -> NDArray[np.float64]:
        """[canvas] uniform numbers in [0, 1)."""
        return self._random.random(self.canvas)


def step_ms(automaton: TokenAutomaton, logits: Floats) -> StepMs:
    """Cost of the first step of an answer without a binding token limit."""
    matcher = open_matcher(automaton, 1_000_000)
    softmax_ms = thread_ms(lambda: softmax(logits))[0]
    best = thread_ms(lambda: best_path(matcher, score_token_sets(automaton.token_sets, logits)))[0]
    label_logprobs, masses = thread_ms(lambda: weigh_token_sets(automaton.token_sets, logits))
    again, _ = thread_ms(lambda: best_path(matcher, masses.scores))
    back, backward = thread_ms(lambda: backward_masses(matcher, masses))
    forth, _ = thread_ms(lambda: marginals(matcher, masses, backward))
    numbers = np.random.default_rng(0).random(len(logits))
    sample, _ = thread_ms(lambda: sample_path(matcher, masses, backward, numbers))
    return StepMs(softmax=softmax_ms, best=best, marginals=label_logprobs + again + back + forth, sample=sample)


def random_answer(automaton: TokenAutomaton, noise: Noise, max_tokens: int, *, is_sampled: bool) -> list[int]:
    """Decode an answer over as many canvases as it needs, from noise of all scales; returns its ids without the end
    token.

    Raises AssertionError when it does not close within `max_tokens`.
    """
    matcher, ids, canvases = open_matcher(automaton, max_tokens), list[int](), 0
    while matcher.tokens_left and not matcher.is_done:
        logits = noise.canvas_of(SCALES[canvases % len(SCALES)])
        path = _sampled(matcher, logits, noise) if is_sampled else _best(matcher, logits)
        ids += path.tokens[: path.length].tolist()
        matcher, canvases = path.matcher, canvases + 1
    assert matcher.is_done, "the answer did not close in time"
    assert len(ids) <= max_tokens
    return ids[:-1]


def spelled(words: Words, ids: list[int]) -> str:
    """The text of an answer. Raises UnicodeDecodeError for invalid UTF-8."""
    return words.text(ids).decode()


def _best(matcher: Matcher, logits: Floats) -> CanvasPath:
    return best_path(matcher, score_token_sets(matcher.automaton.token_sets, logits))


def _sampled(matcher: Matcher, logits: Floats, noise: Noise) -> CanvasPath:
    masses = weigh_token_sets(matcher.automaton.token_sets, logits)
    return sample_path(matcher, masses, backward_masses(matcher, masses), noise.uniforms())


def softmax(logits: Floats) -> Floats:
    """The softmax, which a step computes in any case."""
    shares: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def thread_ms(work: Callable[[], Answer]) -> tuple[float, Answer]:
    """The shortest duration of several runs, and the result."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.thread_time()
        answer = work()
        best = min(best, time.thread_time() - started)
    return 1000 * best, answer
