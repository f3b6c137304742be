"""The record of one prompt of the gate's measurement, and the generators of the trained tasks' prompts."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec


class Third(StrEnum):
    """The three equal parts of a mix."""

    TRAINED = "trained tasks"
    NEAR = "near strangers"
    FAR = "far strangers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt. `answer` is its only correct answer; None: the checkpoint cannot answer it."""

    prompt: str
    answer: str | None
    third: Third
    family: str


Prompt = tuple[str, str | None]  # a prompt and its answer
Family = Callable[[random.Random], Prompt]


def trained(task: str, invented: float) -> Family:
    """A held-out sample of a trained task, with known (0) or invented (1) words."""

    def generate(rng: random.Random) -> Prompt:
        sample = held_out(task, invented, rng)
        return sample.prompt, sample.answer

    return generate


def held_out(task: str, invented: float, rng: random.Random) -> Sample:
    """A sample of the test split."""
    return TASKS[task](rng, SampleSpec(split="test", invented=invented))


def body_of(sample: Sample) -> str:
    """The prompt without its instruction."""
    return sample.prompt.partition(": ")[2]


def rows_of(families: dict[str, Family], third: Third, count: int, seed: str) -> list[Row]:
    """`count` rows, as many of each family, in order of the families."""
    names = list(families)
    found = []
    for number in range(count):
        name = names[number % len(names)]
        prompt, answer = families[name](random.Random(f"{seed}/{name}/{number}"))
        found.append(Row(prompt=prompt, answer=answer, third=third, family=name))
    return sorted(found, key=lambda row: names.index(row.family))
