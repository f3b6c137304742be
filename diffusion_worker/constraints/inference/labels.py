"""Label probabilities: the probability that each of a few texts is the whole answer, from the log probabilities of one
canvas.

The mass of a label is the probability that the canvas spells it and then ends, with positions taken as independent,
summed over all tokenizations (so that no label loses mass by having several) and over its JSON layouts. Masses are
normalised over the labels. A backward sum over a graph of byte positions; needs no automaton.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes
from diffusion_worker.errors import AnswerDoesNotFit, InvalidRequest

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
_END = 0  # the state behind an end token, of all texts


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIndex:
    """Token ids by the bytes they spell."""

    tokens: Mapping[bytes, tuple[int, ...]]
    longest: int  # bytes
    end_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """The candidate texts as a graph: states are byte positions in a text, edges are tokens."""

    answers: tuple[tuple[int, ...], ...]  # of each label's first text, without the end token
    end_id: int
    source: Ints  # [edges]
    target: Ints  # [edges]
    column: Ints  # [edges] into `tokens`
    tokens: Ints  # [columns] ids whose log probabilities are needed
    starts: Ints  # [texts] the state before each text
    owner: Ints  # [texts] its label
    states: int
    positions: int  # that the longest text may take, end token included

    def check_length(self, tokens: int, field: str | None = None) -> None:
        """Raises AnswerDoesNotFit, naming the field, if a label needs more than `tokens` tokens, end token included."""
        if (longest := 1 + max(map(len, self.answers))) > tokens:
            message = f"the longest label takes {longest} tokens; at most {tokens} fit"
            raise AnswerDoesNotFit(message, param=field)


def index_tokens(vocabulary: VocabularyBytes) -> TokenIndex:
    """Build the index: about 0.1 s for 100,000 tokens."""
    tokens: dict[bytes, tuple[int, ...]] = {}
    for token, spelled in enumerate(vocabulary.tokens):
        if spelled:
            tokens[spelled] = (*tokens.get(spelled, ()), token)
    return TokenIndex(tokens=tokens, longest=max(map(len, tokens), default=0), end_ids=vocabulary.end_ids)


def compile_labels(texts_by_label: Sequence[Sequence[str]], index: TokenIndex) -> Labels:
    """Labels, each from its equivalent texts. Raises InvalidRequest for a text that is empty or that no tokens
    spell."""
    edges: list[tuple[int, int, int]] = []
    answers, starts, owner = [], [], []
    states = _END + 1
    for label, texts in enumerate(texts_by_label):
        for position, text in enumerate(map(str.encode, texts)):
            found = list(_edges(text, index))
            if not position:
                answers.append(_shortest_tokenization(text, found))
            edges += [(states + begin, states + end, token) for begin, end, token in found]
            edges += [(states + len(text), _END, token) for token in index.end_ids]
            starts.append(states)
            owner.append(label)
            states += len(text) + 1
    source, target, token = np.array(edges, np.int64).T
    tokens, column = np.unique(token, return_inverse=True)
    return Labels(
        answers=tuple(answers),
        end_id=index.end_ids[0],
        source=source,
        target=target,
        column=column,
        tokens=tokens,
        starts=np.array(starts),
        owner=np.array(owner),
        states=states,
        positions=1 + max(len(text.encode()) for texts in texts_by_label for text in texts),
    )


def label_logprobs(labels: Labels, logprobs: Doubles) -> Doubles:
    """[labels] normalised log probabilities, from those of the needed tokens [positions, columns]; uniform if no label
    can be written."""
    backward = np.full(labels.states, -np.inf)
    backward[_END] = 0.0  # after the end, any token
    for row in logprobs[::-1]:
        before = np.full(labels.states, -np.inf)
        np.logaddexp.at(before, labels.source, row[labels.column] + backward[labels.target])
        before[_END] = 0.0
        backward = before
    masses = np.full(len(labels.answers), -np.inf)
    np.logaddexp.at(masses, labels.owner, backward[labels.starts])
    total = float(np.logaddexp.reduce(masses))
    if total == -np.inf:
        return np.full(len(masses), -np.log(len(masses)))
    shares: Doubles = masses - total
    return shares


def _edges(text: bytes, index: TokenIndex) -> Iterator[tuple[int, int, int]]:
    """(first byte, end byte, token) of every token that spells a part of the text."""
    for begin in range(len(text)):
        for end in range(begin + 1, min(begin + index.longest, len(text)) + 1):
            for token in index.tokens.get(text[begin:end], ()):
                yield begin, end, token


def _shortest_tokenization(text: bytes, edges: Sequence[tuple[int, int, int]]) -> tuple[int, ...]:
    """The text in as few tokens as possible."""
    best: dict[int, tuple[int, ...]] = {0: ()}
    for begin, end, token in edges:  # ordered by first byte
        if begin in best and (end not in best or len(best[begin]) + 1 < len(best[end])):
            best[end] = (*best[begin], token)
    if not text or len(text) not in best:
        raise InvalidRequest("a label is empty" if not text else f"the tokens cannot spell the label {text.decode()!r}")
    return best[len(text)]
