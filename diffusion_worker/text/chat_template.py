"""Renders messages to prompt ids with the checkpoint's chat template.

A template is untrusted code and runs in Jinja's immutable sandbox. Messages and tools are untrusted text: control
tokens written in them are encoded as ordinary characters, so that a prompt cannot open or close a turn. The features of
a template are derived from the variables that it uses."""

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

# Unicode noncharacters, reserved for internal use: they mark control tokens written in a message.
_PLACEHOLDERS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
_THINKING = "enable_thinking"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFeatures:
    """Optional features of a chat template."""

    thinking: bool = False  # has a switch for thinking


NO_FEATURES = TemplateFeatures()


class ChatTemplate:
    """The chat template of a checkpoint. Raises CheckpointBroken if it is not valid Jinja."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = _any_of(tokenizer.specials)
        environment = _environment()
        try:
            variables = meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointBroken(f"the chat template is not valid: {error}") from error
        control_tokens = control_tokens_of(tokenizer)
        self.features = TemplateFeatures(thinking=_THINKING in variables)
        # Native: the template renders tools, and the tokenizer has control tokens for calls.
        self.calls = Syntax.NATIVE if "tools" in variables and control_tokens.supports_calls else Syntax.TAGGED
        self._thinks = control_tokens.thought is not None
        # Gemma 4's first templates have no tool messages; later ones look up the result by the id of its call.
        self._to_template = (
            folded_messages if "tool_responses" in source and "tool_call_id" not in source else template_messages
        )

    def prompt_ids(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        thinking: bool | None = None,
        max_tokens: int | None = None,
    ) -> tuple[int, ...]:
        """Prompt ids of the conversation, up to the start of the model's turn.

        `tools` are OpenAI objects; `thinking` None uses the template's default. Raises InvalidRequest with the
        template's error message, and PromptTooLong for a text that certainly exceeds `max_tokens`."""
        if self.calls is Syntax.TAGGED:
            messages, tools = plain_messages(messages, tools), ()
        turns = self._to_template(without_old_thoughts(messages) if self._thinks else messages)
        mark = _unused_mark(turns, tools)
        variables: dict[str, Any] = {"messages": self._guarded(turns, mark), "add_generation_prompt": True}
        if tools:
            variables["tools"] = self._guarded(tools, mark)
        if thinking is not None:
            variables[_THINKING] = thinking
        try:
            text = self._template.render(variables, **self._tokenizer.named)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            # Templates validate little: invalid input raises arbitrary Python errors inside them.
            raise InvalidRequest(
                f"the chat template could not render the messages: {error}", param="messages"
            ) from error
        if max_tokens is not None:
            self._tokenizer.check_length(text, max_tokens, "messages")
        return self._encode(text, mark)

    def _guarded(self, value: Any, mark: str) -> Any:
        """The value with a mark inserted in every control token of its texts; it is removed after rendering."""
        if isinstance(value, str):
            return self._control.sub(lambda match: _marked(match[0], mark), value)
        if isinstance(value, Mapping):
            return {self._guarded(key, mark): self._guarded(inner, mark) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._guarded(inner, mark) for inner in value]
        return value

    def _encode(self, text: str, mark: str) -> tuple[int, ...]:
        if mark not in text:
            return self._tokenizer.encode(text)
        marked = _any_of(_marked(special, mark) for special in self._tokenizer.specials)
        ids: list[int] = []
        for at, part in enumerate(marked.split(text)):  # every second part is a marked control token
            encode = self._tokenizer.encode_plain if at % 2 else self._tokenizer.encode
            ids += encode(part.replace(mark, ""))
        return tuple(ids)


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """Load the template of a checkpoint folder: `chat_template.jinja`, or the entry in `tokenizer_config.json`."""
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
    if isinstance(template, list):  # several named templates; "default" is the one for chat
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


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Pattern that matches any of the texts, longest first. Ignores case, because templates may change it."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})" if ordered else r"((?!))", re.IGNORECASE)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """Replaces Jinja's filter, which escapes HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _unused_mark(*values: Any) -> str:
    used = set().union(*map(_characters, values))
    for mark in _PLACEHOLDERS:
        if mark not in used:
            return mark
    raise InvalidRequest("the messages use every Unicode noncharacter from U+FDD0 to U+FDEF", param="messages")


def _characters(value: Any) -> set[str]:
    """All characters of all texts in a value."""
    if isinstance(value, str):
        return set(value)
    if isinstance(value, Mapping):
        return _characters([*value, *value.values()])
    return set().union(*map(_characters, value)) if isinstance(value, list | tuple) else set()
