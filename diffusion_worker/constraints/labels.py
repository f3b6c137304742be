"""How likely each of a few given texts is to be the whole answer: probabilities of labels from one pass of the net.

Sums over every way to cut a text into tokens, so a label is not punished for being spelled in several. Knows texts, a
vocabulary and logits; needs no automaton.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from diffusion_worker.constraints.atom_scores import Floats
from diffusion_worker.constraints.marginals import Doubles, LogAdder
from diffusion_worker.constraints.runs import Runs
from diffusion_worker.constraints.vocabulary import Vocabulary

Arc = tuple[int, int, int]  # from byte, to byte, token


def label_probabilities(texts: Sequence[bytes], vocabulary: Vocabulary, logits: Floats) -> Doubles:
    """[texts] of logits [positions, vocab]; they sum to 1.

    Raises ValueError for an empty text, and when no text fits into the positions with an end token behind it.
    """
    if not all(texts):
        raise ValueError("a label must not be empty")
    top = logits.max(axis=1)
    normaliser: Floats = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    masses = np.array([_log_mass(text, vocabulary, logits, normaliser) for text in texts])
    likeliest = masses.max(initial=-np.inf)
    if likeliest == -np.inf:
        raise ValueError(f"no label can be spelled in {len(logits)} tokens")
    shares = np.exp(masses - likeliest)
    probabilities: Doubles = shares / shares.sum()
    return probabilities


def _log_mass(text: bytes, vocabulary: Vocabulary, logits: Floats, normaliser: Floats) -> float:
    """Log mass of a text and an end token. Backwards: `onward[byte]` is the mass of the rest of the text, were it to
    stand from the position after on."""
    arcs = [arc for start in range(len(text)) for arc in _arcs(text, start, vocabulary)]
    arcs += [(len(text), len(text) + 1, token) for token in vocabulary.end_ids]
    source, target, token = np.array(arcs).T
    count = np.bincount(source)
    leaving = np.argsort(-count, kind="stable")[: np.count_nonzero(count)]
    runs = Runs(count[leaving])
    add = LogAdder(runs)
    layout = np.argsort(np.argsort(leaving)[np.searchsorted(np.sort(leaving), source)], kind="stable")[runs.layout]
    target, token = target[layout], token[layout]
    scores = (logits[:, token] - normaliser[:, None]).astype(np.float64)
    onward = np.full(len(text) + 2, -np.inf)
    for position in range(len(logits) - 1, -1, -1):
        onward[-1] = 0.0  # behind the end, whatever it is
        with np.errstate(divide="ignore"):  # no way to the end fits
            sums = add(scores[position] + onward[target], np.empty(len(leaving)))
        onward = np.full(len(text) + 2, -np.inf)
        onward[leaving] = sums
    return float(onward[0])


def _arcs(text: bytes, start: int, vocabulary: Vocabulary) -> Iterator[Arc]:
    """All tokens that spell the text from a byte on."""
    trie, node = vocabulary.trie, 0
    for end in range(start, len(text)):
        first = int(trie.first_child[node])
        siblings = trie.byte[first : first + trie.children[node]]
        place = int(np.searchsorted(siblings, text[end]))
        if place == len(siblings) or siblings[place] != text[end]:
            return
        node = first + place
        for token in vocabulary.order[trie.low[node] : trie.low[node] + trie.own[node]]:
            yield start, end + 1, int(token)
