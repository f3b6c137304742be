"""POST /v1/decisions: bounded questions about one input, answered with probabilities from the holes of canvases.

The first canvas runs alone, so that the others find the prompt that they share in the cache; a few of them run at once.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import orjson
from starlette.types import Receive, Scope, Send

from diffusion_worker.constraints.inference.template import Probabilities
from diffusion_worker.errors import DeadlineExceeded, InvalidRequest
from diffusion_worker.text.messages import Message
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, Usage
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from diffusion_worker.web.chat import behind_header
from diffusion_worker.web.error_body import InvalidType, InvalidValue, MissingField, Unsupported
from diffusion_worker.web.handler import DEADLINE_HEADER, header_number
from diffusion_worker.web.http_io import JSON, cancel_on_disconnect, send_response
from diffusion_worker.web.request_log import RequestLog, request_log_of
from diffusion_worker.web.requests.api_support import IGNORED
from diffusion_worker.web.requests.decision_canvases import DecisionCanvas, lay_out
from diffusion_worker.web.requests.request_params import parse_body
from diffusion_worker.web.serving_state import ServingState
from twolane.process.decisions.answers import answer_of, usage_of
from twolane.process.decisions.members import DecisionError, Problem
from twolane.process.decisions.questions import DecisionRequest
from twolane.process.decisions.request import FIELDS, parse_decisions
from twolane.process.http_body import read_body

MAX_ROWS: Final = 4  # canvases of one request at once: others wait for rows too
STEPS: Final = 2
_SEED: Final = 0  # of the noise in the holes: equal requests get equal probabilities
_ERRORS: Final[dict[Problem, type[InvalidRequest]]] = {
    Problem.VALUE: InvalidValue,
    Problem.TYPE: InvalidType,
    Problem.MISSING: MissingField,
    Problem.UNSUPPORTED: Unsupported,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """One canvas with the probabilities of its holes."""

    canvas: DecisionCanvas
    holes: Probabilities
    usage: Usage


class DecisionEndpoint:
    """The ASGI application. Raises WorkerError; nothing is sent before the answer is complete."""

    def __init__(self, serving_state: ServingState) -> None:
        self._state = serving_state
        # Its own threads, and few: laying out many labels takes seconds, and other requests use the loop's threads.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decisions")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        with request_log_of(scope, self._state.tracing) as request_log:
            deadline_ms = header_number(scope, DEADLINE_HEADER, math.inf)
            body, began = await read_body(receive), time.monotonic()
            ends_s = None if deadline_ms is None else began + deadline_ms / 1000
            await cancel_on_disconnect(receive, self._answer(body, ends_s, request_log, send))

    async def _prepare(self, body: bytes, ends_s: float | None) -> tuple[DecisionCanvas, ...]:
        """Lay the questions out in a thread. Bodies that wait for a thread are dropped when their client leaves."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None if ends_s is None else ends_s - time.monotonic()):
                return await loop.run_in_executor(self._threads, prepare, self._state, body)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the questions were laid out") from None

    async def _answer(self, body: bytes, ends_s: float | None, log: RequestLog, send: Send) -> None:
        canvases = await self._prepare(body, ends_s)
        model = self._state.model_id(DecodingMode.DIFFUSION)
        generations = [self._generation(canvas) for canvas in canvases]
        if timeline := log.begin(generations[0], model=model, is_stream=False):
            generations[0] = replace(generations[0], timeline=timeline)
        first = await self._fill(canvases[0], generations[0], ends_s)
        gate = asyncio.Semaphore(MAX_ROWS)

        async def fill(canvas: DecisionCanvas, generation: GenerationRequest) -> _Answered:
            async with gate:
                return await self._fill(canvas, generation, ends_s)

        tasks = [asyncio.ensure_future(fill(*each)) for each in zip(canvases[1:], generations[1:], strict=True)]
        try:
            answered = [first, *await asyncio.gather(*tasks)]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        log.usage = _total(answered)
        await send_response(send, 200, (JSON,), orjson.dumps(_body(model, answered, log.usage)))

    def _generation(self, canvas: DecisionCanvas) -> GenerationRequest:
        _, info = self._state.loaded()
        return GenerationRequest(
            prompt_ids=canvas.prompt_ids,
            max_tokens=info.denoising.canvas_length,
            seed=_SEED,
            denoising=replace(info.denoising, steps=STEPS),
            template=canvas.template,
        )

    async def _fill(self, canvas: DecisionCanvas, generation: GenerationRequest, ends_s: float | None) -> _Answered:
        """Fill one canvas until `ends_s` on the monotonic clock. Raises the error of the sequence, or DeadlineExceeded
        if there was no time for a pass."""
        if ends_s is not None:
            generation = replace(generation, deadline_s=max(0.0, ends_s - time.monotonic()))
        holes: Probabilities = ()
        async with self._state.engine.submit(generation) as output_stream:
            async for event in output_stream:
                match event:
                    case BlockSealed(holes=found):
                        holes = found or holes
                    case Faulted(error=error):
                        raise error
                    case Finished(usage=usage) if holes:
                        return _Answered(canvas=canvas, holes=holes, usage=usage)
        raise DeadlineExceeded("the deadline passed before all questions were answered")


def prepare(serving_state: ServingState, body: bytes) -> tuple[DecisionCanvas, ...]:
    """The canvases of a request. Raises InvalidRequest or NotResident."""
    request = _parse(body)
    decoding_mode = serving_state.decoding_mode_of(request.model)
    if decoding_mode is not DecodingMode.DIFFUSION:
        raise Unsupported(f"Decisions are not supported in {decoding_mode.value} mode.", param="model")
    tokenization, info = serving_state.loaded()
    tokenizer, template = tokenization.tokenizer, tokenization.template
    tokenizer.check_length(request.text, info.max_context, "input")

    def to_prompt(text: str) -> tuple[int, ...]:
        return behind_header(template.prompt_ids([Message(role="user", content=text)]), tokenization)

    return lay_out(request, info, tokenizer.encode_plain, to_prompt)


def _parse(body: bytes) -> DecisionRequest:
    fields = parse_body(body)
    fields.allow_only((*FIELDS, *IGNORED))
    try:
        return parse_decisions(fields.values)
    except DecisionError as error:
        _refuse(error)


def _refuse(error: DecisionError) -> NoReturn:
    raise _ERRORS[error.problem](error.message, param=error.param) from None


def _total(answered: Sequence[_Answered]) -> Usage:
    """The passes and tokens of all canvases; every label counts, with its line break."""
    usages = [each.usage for each in answered]
    return replace(
        usages[0],
        prompt_tokens=sum(each.prompt_tokens for each in usages),
        cached_tokens=sum(each.cached_tokens for each in usages),
        completion_tokens=sum(_label_tokens(each) for each in answered),
        denoising_steps=sum(each.denoising_steps for each in usages),
        forward_passes=sum(each.forward_passes for each in usages),
        confidence=None,
        converged=True,
    )


def _label_tokens(answered: _Answered) -> int:
    holes = zip(answered.canvas.template.holes, answered.holes, strict=True)
    return sum(len(hole.labels[max(range(len(shares)), key=shares.__getitem__)]) for hole, shares in holes)


def _body(model: str, answered: Sequence[_Answered], usage: Usage) -> dict[str, Any]:
    answers = [
        answer_of(question, shares)
        for each in answered
        for question, shares in zip(each.canvas.questions, each.holes, strict=True)
    ]
    counts = usage_of(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    passes = {
        "canvases": len(answered),
        "denoising_steps": usage.denoising_steps,
        "forward_passes": usage.forward_passes,
    }
    return {"answers": answers, "model": model, "usage": {**counts, "diffusion": passes}}
