"""What routing needs of a chat: its texts, by the roles of their messages."""

from operator import attrgetter
from typing import Any, Final, NamedTuple

from gateway.reliability.load_balancing import PREFIX_CHARS
from gateway.web.request_schema import ABSENT, ChatRequest, Message, Part

_SYSTEM: Final = frozenset({"system", "developer"})
_ALL_TEXT: Final = {str}
_FOLLOW_UP: Final = 3  # messages that a conversation with a follow-up has at least
# Fields of all messages by `map`: a loop of Python's own takes five times as long.
_CONTENT, _ROLE, _NAME, _CACHE_CONTROL = map(attrgetter, ("content", "role", "name", "cache_control"))


class Chat(NamedTuple):
    """What routing needs of a chat. The quick reader returns a tuple of these; see `Conversation`."""

    model: str
    message_count: int
    stream: bool
    include_usage: bool
    n: int
    system_text: str
    user_text: str
    earlier_text: str
    answer_text: str
    prompt_chars: int
    prefix_text: str


class Conversation:
    """What routing needs of the messages of a request.

    `earlier_text` is the user's message before the last, and `answer_text` the assistant's last answer before that: a
    follow-up is understood by them.
    """

    __slots__ = ("answer_text", "earlier_text", "is_marked", "is_named", "parts", "system_texts", "texts", "user_text")

    def __init__(self, messages: list[Message]) -> None:
        self.parts: list[Part] = []
        self.system_texts: list[str] = []
        self.user_text = self.earlier_text = self.answer_text = ""
        contents: list[Any] = list(map(_CONTENT, messages))
        roles = list(map(_ROLE, messages))
        self.is_named = list(map(_NAME, messages)).count(None) < len(messages)
        self.is_marked = list(map(_CACHE_CONTROL, messages)).count(ABSENT) < len(messages)  # a prefix to cache
        self.texts: list[str] = contents if set(map(type, contents)) == _ALL_TEXT else list(map(self._text, contents))
        if not _SYSTEM.isdisjoint(roles):
            self.system_texts += [text for text, role in zip(self.texts, roles, strict=True) if role in _SYSTEM]
        roles.reverse()
        of_user = roles.count("user")
        if not of_user:
            return
        last = roles.index("user")
        self.user_text = self.texts[~last]
        if len(roles) < _FOLLOW_UP:
            return
        if of_user > 1:
            self.earlier_text = self.texts[~roles.index("user", last + 1)]
        if "assistant" in roles[last + 1 :]:
            self.answer_text = self.texts[~roles.index("assistant", last + 1)]

    def _text(self, content: str | list[Part] | None) -> str:
        if isinstance(content, str):
            return content
        self.parts += content or ()
        return "\n".join([part.text for part in content or () if part.text])


def chat_of(request: ChatRequest, read: Conversation) -> Chat:
    """What routing needs of a request that was read in full."""
    return Chat(
        model=request.model,
        message_count=len(request.messages),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        n=request.n or 1,
        system_text="\n".join(read.system_texts),
        user_text=read.user_text,
        earlier_text=read.earlier_text,
        answer_text=read.answer_text,
        prompt_chars=sum(map(len, read.texts)),
        prefix_text="".join(read.texts[:2])[:PREFIX_CHARS],
    )
