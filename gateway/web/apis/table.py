"""The APIs that generate, by path. Each is a translation at the rim: its requests become Queries, and the pipeline's
answers, which are chat completions, take its form."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from gateway.beyond_chat import CHAT_PATH
from gateway.web.apis.client_api import ClientApi
from gateway.web.apis.decisions import parse_decision
from gateway.web.apis.edits import CodeWriter, parse_apply, parse_edit
from gateway.web.apis.embeddings import parse_embeddings
from gateway.web.apis.text_answer import TextWriter
from gateway.web.apis.text_request import parse_completion, parse_fill_in
from gateway.web.parse_request import parse_chat

_FILL_IN_WRITER: Final = partial(TextWriter, is_fill_in=True)
_AS_PROMPT: Final = {"messages": "prompt"}
_LISTED: Final = (
    ClientApi(path=CHAT_PATH, parse=parse_chat),
    ClientApi(path="/v1/completions", parse=parse_completion, writer=TextWriter, renamed=_AS_PROMPT),
    ClientApi(path="/v1/fim/completions", parse=parse_fill_in, writer=_FILL_IN_WRITER, renamed=_AS_PROMPT),
    ClientApi(path="/v1/edit/completions", parse=parse_edit, writer=partial(CodeWriter, in_fence=True)),
    ClientApi(path="/v1/apply/completions", parse=parse_apply, writer=partial(CodeWriter, in_fence=False)),
    ClientApi(path="/v1/decisions", parse=parse_decision, renamed={"messages": "input"}),
    ClientApi(path="/v1/embeddings", parse=parse_embeddings, renamed={"messages": "input"}),
)
APIS: Final[Mapping[str, ClientApi]] = MappingProxyType({api.path: api for api in _LISTED})
