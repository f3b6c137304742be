"""Counts the input tokens of a chat with the tokenizer of a target, without an attempt at an answer."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from gateway.enums import Kind, TargetApi
from gateway.errors import AttemptFailed
from gateway.ports import Upstream
from gateway.types import Call, Query, Target

TIMEOUT_S: Final = 5.0
_ENGINES: Final = frozenset({"vllm", "vllm_diffusion"})  # whose `/tokenize` takes messages


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """`tokens` of the input at `target`. One that is not exact is the gateway's estimate."""

    tokens: int
    is_exact: bool
    target: Target


async def count_tokens(upstream: Upstream, target: Target, query: Query) -> TokenCount:
    """The count of the target's tokenizer; the estimate if it has none that can be called, or the call fails."""
    options = query.beyond_chat.options
    estimate = options.estimated_tokens if options is not None else 0
    tokens = await _exact(upstream, target, query) if _has_tokenizer(target) else None
    return TokenCount(tokens=estimate if tokens is None else tokens, is_exact=tokens is not None, target=target)


def _has_tokenizer(target: Target) -> bool:
    """A URL that is not that of chat completions says nothing about where the tokenizer is."""
    is_known = target.kind is Kind.WORKER or (target.kind is Kind.OPENAI and target.engine in _ENGINES)
    return is_known and target.url_of(TargetApi.TOKENIZE) != target.chat_url


async def _exact(upstream: Upstream, target: Target, query: Query) -> int | None:
    asked = replace(query, beyond_chat=replace(query.beyond_chat, api=TargetApi.TOKENIZE))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reply = await upstream.send(Call(target=target, query=asked))
            try:
                async with aclosing(reply.deltas()) as deltas:
                    async for delta in deltas:
                        if delta.usage is not None:
                            return delta.usage.input_tokens
            finally:
                await reply.aclose()
    except (AttemptFailed, TimeoutError):
        pass
    return None
