"""The APIs that generate, by path. Each is a translation at the rim: its requests become Queries, and the pipeline's
answers, which are chat completions, take its form."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from gateway.web.apis.client_api import ClientApi
from gateway.web.apis.edits import CodeWriter, parse_apply, parse_edit
from gateway.web.apis.embeddings import parse_embeddings
from gateway.web.apis.text_answer import TextWriter
from gateway.web.apis.text_request import parse_completion, parse_fill_in
from gateway.web.parse_request import parse_chat

CHAT_PATH: Final = "/v1/chat/completions"
_AS_PROMPT: Final = {"messages": "prompt"}
_LISTED: Final = (
    ClientApi(path=CHAT_PATH, summary="OpenAI's chat completions.", parse=parse_chat),
    ClientApi(
        path="/v1/completions",
        summary="OpenAI's text completions, with a `suffix` or the markers of code models for a gap.",
        parse=parse_completion,
        writer=TextWriter,
        renamed=_AS_PROMPT,
    ),
    ClientApi(
        path="/v1/fim/completions",
        summary="Fill in the middle, as Mistral's and Inception's clients send it.",
        parse=parse_fill_in,
        writer=partial(TextWriter, is_fill_in=True),
        renamed=_AS_PROMPT,
    ),
    ClientApi(
        path="/v1/edit/completions",
        summary="The next edit of a file, as Inception's clients send it.",
        parse=parse_edit,
        writer=partial(CodeWriter, in_fence=True),
    ),
    ClientApi(
        path="/v1/apply/completions",
        summary="Merges an update into a file, as Inception's clients send it.",
        parse=parse_apply,
        writer=partial(CodeWriter, in_fence=False),
    ),
    ClientApi(
        path="/v1/embeddings",
        summary="OpenAI's embeddings, of targets that have them.",
        parse=parse_embeddings,
        renamed={"messages": "input"},
    ),
)
APIS: Final[Mapping[str, ClientApi]] = MappingProxyType({api.path: api for api in _LISTED})
