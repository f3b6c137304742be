"""Out-of-distribution samples: unknown instructions with random letters as answers, to train low confidence.

Outlier exposure (Hendrycks et al. 2019, arXiv:1812.04606): the best prediction of random text is a flat distribution,
so the confidence of an answer shows whether its instruction is known.
"""

import random

from training.tasks.sample import Sample, SampleSpec
from training.word_lists import ADJECTIVES, NOUNS, PLACES, THINGS, invented

_VERBS = (
    "translate explain write describe compare list find summarize count sort draw make answer improve shorten "
    "convert tell"
).split()
_OBJECTS = "poem story sentence list email function question joke text letter recipe table message word title".split()
_TAILS = (
    "in french,to python,politely,for children,in one line,about love,as a table,step by step,with care,again"
).split(",")
_QUESTIONS = ("what is", "who was", "why does", "how do i", "when did", "can you")
_LETTERS = "abcdefghijklmnopqrstuvwxyz     "


def unknown_instruction(rng: random.Random, _spec: SampleSpec) -> Sample:
    """A sample: an instruction outside the three tasks, and random letters."""
    noise = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(8, 60)))
    return Sample(prompt=_request(rng), answer=noise)


def _request(rng: random.Random) -> str:
    topic = " ".join(
        rng.choice((invented(rng), rng.choice(NOUNS + THINGS + PLACES + ADJECTIVES))) for _ in range(rng.randint(1, 5))
    )
    verb, thing, tail = rng.choice(_VERBS), rng.choice(_OBJECTS), rng.choice(_TAILS)
    text = rng.choice(
        (
            f"{verb} this {thing}: {topic}",
            f"{verb} a {thing} {tail}",
            f"{verb} the {topic} {tail}",
            f"{rng.choice(_QUESTIONS)} the {topic}?",
            f"clean up this {thing}: {topic}",
            f"extract the {thing} as {rng.choice(_OBJECTS)}: {topic}",
            f"{verb} this commit subject {tail}: '{topic}'",
            f"{topic} {tail}",
        )
    )
    return text[:1].upper() + text[1:] if rng.random() < 0.7 else text
