"""OpenAI text completion responses, with the prompt and the suffix if `echo` is set."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.web.response_parts import ResponseMetadata, Writer


class TextWriter(Writer):
    """Writes text completions; `before` and `behind` are returned unchanged around the answer."""

    PREFIX = "cmpl-"
    WHOLE = CHUNK = "text_completion"

    def __init__(
        self, metadata: ResponseMetadata, *, include_usage: bool = False, before: str = "", behind: str = ""
    ) -> None:
        super().__init__(metadata, include_usage=include_usage)
        self._before, self._behind = before, behind

    def opening(self) -> bytes:
        """The chunk with the text before the answer."""
        return self._chunk({"text": self._before}) if self._before else b""

    def output_events(self, output: ChannelOutput) -> bytes:
        """The chunk with final text."""
        return self._chunk({"text": output.text}) if output.text else b""

    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """The last chunk, with the text after the answer."""
        return self._chunk({"text": self._behind}, reason, diffusion=diffusion)

    def _content(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        return {"text": self._before + "".join(part.text for part in output) + self._behind}
