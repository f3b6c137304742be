"""The extraction task: convert an order message to a JSON object with four keys.

Messages contain self-corrections ("8 no wait 3", "not bob but anna"), so that position alone does not give the answer.
"""

import json
import random

from training.tasks.sample import Sample, SampleSpec, belongs_to
from training.word_lists import ADJECTIVES, DAYS, NAMES, NOUNS, known_or_invented

PREFIX = "Extract the order as JSON: "
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"]},
        "qty": {"type": "integer"},
        "item": {"type": "string"},
        "day": {"type": ["string", "null"]},
    },
    "required": ["name", "qty", "item", "day"],
    "additionalProperties": False,
}


def order(rng: random.Random, spec: SampleSpec) -> Sample:
    """A sample: an order message and its object, with keys in declared order and without white space."""
    while True:
        name: str | None = known_or_invented(rng, NAMES, spec.invented)
        adjective = rng.choice(ADJECTIVES) if rng.random() < 0.85 else ""
        item = f"{adjective} {known_or_invented(rng, NOUNS, spec.invented)}".strip()
        quantity = rng.randint(1, 30)
        day: str | None = rng.choice(DAYS)
        name, day = (name if rng.random() < 0.85 else None), (day if rng.random() < 0.75 else None)
        answer = json.dumps({"name": name, "qty": quantity, "item": item, "day": day}, separators=(",", ":"))
        if belongs_to(answer, spec.split):
            message = _message(rng, _Phrases(rng, quantity, item, name, day))
            return Sample(prompt=PREFIX + message, answer=answer)


class _Phrases:
    """The wording of each field; '' where it is omitted."""

    def __init__(self, rng: random.Random, quantity: int, item: str, name: str | None, day: str | None) -> None:
        self.quantity = _corrected(rng, str(quantity), str(_other(rng, [str(i) for i in range(1, 31)], str(quantity))))
        self.item = item
        self.name = "" if name is None else _corrected(rng, name, _other(rng, NAMES, name))
        self.day = ""
        if day is not None:
            phrase = f"{day} not {_other(rng, DAYS, day)}" if rng.random() < 0.12 else day
            self.day = f"{rng.choice(('on', 'by', 'before'))} {phrase}"


def _corrected(rng: random.Random, right: str, wrong: str) -> str:
    roll = rng.random()
    if roll < 0.12:
        return f"{wrong} {rng.choice(('no wait', 'sorry', 'actually'))} {right}"
    return f"not {wrong} but {right}" if roll < 0.2 else right


def _other(rng: random.Random, words: list[str], word: str) -> str:
    return rng.choice([w for w in words if w != word])


def _message(rng: random.Random, phrased: _Phrases) -> str:
    to = f"to {phrased.name}" if phrased.name else ""
    for_ = f"for {phrased.name}" if phrased.name else ""
    forms = (
        ("hi, i need", phrased.quantity, phrased.item, for_, phrased.day),
        ("please send", phrased.quantity, phrased.item, to, phrased.day, "thanks"),
        (phrased.name or "our customer", "wants", phrased.quantity, phrased.item, phrased.day),
        (phrased.day, "deliver the", f"{phrased.item}:", phrased.quantity, for_),
        ("could you ship", phrased.quantity, "of the", phrased.item, phrased.day, for_),
        (phrased.quantity, phrased.item, for_, phrased.day, "please"),
    )
    return " ".join(part for part in rng.choice(forms) if part)
