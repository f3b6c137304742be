"""The chat dialect, POST /v1/chat/completions: turns through the checkpoint's template, answers read by channel."""

import secrets
from dataclasses import replace

from diffusion_worker.constraint_service.service import headers_of
from diffusion_worker.constraints.compiled import NO_HEADER, Headers
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tool_calls import Thought
from diffusion_worker.text.channels import Wanted, marks_of
from diffusion_worker.text.chat_template import Abilities
from diffusion_worker.web.chat_response import ChatWriter
from diffusion_worker.web.error_body import Unsupported
from diffusion_worker.web.handler import Order
from diffusion_worker.web.label_logprobs import layouts_for
from diffusion_worker.web.requests.build_request import Given, ask_of
from diffusion_worker.web.requests.chat_request import ChatRequest, parse_chat
from diffusion_worker.web.response_builder import Transcript
from diffusion_worker.web.response_parts import new_label
from diffusion_worker.web.serving_state import Desk, Words


def understand_chat(desk: Desk, body: bytes, deadline_ms: float | None) -> Order:
    """See `relay.Understand`."""
    # Before the weights are there nobody knows what they can do: then the refusal is theirs, not a field's.
    request = parse_chat(body, desk.abilities or Abilities(thinking=True))
    wishes, tools = request.wishes, request.tools
    reading = desk.reading_of(wishes.model)
    if request.thinking and wishes.constraint:
        raise Unsupported("Thinking is not supported with a constrained answer.", param="response_format")
    words, facts = desk.resident()
    predicted = request.prediction
    given = Given(
        prompt_ids=words.template.prompt_ids(request.messages, tools.offered, thinking=request.thinking),
        prompt_name="messages",
        reading=reading,
        seed=secrets.randbits(63),
        deadline_ms=deadline_ms,
        prediction_ids=None if predicted is None else words.tokenizer.encode_plain(predicted),
    )
    layouts = layouts_for(request, reading)
    if layouts:
        given = replace(given, prompt_ids=_behind_header(given.prompt_ids, words))
    ask = ask_of(wishes, given, facts)
    constraint, headers = _constraint(request, words, ask.prompt_ids)
    wanted = Wanted(stops=wishes.stops, calls=words.template.calls if tools.offered else None)
    return Order(
        ask=ask,
        transcript=Transcript(words.tokenizer, wanted, ask.prompt_ids, prediction=ask.start_ids, layouts=layouts),
        writer=ChatWriter(
            new_label(ChatWriter, desk.id_of(reading)),
            include_usage=wishes.include_usage,
            top_logprobs=request.top_logprobs or 0,
        ),
        is_stream=wishes.is_stream,
        include_usage=wishes.include_usage,
        constraint=constraint,
        headers=headers,
        layouts=layouts,
    )


def _behind_header(prompt_ids: tuple[int, ...], words: Words) -> tuple[int, ...]:
    """Labels stand where the answer begins: behind the empty thought, if the checkpoint writes one."""
    header = headers_of(words.tokenizer)[-1]
    return prompt_ids if prompt_ids[len(prompt_ids) - len(header) :] == header else prompt_ids + header


def _constraint(request: ChatRequest, words: Words, prompt_ids: tuple[int, ...]) -> tuple[Constraint | None, Headers]:
    """What the answer must be, and what may stand before it. Only beside tools may it think first."""
    text, tools = request.wishes.constraint, request.tools
    if not tools.offered:
        return text, headers_of(words.tokenizer) if text else NO_HEADER
    marks = marks_of(words.tokenizer)
    thought = Thought.NO
    if marks.leave_thought_open(prompt_ids):
        thought = Thought.OPEN
    elif marks.thought is not None and request.thinking is not False and text is None:
        thought = Thought.MAY
    headers = headers_of(words.tokenizer) if thought is Thought.NO else NO_HEADER
    return tools.constraint(words.template.calls, thought, text), headers
