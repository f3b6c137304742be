"""Which targets count the tokens of a chat, and where."""

from typing import Any

import pytest

from gateway.attempts.token_count import count_tokens
from gateway.beyond_chat import BeyondChat, MessagesOptions
from gateway.enums import Kind, TargetApi
from gateway.errors import UpstreamError
from gateway.types import Delta, Usage

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


class Tokenizer:
    """An upstream client that counts 7 tokens, or fails."""

    status: Any = None

    def __init__(self, fault: UpstreamError | None = None) -> None:
        self.calls: list[Any] = []
        self.closed = 0
        self._fault = fault

    async def send(self, call: Any) -> Any:
        self.calls.append(call)
        if self._fault is not None:
            raise self._fault
        return self

    async def deltas(self) -> Any:
        yield Delta(data=b"{}", usage=Usage(input_tokens=7))

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (CHAT, "http://h/tokenize"),
        (f"/x{CHAT}", "http://h/x/tokenize"),
        ("/chat/completions", "http://h/tokenize"),
        (f"{CHAT}?a=b", "http://h/tokenize?a=b"),
    ],
)
def test_the_tokenizer_is_beside_the_versions_of_the_api(target: Any, path: str, url: str) -> None:
    assert target(url="http://h", path=path).url_of(TargetApi.TOKENIZE) == url


@pytest.mark.parametrize(
    ("kind", "engine", "path", "is_exact"),
    [
        (Kind.WORKER, None, CHAT, True),
        (Kind.OPENAI, "vllm", CHAT, True),
        (Kind.OPENAI, "vllm_diffusion", CHAT, True),
        (Kind.OPENAI, "vllm", "/generate", False),
        (Kind.OPENAI, "llama_cpp", CHAT, False),
        (Kind.OPENAI, None, CHAT, False),
        (Kind.LITELLM, None, CHAT, False),
    ],
)
async def test_only_a_target_with_a_tokenizer_is_called(
    target: Any, query: Any, kind: Kind, engine: str | None, path: str, is_exact: bool
) -> None:
    """Any other call could generate an answer."""
    upstream = Tokenizer()
    asked = query(beyond_chat=BeyondChat(options=MessagesOptions(estimated_tokens=5)))
    count = await count_tokens(upstream, target(kind=kind, engine=engine, path=path), asked)  # type: ignore[arg-type]
    assert (count.tokens, count.is_exact) == ((7, True) if is_exact else (5, False))
    assert [call.query.beyond_chat.api for call in upstream.calls] == [TargetApi.TOKENIZE] * is_exact
    assert upstream.closed == len(upstream.calls)


async def test_a_failure_leaves_the_estimate(target: Any, query: Any) -> None:
    asked = query(beyond_chat=BeyondChat(options=MessagesOptions(estimated_tokens=5)))
    count = await count_tokens(Tokenizer(UpstreamError("m")), target(), asked)  # type: ignore[arg-type]
    assert (count.tokens, count.is_exact) == (5, False)
