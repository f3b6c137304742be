"""OpenAI chat completion responses: text, reasoning and tool calls, as one body or as stream chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.text.token_logprobs import NO_LOGPROBS, ChannelLogprobs
from diffusion_worker.text.tool_calls import ToolCall
from diffusion_worker.web.label_logprobs import logprobs_body, token_logprobs_body
from diffusion_worker.web.response_parts import ResponseMetadata, Writer


class ChatWriter(Writer):
    """Writes chat completions. Reasoning and tool calls are present only if there are any; calls are numbered."""

    PREFIX = "chatcmpl-"
    WHOLE = "chat.completion"
    CHUNK = "chat.completion.chunk"

    def __init__(self, metadata: ResponseMetadata, *, include_usage: bool = False, top_logprobs: int = 0) -> None:
        super().__init__(metadata, include_usage=include_usage)
        self._calls = 0  # number of tool calls sent
        self._top_logprobs = top_logprobs
        self._held = NO_LOGPROBS  # of tokens whose text is not final yet

    def opening(self) -> bytes:
        """The chunk with the role."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}})

    def output_events(self, output: ChannelOutput) -> bytes:
        """One event each for thought, text and every complete tool call."""
        self._held += output.logprobs
        deltas: list[tuple[dict[str, Any], str]] = []  # with the channel of their log-probabilities
        if output.thought:
            deltas.append(({"reasoning_content": output.thought}, "thought"))
        if output.text:
            deltas.append(({"content": output.text}, "text"))
        for call in output.calls:
            body = {"index": self._calls, **self._call_body(self._calls, call)}
            deltas.append(({"tool_calls": [body]}, "calls"))
            self._calls += 1
        return b"".join(
            self._chunk({"delta": delta, **self._logprobs([output], self._taken(channel))}) for delta, channel in deltas
        )

    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """The last chunk, with an empty delta."""
        return self._chunk({"delta": {}, **self._logprobs([], self._held)}, reason, diffusion=diffusion)

    def _taken(self, channel: str) -> ChannelLogprobs:
        """What is held of a channel."""
        taken = ChannelLogprobs(**{channel: getattr(self._held, channel)})
        self._held = replace(self._held, **{channel: ()})
        return taken

    def _content(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        """The message; its content is null if it has only tool calls."""
        text, thought = "".join(part.text for part in output), "".join(part.thought for part in output)
        calls = [call for part in output for call in part.calls]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [self._call_body(number, call) for number, call in enumerate(calls)]
        logprobs = sum((part.logprobs for part in output), NO_LOGPROBS)
        return {"message": message, **self._logprobs(output, logprobs)}

    def _logprobs(self, output: Sequence[ChannelOutput], tokens: ChannelLogprobs) -> dict[str, Any]:
        """`logprobs`, if probabilities of labels or tokens were requested."""
        labels = next((part.labels for part in output if part.labels), ())
        if labels:
            return {"logprobs": logprobs_body(labels, self._top_logprobs)}
        has_any = tokens.text or tokens.thought or tokens.calls
        return {"logprobs": token_logprobs_body(tokens)} if has_any else {}

    def _call_body(self, number: int, call: ToolCall) -> dict[str, Any]:
        """One tool call; its id is the response id with a number."""
        return {
            "id": f"call_{self._metadata.id.removeprefix(self.PREFIX)}_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
