"""Word lists of the sample generators, and invented words, which the model can only copy."""

import random
from typing import Final

NAMES: Final = (
    "anna bob carla david elena frank grace hugo iris jack karen leo maria nina oscar paul quinn rosa sam tina "
    "umar vera will xenia yara zoe amir bella chen dora"
).split()
ADJECTIVES: Final = (
    "red blue green small large wooden metal old new cheap soft heavy round square dark bright white black silver "
    "golden"
).split()
NOUNS: Final = (
    "lamp chair desk book cup pen box bag shirt hat clock phone mirror plant rug bowl knife bottle key shelf".split()
)
DAYS: Final = "monday tuesday wednesday thursday friday saturday sunday today tomorrow".split()

VERBS: Final = {
    "fix": ("fixed", "fixes", "fixing"),
    "add": ("added", "adds", "adding"),
    "remove": ("removed", "removes", "removing"),
    "update": ("updated", "updates", "updating"),
    "rename": ("renamed", "renames", "renaming"),
    "move": ("moved", "moves", "moving"),
    "improve": ("improved", "improves", "improving"),
    "handle": ("handled", "handles", "handling"),
    "drop": ("dropped", "drops", "dropping"),
    "test": ("tested", "tests", "testing"),
    "clean": ("cleaned", "cleans", "cleaning"),
    "speed up": ("sped up", "speeds up", "speeding up"),
}
QUALITIES: Final = "broken missing stale slow wrong empty unused extra new old invalid nested".split()
THINGS: Final = (
    "login cache token parser config query index error header worker button page route schema import timeout logger "
    "script model client"
).split()
PLACES: Final = "api docs user session admin upload search report queue cli".split()

_ONSETS: Final = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr pl pr sh sl sp st th tr".split()
_VOWELS: Final = "a e i o u ai ea ee oo ou".split()
_CODAS: Final = ["", "", "", "n", "r", "s", "t", "l", "m", "ck", "nd", "x"]


def invented(rng: random.Random) -> str:
    """A random pronounceable word of one to three syllables and three to nine letters."""
    while True:
        syllables = rng.choice((1, 2, 2, 3))
        word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))
        if 3 <= len(word) <= 9:
            return word


def known_or_invented(rng: random.Random, words: list[str], share: float) -> str:
    """A word of the list or, with probability `share`, an invented one."""
    return invented(rng) if rng.random() < share else rng.choice(words)
