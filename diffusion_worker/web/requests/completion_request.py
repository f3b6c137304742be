"""Parser of OpenAI text completion requests.

The prompt is a string or an array of token ids. With a `suffix`, the completion fills the gap between prompt and
suffix; with a `prediction`, it starts from that text."""

from dataclasses import dataclass

from diffusion_worker.web.error_body import InvalidType
from diffusion_worker.web.requests.api_support import COMPLETIONS, check_fields
from diffusion_worker.web.requests.chat_request import MAX_LOGPROBS, parse_prediction
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.request_params import RequestParams, parse_body, parse_request_params

Prompt = str | tuple[int, ...]  # text, or token ids


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A validated text completion request; prompt length, token ids and model id are checked later."""

    params: RequestParams
    prompt: Prompt
    suffix: str = ""  # text after the answer
    prediction: str | None = None  # text to start from
    is_echo: bool = False  # return prompt and suffix around the answer
    logprobs: int | None = None  # most likely tokens to return with each token; None: no log-probabilities


def parse_completion(body: bytes) -> CompletionRequest:
    """Parse and validate a body. Raises InvalidRequest for the first error."""
    fields = parse_body(body)
    check_fields(fields, COMPLETIONS)
    is_echo = fields.boolean("echo") or False
    return CompletionRequest(
        params=parse_request_params(fields, min_tokens=0 if is_echo else 1),
        prompt=_parse_prompt(fields),
        suffix=fields.text("suffix") or "",
        prediction=parse_prediction(fields.object("prediction")),
        is_echo=is_echo,
        logprobs=fields.integer("logprobs", 0, MAX_LOGPROBS),
    )


def _parse_prompt(fields: Fields) -> Prompt:
    """The prompt. Several prompts in one request, which OpenAI allows, are refused."""
    value = fields.required("prompt")
    if isinstance(value, list) and any(isinstance(item, str | list) for item in value):
        if len(value) > 1:
            raise fields.refuse("prompt", "must contain a single prompt for this model.")
        [value] = value
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise InvalidType("'prompt' must be a string or an array of token ids.", param="prompt")
    return tuple(value)
