"""POST /tokenize: the number of prompt tokens of a chat, in the form of vLLM's API without the tokens themselves."""

import asyncio
from typing import Final

import orjson
from starlette.types import Receive, Scope, Send

from diffusion_worker.text.chat_template import TemplateFeatures
from diffusion_worker.web.http_io import JSON, send_response
from diffusion_worker.web.requests.chat_request import parse_chat
from diffusion_worker.web.serving_state import ServingState
from twolane.process.http_body import read_body

_MAX_RUNNING: Final = 2  # tokenization needs the processors that the engine needs too


class TokenizeEndpoint:
    """Takes the body of a chat completion. Raises WorkerError."""

    def __init__(self, serving_state: ServingState) -> None:
        self._state = serving_state
        self._running = asyncio.Semaphore(_MAX_RUNNING)

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """`{"count": ..., "max_model_len": ...}`; a prompt longer than the context is counted too."""
        body = await read_body(receive)
        async with self._running:
            answer = await asyncio.to_thread(self._count, body)
        await send_response(send, 200, (JSON,), answer)

    def _count(self, body: bytes) -> bytes:
        request = parse_chat(body, self._state.features or TemplateFeatures(thinking=True))
        self._state.decoding_mode_of(request.params.model)
        tokenization, info = self._state.loaded()
        ids = tokenization.template.prompt_ids(request.messages, request.tools.offered, thinking=request.thinking)
        return orjson.dumps({"count": len(ids), "max_model_len": info.max_context})
