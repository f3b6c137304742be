"""The confidence gate: whether an answer is sure enough for its candidate's minimum. Pure."""

from collections.abc import Sequence
from typing import Final

from gateway.attempts.answer_content import has_blank_choice
from gateway.enums import Kind, TargetApi
from gateway.errors import LowConfidence
from gateway.routing.gates import reports_confidence
from gateway.types import Candidate, Delta, Query, Usage
from gateway.upstreams.logprobs import confidence_of, without_logprobs

_UNGATED: Final = frozenset({TargetApi.EMBEDDINGS, TargetApi.DECISIONS})


def minimum_of(candidate: Candidate, query: Query) -> float | None:
    """The minimum confidence of the answer to a query; None without a gate. Embeddings have no confidence, each answer
    of a decision has its own, and who asks for the probabilities of a prompt wants low ones, too."""
    if candidate.min_confidence is None or query.beyond_chat.api in _UNGATED or query.beyond_chat.scores_prompts:
        return None
    return candidate.min_confidence if reports_confidence(candidate.target) else None


def needs_logprobs(candidate: Candidate, query: Query) -> bool:
    """Whether the confidence of the answer is computed from log-probabilities of its tokens."""
    return minimum_of(candidate, query) is not None and candidate.target.kind in (Kind.OPENAI, Kind.LITELLM)


def reported_confidence(
    candidate: Candidate, deltas: Sequence[Delta], usage: Usage | None, query: Query
) -> float | None:
    """The confidence of a complete answer, as reported or as computed; None if the target reported neither."""
    if usage is not None and usage.confidence is not None:
        return usage.confidence
    return confidence_of(deltas) if needs_logprobs(candidate, query) else None


def check_confidence(minimum: float, confidence: float | None, deltas: Sequence[Delta], query: Query) -> None:
    """Raises LowConfidence if the confidence is missing or below the minimum, or if a choice is blank. A text between
    two others (`suffix`) may be empty, but not white space alone: only an empty gap has a confidence of its own."""
    if confidence is None:
        raise LowConfidence(
            "The route requires a minimum confidence, but the target reported none.", detail="no confidence given"
        )
    if confidence < minimum:
        detail = f"confidence {confidence:.3f} < {minimum:g}"
        raise LowConfidence(f"The answer's confidence is below the minimum: {detail}.", detail=detail)
    if has_blank_choice(deltas, may_be_empty=query.has_suffix):
        raise LowConfidence("The target's answer is blank.", detail="blank answer")


def as_requested(candidate: Candidate, deltas: list[Delta], query: Query) -> list[Delta]:
    """The answer without log-probabilities that only the gateway asked for."""
    if needs_logprobs(candidate, query) and "logprobs" not in query.parameters.names:
        return without_logprobs(deltas)
    return deltas
