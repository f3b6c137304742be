"""POST /v1/completions: continue a raw text, or fill in the middle.

No chat template and no channels are applied."""

import secrets

from diffusion_worker.text.channels import ParserOptions
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.web.completion_response import TextWriter
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
    tokenization, info = serving_state.loaded()
    tokenization.tokenizer.check_length(request.suffix, info.max_context, "suffix")
    tokenization.tokenizer.check_length(request.prediction or "", info.max_context, "prediction")
    inputs = RequestInputs(
        prompt_ids=_prompt_ids(request, tokenization.tokenizer, info),
        prompt_name="prompt",
        decoding_mode=decoding_mode,
        seed=secrets.randbits(63),
        deadline_ms=deadline_ms,
        prediction_ids=_prediction_ids(request.prediction, tokenization.tokenizer),
        suffix_ids=tokenization.tokenizer.encode_plain(request.suffix),
    )
    generation = build_request(params, inputs, info)
    builder = ResponseBuilder(
        tokenization.tokenizer,
        ParserOptions(stops=params.stops, channels=False),
        generation.prompt_ids,
        prediction=generation.start_ids,
    )
    before, behind = _echo(request, builder)
    metadata = new_metadata(TextWriter, serving_state.model_id(decoding_mode))
    return PreparedRequest(
        generation=generation,
        builder=builder,
        writer=TextWriter(metadata, include_usage=params.include_usage, before=before, behind=behind),
        is_stream=params.is_stream,
        include_usage=params.include_usage,
        constraint=params.constraint,
    )


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


def _echo(request: CompletionRequest, builder: ResponseBuilder) -> tuple[str, str]:
    """The texts returned before and after the answer with `echo`: the client's own text, unless it sent ids."""
    if not request.is_echo:
        return "", ""
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else builder.draft_text(prompt), request.suffix
