"""Extraction: an order written by hand becomes one JSON object with four keys.

Messages correct themselves ("8 no wait 3", "not bob but anna"), so the answer cannot be read off by position.
"""

import json
import random

from training.tasks.sample import Sample, Wish, belongs_to
from training.words import ADJECTIVES, DAYS, NAMES, NOUNS, known_or_invented

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


def order(rng: random.Random, wish: Wish) -> Sample:
    """An order message and its object, keys in declared order, no white space."""
    while True:
        name: str | None = known_or_invented(rng, NAMES, wish.invented)
        adjective = rng.choice(ADJECTIVES) if rng.random() < 0.85 else ""
        item = f"{adjective} {known_or_invented(rng, NOUNS, wish.invented)}".strip()
        quantity = rng.randint(1, 30)
        day: str | None = rng.choice(DAYS)
        name, day = (name if rng.random() < 0.85 else None), (day if rng.random() < 0.75 else None)
        answer = json.dumps({"name": name, "qty": quantity, "item": item, "day": day}, separators=(",", ":"))
        if belongs_to(answer, wish.split):
            message = _message(rng, _Said(rng, quantity, item, name, day))
            return Sample(prompt=PREFIX + message, answer=answer)


class _Said:
    """How each field is put into words; '' where it is left out."""

    def __init__(self, rng: random.Random, quantity: int, item: str, name: str | None, day: str | None) -> None:
        self.quantity = _corrected(rng, str(quantity), str(_other(rng, [str(i) for i in range(1, 31)], str(quantity))))
        self.item = item
        self.name = "" if name is None else _corrected(rng, name, _other(rng, NAMES, name))
        self.day = ""
        if day is not None:
            said = f"{day} not {_other(rng, DAYS, day)}" if rng.random() < 0.12 else day
            self.day = f"{rng.choice(('on', 'by', 'before'))} {said}"


def _corrected(rng: random.Random, right: str, wrong: str) -> str:
    roll = rng.random()
    if roll < 0.12:
        return f"{wrong} {rng.choice(('no wait', 'sorry', 'actually'))} {right}"
    return f"not {wrong} but {right}" if roll < 0.2 else right


def _other(rng: random.Random, words: list[str], word: str) -> str:
    return rng.choice([w for w in words if w != word])


def _message(rng: random.Random, said: _Said) -> str:
    to = f"to {said.name}" if said.name else ""
    for_ = f"for {said.name}" if said.name else ""
    forms = (
        ("hi, i need", said.quantity, said.item, for_, said.day),
        ("please send", said.quantity, said.item, to, said.day, "thanks"),
        (said.name or "our customer", "wants", said.quantity, said.item, said.day),
        (said.day, "deliver the", f"{said.item}:", said.quantity, for_),
        ("could you ship", said.quantity, "of the", said.item, said.day, for_),
        (said.quantity, said.item, for_, said.day, "please"),
    )
    return " ".join(part for part in rng.choice(forms) if part)
