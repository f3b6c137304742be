"""Reduction of logits to scores of token equivalence classes, wherever the logits are: all that inference over a canvas
needs of them, about 1 MB instead of 4 bytes x positions x vocabulary.

The tokens of a class are laid out in chunks. A reduction keeps the largest logit and the sum of weights of each chunk,
so that the most likely token of a class, or a sample of it, is found by reading a single chunk. `LogitReducer` is the
reduction on a CPU, in C; `denoise.class_scores` is the one in torch. `equivalence_class_scores` defines what is
computed.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.native import NATIVE
from diffusion_worker.constraints.tokens.token_automaton import TokenSets
from diffusion_worker.weak_cache import once_per_object

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
CHUNK: Final = 128  # slots per chunk, as in `_native.c`


class ClassLayout:
    """Where the tokens of each equivalence class are; built once per automaton. Classes of one token come first. The
    tokens of the others are in chunks of CHUNK slots, in ascending order. Those of the largest class are chunks of
    consecutive ids with holes if it covers most of the vocabulary, so that logits are read in place."""

    def __init__(self, token_sets: TokenSets) -> None:
        vocab, sizes = len(token_sets.order), np.diff(token_sets.class_start)
        self.vocab, self.classes = vocab, token_sets.classes
        self.singles = int((sizes == 1).sum())
        self.single: Ints = token_sets.order[: self.singles].astype(np.int32)  # [singles] their tokens
        has_large = len(sizes) > self.singles and sizes[-1] > vocab // 2
        gathered = sizes[self.singles : len(sizes) - int(has_large)]
        counts = -(-gathered // CHUNK)
        slots = np.full((int(counts.sum()), CHUNK), -1, np.int32)
        if len(gathered):
            at = np.arange(gathered.sum()) - np.repeat(np.cumsum(gathered) - gathered, gathered)
            first = np.repeat((np.cumsum(counts) - counts) * CHUNK, gathered)
            slots.ravel()[first + at] = token_sets.order[self.singles : self.singles + len(at)]
        self.in_place: Ints = np.full(len(slots), -1, np.int32)  # [chunks] the first of consecutive ids; -1: gathered
        if has_large:
            large = np.arange(-(-vocab // CHUNK) * CHUNK, dtype=np.int32).reshape(-1, CHUNK)
            is_member = np.zeros(large.size, np.bool_)
            is_member[token_sets.tokens_of(token_sets.classes - 1)] = True
            self.in_place = np.append(self.in_place, large[:, 0])
            slots = np.concatenate([slots, np.where(is_member.reshape(large.shape), large, np.int32(-1))])
            counts = np.append(counts, len(large))
        self.slots: Ints = slots  # [chunks, CHUNK] tokens; -1: none
        # [classes - singles + 1] where the chunks of each class begin
        self.first_chunk: Ints = np.append(0, np.cumsum(counts)).astype(np.int32)
        bits = np.packbits(slots >= 0, axis=1, bitorder="little").view("<u2").astype(np.uint16)
        others = slots[self.in_place < 0].ravel()  # read in ascending order, and written where their chunks are
        other_slot = np.flatnonzero(others >= 0)
        other_slot = other_slot[np.argsort(others[other_slot], kind="stable")].astype(np.int32)
        arrays = (self.single, self.slots, bits, self.first_chunk, self.in_place, others[other_slot], other_slot)
        self.compiled: Any = None if NATIVE is None else NATIVE.layout(*map(np.ascontiguousarray, arrays), vocab)

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return len(self.slots)


@once_per_object
def class_layout_of(token_sets: TokenSets) -> ClassLayout:
    """The layout of an automaton's token sets, built on the first call."""
    return ClassLayout(token_sets)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """Scores of equivalence classes [positions, classes], from logits. `sampled` is `mass` for the logits divided by
    the temperature of sampling; None if that is 1."""

    peak: Floats  # the largest logit
    mass: Floats  # log-sum-exp of the logits
    entropy: Floats  # within the class, in nats
    sampled: Floats | None


class LogitReducer:
    """Fills scores and chunks from blocks of logits divided by `annealing`, in C. Requires NATIVE."""

    def __init__(self, layout: ClassLayout, positions: int, temperature: float = 1.0, annealing: float = 1.0) -> None:
        shape = (positions, layout.classes)
        self._layout, self._sampling = layout, 0.0 if temperature == 1.0 else 1.0 / temperature
        self._scale = 1.0 / annealing
        sampled = np.empty(shape, np.float32) if self._sampling else None
        self.scores = ClassScores(
            **{name: np.empty(shape, np.float32) for name in ("peak", "mass", "entropy")}, sampled=sampled
        )
        # [positions, chunks] the largest logit; the sum of weights at the temperature of sampling, relative to it
        self.chunk_peak, self.chunk_total = np.empty((2, positions, layout.chunks), np.float32)

    def read(self, first: int, logits: Floats) -> bool:
        """Read the logits [some positions, vocab] of positions from `first` on; returns whether they are finite.
        Raises ValueError when they are of another vocabulary."""
        if logits.shape[1] != self._layout.vocab:
            raise ValueError(f"logits over {logits.shape[1]} tokens for a constraint over {self._layout.vocab}")
        assert NATIVE is not None
        at, scores = slice(first, first + len(logits)), self.scores
        sampled = None if scores.sampled is None else scores.sampled[at]
        out = (scores.peak[at], scores.mass[at], scores.entropy[at], sampled)
        chunks = (self.chunk_peak[at], self.chunk_total[at])
        logits = np.ascontiguousarray(logits, np.float32)
        return bool(NATIVE.reduce(self._layout.compiled, logits, self._scale, self._sampling, *out, *chunks))
