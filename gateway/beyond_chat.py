"""What requests of other APIs have beyond a chat: the prompts of text completions, the code of edits, the inputs of
embeddings, the questions of decisions, the options of messages, the fields that answers repeat. One record beside the
chat, so that chats pay for one field."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.enums import TargetApi
from twolane.process.decisions.questions import DecisionRequest

CHAT_PATH: Final = "/v1/chat/completions"
MESSAGES_PATH: Final = "/v1/messages"
RESPONSES_PATH: Final = "/v1/responses"
_MAX_NAME: Final = 64  # of a tool, in chats


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of a text completion: a text or token ids.

    With a `suffix`, the completion fills the gap between both. `marked` is the prompt as sent, if the client wrote the
    gap with the markers of a model family; such a text contains the suffix.
    """

    text: str | tuple[int, ...]
    suffix: str | None = None
    marked: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesOptions:
    """What Anthropic's Messages API has and targets spell in different ways, or not at all; see `messages_options`.

    `thinking`: whether the model should think; None leaves it to the target. `is_prefilled`: the last message is the
    beginning of the answer. `stops`: the stop strings, for the answer to name. `has_thoughts`: messages of the
    assistant carry their reasoning. `estimated_tokens`: of the input, if the request asks for their number.
    """

    thinking: bool | None = None
    is_prefilled: bool = False
    stops: frozenset[str] = frozenset()
    has_thoughts: bool = False
    estimated_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BeyondChat:
    """`api` says which API of a target has the same kind of answer. A text completion (`COMPLETIONS`) has `prompts`,
    from which the messages or the prompt of a call are written; targets without text completions are asked for a chat
    completion. Texts are never logged."""

    path: str = CHAT_PATH  # that the client called
    api: TargetApi = TargetApi.CHAT
    prompts: tuple[Prompt, ...] = ()  # the query's `n` counts the choices of all of them together
    echo: bool = False  # the gateway begins each text of the answer with its prompt
    scores_prompts: bool = False  # the target does, and gives the log-probabilities of the prompt's tokens
    is_unanswered: bool = False  # and it writes nothing behind the prompt
    source: str | None = None  # the text that an edit changes; workers start from it
    inputs: int = 0  # of a request for embeddings
    dimensions: int | None = None  # that it asks for
    decision: DecisionRequest | None = None  # its questions
    ignored: frozenset[str] = frozenset()  # fields that no target gets, and that the response names
    items_to_store: bytes | None = None  # with the response; None: it is not stored
    renamed: Mapping[str, str] = field(default_factory=dict)  # chat fields as this request named them, for errors
    repeated: Mapping[str, Any] = field(default_factory=dict)  # fields that the answer repeats
    options: MessagesOptions | None = None
    response_body: bytes | None = None  # of a request for a response, for targets with responses


A_CHAT: Final = BeyondChat()


def joined_name(namespace: str | None, name: str) -> str:
    """The name under which a chat offers a tool. One that is too long for a chat is shortened, and stays unique."""
    joined = f"{namespace}__{name}" if namespace else name
    if not namespace or len(joined) <= _MAX_NAME:
        return joined
    digest = hashlib.sha256(joined.encode()).hexdigest()[:8]
    return f"{joined[: _MAX_NAME - len(digest) - 1]}_{digest}"


def hosted_name(kind: str) -> str:
    """The tool that creates items of this type: `web_search` for `web_search_call`."""
    return "mcp" if kind.startswith("mcp_") else kind.removesuffix("_output").removesuffix("_call")
