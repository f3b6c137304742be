"""Text completions, with or without a gap to fill: `/v1/completions` and `/v1/fim/completions`.

A request is parsed as the chat request with the same parameters, and keeps its prompts beside it. `best_of` above `n`
is refused by name. The gateway has no tokenizer: `echo` of token ids, or with `logprobs`, needs a target that echoes
prompts with their log-probabilities.
"""

from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec

from gateway.beyond_chat import BeyondChat, Prompt
from gateway.enums import Capability, TargetApi, Task
from gateway.errors import BadRequest, InvalidField
from gateway.routing.fill_in_the_middle import gap_of, suffix_of
from gateway.types import CHARS_PER_TOKEN, Query
from gateway.web.parse_request import decode, parse_chat
from gateway.web.request_schema import ABSENT, is_present
from twolane.process import exact_json
from twolane.process.api_keys import Key
from twolane.process.trace_context import Trace

MAX_CHOICES: Final = 128  # of all prompts together
MAX_LOGPROBS: Final = 20
_OWN_FIELDS: Final = frozenset({"prompt", "suffix", "echo", "best_of", "logprobs", "messages", "random_seed"})

Ids = list[Annotated[int, msgspec.Meta(ge=0)]]


class _TextFields(msgspec.Struct):
    """The fields that chat requests do not have, or have in another form."""

    prompt: str
    suffix: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | bool | None = None
    stream: bool | None = None
    random_seed: int | None = None  # Mistral's name of `seed`
    messages: msgspec.Raw = ABSENT


class _CompletionFields(_TextFields, kw_only=True):
    prompt: Any  # checked below: msgspec cannot tell two types of lists apart
    max_tokens: Any = None  # checked with the chat, unless it is 0


_TEXT: Final = msgspec.json.Decoder(_TextFields)
_COMPLETION: Final = msgspec.json.Decoder(_CompletionFields)


def parse_completion(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """See `client_api.Parse`. A prompt is a text, a list of token ids, or a list of either."""
    given, document, _ = decode(body, _COMPLETION)
    prompts = _prompts(given.prompt, suffix_of(given.suffix))
    is_scored = _scores_prompts(given, prompts)
    if is_scored:
        prompts = tuple(_unsplit(prompt) for prompt in prompts)
    is_unanswered = is_scored and type(given.max_tokens) is int and given.max_tokens == 0
    if is_unanswered:
        del document["max_tokens"]
    as_chat = _chat_body(given, document, prompts)
    query = _as_text(parse_chat(as_chat, headers, now_s=now_s, key=key, trace=trace), prompts, given)
    return _as_scored(query, is_unanswered=is_unanswered) if is_scored else query


def parse_fill_in(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """See `client_api.Parse`. The prompt is one text; without a suffix, the gap is at its end."""
    given, document, _ = decode(body, _TEXT)
    prompts = (_prompt(given.prompt, suffix_of(given.suffix)),)
    if _scores_prompts(given, prompts):
        raise InvalidField("'echo' is supported with 'logprobs' at /v1/completions only.", param="echo")
    as_chat = _chat_body(given, document, prompts)
    return _as_text(parse_chat(as_chat, headers, now_s=now_s, key=key, trace=trace), prompts, given)


def _scores_prompts(given: _TextFields, prompts: tuple[Prompt, ...]) -> bool:
    """Whether the target must echo the prompts: with log-probabilities, or because they are token ids."""
    has_logprobs = given.logprobs is not None and given.logprobs is not False
    if not given.echo or not (has_logprobs or any(not isinstance(prompt.text, str) for prompt in prompts)):
        return False
    if given.suffix:
        text = "'echo' of token ids or with 'logprobs' is not supported with a 'suffix'."
        raise InvalidField(text, param="suffix")
    return True


def _unsplit(prompt: Prompt) -> Prompt:
    """The prompt as sent: a gap that it marks is part of the text to score."""
    return prompt if prompt.marked is None else Prompt(text=prompt.marked)


def _as_scored(query: Query, *, is_unanswered: bool) -> Query:
    beyond_chat = replace(query.beyond_chat, echo=False, scores_prompts=True, is_unanswered=is_unanswered)
    return replace(query, beyond_chat=beyond_chat, needs=query.needs | {Capability.PROMPT_LOGPROBS})


def _as_text(query: Query, prompts: tuple[Prompt, ...], given: _TextFields) -> Query:
    has_hint = query.task_hint is not None
    return replace(
        query,
        beyond_chat=BeyondChat(api=TargetApi.COMPLETIONS, prompts=prompts, echo=bool(given.echo)),
        n=query.n * len(prompts),
        task_hint=query.task_hint if has_hint else Task.AUTOCOMPLETE,
        task_hint_from=query.task_hint_from if has_hint else "api",
        needs=query.needs - {Capability.CHAT},
        has_suffix=any(prompt.suffix is not None for prompt in prompts),
        prompt_chars=sum(map(_chars, prompts)),
    )


def _check(given: _TextFields, prompts: tuple[Prompt, ...]) -> None:
    choices = given.n or 1
    if is_present(given.messages):
        raise InvalidField("'messages' is not a field of text completions; use 'prompt'.", param="messages")
    if choices * len(prompts) > MAX_CHOICES:
        text = f"'prompt' has {len(prompts)} prompts for {choices} choices each; at most {MAX_CHOICES} are allowed."
        raise InvalidField(text, param="prompt")
    if given.best_of is not None and given.best_of != choices:
        text = f"'best_of' must equal 'n' ({choices}): the gateway does not rank completions."
        raise InvalidField(text, param="best_of")


def _chat_body(given: _TextFields, document: dict[str, Any], prompts: tuple[Prompt, ...]) -> bytes:
    """The chat request with the same parameters. Its message is what the classification and the conditions read."""
    _check(given, prompts)
    shown = "\n".join(_shown(prompt) for prompt in prompts)
    chat = {name: value for name, value in document.items() if name not in _OWN_FIELDS}
    chat["messages"] = [{"role": "user", "content": shown}]
    if given.random_seed is not None and chat.get("seed") is None:
        chat["seed"] = given.random_seed
    if given.logprobs is not None and given.logprobs is not False:
        chat |= {"logprobs": True, "top_logprobs": int(given.logprobs)}
    return exact_json.dumps(chat)


def _shown(prompt: Prompt) -> str:
    return prompt.text + (prompt.suffix or "") if isinstance(prompt.text, str) else ""


def _chars(prompt: Prompt) -> int:
    is_text = isinstance(prompt.text, str)
    return len(prompt.text) * (1 if is_text else CHARS_PER_TOKEN) + len(prompt.suffix or "")


def _prompts(given: Any, suffix: str | None) -> tuple[Prompt, ...]:
    if isinstance(given, list) and given and not _is_ids(given):
        return tuple(_prompt(each, suffix, f"prompt[{number}]") for number, each in enumerate(given))
    return (_prompt(given, suffix),)


def _prompt(given: Any, suffix: str | None, param: str = "prompt") -> Prompt:
    """A text that marks its gap itself is split, unless the request has a suffix as well."""
    if isinstance(given, str):
        gap = gap_of(given) if suffix is None else None
        return Prompt(text=given, suffix=suffix) if gap is None else Prompt(text=gap[0], suffix=gap[1], marked=given)
    if isinstance(given, list) and given and _is_ids(given):
        return Prompt(text=tuple(given), suffix=suffix)
    raise _invalid(given, param)


def _is_ids(given: list[Any]) -> bool:
    return all(type(each) is int and each >= 0 for each in given)


def _invalid(given: Any, param: str) -> BadRequest:
    if given == []:
        return InvalidField(f"{param!r} must not be empty.", param=param)
    return InvalidField(f"{param!r} must be a text, a list of token ids, or a list of either.", param=param)
