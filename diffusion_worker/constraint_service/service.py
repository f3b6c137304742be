"""A request's constraint bound to the words of the checkpoint: made ready in its own process, once, and kept.

The event loop never waits for it. Knows no request and no engine.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_worker.constraint_service.cache import ConstraintCache
from diffusion_worker.constraint_service.compiler_pool import CompilerPool
from diffusion_worker.constraints.automata.control_tokens import with_placeholders
from diffusion_worker.constraints.compiled import NO_PREFIX, CompiledConstraint, TokenPrefixes, digest_of
from diffusion_worker.constraints.inference.labels import Labels, TokenIndex, compile_labels, index_tokens
from diffusion_worker.constraints.spec import Constraint, Kind
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes, make_vocabulary_bytes
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema
from diffusion_worker.text.channels import THOUGHT_NAME, marks_of
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.generation import ModelInfo
from diffusion_worker.types.observations import ConstraintObserved, ConstraintWork, Observer

REFUSAL_TTL_S: Final = 60.0  # a refusal is remembered so long; those for want of time depend on the company
MAX_REFUSALS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundConstraint:
    """A constraint ready for the engine."""

    automaton: TokenAutomaton
    validate: Callable[[str], Awaitable[str | None]]
    kind: Kind
    needs_check: bool  # the automaton does not see all of it


@dataclass(slots=True)
class _PendingCompilation:
    """A constraint in the making, and how many requests wait for it."""

    task: asyncio.Task[CompiledConstraint]
    waiting: int = 0


class ConstraintService:
    """Binds constraints, the same one once however many ask. Belongs to one event loop; close it."""

    def __init__(
        self,
        cache: ConstraintCache | None = None,
        compiler_pool: CompilerPool | None = None,
        observe: Observer = lambda _observation: None,
    ) -> None:
        self._cache, self._pool, self._observe = cache or ConstraintCache(), compiler_pool or CompilerPool(), observe
        self._pending: dict[str, _PendingCompilation] = {}
        self._refused: OrderedDict[str, tuple[float, InvalidRequest]] = OrderedDict()  # when, on the loop's clock
        self._vocabulary: tuple[Tokenizer, VocabularyBytes] | None = None
        self._token_index: tuple[VocabularyBytes, TokenIndex] | None = None

    async def bind(
        self, constraint: Constraint, tokenizer: Tokenizer, info: ModelInfo, prefixes: TokenPrefixes = NO_PREFIX
    ) -> BoundConstraint:
        """Raises InvalidRequest, UnsupportedSchema (both name the field), OverCapacity or CompilerFailed. Who gives up
        waiting ends the work, unless somebody else waits for it too."""
        try:
            vocabulary = await self._vocabulary_bytes(tokenizer, info)
            key = await asyncio.to_thread(digest_of, constraint, vocabulary.digest, prefixes)
            self._raise_if_refused(key)
            compiled = self._cache.get_from_memory(key) or await self._join_pending(
                key, constraint, vocabulary, prefixes
            )
        except InvalidRequest as error:
            # Tools say themselves which of them is meant; anything else may be remembered from under another name.
            error.param = error.param or constraint.field if constraint.kind == "tools" else constraint.field
            raise
        return BoundConstraint(
            automaton=compiled.automaton,
            validate=lambda text: self._validate(key, constraint, text),
            kind=constraint.kind,
            needs_check=bool(compiled.needs_check),
        )

    async def labels(
        self, texts_by_label: Sequence[Sequence[str]], field: str | None, tokenizer: Tokenizer, info: ModelInfo
    ) -> Labels:
        """The few answers that a constraint leaves, as the engine weighs them. Raises InvalidRequest naming the
        field."""
        vocabulary = await self._vocabulary_bytes(tokenizer, info)
        if self._token_index is None or self._token_index[0] is not vocabulary:
            self._token_index = vocabulary, await asyncio.to_thread(index_tokens, vocabulary)
        try:
            return await asyncio.to_thread(compile_labels, texts_by_label, self._token_index[1])
        except InvalidRequest as error:
            error.param = field
            raise

    async def close(self) -> None:
        """End what is in the making, and the processes."""
        tasks = [pending.task for pending in self._pending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()

    async def _join_pending(
        self, key: str, constraint: Constraint, vocabulary: VocabularyBytes, prefixes: TokenPrefixes
    ) -> CompiledConstraint:
        pending = self._pending.get(key)
        if pending is None:
            task = asyncio.create_task(self._compile(key, constraint, vocabulary, prefixes))
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
        """Who asks from now on begins anew, or finds it in the store."""
        if task.done() and not task.cancelled():
            task.exception()  # heard, even if nobody waits any more
        if key in self._pending and self._pending[key].task is task:
            del self._pending[key]

    async def _compile(
        self, key: str, constraint: Constraint, vocabulary: VocabularyBytes, prefixes: TokenPrefixes
    ) -> CompiledConstraint:
        compiled = await asyncio.to_thread(self._cache.get, key)
        if compiled is None:
            try:
                with self._timed(ConstraintWork.COMPILE):
                    compiled = await self._pool.compile(constraint, vocabulary, prefixes)
            except InvalidRequest as error:
                self._remember_refusal(key, error)
                raise
            await asyncio.to_thread(self._cache.put, key, compiled)
        return compiled

    async def _validate(self, key: str, constraint: Constraint, text: str) -> str | None:
        try:
            with self._timed(ConstraintWork.VALIDATE):
                return await self._pool.validate(constraint, text)
        except UnsupportedSchema as error:  # nobody can tell in time
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
        """Read once per tokenizer, that is, for the weights that are loaded."""
        if self._vocabulary is None or self._vocabulary[0] is not tokenizer:
            vocabulary = await asyncio.to_thread(_read_vocabulary_bytes, tokenizer, info)
            self._vocabulary = tokenizer, vocabulary
            self._cache.clear_memory()
        return self._vocabulary[1]


def _read_vocabulary_bytes(tokenizer: Tokenizer, info: ModelInfo) -> VocabularyBytes:
    """Weights may have more rows than the tokenizer has words: those spell nothing. Control tokens that a constraint
    can ask for spell their mark."""
    tokens = [tokenizer.token_bytes(token) for token in range(info.vocab_size)]
    return make_vocabulary_bytes(
        with_placeholders(tokens, marks_of(tokenizer).placeholders()), info.end_ids, info.pad_id
    )


def allowed_prefixes(tokenizer: Tokenizer) -> TokenPrefixes:
    """What may stand before the text of a chat answer: nothing, or the empty thought of a checkpoint with channels."""
    thought = marks_of(tokenizer).thought
    if thought is None:
        return NO_PREFIX
    opens, closes = thought
    return ((), (opens, *tokenizer.encode_plain(f"{THOUGHT_NAME}\n"), closes))
