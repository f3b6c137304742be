"""The constraint service: compiles the constraint of a request for the loaded vocabulary, once per digest, and caches
it.

Compilation runs in the compiler pool and never blocks the event loop.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diffusion_worker.constraint_service.cache import ConstraintCache
from diffusion_worker.constraint_service.compiler_pool import CompilerPool
from diffusion_worker.constraints.automata.control_tokens import with_placeholders
from diffusion_worker.constraints.compiled import NO_PREFIX, CompiledConstraint, TokenPrefixes, digest_of
from diffusion_worker.constraints.inference.labels import Labels, TokenIndex, compile_labels, index_tokens
from diffusion_worker.constraints.spec import Constraint, Kind
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes, make_vocabulary_bytes
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema
from diffusion_worker.text.channels import THOUGHT_NAME, control_tokens_of
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.observations import ConstraintObserved, ConstraintWork, Observer

REFUSAL_TTL_S: Final = 60.0  # refusals expire, because processor time varies with load
MAX_REFUSALS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundConstraint:
    """A compiled constraint with its validator, as the engine and the web layer use it."""

    automaton: TokenAutomaton
    validate: Callable[[str], Awaitable[str | None]]
    kind: Kind
    needs_check: bool  # some keywords are only checked by validation


@dataclass(slots=True)
class _PendingCompilation:
    """A compilation in progress and the number of requests that wait for it."""

    task: asyncio.Task[CompiledConstraint]
    waiting: int = 0


class ConstraintService:
    """Compiles constraints; concurrent requests share a compilation. Belongs to one event loop; close it after use."""

    def __init__(
        self,
        cache: ConstraintCache | None = None,
        compiler_pool: CompilerPool | None = None,
        observe: Observer = lambda _observation: None,
    ) -> None:
        self._cache, self._pool, self._observe = cache or ConstraintCache(), compiler_pool or CompilerPool(), observe
        self._pending: dict[str, _PendingCompilation] = {}
        self._refused = OrderedDict[str, tuple[float, InvalidRequest]]()  # with its time on the loop's clock
        self._vocabulary: tuple[Tokenizer, VocabularyBytes] | None = None
        self._token_index: tuple[VocabularyBytes, TokenIndex] | None = None

    async def bind(
        self,
        constraint: Constraint,
        tokenizer: Tokenizer,
        info: ModelInfo,
        prefixes: TokenPrefixes = NO_PREFIX,
        *,
        owner: str = "",
    ) -> BoundConstraint:
        """Compile a constraint, or take it from the cache. `owner` is the API key whose share of the compilers is used.
        Raises InvalidRequest and UnsupportedSchema, which name the field, OverCapacity, and CompilerFailed. Cancelling
        ends the compilation unless other requests wait for it."""
        try:
            vocabulary = await self._vocabulary_bytes(tokenizer, info)
            key = await asyncio.to_thread(digest_of, constraint, vocabulary.digest, prefixes)
            self._raise_if_refused(key)
            compiled = self._cache.get_from_memory(key) or await self._join_pending(
                key, lambda: self._compile(key, constraint, vocabulary, prefixes, owner)
            )
        except InvalidRequest as error:
            # tools name their own field; any other error may be cached from a request that used another field
            error.param = error.param or constraint.field if constraint.kind == "tools" else constraint.field
            raise
        return BoundConstraint(
            automaton=compiled.automaton,
            validate=lambda text: self._validate(key, constraint, text, owner),
            kind=constraint.kind,
            needs_check=bool(compiled.needs_check),
        )

    async def labels(
        self, texts_by_label: Sequence[Sequence[str]], field: str | None, tokenizer: Tokenizer, info: ModelInfo
    ) -> Labels:
        """Compile the labels of a finite constraint. Raises InvalidRequest naming the field."""
        vocabulary = await self._vocabulary_bytes(tokenizer, info)
        if self._token_index is None or self._token_index[0] is not vocabulary:
            self._token_index = vocabulary, await asyncio.to_thread(index_tokens, vocabulary)
        try:
            return await asyncio.to_thread(compile_labels, texts_by_label, self._token_index[1])
        except InvalidRequest as error:
            error.param = field
            raise

    async def close(self) -> None:
        """Cancel pending compilations and kill the processes."""
        tasks = [pending.task for pending in self._pending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()

    async def _join_pending(
        self, key: str, start: Callable[[], Coroutine[Any, Any, CompiledConstraint]]
    ) -> CompiledConstraint:
        pending = self._pending.get(key)
        if pending is None:
            task = asyncio.create_task(start())
            pending = self._pending[key] = _PendingCompilation(task)
            task.add_done_callback(lambda _: self._discard_pending(key, task))
        pending.waiting += 1
        try:
            return await asyncio.shield(pending.task)
        finally:
            pending.waiting -= 1
            if not pending.waiting:
                self._discard_pending(key, pending.task)
                pending.task.cancel()

    def _discard_pending(self, key: str, task: asyncio.Task[CompiledConstraint]) -> None:
        """Later requests start a new compilation, or find the result in the cache."""
        if task.done() and not task.cancelled():
            task.exception()  # retrieved, also if nobody waits for it any longer
        if key in self._pending and self._pending[key].task is task:
            del self._pending[key]

    async def _compile(
        self, key: str, constraint: Constraint, vocabulary: VocabularyBytes, prefixes: TokenPrefixes, owner: str
    ) -> CompiledConstraint:
        compiled = await asyncio.to_thread(self._cache.get, key)
        if compiled is None:
            try:
                with self._timed(ConstraintWork.COMPILE):
                    compiled = await self._pool.compile(constraint, vocabulary, prefixes, owner)
            except InvalidRequest as error:
                self._remember_refusal(key, error)
                raise
            await asyncio.to_thread(self._cache.put, key, compiled)
        return compiled

    async def _validate(self, key: str, constraint: Constraint, text: str, owner: str) -> str | None:
        try:
            with self._timed(ConstraintWork.VALIDATE):
                return await self._pool.validate(constraint, text, owner)
        except UnsupportedSchema as error:  # validation takes too long
            error.param = constraint.field
            self._remember_refusal(key, error)
            raise

    @contextlib.contextmanager
    def _timed(self, work: ConstraintWork) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._observe(ConstraintObserved(work=work, seconds=time.monotonic() - began))

    def _remember_refusal(self, key: str, error: InvalidRequest) -> None:
        self._refused[key] = asyncio.get_running_loop().time(), error
        while len(self._refused) > MAX_REFUSALS:
            self._refused.popitem(last=False)

    def _raise_if_refused(self, key: str) -> None:
        since, error = self._refused.get(key, (0.0, None))
        if error is not None and asyncio.get_running_loop().time() - since < REFUSAL_TTL_S:
            raise error.with_traceback(None)

    async def _vocabulary_bytes(self, tokenizer: Tokenizer, info: ModelInfo) -> VocabularyBytes:
        """Read once per tokenizer, that is, per loaded checkpoint."""
        if self._vocabulary is None or self._vocabulary[0] is not tokenizer:
            vocabulary = await asyncio.to_thread(_read_vocabulary_bytes, tokenizer, info)
            self._vocabulary = tokenizer, vocabulary
            self._cache.clear_memory()
        return self._vocabulary[1]


def _read_vocabulary_bytes(tokenizer: Tokenizer, info: ModelInfo) -> VocabularyBytes:
    """The model may have more token ids than the tokenizer: those spell nothing. Control tokens that constraints use
    spell their placeholders."""
    tokens = [tokenizer.token_bytes(token) for token in range(info.vocab_size)]
    return make_vocabulary_bytes(
        with_placeholders(tokens, control_tokens_of(tokenizer).placeholders()), info.end_ids, info.pad_id
    )


def allowed_prefixes(tokenizer: Tokenizer) -> TokenPrefixes:
    """The allowed token prefixes of a chat answer: none, or the empty thought of a checkpoint with channels."""
    thought = control_tokens_of(tokenizer).thought
    if thought is None:
        return NO_PREFIX
    opens, closes = thought
    return ((), (opens, *tokenizer.encode_plain(f"{THOUGHT_NAME}\n"), closes))
