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

from diffusion_worker.constraint_service.cache import Store
from diffusion_worker.constraint_service.compiler_pool import CompilerPool
from diffusion_worker.constraints.automata.control_tokens import marked
from diffusion_worker.constraints.compiled import NO_HEADER, Headers, Ready, digest_of
from diffusion_worker.constraints.inference.labels import Labels, Spellings, read_labels, read_spellings
from diffusion_worker.constraints.spec import Constraint, Kind
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes, read_lexicon
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema
from diffusion_worker.text.channels import THOUGHT_NAME, control_tokens_of
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.generation import ModelInfo
from diffusion_worker.types.observations import ConstraintObserved, ConstraintWork, Observer

REFUSED_S: Final = 60.0  # a refusal is remembered so long; those for want of time depend on the company
MOST_REFUSED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A constraint ready for the engine."""

    automaton: TokenAutomaton
    judge: Callable[[str], Awaitable[str | None]]
    kind: Kind
    needs_check: bool  # the automaton does not see all of it


@dataclass(slots=True)
class _Flight:
    """A constraint in the making, and how many requests wait for it."""

    task: asyncio.Task[Ready]
    waiting: int = 0


class ConstraintService:
    """Binds constraints, the same one once however many ask. Belongs to one event loop; close it."""

    def __init__(
        self,
        store: Store | None = None,
        compiler_pool: CompilerPool | None = None,
        observe: Observer = lambda _observation: None,
    ) -> None:
        self._store, self._workshop, self._observe = store or Store(), compiler_pool or CompilerPool(), observe
        self._flights: dict[str, _Flight] = {}
        self._refused: OrderedDict[str, tuple[float, InvalidRequest]] = OrderedDict()  # when, on the loop's clock
        self._words: tuple[Tokenizer, VocabularyBytes] | None = None
        self._spellings: tuple[VocabularyBytes, Spellings] | None = None

    async def bind(
        self, constraint: Constraint, tokenizer: Tokenizer, info: ModelInfo, headers: Headers = NO_HEADER
    ) -> Bound:
        """Raises InvalidRequest, UnsupportedSchema (both name the field), OverCapacity or CompilerFailed. Who gives up
        waiting ends the work, unless somebody else waits for it too."""
        try:
            words = await self._lexicon(tokenizer, info)
            key = await asyncio.to_thread(digest_of, constraint, words.digest, headers)
            self._refuse_again(key)
            ready = self._store.recall(key) or await self._shared(key, constraint, words, headers)
        except InvalidRequest as error:
            # Tools say themselves which of them is meant; anything else may be remembered from under another name.
            error.param = error.param or constraint.field if constraint.kind == "tools" else constraint.field
            raise
        return Bound(
            automaton=ready.automaton,
            judge=lambda text: self._judged(key, constraint, text),
            kind=constraint.kind,
            needs_check=bool(ready.needs_check),
        )

    async def labels(
        self, layouts: Sequence[Sequence[str]], field: str | None, tokenizer: Tokenizer, info: ModelInfo
    ) -> Labels:
        """The few answers that a constraint leaves, as the engine weighs them. Raises InvalidRequest naming the
        field."""
        words = await self._lexicon(tokenizer, info)
        if self._spellings is None or self._spellings[0] is not words:
            self._spellings = words, await asyncio.to_thread(read_spellings, words)
        try:
            return await asyncio.to_thread(read_labels, layouts, self._spellings[1])
        except InvalidRequest as error:
            error.param = field
            raise

    async def close(self) -> None:
        """End what is in the making, and the processes."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workshop.close()

    async def _shared(self, key: str, constraint: Constraint, words: VocabularyBytes, headers: Headers) -> Ready:
        flight = self._flights.get(key)
        if flight is None:
            making = asyncio.create_task(self._made(key, constraint, words, headers))
            flight = self._flights[key] = _Flight(making)
            making.add_done_callback(lambda _: self._landed(key, making))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._landed(key, flight.task)
                flight.task.cancel()

    def _landed(self, key: str, task: asyncio.Task[Ready]) -> None:
        """Who asks from now on begins anew, or finds it in the store."""
        if task.done() and not task.cancelled():
            task.exception()  # heard, even if nobody waits any more
        if key in self._flights and self._flights[key].task is task:
            del self._flights[key]

    async def _made(self, key: str, constraint: Constraint, words: VocabularyBytes, headers: Headers) -> Ready:
        found = await asyncio.to_thread(self._store.get, key)
        if found is None:
            try:
                with self._timed(ConstraintWork.COMPILE):
                    found = await self._workshop.ready(constraint, words, headers)
            except InvalidRequest as error:
                self._remember_refusal(key, error)
                raise
            await asyncio.to_thread(self._store.put, key, found)
        return found

    async def _judged(self, key: str, constraint: Constraint, text: str) -> str | None:
        try:
            with self._timed(ConstraintWork.JUDGE):
                return await self._workshop.violation(constraint, text)
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
        while len(self._refused) > MOST_REFUSED:
            self._refused.popitem(last=False)

    def _refuse_again(self, key: str) -> None:
        since, error = self._refused.get(key, (0.0, None))
        if error is not None and asyncio.get_running_loop().time() - since < REFUSED_S:
            raise error.with_traceback(None)

    async def _lexicon(self, tokenizer: Tokenizer, info: ModelInfo) -> VocabularyBytes:
        """Read once per tokenizer, that is, for the weights that are loaded."""
        if self._words is None or self._words[0] is not tokenizer:
            words = await asyncio.to_thread(_lexicon_of, tokenizer, info)
            self._words = tokenizer, words
            self._store.forget()
        return self._words[1]


def _lexicon_of(tokenizer: Tokenizer, info: ModelInfo) -> VocabularyBytes:
    """Weights may have more rows than the tokenizer has words: those spell nothing. Control tokens that a constraint
    can ask for spell their mark."""
    tokens = [tokenizer.token_bytes(token) for token in range(info.vocab_size)]
    return read_lexicon(marked(tokens, control_tokens_of(tokenizer).for_lifting()), info.end_ids, info.pad_id)


def headers_of(tokenizer: Tokenizer) -> Headers:
    """What may stand before the text of a chat answer: nothing, or the empty thought of a checkpoint with channels."""
    thought = control_tokens_of(tokenizer).thought
    if thought is None:
        return NO_HEADER
    opens, closes = thought
    return ((), (opens, *tokenizer.encode_plain(f"{THOUGHT_NAME}\n"), closes))
