"""Reference inference for tests: every text enumerated, every sum taken term by term."""

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.automaton import ByteAutomaton, freeze
from diffusion_worker.constraints.tokens.token_trie import TokenTrie, build_token_trie

PADDING, END, SECOND_END = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Case:
    """A small language, a small vocabulary, and random logits."""

    language: ByteAutomaton
    tokens: tuple[bytes, ...]  # ids 0 to 2 are control tokens
    logits: NDArray[np.float32]  # [canvas, vocab]

    @property
    def vocabulary(self) -> TokenTrie:
        """The tokens as the engine represents them."""
        return build_token_trie(self.tokens, (END, SECOND_END), PADDING)

    @property
    def logprobs(self) -> NDArray[np.float64]:
        """[canvas, vocab] normalised."""
        exact = self.logits.astype(np.float64)
        return exact - np.logaddexp.reduce(exact, axis=1, keepdims=True)

    def distance(self, state: int) -> float:
        """Fewest tokens that close a text from a state of the language, end token included; inf if none do."""
        steps, seen, frontier = 1, {state}, {state}
        while frontier:
            if any(self.language.accepting[q] for q in frontier):
                return steps
            after = {self.language.walk(q, token) for q in frontier for token in self.tokens if token} - {-1}
            frontier, seen, steps = after - seen, seen | after, steps + 1
        return np.inf

    def texts(self, tokens_left: int) -> dict[tuple[int, ...], float]:
        """Every way to fill the canvas that can still close -> its log probability; padding is left out."""
        remaining = min(len(self.logits), tokens_left)
        found = {}
        for length in range(remaining + 1):
            for ids in itertools.product(range(len(self.tokens)), repeat=length):
                if self._is_allowed(ids, remaining, tokens_left):
                    found[ids] = float(sum(self.logprobs[position, token] for position, token in enumerate(ids)))
        return found

    def _is_allowed(self, ids: tuple[int, ...], remaining: int, tokens_left: int) -> bool:
        text, ends = (
            ids[:-1] if ids and ids[-1] in (END, SECOND_END) else ids,
            bool(ids) and ids[-1] in (END, SECOND_END),
        )
        if any(not self.tokens[token] for token in text) or (not ends and len(ids) < remaining):
            return False
        state = self.language.walk(self.language.start, b"".join(self.tokens[token] for token in text))
        if state < 0:
            return False
        return bool(self.language.accepting[state]) if ends else self.distance(state) <= tokens_left - remaining


@st.composite
def languages(draw: st.DrawFn) -> ByteAutomaton:
    """A few states over the bytes a, b and c; some may be dead ends."""
    states = draw(st.integers(1, 4))
    targets = st.integers(-1, states - 1)
    rows = [[(byte, byte, target) for byte in b"abc" if (target := draw(targets)) >= 0] for _ in range(states)]
    accepting = draw(st.lists(st.booleans(), min_size=states, max_size=states).filter(any))
    return freeze(rows, accepting, 0)


@st.composite
def cases(draw: st.DrawFn, *, canvas: int = 3) -> Case:
    """Languages met by vocabularies of longer tokens, copies included, and logits from flat to peaked."""
    longer = draw(st.lists(st.text("abc", min_size=1, max_size=3), max_size=4))
    tokens = (b"", b"", b"", b"a", b"b", *(text.encode() for text in longer))
    seed, scale = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 1.0, 10.0, 200.0]))
    logits = np.random.default_rng(seed).standard_normal((canvas, len(tokens))) * scale
    return Case(draw(languages()), tokens, logits.astype(np.float32))
