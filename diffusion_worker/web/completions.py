"""POST /v1/completions: continue a raw text, or fill in the middle.

No chat template and no channels are applied."""

import secrets
from dataclasses import replace

from diffusion_worker.text.channels import ParserOptions
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.completion_response import NO_ECHO, Echo, TextWriter
from diffusion_worker.web.error_body import InvalidValue, Unsupported
from diffusion_worker.web.handler import PreparedRequest
from diffusion_worker.web.requests.build_request import RequestInputs, build_request
from diffusion_worker.web.requests.completion_request import CompletionRequest, parse_completion
from diffusion_worker.web.response_builder import ResponseBuilder
from diffusion_worker.web.response_parts import new_metadata
from diffusion_worker.web.serving_state import ServingState


def prepare_completion(serving_state: ServingState, body: bytes, deadline_ms: float | None) -> PreparedRequest:
    """See `handler.PrepareRequest`."""
    request = parse_completion(body)
    params = request.params
    if params.constraint and request.suffix:
        raise Unsupported("'suffix' is not supported with a constrained answer.", param="suffix")
    decoding_mode = serving_state.decoding_mode_of(params.model)
    _check_logprobs(request, decoding_mode)
    tokenization, info = serving_state.loaded()
    tokenization.tokenizer.check_length(request.suffix, info.max_context, "suffix")
    tokenization.tokenizer.check_length(request.prediction or "", info.max_context, "prediction")
    inputs = RequestInputs(
        prompt_ids=_prompt_ids(request, tokenization.tokenizer, info),
        prompt_name="prompt",
        # Without an answer, every mode only reads the prompt.
        decoding_mode=decoding_mode if params.max_tokens != 0 else DecodingMode.AUTOREGRESSIVE,
        seed=secrets.randbits(63),
        deadline_ms=deadline_ms,
        prediction_ids=_prediction_ids(request.prediction, tokenization.tokenizer),
        suffix_ids=tokenization.tokenizer.encode_plain(request.suffix),
    )
    generation = replace(
        build_request(params, inputs, info),
        top_logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.is_echo else None,
    )
    builder = ResponseBuilder(
        tokenization.tokenizer,
        ParserOptions(stops=params.stops, channels=False),
        generation.prompt_ids,
        prediction=generation.start_ids,
    )
    echo = _echo(request, tokenization.tokenizer, builder)
    metadata = new_metadata(TextWriter, serving_state.model_id(decoding_mode))
    return PreparedRequest(
        generation=generation,
        builder=builder,
        writer=TextWriter(metadata, include_usage=params.include_usage, echo=echo),
        is_stream=params.is_stream,
        include_usage=params.include_usage,
        constraint=params.constraint if generation.max_tokens else None,
    )


def _check_logprobs(request: CompletionRequest, decoding_mode: DecodingMode) -> None:
    """A denoised token has no probability left to right. Raises Unsupported."""
    if request.logprobs is not None and decoding_mode is DecodingMode.DIFFUSION and request.params.max_tokens != 0:
        others = f"'{request.params.model}:verified' or '{request.params.model}:autoregressive'"
        raise Unsupported(f"'logprobs' is not supported in diffusion mode; use the model {others}.", param="logprobs")


def _prediction_ids(prediction: str | None, tokenizer: Tokenizer) -> tuple[int, ...] | None:
    return None if prediction is None else tokenizer.encode_plain(prediction)


def _prompt_ids(request: CompletionRequest, tokenizer: Tokenizer, info: ModelInfo) -> tuple[int, ...]:
    """Ids of the prompt. Text is preceded by the checkpoint's opening tokens; ids are used unchanged. A gap at the
    beginning of a file follows a line break, if the checkpoint has no opening tokens."""
    prompt = request.prompt
    if prompt == "" and request.suffix and not tokenizer.opening:
        prompt = "\n"
    if isinstance(prompt, str):
        tokenizer.check_length(prompt, info.max_context, "prompt")
    ids = (*tokenizer.opening, *tokenizer.encode_plain(prompt)) if isinstance(prompt, str) else prompt
    if not ids:
        raise InvalidValue("'prompt' must not be empty.", param="prompt")
    if not (min(ids) >= 0 and max(ids) < info.vocab_size):
        raise InvalidValue(f"'prompt' must contain token ids from 0 to {info.vocab_size - 1}.", param="prompt")
    return ids


def _echo(request: CompletionRequest, tokenizer: Tokenizer, builder: ResponseBuilder) -> Echo:
    """What is returned around the answer with `echo`: the client's own text, unless it sent ids."""
    if not request.is_echo:
        return NO_ECHO
    is_scored, prompt = request.logprobs is not None, request.prompt
    if isinstance(prompt, str):
        return Echo(before=prompt, behind=request.suffix, is_scored=is_scored, hidden=len(tokenizer.opening))
    return Echo(before=builder.draft_text(prompt), behind=request.suffix, is_scored=is_scored)
