"""Writes the questions of a decision into the body of one call: as they are for targets with decisions, as a message
with a JSON Schema of enums for all others."""

from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.enums import TargetApi
from gateway.parameters import api_for
from gateway.types import Call, Capabilities
from twolane.process.decisions.request import MIN_CONFIDENCE
from twolane.process.decisions.wording import prompt_of, schema_of

_encode: Final = msgspec.json.encode
_read: Final = msgspec.json.decode
_INSTRUCTIONS: Final = (
    "Answer every question about the user's text. Reply only with a JSON object whose keys are the numbers of the"
    " questions and whose values are the chosen answers, written exactly as listed."
)
_OF_CHATS: Final = ("messages", "diffusion", "logprobs")  # that decisions do not take
_NOT_OF_CHATS: Final = ("input", "questions", "prompt_cache_options")


def write_decision(fields: dict[str, Raw], call: Call, capabilities: Capabilities | None) -> None:
    """A call asks only its own questions, in their order."""
    decision = call.query.beyond_chat.decision
    assert decision is not None
    if api_for(call.target, capabilities, call.query) is TargetApi.DECISIONS:
        for name in _OF_CHATS:
            fields.pop(name, None)
        questions = _read(fields["questions"])
        fields["questions"] = _raw([_without_ours(questions[index]) for index in _asked(call)])
        return
    for name in _NOT_OF_CHATS:
        fields.pop(name, None)
    asked = decision.only(_asked(call))
    labels = [question.labels() for question in asked.questions]
    message = {"role": "user", "content": prompt_of(asked.text, asked.questions, labels)}
    fields["messages"] = _raw([{"role": "system", "content": _INSTRUCTIONS}, message])
    schema = {"name": "answers", "schema": schema_of(labels), "strict": True}
    fields["response_format"] = _raw({"type": "json_schema", "json_schema": schema})


def _asked(call: Call) -> tuple[int, ...]:
    decision = call.query.beyond_chat.decision
    count = len(decision.questions) if decision is not None else 0
    return tuple(range(count)) if call.questions is None else call.questions


def _without_ours(question: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in question.items() if name != MIN_CONFIDENCE}


def _raw(value: Any) -> Raw:
    return Raw(_encode(value))
