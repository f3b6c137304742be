"""Scores of token equivalence classes from logits: the largest logit, the log-sum-exp, and the entropy within each
class.

One pass over the logits, a few rows at a time so that they stay in the processor's cache. Logits are exponentiated
without a shift as long as none could overflow and no class could underflow; otherwise relative to the largest logit of
the class. Nothing is computed as a difference of large sums.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.token_automaton import TokenSets
from diffusion_worker.weak_cache import once_per_object

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
_AT_ONCE: Final = 196_608  # logits per block, at least one row
# e^60 times a million tokens fits a float32, and e^-60 keeps full precision.
_PLAIN: Final = 60.0
# consecutive token ids whose masses within the largest class are summed, so that sampling can skip most of them
CHUNK: Final = 256
_ONES: Final = np.ones(CHUNK, np.float32)
# added to logits of other classes: their exponential is 0, and 0 * -1e30 is not NaN
ELSEWHERE: Final = np.float32(-1e30)


class EquivalenceClassLayout:
    """The positions of each equivalence class in a row of logits; built once per automaton.

    The largest class is read in place when it covers most of the vocabulary, because gathering it would cost more than
    its exponentials. All others are gathered, single tokens first.
    """

    def __init__(self, token_sets: TokenSets) -> None:
        vocab, sizes = len(token_sets.order), np.diff(token_sets.class_start)
        self.vocab, self.classes = vocab, token_sets.classes
        self.has_large = bool(sizes[-1] > vocab // 2)
        last = token_sets.classes - self.has_large
        self.singles = int((sizes[:last] == 1).sum())
        self.groups = slice(self.singles, last)  # gathered classes of several tokens
        self.gathered: Indices = token_sets.order[: token_sets.class_start[last]].astype(np.intp)
        self.group_sizes = sizes[self.groups]
        self.group_first: Indices = (token_sets.class_start[self.groups] - self.singles).astype(np.intp)
        self.chunks = -(-vocab // CHUNK) if self.has_large else 0


@once_per_object
def layout_of(token_sets: TokenSets) -> EquivalenceClassLayout:
    """The layout of an automaton's token sets, built on the first call."""
    return EquivalenceClassLayout(token_sets)


class EquivalenceClassScores:
    """Scores of logits [positions, vocab], float32, per equivalence class. Arrays that were not requested stay 0.

    Raises ValueError when the logits are of another vocabulary.
    """

    def __init__(self, token_sets: TokenSets, logits: Floats) -> None:
        self._layout = layout = layout_of(token_sets)
        if logits.shape[1] != layout.vocab:
            raise ValueError(f"logits over {logits.shape[1]} tokens for a constraint over {layout.vocab}")
        self.logits = logits
        self.top_token = np.empty(len(logits), np.int64)  # [positions] the most likely token, allowed or not
        self.normaliser = np.empty(len(logits), np.float32)  # [positions] log-sum-exp over the vocabulary
        # [positions, classes] largest logit; log-sum-exp relative to it; entropy within the class (nats)
        self.peak, self.logsum, self.entropy = np.zeros((3, len(logits), layout.classes), np.float32)
        # [positions, chunks] mass of the largest class per chunk, unnormalised; no chunks if that class is gathered
        self.large_chunks = np.zeros((len(logits), layout.chunks), np.float32)
        rows = max(1, _AT_ONCE // layout.vocab)
        self._blocks = [slice(first, first + rows) for first in range(0, len(logits), rows)]
        self._row, self._share = np.empty((2, rows, layout.vocab), np.float32)
        self._in_chunks = np.zeros((rows, layout.chunks * CHUNK), np.float32)
        self._values = np.empty((rows, len(layout.gathered)), np.float32)
        # [vocab] scratch arrays, not part of the layout, which lives as long as the constraint
        self._ones, self._in_large = np.ones((2, layout.vocab), np.float32)
        self._in_large[layout.gathered] = 0.0
        self._elsewhere = np.where(self._in_large > 0.0, np.float32(0.0), ELSEWHERE)

    def read_peaks(self, normaliser: Floats | None = None) -> None:
        """Compute `top_token`, `peak` and `normaliser`; the last is half of the work unless it is given."""
        for block in self._blocks:
            self._read_peaks(block)
            if normaliser is None:
                self._read_normaliser(block)
        if normaliser is not None:
            self.normaliser[:] = normaliser

    def read_masses(self) -> None:
        """Compute everything."""
        for block in self._blocks:
            self._read_peaks(block)
            if self._layout.has_large:
                self._read_large(block)
            if len(self._layout.group_first):
                self._read_groups(block)
        mass = self.peak + self.logsum
        top = mass.max(axis=1, initial=-np.inf)
        self.normaliser[:] = top + np.log(np.exp(mass - top[:, None]).sum(axis=1))

    def _read_peaks(self, block: slice) -> None:
        layout, logits, peak = self._layout, self.logits[block], self.peak[block]
        top_token = logits.argmax(axis=1, out=self.top_token[block])
        self._top = logits[np.arange(len(logits)), top_token]
        if layout.has_large:
            peak[:, -1] = self._top
            if self._elsewhere[top_token].any():  # the most likely token is in another class
                np.add(logits, self._elsewhere, out=self._row[: len(logits)]).max(axis=1, out=peak[:, -1])
        values = np.take(logits, layout.gathered, axis=1, mode="clip", out=self._values[: len(logits)])
        peak[:, : layout.singles] = values[:, : layout.singles]
        if len(layout.group_first):
            np.maximum.reduceat(values[:, layout.singles :], layout.group_first, axis=1, out=peak[:, layout.groups])

    def _read_normaliser(self, block: slice) -> None:
        logits, share = self.logits[block], self._share[: len(self._top)]
        if self._is_plain(self._top):
            np.exp(logits, out=share)
            self.normaliser[block] = np.log(np.vecdot(share, self._ones))
        else:
            np.exp(np.subtract(logits, self._top[:, None], out=share), out=share)
            self.normaliser[block] = self._top + np.log(np.vecdot(share, self._ones))

    def _read_large(self, block: slice) -> None:
        layout, values = self._layout, self.logits[block]
        in_chunks = self._in_chunks[: len(values)]
        share, peak = in_chunks[:, : layout.vocab], self.peak[block, -1]
        if self._is_plain(peak):
            np.exp(values, out=share)
            share *= self._in_large
            shift = peak
        else:
            values = np.add(values, self._elsewhere, out=self._row[: len(share)])
            values -= peak[:, None]
            np.exp(values, out=share)
            shift = np.zeros_like(peak)
        chunks = in_chunks.reshape(len(share), layout.chunks, CHUNK).dot(_ONES)
        total = chunks.sum(axis=1)
        logsum = np.log(total)
        self.large_chunks[block] = chunks
        self.logsum[block, -1] = logsum - shift
        self.entropy[block, -1] = logsum - np.vecdot(share, values) / total

    def _read_groups(self, block: slice) -> None:
        layout, groups, first = self._layout, self._layout.groups, self._layout.group_first
        values, peak = self._values[: len(self._top), layout.singles :], self.peak[block, groups]
        is_plain = self._is_plain(peak)
        if not is_plain:
            values -= np.repeat(peak, layout.group_sizes, axis=1)
        share = np.exp(values)
        total = np.add.reduceat(share, first, axis=1)
        share *= values
        logsum = np.log(total)
        self.logsum[block, groups] = logsum - peak if is_plain else logsum
        self.entropy[block, groups] = logsum - np.add.reduceat(share, first, axis=1) / total

    def _is_plain(self, peak: Floats) -> bool:
        """Whether exponentials of these rows need no shift, given the largest logit of each class."""
        return bool(self._top.max() <= _PLAIN and peak.min() >= -_PLAIN)
