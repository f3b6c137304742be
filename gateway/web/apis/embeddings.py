"""`/v1/embeddings`: the request and the answer pass unchanged, through the same pipeline."""

from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway.beyond_chat import BeyondChat
from gateway.enums import Capability, TargetApi
from gateway.errors import InvalidField
from gateway.types import CHARS_PER_TOKEN, Query
from gateway.web.parse_request import decode, parse_chat
from gateway.web.request_schema import Positive
from twolane.process import exact_json
from twolane.process.api_keys import Key
from twolane.process.trace_context import Trace

MAX_INPUTS: Final = 2048  # OpenAI's own limit; a target's may be lower
_OWN_FIELDS: Final = frozenset({"input", "encoding_format", "dimensions", "messages", "stream"})


class _EmbeddingFields(msgspec.Struct):
    input: Any  # checked below: msgspec cannot tell two types of lists apart
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Positive, msgspec.Meta(le=1 << 20)] | None = None
    stream: bool | None = None


_DECODER: Final = msgspec.json.Decoder(_EmbeddingFields)


def parse_embeddings(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """See `client_api.Parse`. An input is a text, a list of token ids, or a list of either."""
    given, document, body = decode(body, _DECODER)
    if given.stream:
        raise InvalidField("'stream' is not supported: embeddings are answered as a whole.", param="stream")
    if "stream" in document:  # a field that the API does not have, and servers may refuse
        body = exact_json.dumps({name: value for name, value in document.items() if name != "stream"})
    sizes = _sizes(given.input)
    shown = given.input if isinstance(given.input, str) else "\n".join(filter(_is_text, given.input))
    chat = {name: value for name, value in document.items() if name not in _OWN_FIELDS}
    chat["messages"] = [{"role": "user", "content": shown}]
    query = parse_chat(exact_json.dumps(chat), headers, now_s=now_s, key=key, trace=trace)
    return replace(
        query,
        body=body,
        beyond_chat=BeyondChat(api=TargetApi.EMBEDDINGS, inputs=len(sizes), dimensions=given.dimensions),
        needs=query.needs - {Capability.CHAT} | {Capability.EMBEDDINGS},
        n=1,
        prompt_chars=sum(sizes),
    )


def _sizes(given: Any) -> list[int]:
    """The size of each input in characters. Raises InvalidField."""
    if isinstance(given, str):
        return [len(given)]
    if given == []:
        raise InvalidField("'input' must not be empty.", param="input")
    if not isinstance(given, list):
        raise _invalid("input")
    if all(map(_is_id, given)):
        return [len(given) * CHARS_PER_TOKEN]
    if len(given) > MAX_INPUTS:
        text = f"'input' has {len(given)} inputs; at most {MAX_INPUTS} are allowed."
        raise InvalidField(text, param="input")
    return [_size(each, f"input[{number}]") for number, each in enumerate(given)]


def _size(given: Any, param: str) -> int:
    if isinstance(given, str):
        return len(given)
    if isinstance(given, list) and given and all(map(_is_id, given)):
        return len(given) * CHARS_PER_TOKEN
    raise _invalid(param)


def _is_id(given: Any) -> bool:
    return type(given) is int and given >= 0


def _is_text(given: Any) -> bool:
    return isinstance(given, str)


def _invalid(param: str) -> InvalidField:
    return InvalidField(f"{param!r} must be a text, a list of token ids, or a list of either.", param=param)
