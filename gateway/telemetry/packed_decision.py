"""Decisions as bytes, to keep many of them.

A decision is some thirty objects. A thousand of them that come and go in turn displace what requests need from the
processor's caches, which costs each request more than packing does.
"""

from dataclasses import fields
from typing import Any, Final

from msgspec import msgpack

from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, ErrorSource, Outcome, Reason, SchemaCheck, Task
from gateway.types import Classification, Usage
from twolane.process.trace_context import Trace

_Values = list[Any]
_encode: Final = msgpack.Encoder().encode
_decode: Final = msgpack.Decoder().decode
_OUTCOMES: Final = {str(outcome): outcome for kind in (Reason, AttemptOutcome) for outcome in kind}


def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


_DECISION: Final = _names(Decision)
_CLASSIFICATION: Final = _names(Classification)
_ATTEMPT: Final = _names(AttemptRecord)
_USAGE: Final = _names(Usage)
_TRACE: Final = _names(Trace)


def pack(decision: Decision) -> bytes | None:
    """None for one that cannot be packed."""
    trace = decision.trace
    try:
        if trace is None:
            return _encode(decision)  # as the lists of its fields and of those of its records
        decision.trace = None  # for a moment: a copy takes longer
        try:
            if not trace.is_recorded and not trace.parent_id and not trace.state:  # as of most
                return _encode((trace.traceparent, decision))
            return _encode(((trace.traceparent, trace.parent_id, trace.state, trace.is_recorded), decision))
        finally:
            decision.trace = trace
    except (TypeError, ValueError, OverflowError):  # such as a number of more than 64 bits
        return None


def unpack(packed: bytes) -> Decision:
    """The decision as it was."""
    values, trace = _decode(packed), None
    if isinstance(values[0], str):  # the text of a trace; otherwise a time, or
        text, values = values
        trace = Trace(traceparent=text)
    elif isinstance(values[0], list):  # all of a trace
        of_trace, values = values
        trace = Trace(**dict(zip(_TRACE, of_trace, strict=True)))
    found = dict(zip(_DECISION, values, strict=True)) | {"trace": trace}
    found["classification"] = _classification(found["classification"])
    found["attempts"] = tuple(map(_attempt, found["attempts"]))
    found["usage"] = _usage(found["usage"])
    found["outcome"] = Outcome(found["outcome"])
    found["answered_by"] = tuple((target, tuple(indices)) for target, indices in found["answered_by"])
    for name, read in (("locations", frozenset), ("error_source", ErrorSource), ("schema_check", SchemaCheck)):
        if found[name] is not None:
            found[name] = read(found[name])
    return Decision(**found)


def _classification(values: _Values) -> Classification:
    found = dict(zip(_CLASSIFICATION, values, strict=True))
    found |= {"task": Task(found["task"]), "probabilities": tuple(found["probabilities"])}
    return Classification(**found)


def _attempt(values: _Values) -> AttemptRecord:
    found = dict(zip(_ATTEMPT, values, strict=True))
    found |= {"outcome": _OUTCOMES[found["outcome"]], "ignored": tuple(found["ignored"])}
    found |= {"usage": _usage(found["usage"]), "estimate": _usage(found["estimate"])}
    return AttemptRecord(**found)


def _usage(values: _Values | None) -> Usage | None:
    return None if values is None else Usage(**dict(zip(_USAGE, values, strict=True)))
