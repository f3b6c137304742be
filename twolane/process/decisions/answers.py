"""The answers of a decision, as OpenAI's `Decision` describes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from twolane.process.decisions.questions import Question, QuestionKind

REFUSAL: Final = "refusal"


def answer_of(question: Question, probabilities: Sequence[float]) -> dict[str, Any]:
    """The answer from the probabilities of the question's options, which sum to 1. The values of a score's levels are
    their indices from 0, and its score is the mean of them."""
    if question.kind is QuestionKind.PREDICATE:
        return {"type": "predicate", "name": question.name, "probability": probabilities[0]}
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    confidence = probabilities[best]
    if question.kind is QuestionKind.CHOICE:
        listed = [
            {"value": option.value, "probability": share}
            for option, share in zip(question.options, probabilities, strict=True)
        ]
        return {
            "type": "choice",
            "name": question.name,
            "choice": question.options[best].value,
            "confidence": confidence,
            "probabilities": listed,
        }
    levels = [
        {"label": option.text, "value": value, "probability": share}
        for value, (option, share) in enumerate(zip(question.options, probabilities, strict=True))
    ]
    return {
        "type": "score",
        "name": question.name,
        "score": sum(value * share for value, share in enumerate(probabilities)),
        "confidence": confidence,
        "probabilities": levels,
    }


def refusal_of(question: Question) -> dict[str, Any]:
    """The answer to a question that the model declined."""
    return {"type": REFUSAL, "name": question.name}


def confidence_of(answer: Mapping[str, Any]) -> float:
    """How sure an answer is, from 0 to 1: of a predicate the larger of both probabilities, of a refusal 0."""
    if answer["type"] == QuestionKind.PREDICATE:
        return max(float(answer["probability"]), 1.0 - float(answer["probability"]))
    return 0.0 if answer["type"] == REFUSAL else float(answer["confidence"])


def usage_of(input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> dict[str, Any]:
    """The usage of a decision."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }
