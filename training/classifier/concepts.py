"""Words of one meaning in several languages: what is learned of one word counts for the others, too.

A concept is a row that all its words share while the model is fitted. Afterwards it is added to their own rows, so it
costs nothing when a request is classified. The vocabulary also knows the first concept of each word, by which words are
hashed in sequence.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from gateway.classifier.tokens import FIRST_WORD, STEM, Vocabulary, counted_words, lowered, split

FILE: Final = Path(__file__).with_name("concepts.txt")
LEAST: Final = 3  # texts that contain a word before it is in the vocabulary

Concepts = Mapping[str, tuple[str, ...]]


def read_concepts(path: Path = FILE) -> dict[str, tuple[str, ...]]:
    """The words of each concept."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return {name: tuple(words.split()) for name, words in (line.split(": ", 1) for line in lines)}


def vocabulary_of(texts: Iterable[str], concepts: Concepts) -> Vocabulary:
    """The words and stems of the texts, and the words of all concepts."""
    counts = Counter(word for text in texts for word in set(split(lowered(text))))
    named = {word.removesuffix(STEM) for words in concepts.values() for word in words}
    for word in named:
        if len(split(word)) == 1:
            counts[word] = max(counts[word], LEAST)
    words = counted_words(counts, least=LEAST)
    words += sorted(word for word in named if len(word) == 2 and len(split(word)) == 2)
    found = concepts_by_word(words, concepts)
    return Vocabulary(words, [found[word][0] + 1 if word in found else 0 for word in words])


def concepts_by_word(words: Iterable[str], concepts: Concepts) -> dict[str, list[int]]:
    """The numbers of the concepts of each word or stem that has any."""
    exact: defaultdict[str, set[int]] = defaultdict(set)
    starts: defaultdict[str, set[int]] = defaultdict(set)
    for number, given in enumerate(concepts.values()):
        for word in given:
            if word.endswith(STEM):
                starts[word.removesuffix(STEM)].add(number)
            else:
                exact[word].add(number)
    found: dict[str, list[int]] = {}
    for word in words:
        bare = word.removesuffix(STEM)
        numbers = set() if word.endswith(STEM) else set(exact.get(word, ()))
        for size in range(2, len(bare) + 1):
            numbers |= starts.get(bare[:size], set())
        if numbers:
            found[word] = sorted(numbers)
    return found


def parents(vocabulary: Vocabulary, concepts: Concepts) -> tuple[list[list[int]], list[list[int]]]:
    """For every token, its stems, and its concepts."""
    by_word = concepts_by_word(vocabulary.words, concepts)
    stems = [vocabulary.stems(number) for number in range(len(vocabulary.names))]
    found = [by_word.get(name, []) if at >= FIRST_WORD else [] for at, name in enumerate(vocabulary.names)]
    return stems, found
