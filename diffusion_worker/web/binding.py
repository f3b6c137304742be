"""A request's constraint bound to the words of the checkpoint: compiled in its own process, lifted and kept here.

The event loop never waits for it: whoever binds awaits a thread. Knows no request and no engine.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from diffusion_worker.constraints.checks import final_check
from diffusion_worker.constraints.constraint import Constraint
from diffusion_worker.constraints.lift import lift
from diffusion_worker.constraints.service import CompileService
from diffusion_worker.constraints.token_automaton import TokenAutomaton
from diffusion_worker.constraints.vocabulary import Vocabulary, read_vocabulary
from diffusion_worker.errors import BadAsk, UnsupportedSchema
from diffusion_worker.records import NetFacts
from diffusion_worker.text.channels import THOUGHT_NAME, marks_of
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.web.formats import field_of

KEPT: Final = 64  # bound constraints in memory
THREADS: Final = 4  # requests that wait for the compiler at once; it takes one after the other
Headers = tuple[tuple[int, ...], ...]
NO_HEADER: Final[Headers] = ((),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A constraint ready for the engine. `judge` says what is wrong with a whole answer, or None."""

    automaton: TokenAutomaton
    judge: Callable[[str], str | None]
    needs_check: bool  # the automaton does not see all of it


class Binder:
    """Binds constraints, the same one once. Belongs to one event loop; close it."""

    def __init__(self, service: CompileService | None = None) -> None:
        self._service = service or CompileService()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="constraints")
        self._kept: OrderedDict[str, Bound] = OrderedDict()
        self._words: Tokenizer | None = None  # those that `kept` is bound to
        self._read: tuple[Tokenizer, Vocabulary] | None = None

    async def bind(
        self, constraint: Constraint, tokenizer: Tokenizer, facts: NetFacts, headers: Headers = NO_HEADER
    ) -> Bound:
        """Raises BadAsk, UnsupportedSchema (both name the field), OverCapacity or CompilerFailed."""
        if self._words is not tokenizer:  # other weights have been loaded
            self._words = tokenizer
            self._kept.clear()
        key = constraint.digest(str(headers))
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return found
        try:
            bound = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._bind, constraint, tokenizer, facts, headers
            )
        except BadAsk as error:
            error.param = error.param or field_of(constraint)
            raise
        if self._words is tokenizer:
            self._kept[key] = bound
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return bound

    def close(self) -> None:
        """End the compiler's process and the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._service.close()

    def _bind(self, constraint: Constraint, tokenizer: Tokenizer, facts: NetFacts, headers: Headers) -> Bound:
        judge = final_check(constraint)
        compiled = self._service.compile(constraint)
        automaton = lift(compiled.automaton, self._vocabulary(tokenizer, facts), headers)
        if automaton is None:
            raise UnsupportedSchema("the tokens can spell no answer", keyword=constraint.kind, pointer="")
        return Bound(automaton=automaton, judge=judge, needs_check=bool(compiled.needs_check))

    def _vocabulary(self, tokenizer: Tokenizer, facts: NetFacts) -> Vocabulary:
        """Read once per tokenizer. Weights may have more rows than the tokenizer has words: those spell nothing."""
        if self._read is None or self._read[0] is not tokenizer:
            tokens = [tokenizer.token_bytes(token) for token in range(facts.vocab_size)]
            self._read = tokenizer, read_vocabulary(tokens, facts.end_ids, facts.pad_id)
        return self._read[1]


def headers_of(tokenizer: Tokenizer) -> Headers:
    """What may stand before the text of a chat answer: nothing, or the empty thought of a checkpoint with channels."""
    thought = marks_of(tokenizer).thought
    if thought is None:
        return NO_HEADER
    opens, closes = thought
    return ((), (opens, *tokenizer.encode_plain(f"{THOUGHT_NAME}\n"), closes))
