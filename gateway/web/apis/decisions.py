"""`/v1/decisions`: OpenAI's bounded questions about one input.

A request is parsed as the chat request that asks the same, and keeps its questions beside it. Answers are merged by the
pipeline and sent as they are.
"""

from dataclasses import replace
from typing import Any, Final

import msgspec

from gateway.beyond_chat import BeyondChat
from gateway.enums import Capability, TargetApi, Task
from gateway.errors import InvalidField
from gateway.types import Query
from gateway.web.parse_request import decode, parse_chat
from twolane.process import exact_json
from twolane.process.api_keys import Key
from twolane.process.decisions.members import DecisionError
from twolane.process.decisions.request import FIELDS, parse_decisions
from twolane.process.trace_context import Trace

MAX_VALUES: Final = 500_000  # of a body: 400 questions with 255 choices each
_OWN: Final = ("input", "questions", "prompt_cache_options")
_OTHERS: Final = frozenset({"metadata", "user", "store", "stream", "service_tier"})


class _Fields(msgspec.Struct):
    stream: bool | None = None


_DECODER: Final = msgspec.json.Decoder(_Fields)


def parse_decision(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """See `client_api.Parse`."""
    given, document, _ = decode(body, _DECODER, max_values=MAX_VALUES)
    for name in document:
        if name not in FIELDS and name not in _OTHERS:
            raise InvalidField(f"Unrecognized field: {name!r}.", param=name)
    if given.stream:
        raise InvalidField("'stream' is not supported: decisions are answered as a whole.", param="stream")
    try:
        decision = parse_decisions(document)
    except DecisionError as error:
        raise InvalidField(error.message, param=error.param) from None
    shown = "\n".join([decision.text, *(question.text for question in decision.questions)])
    chat: dict[str, Any] = {name: value for name, value in document.items() if name not in (*_OWN, "stream")}
    chat["messages"] = [{"role": "user", "content": shown}]
    query = parse_chat(exact_json.dumps(chat), headers, now_s=now_s, key=key, trace=trace)
    own = {name: document[name] for name in _OWN if name in document}
    has_hint = query.task_hint is not None
    return replace(
        query,
        body=exact_json.dumps({**chat, **own}),
        beyond_chat=BeyondChat(api=TargetApi.DECISIONS, decision=decision),
        needs=query.needs - {Capability.CHAT},
        task_hint=query.task_hint if has_hint else Task.STRUCTURED,
        task_hint_from=query.task_hint_from if has_hint else "api",
    )
