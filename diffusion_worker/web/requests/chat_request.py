"""OpenAI's chat completion request, parsed once into a record.

What this surface honours is read; what would have no effect anyway is accepted; everything else is refused by name. A
`prediction` is the text that is being edited. Knows no sockets, no engine and no torch.
"""

from dataclasses import dataclass

from diffusion_worker.text.chat_template import NO_FEATURES, TemplateFeatures
from diffusion_worker.text.messages import Message
from diffusion_worker.web.requests.api_support import CHAT, check_fields
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.messages import parse_messages, parse_text
from diffusion_worker.web.requests.request_params import RequestParams, parse_body, parse_request_params
from diffusion_worker.web.requests.tools import NO_TOOLS, Tools, parse_thinking, parse_tools

MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What a client wants, checked; only prompt length and model id are still open."""

    params: RequestParams
    messages: tuple[Message, ...]
    tools: Tools = NO_TOOLS
    thinking: bool | None = None  # None: as the template has it
    prediction: str | None = None
    top_logprobs: int | None = None  # so many labels' probabilities beside that of the answer; None: none at all


def parse_chat(body: bytes, features: TemplateFeatures = NO_FEATURES) -> ChatRequest:
    """A request body, read and checked whole, for a checkpoint that can so much. Raises a InvalidRequest that names the
    first field found wrong."""
    fields = parse_body(body)
    check_fields(fields, CHAT)
    return ChatRequest(
        params=parse_request_params(fields),
        messages=parse_messages(fields),
        tools=parse_tools(fields),
        thinking=parse_thinking(fields, features),
        prediction=_parse_prediction(fields.object("prediction")),
        top_logprobs=_parse_logprobs(fields),
    )


def _parse_logprobs(fields: Fields) -> int | None:
    top = fields.integer("top_logprobs", 0, MAX_LOGPROBS)
    if not fields.boolean("logprobs"):
        if top:
            raise fields.invalid("top_logprobs", "is only allowed when 'logprobs' is true.")
        return None
    return top or 0


def _parse_prediction(fields: Fields | None) -> str | None:
    if fields is None:
        return None
    fields.allow_only(("type", "content"))
    if fields.nonempty("type") != "content":
        raise fields.invalid("type", "must be 'content'.")
    fields.required("content")
    return parse_text(fields, "content")
