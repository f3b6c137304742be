"""OpenAI's text completion request, parsed once into a record: a prompt to go on from, or a gap to fill.

A prompt is a string or the ids of its tokens; with a `suffix` the answer is what stands between the two. Knows no
sockets, no engine and no torch.
"""

from dataclasses import dataclass

from diffusion_worker.web.error_body import InvalidType
from diffusion_worker.web.requests.api_support import COMPLETIONS, check_fields
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.request_params import RequestParams, parse_body, parse_request_params

Prompt = str | tuple[int, ...]  # text, or ids as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """What a client wants, checked; only prompt length, ids and model id are still open."""

    params: RequestParams
    prompt: Prompt
    suffix: str = ""  # empty: nothing follows the answer
    is_echo: bool = False  # return the prompt, and what follows, around the answer


def parse_completion(body: bytes) -> CompletionRequest:
    """A request body, read and checked whole. Raises a InvalidRequest that names the first field found wrong."""
    fields = parse_body(body)
    check_fields(fields, COMPLETIONS)
    return CompletionRequest(
        params=parse_request_params(fields),
        prompt=_parse_prompt(fields),
        suffix=fields.text("suffix") or "",
        is_echo=fields.boolean("echo") or False,
    )


def _parse_prompt(fields: Fields) -> Prompt:
    """OpenAI also takes several prompts at once, each with an answer of its own; those are refused."""
    value = fields.required("prompt")
    if isinstance(value, list) and any(isinstance(item, str | list) for item in value):
        if len(value) > 1:
            raise fields.refuse("prompt", "must be one prompt for this model, not several.")
        [value] = value
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise InvalidType("'prompt' must be a string or an array of token ids.", param="prompt")
    return tuple(value)
