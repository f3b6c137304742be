"""Parser of OpenAI chat completion requests.

Supported fields are parsed, fields without effect are accepted, and all others are refused by name. A `prediction` is
the text to edit.
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
    """A validated chat completion request; prompt length and model id are checked later."""

    params: RequestParams
    messages: tuple[Message, ...]
    tools: Tools = NO_TOOLS
    thinking: bool | None = None  # None: default of the chat template
    prediction: str | None = None
    top_logprobs: int | None = None  # number of labels or tokens to return; None: no logprobs


def parse_chat(body: bytes, features: TemplateFeatures = NO_FEATURES) -> ChatRequest:
    """Parse and validate a body against the features of the checkpoint. Raises InvalidRequest for the first error."""
    fields = parse_body(body)
    check_fields(fields, CHAT)
    return ChatRequest(
        params=parse_request_params(fields),
        messages=parse_messages(fields),
        tools=parse_tools(fields),
        thinking=parse_thinking(fields, features),
        prediction=parse_prediction(fields.object("prediction")),
        top_logprobs=_parse_logprobs(fields),
    )


def _parse_logprobs(fields: Fields) -> int | None:
    top = fields.integer("top_logprobs", 0, MAX_LOGPROBS)
    if not fields.boolean("logprobs"):
        if top:
            raise fields.invalid("top_logprobs", "is only allowed when 'logprobs' is true.")
        return None
    return top or 0


def parse_prediction(fields: Fields | None) -> str | None:
    """The text of `prediction`; None if absent. Raises InvalidRequest."""
    if fields is None:
        return None
    fields.allow_only(("type", "content"))
    if fields.nonempty("type") != "content":
        raise fields.invalid("type", "must be 'content'.")
    fields.required("content")
    return parse_text(fields, "content")
