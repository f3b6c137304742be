"""What a task generator yields, and how new combinations are kept apart from training."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One prompt and the one right answer; `source` is the text being edited, if the task is an edit."""

    prompt: str
    answer: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """What a sample shall be: from which split, and with what share of invented words (0 = known words only)."""

    split: Split = "train"
    invented: float = 0.0


Generator = Callable[[random.Random, SampleSpec], Sample]


def belongs_to(key: str, split: Split) -> bool:
    """One combination in eight is never trained on. The answer decides, so no prompt can leak it."""
    held_out = hashlib.blake2b(key.encode(), digest_size=1).digest()[0] < 32
    return held_out == (split == "test")
