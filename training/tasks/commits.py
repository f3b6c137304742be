"""The clean-up task: rewrite a sloppy commit subject in the imperative, without typing errors.

Typing errors occur in known words only, since an invented word could not be restored.
"""

import random

from training.tasks.sample import Sample, SampleSpec, belongs_to
from training.word_lists import PLACES, QUALITIES, THINGS, VERBS, known_or_invented

PREFIX = "Clean up this commit subject: "
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def commit_subject(rng: random.Random, spec: SampleSpec) -> Sample:
    """A sample: a sloppy subject (wrong tense, typing errors, capitals, full stop) and the clean one."""
    while True:
        verb = rng.choice(list(VERBS))
        rest = _rest(rng, spec.invented)
        answer = " ".join([verb, *rest])
        if len(answer) <= 56 and belongs_to(answer, spec.split):
            source = _sloppy(rng, verb, rest)
            return Sample(prompt=PREFIX + source, answer=answer, source=source)


def _rest(rng: random.Random, invented: float) -> list[str]:
    words = [rng.choice(QUALITIES)] if rng.random() < 0.6 else []
    words.append(known_or_invented(rng, THINGS, invented))
    if rng.random() < 0.7:
        words += [rng.choice(("in", "for", "from", "on")), known_or_invented(rng, PLACES, invented)]
    return words


def _sloppy(rng: random.Random, verb: str, rest: list[str]) -> str:
    words = [rng.choice(VERBS[verb]) if rng.random() < 0.6 else verb, *rest]
    known = {*VERBS, *QUALITIES, *THINGS, *PLACES} | {form for forms in VERBS.values() for form in forms}
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(words))
        if words[at] in known and len(words[at]) > 3:
            words[at] = _mistyped(rng, words[at])
    text = " ".join(words)
    if rng.random() < 0.4:
        text = text[:1].upper() + text[1:]
    return text + "." if rng.random() < 0.15 else text


def _mistyped(rng: random.Random, word: str) -> str:
    """A word with one typing error: a letter dropped, doubled, swapped with its neighbour or replaced."""
    at = rng.randrange(len(word) - 1)
    slip = rng.randrange(4)
    if slip == 0:
        return word[:at] + word[at + 1 :]
    if slip == 1:
        return word[:at] + word[at] + word[at:]
    if slip == 2:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + rng.choice(_LETTERS) + word[at + 1 :]
