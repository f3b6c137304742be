"""The chat dialect, POST /v1/chat/completions: turns through the checkpoint's template, answers read by channel."""

import secrets
from dataclasses import replace

from diffusion_worker.constraint_service.service import allowed_prefixes
from diffusion_worker.constraints.compiled import NO_PREFIX, TokenPrefixes
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tool_calls import Thought
from diffusion_worker.text.channels import ParserOptions, control_tokens_of
from diffusion_worker.text.chat_template import Abilities
from diffusion_worker.web.chat_response import ChatWriter
from diffusion_worker.web.error_body import Unsupported
from diffusion_worker.web.handler import PreparedRequest
from diffusion_worker.web.label_logprobs import layouts_for
from diffusion_worker.web.requests.build_request import Given, build_request
from diffusion_worker.web.requests.chat_request import ChatRequest, parse_chat
from diffusion_worker.web.response_builder import ResponseBuilder
from diffusion_worker.web.response_parts import new_metadata
from diffusion_worker.web.serving_state import ServingState, Words


def understand_chat(serving_state: ServingState, body: bytes, deadline_ms: float | None) -> PreparedRequest:
    """See `relay.PrepareRequest`."""
    # Before the weights are there nobody knows what they can do: then the refusal is theirs, not a field's.
    request = parse_chat(body, serving_state.abilities or Abilities(thinking=True))
    params, tools = request.params, request.tools
    decoding_mode = serving_state.reading_of(params.model)
    if request.thinking and params.constraint:
        raise Unsupported("Thinking is not supported with a constrained answer.", param="response_format")
    words, info = serving_state.resident()
    predicted = request.prediction
    given = Given(
        prompt_ids=words.template.prompt_ids(request.messages, tools.offered, thinking=request.thinking),
        prompt_name="messages",
        decoding_mode=decoding_mode,
        seed=secrets.randbits(63),
        deadline_ms=deadline_ms,
        prediction_ids=None if predicted is None else words.tokenizer.encode_plain(predicted),
    )
    layouts = layouts_for(request, decoding_mode)
    if layouts:
        given = replace(given, prompt_ids=_behind_header(given.prompt_ids, words))
    generation = build_request(params, given, info)
    constraint, headers = _constraint(request, words, generation.prompt_ids)
    wanted = ParserOptions(stops=params.stops, calls=words.template.calls if tools.offered else None)
    return PreparedRequest(
        generation=generation,
        builder=ResponseBuilder(
            words.tokenizer, wanted, generation.prompt_ids, prediction=generation.start_ids, layouts=layouts
        ),
        writer=ChatWriter(
            new_metadata(ChatWriter, serving_state.id_of(decoding_mode)),
            include_usage=params.include_usage,
            top_logprobs=request.top_logprobs or 0,
        ),
        is_stream=params.is_stream,
        include_usage=params.include_usage,
        constraint=constraint,
        headers=headers,
        layouts=layouts,
    )


def _behind_header(prompt_ids: tuple[int, ...], words: Words) -> tuple[int, ...]:
    """Labels stand where the answer begins: behind the empty thought, if the checkpoint writes one."""
    header = allowed_prefixes(words.tokenizer)[-1]
    return prompt_ids if prompt_ids[len(prompt_ids) - len(header) :] == header else prompt_ids + header


def _constraint(
    request: ChatRequest, words: Words, prompt_ids: tuple[int, ...]
) -> tuple[Constraint | None, TokenPrefixes]:
    """What the answer must be, and what may stand before it. Only beside tools may it think first."""
    text, tools = request.params.constraint, request.tools
    if not tools.offered:
        return text, allowed_prefixes(words.tokenizer) if text else NO_PREFIX
    control_tokens = control_tokens_of(words.tokenizer)
    thought = Thought.NONE
    if control_tokens.leave_thought_open(prompt_ids):
        thought = Thought.OPEN
    elif control_tokens.thought is not None and request.thinking is not False and text is None:
        thought = Thought.ALLOWED
    headers = allowed_prefixes(words.tokenizer) if thought is Thought.NONE else NO_PREFIX
    return tools.constraint(words.template.calls, thought, text), headers
