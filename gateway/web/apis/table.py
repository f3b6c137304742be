"""The APIs that generate, by path. Each is a translation at the rim: its requests become Queries, and the pipeline's
answers, which are chat completions, take its form."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from gateway.beyond_chat import CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH
from gateway.state.response_store import ResponseStore
from gateway.web.apis import message_request
from gateway.web.apis.client_api import ClientApi, Parse, in_chunks
from gateway.web.apis.decisions import parse_decision
from gateway.web.apis.edits import CodeWriter, parse_apply, parse_edit
from gateway.web.apis.embeddings import parse_embeddings
from gateway.web.apis.message_answer import MessageWriter
from gateway.web.apis.message_request import parse_count, parse_messages
from gateway.web.apis.responses import request
from gateway.web.apis.responses.answer import ResponseWriter
from gateway.web.apis.responses.history import read_history
from gateway.web.apis.responses.request import parse_response
from gateway.web.apis.text_answer import TextWriter
from gateway.web.apis.text_request import parse_completion, parse_fill_in
from gateway.web.parse_request import parse_chat
from twolane.process.api_keys import Key

_FILL_IN_WRITER: Final = in_chunks(partial(TextWriter, is_fill_in=True))
_AS_MESSAGES: Final = message_request.RENAMED
_AS_PROMPT: Final = {"messages": "prompt"}
_LISTED: Final = (
    ClientApi(path=CHAT_PATH, parse=parse_chat),
    ClientApi(path=RESPONSES_PATH, parse=parse_response, writer=ResponseWriter, renamed=request.RENAMED),
    ClientApi(path="/v1/completions", parse=parse_completion, writer=in_chunks(TextWriter), renamed=_AS_PROMPT),
    ClientApi(path="/v1/fim/completions", parse=parse_fill_in, writer=_FILL_IN_WRITER, renamed=_AS_PROMPT),
    ClientApi(path="/v1/edit/completions", parse=parse_edit, writer=in_chunks(partial(CodeWriter, in_fence=True))),
    ClientApi(path="/v1/apply/completions", parse=parse_apply, writer=in_chunks(partial(CodeWriter, in_fence=False))),
    ClientApi(path=MESSAGES_PATH, parse=parse_messages, writer=in_chunks(MessageWriter), renamed=_AS_MESSAGES),
    ClientApi(path=f"{MESSAGES_PATH}/count_tokens", parse=parse_count, renamed=_AS_MESSAGES, counts_tokens=True),
    ClientApi(path="/v1/decisions", parse=parse_decision, renamed={"messages": "input"}),
    ClientApi(path="/v1/embeddings", parse=parse_embeddings, renamed={"messages": "input"}),
)
APIS: Final[Mapping[str, ClientApi]] = MappingProxyType({api.path: api for api in _LISTED})


def apis_with(store: ResponseStore | None) -> Mapping[str, ClientApi]:
    """The same, with a store of responses."""
    if store is None:
        return APIS

    async def prepare(body: bytes, key: Key | None) -> Parse:
        return partial(parse_response, history=await read_history(store, body, key.name if key else None))

    stored = replace(APIS[RESPONSES_PATH], prepare=prepare, writer=partial(ResponseWriter, store=store))
    return MappingProxyType({**APIS, RESPONSES_PATH: stored})
