"""Messages to prompt ids through the checkpoint's own chat template.

A template is code of strangers: it runs in jinja's immutable sandbox. A message is text of strangers, and so are the
tools of a request: control tokens spelled in them stay ordinary characters, so that no prompt can open or close a turn.
What a template can do is read off the variables that it asks for.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from diffusion_worker.constraints.tool_calls import Syntax
from diffusion_worker.errors import CheckpointBroken, CheckpointMissing, InvalidRequest
from diffusion_worker.text.channels import control_tokens_of
from diffusion_worker.text.messages import (
    Message,
    folded_messages,
    plain_messages,
    template_messages,
    without_old_thoughts,
)
from diffusion_worker.text.tokenizer import Tokenizer, read_json

# Unicode noncharacters, reserved for use inside one program: they mark control tokens that were spelled in a message.
_CONTROL_TOKENS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
_THINKING = "enable_thinking"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFeatures:
    """What a checkpoint can be asked for beyond plain turns and tools."""

    thinking: bool = False  # the template has a switch for it


NO_FEATURES = TemplateFeatures()


class ChatTemplate:
    """Renders conversations for one checkpoint. Raises CheckpointBroken when the template is no valid jinja."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = _any_of(tokenizer.specials)
        environment = _environment()
        try:
            decodes = meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointBroken(f"the chat template is not valid: {error}") from error
        control_tokens = control_tokens_of(tokenizer)
        self.features = TemplateFeatures(thinking=_THINKING in decodes)
        # Native: the template shows tools, and the tokenizer has the tokens of a call.
        self.calls = Syntax.NATIVE if "tools" in decodes and control_tokens.supports_calls else Syntax.TAGGED
        self._thinks = control_tokens.thought is not None
        # Gemma 4's first templates knew no turns of tools; later ones look the answer up by the id of its call.
        self._turns_of = (
            folded_messages if "tool_responses" in source and "tool_call_id" not in source else template_messages
        )

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, thinking: bool | None = None
    ) -> tuple[int, ...]:
        """Ids of the conversation up to where the model's turn begins; `tools` are OpenAI's objects, `thinking` None
        leaves the choice to the template. Raises InvalidRequest with the template's own words."""
        if self.calls is Syntax.TAGGED:
            messages, tools = plain_messages(messages, tools), ()
        turns = self._turns_of(without_old_thoughts(messages) if self._thinks else messages)
        mark = _unused_mark(turns, tools)
        given: dict[str, Any] = {"messages": self._guarded(turns, mark), "add_generation_prompt": True}
        if tools:
            given["tools"] = self._guarded(tools, mark)
        if thinking is not None:
            given[_THINKING] = thinking
        try:
            text = self._template.render(given, **self._tokenizer.named)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            # Templates check little: wrong use shows as whatever Python raises inside them.
            raise InvalidRequest(f"the chat template refuses these messages: {error}", param="messages") from error
        return self._encode(text, mark)

    def _guarded(self, value: Any, mark: str) -> Any:
        """The same value with a mark inside every control token that its texts spell; it is taken out again after
        rendering."""
        if isinstance(value, str):
            return self._control.sub(lambda found: _marked(found[0], mark), value)
        if isinstance(value, Mapping):
            return {self._guarded(key, mark): self._guarded(inner, mark) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._guarded(inner, mark) for inner in value]
        return value

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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _marked(special: str, mark: str) -> str:
    return special[:1] + mark + special[1:]


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first; of no words, nothing. In any case, as templates may change it."""
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})" if ordered else r"((?!))", re.IGNORECASE)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """jinja's own filter escapes HTML, which a prompt must not."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _unused_mark(*values: Any) -> str:
    used = set().union(*map(_characters, values))
    for mark in _CONTROL_TOKENS:
        if mark not in used:
            return mark
    raise InvalidRequest("the messages use every Unicode noncharacter from U+FDD0 to U+FDEF", param="messages")


def _characters(value: Any) -> set[str]:
    """Every character of every text inside."""
    if isinstance(value, str):
        return set(value)
    if isinstance(value, Mapping):
        return _characters([*value, *value.values()])
    return set().union(*map(_characters, value)) if isinstance(value, list | tuple) else set()
