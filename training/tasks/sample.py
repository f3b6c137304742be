"""The sample records of task generators, and the split into training and test."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt and its only correct answer. `source` is the text to edit, if the task is an edit."""

    prompt: str
    answer: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """Parameters of a sample: its split, and its share of invented words (0: known words only)."""

    split: Split = "train"
    invented: float = 0.0


Generator = Callable[[random.Random, SampleSpec], Sample]


def belongs_to(key: str, split: Split) -> bool:
    """Whether a sample belongs to a split. One in eight is held out, by a hash of the answer, so that no prompt leaks
    it."""
    held_out = hashlib.blake2b(key.encode(), digest_size=1).digest()[0] < 32
    return held_out == (split == "test")
