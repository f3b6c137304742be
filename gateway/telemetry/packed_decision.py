"""Decisions as bytes, to keep many of them.

A decision is some thirty objects. A thousand of them that come and go in turn displace what requests need from the
processor's caches, which costs each request more than packing does.
"""

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from msgspec import msgpack

from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, ErrorSource, Outcome, Reason, SchemaCheck, Task
from gateway.types import Classification, Usage

_Values = list[Any]
_encode: Final = msgpack.Encoder().encode
_decode: Final = msgpack.Decoder().decode
_OUTCOMES: Final = {str(outcome): outcome for kind in (Reason, AttemptOutcome) for outcome in kind}


def _names(record: type, *others: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record) if field.name not in others)


_DECISION: Final = _names(Decision, "classification", "attempts", "usage", "trace")
_CLASSIFICATION: Final = _names(Classification)
_ATTEMPT: Final = _names(AttemptRecord, "usage", "estimate")
_USAGE: Final = _names(Usage)
_of_decision: Final = attrgetter(*_DECISION)
_of_classification: Final = attrgetter(*_CLASSIFICATION)
_of_attempt: Final = attrgetter(*_ATTEMPT)
_of_usage: Final = attrgetter(*_USAGE)
_READ: Final[dict[str, Callable[[Any], Any]]] = {  # fields that are not what they are packed as
    "locations": frozenset,
    "outcome": Outcome,
    "error_source": ErrorSource,
    "schema_check": SchemaCheck,
    "answered_by": lambda value: tuple((target, tuple(indices)) for target, indices in value),
}


def pack(decision: Decision) -> bytes | None:
    """None for one with a trace, or that cannot be packed."""
    if decision.trace is not None:
        return None
    attempts = []
    for each in decision.attempts:
        used = each.usage or each.estimate
        attempts.append((_of_attempt(each), None if used is None else _of_usage(used), each.usage is None))
    usage = decision.usage
    parts = (
        _of_decision(decision),
        _of_classification(decision.classification),
        None if usage is None else _of_usage(usage),
        attempts,
    )
    try:
        return _encode(parts)
    except (TypeError, ValueError, OverflowError):  # such as a number of more than 64 bits
        return None


def unpack(packed: bytes) -> Decision:
    """The decision as it was."""
    values, classification, usage, attempts = _decode(packed)
    found = dict(zip(_DECISION, values, strict=True))
    found |= {name: read(found[name]) for name, read in _READ.items() if found[name] is not None}
    task, confidence, evidence, probabilities = classification
    return Decision(
        classification=Classification(
            task=Task(task), confidence=confidence, evidence=evidence, probabilities=tuple(probabilities)
        ),
        attempts=tuple(_attempt(*each) for each in attempts),
        usage=_usage(usage),
        **found,
    )


def _attempt(values: _Values, used: _Values | None, is_estimate: bool) -> AttemptRecord:
    found = dict(zip(_ATTEMPT, values, strict=True))
    found |= {"outcome": _OUTCOMES[found["outcome"]], "ignored": tuple(found["ignored"])}
    found["estimate" if is_estimate else "usage"] = _usage(used)
    return AttemptRecord(**found)


def _usage(values: _Values | None) -> Usage | None:
    return None if values is None else Usage(**dict(zip(_USAGE, values, strict=True)))
