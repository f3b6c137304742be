"""POST /v1/chat/completions: messages are rendered with the chat template, answers are parsed by channel."""

import secrets
from dataclasses import replace

from diffusion_worker.constraint_service.service import allowed_prefixes
from diffusion_worker.constraints.compiled import NO_PREFIX, TokenPrefixes
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tool_calls import Thought
from diffusion_worker.text.channels import ParserOptions, control_tokens_of
from diffusion_worker.text.chat_template import TemplateFeatures
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.chat_response import ChatWriter
from diffusion_worker.web.error_body import Unsupported
from diffusion_worker.web.handler import PreparedRequest
from diffusion_worker.web.label_logprobs import layouts_for
from diffusion_worker.web.requests.build_request import RequestInputs, build_request
from diffusion_worker.web.requests.chat_request import ChatRequest, parse_chat
from diffusion_worker.web.response_builder import ResponseBuilder
from diffusion_worker.web.response_parts import new_metadata
from diffusion_worker.web.serving_state import ServingState, Tokenization


def prepare_chat(serving_state: ServingState, body: bytes, deadline_ms: float | None) -> PreparedRequest:
    """See `handler.PrepareRequest`."""
    # Until the checkpoint is loaded its features are unknown: the request fails with NotResident below, not here.
    request = parse_chat(body, serving_state.features or TemplateFeatures(thinking=True))
    params, tools = request.params, request.tools
    decoding_mode = serving_state.decoding_mode_of(params.model)
    if request.thinking and params.constraint:
        raise Unsupported("Thinking is not supported with a constrained answer.", param="response_format")
    tokenization, info = serving_state.loaded()
    predicted = request.prediction
    if predicted is not None:
        tokenization.tokenizer.check_length(predicted, info.max_context, "prediction")
    inputs = RequestInputs(
        prompt_ids=tokenization.template.prompt_ids(
            request.messages, tools.offered, thinking=request.thinking, max_tokens=info.max_context
        ),
        prompt_name="messages",
        decoding_mode=decoding_mode,
        seed=secrets.randbits(63),
        deadline_ms=deadline_ms,
        prediction_ids=None if predicted is None else tokenization.tokenizer.encode_plain(predicted),
    )
    layouts = layouts_for(request, decoding_mode)
    if layouts:
        inputs = replace(inputs, prompt_ids=behind_header(inputs.prompt_ids, tokenization))
    generation = build_request(params, inputs, info)
    if decoding_mode is not DecodingMode.DIFFUSION:
        generation = replace(generation, top_logprobs=request.top_logprobs)
    constraint, headers = _constraint(request, tokenization, generation.prompt_ids)
    options = ParserOptions(stops=params.stops, calls=tokenization.template.calls if tools.offered else None)
    return PreparedRequest(
        generation=generation,
        builder=ResponseBuilder(
            tokenization.tokenizer, options, generation.prompt_ids, prediction=generation.start_ids, layouts=layouts
        ),
        writer=ChatWriter(
            new_metadata(ChatWriter, serving_state.model_id(decoding_mode)),
            include_usage=params.include_usage,
            top_logprobs=request.top_logprobs or 0,
        ),
        is_stream=params.is_stream,
        include_usage=params.include_usage,
        constraint=constraint,
        headers=headers,
        layouts=layouts,
    )


def behind_header(prompt_ids: tuple[int, ...], tokenization: Tokenization) -> tuple[int, ...]:
    """The prompt up to where a label starts: after the empty thought, if the checkpoint writes one."""
    header = allowed_prefixes(tokenization.tokenizer)[-1]
    return prompt_ids if prompt_ids[len(prompt_ids) - len(header) :] == header else prompt_ids + header


def _constraint(
    request: ChatRequest, tokenization: Tokenization, prompt_ids: tuple[int, ...]
) -> tuple[Constraint | None, TokenPrefixes]:
    """The constraint of the answer and the token prefixes allowed before it. Thinking first requires tools."""
    text, tools = request.params.constraint, request.tools
    if not tools.offered:
        return text, allowed_prefixes(tokenization.tokenizer) if text else NO_PREFIX
    control_tokens = control_tokens_of(tokenization.tokenizer)
    thought = Thought.NONE
    if control_tokens.has_open_thought(prompt_ids):
        thought = Thought.OPEN
    elif control_tokens.thought is not None and request.thinking is not False and text is None:
        thought = Thought.ALLOWED
    headers = allowed_prefixes(tokenization.tokenizer) if thought is Thought.NONE else NO_PREFIX
    return tools.constraint(tokenization.template.calls, thought, text), headers
