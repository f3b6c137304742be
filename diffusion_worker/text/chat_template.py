"""Messages to prompt ids through the checkpoint's own chat template.

A template is code of strangers: it runs in jinja's immutable sandbox. A message is text of strangers: control tokens
spelled in it stay ordinary characters, so that no prompt can open or close a turn.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from diffusion_worker.errors import BadAsk, CheckpointBroken, CheckpointMissing
from diffusion_worker.text.tokenizer import Tokenizer, read_json

# Unicode noncharacters, reserved for use inside one program: they mark control tokens that were spelled in a message.
_MARKS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn: a role and its text."""

    role: str
    content: str


class ChatTemplate:
    """Renders conversations for one checkpoint. Raises CheckpointBroken when the template is no valid jinja."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = _any_of(tokenizer.specials)
        try:
            self._template = _compile(source)
        except TemplateError as error:
            raise CheckpointBroken(f"the chat template is not valid: {error}") from error

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the conversation up to where the model's turn begins. Raises BadAsk with the template's own words."""
        mark = _unused_mark(messages)
        guarded = [{"role": m.role, "content": self._guard(m.content, mark)} for m in messages]
        try:
            text = self._template.render(messages=guarded, add_generation_prompt=True, **self._tokenizer.named)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            # Templates check little: wrong use shows as whatever Python raises inside them.
            raise BadAsk(f"the chat template refuses these messages: {error}", param="messages") from error
        return self._encode(text, mark)

    def _guard(self, content: str, mark: str) -> str:
        """Put a mark inside every control token that the text spells; it is taken out again after rendering."""
        return self._control.sub(lambda found: _marked(found[0], mark), content)

    def _encode(self, text: str, mark: str) -> tuple[int, ...]:
        if mark not in text:
            return self._tokenizer.encode(text)
        spelled = _any_of(_marked(special, mark) for special in self._tokenizer.specials)
        ids: list[int] = []
        for at, part in enumerate(spelled.split(text)):  # every second part is a spelled control token
            encode = self._tokenizer.encode_plain if at % 2 else self._tokenizer.encode
            ids += encode(part.replace(mark, ""))
        return tuple(ids)


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a checkpoint folder: `chat_template.jinja`, or the entry in `tokenizer_config.json`."""
    path = folder / "chat_template.jinja"
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        source = _configured_template(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointBroken(f"{path} cannot be read: {error}") from error
    return ChatTemplate(source, tokenizer)


def _configured_template(folder: Path) -> str:
    path = folder / "tokenizer_config.json"
    template = read_json(path).get("chat_template") if path.exists() else None
    if isinstance(template, list):  # several named templates; the one called default is for chat
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if not isinstance(template, str):
        raise CheckpointMissing(
            f"{folder} has neither chat_template.jinja nor a chat_template in tokenizer_config.json"
        )
    return template


def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


def _marked(special: str, mark: str) -> str:
    return special[:1] + mark + special[1:]


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first; of no words, nothing."""
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})" if ordered else r"((?!))")


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """jinja's own filter escapes HTML, which a prompt must not."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _unused_mark(messages: Sequence[Message]) -> str:
    used = set().union(*(m.content for m in messages))
    for mark in _MARKS:
        if mark not in used:
            return mark
    raise BadAsk("the messages use every Unicode noncharacter from U+FDD0 to U+FDEF", param="messages")
