"""The minimum confidence for a checkpoint and the user's prompts: the lowest that serves precise answers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

MIN_ANSWERS: Final = 20  # fewer say nothing about a precision of 95 %

Judged = tuple[float, bool]  # the confidence of an answer, and whether it is correct


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A minimum confidence, and what it serves of the measured answers."""

    minimum: float
    answers: int
    precision: float  # share of correct answers among those served
    recall: float  # share of the correct answers that are served
    precision_without: float  # share of correct answers among all

    def __str__(self) -> str:
        return (
            f"min_confidence {self.minimum:.4f} serves {self.recall:.1%} of the correct answers with a precision of "
            f"{self.precision:.1%} ({self.precision_without:.1%} without it), over the {self.answers} answers "
            "on which it was chosen"
        )


def find_threshold(judged: Sequence[Judged], *, precision: float) -> Threshold | None:
    """The lowest minimum that serves answers of at least this precision, and so the most of the correct ones. None with
    fewer than MIN_ANSWERS answers, or if no minimum is precise enough."""
    right = sum(is_right for _, is_right in judged)
    if len(judged) < MIN_ANSWERS or not right:
        return None
    served = served_right = 0
    found: Threshold | None = None
    for confidence, group in groupby(sorted(judged, reverse=True), key=lambda each: each[0]):
        equal = [is_right for _, is_right in group]
        served, served_right = served + len(equal), served_right + sum(equal)
        if served_right / served >= precision:
            found = Threshold(
                minimum=confidence,
                answers=len(judged),
                precision=served_right / served,
                recall=served_right / right,
                precision_without=right / len(judged),
            )
    return found
