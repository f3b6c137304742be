"""OpenAI text completion responses, with prompt and suffix if `echo` is set, and `logprobs` in parallel lists."""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.text.token_logprobs import TextLogprobs, TokenText
from diffusion_worker.web.label_logprobs import MIN_LOGPROB
from diffusion_worker.web.response_parts import ResponseMetadata, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """The texts returned around an answer. With `is_scored`, the prompt comes with log-probabilities; `hidden` of its
    tokens are not part of the text: those that the checkpoint expects before it."""

    before: str = ""
    behind: str = ""
    is_scored: bool = False
    hidden: int = 0


NO_ECHO: Final = Echo()


class TextWriter(Writer):
    """Writes text completions."""

    PREFIX = "cmpl-"
    WHOLE = CHUNK = "text_completion"

    def __init__(self, metadata: ResponseMetadata, *, include_usage: bool = False, echo: Echo = NO_ECHO) -> None:
        super().__init__(metadata, include_usage=include_usage)
        self._echo = echo
        self._answer = _Lists(len(echo.before))
        self._held: list[TextLogprobs] = []  # of tokens whose text is not final yet

    def opening(self) -> bytes:
        """The chunk with the text before the answer, unless its log-probabilities follow."""
        has_text = self._echo.before and not self._echo.is_scored
        return self._chunk({"text": self._echo.before}) if has_text else b""

    def output_events(self, output: ChannelOutput) -> bytes:
        """The chunk with final text, or with the scored prompt."""
        if output.prompt:
            return self._chunk({"text": self._echo.before, "logprobs": self._prompt_body(output.prompt)})
        self._held += _scored(output)
        if not output.text:
            return b""
        return self._chunk({"text": output.text, **self._logprobs(self._taken())})

    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """The last chunk, with the text after the answer."""
        content = {"text": self._echo.behind, **self._logprobs(self._taken())}
        return self._chunk(content, reason, diffusion=diffusion)

    def _taken(self) -> list[TextLogprobs]:
        held, self._held = self._held, []
        return held

    def _logprobs(self, tokens: Sequence[TextLogprobs]) -> dict[str, Any]:
        return {"logprobs": self._answer.body(tokens)} if tokens else {}

    def _prompt_body(self, tokens: Sequence[TextLogprobs]) -> dict[str, list[Any]]:
        return _Lists(0).body(tokens[self._echo.hidden :])

    def _content(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        text = self._echo.before + "".join(part.text for part in output) + self._echo.behind
        bodies = [self._prompt_body(part.prompt) for part in output if part.prompt]
        if scored := [each for part in output for each in _scored(part)]:
            bodies.append(self._answer.body(scored))
        if not bodies:
            return {"text": text}
        return {
            "text": text,
            "logprobs": {name: [each for body in bodies for each in body[name]] for name in bodies[0]},
        }


class _Lists:
    """OpenAI's parallel lists, for the tokens of a text that begins at character `offset`."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def body(self, tokens: Iterable[TextLogprobs]) -> dict[str, list[Any]]:
        """The lists of the next tokens. The offset of a token is that of the first character that it is a part of."""
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for each in tokens:
            lists["tokens"].append(_label(each.token))
            lists["token_logprobs"].append(None if each.logprob is None else max(each.logprob, MIN_LOGPROB))
            lists["top_logprobs"].append(_top(each))
            lists["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(each.token.data))
        return lists


def _scored(output: ChannelOutput) -> tuple[TextLogprobs, ...]:
    """The tokens of the text, and an end token behind it: clients that score a prompt count on one token after it."""
    return output.logprobs.text + output.logprobs.end


def _top(scored: TextLogprobs) -> dict[str, float] | None:
    """The most likely tokens, and the token itself. Of tokens with the same text, the most likely one counts."""
    if scored.logprob is None:
        return None
    found: dict[str, float] = {}
    for token, logprob in (*scored.top, (scored.token, scored.logprob)):
        found.setdefault(_label(token), max(logprob, MIN_LOGPROB))
    return found


def _label(token: TokenText) -> str:
    """The text of a token. A part of a character is written as OpenAI does: `bytes:` and its bytes in hexadecimal."""
    if token.control:
        return token.control
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)
