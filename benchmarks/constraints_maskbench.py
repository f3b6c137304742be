"""The measures of MaskBench (github.com/guidance-ai/jsonschemabench) for this engine and, where they are installed,
llguidance and xgrammar, in one run: `python -m benchmarks.constraints FILE.jsonl --maskbench`.

Every engine compiles each schema, reads the tokens of each instance from left to right, and computes the mask of
allowed tokens before each of them. All engines read the same text: the instance with members in the order in which the
schema declares them. Times are processor time in microseconds, each schema in a process of its own engine with a time
limit.
"""

import importlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final, Protocol

import numpy as np
from rich.table import Table

from benchmarks.vocabularies import Words
from diffusion_worker.constraints.compiled import compile_for_vocabulary
from diffusion_worker.constraints.inference.matcher import allowed_tokens, open_matcher
from diffusion_worker.constraints.schema.normal_form import to_normal_form
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.errors import InvalidRequest

LIMIT_S: Final = 60.0  # of wall time, for a schema and its instances
_UNBOUND: Final = 1_000_000  # tokens left
_SHARES: Final = (25, 50, 75, 90, 95, 99, 99.9, 100)


class Session(Protocol):
    """One text under a compiled grammar."""

    def allows(self, token: int) -> bool:
        """Compute the mask of allowed tokens; whether this one is among them."""

    def take(self, token: int) -> None:
        """Continue behind an allowed token."""


class Grammar(Protocol):
    """A compiled schema. `is_checked`: complete texts are validated besides."""

    is_checked: bool

    def session(self) -> Session:
        """Begin a text."""


Engine = Callable[[Any], Grammar | None]  # None: the schema is refused


class Ours:
    """This engine."""

    def __init__(self, words: Words) -> None:
        self._trie = words.read()

    def __call__(self, schema: Any) -> Grammar | None:
        """Compile a schema for the vocabulary."""
        try:
            compiled = compile_for_vocabulary(Constraint(kind="json_schema", value=schema), self._trie)
        except InvalidRequest:
            return None
        return _OurGrammar(compiled)


class _OurGrammar:
    def __init__(self, compiled: Any) -> None:
        self._automaton, self.is_checked = compiled.automaton, bool(compiled.needs_check)

    def session(self) -> Session:
        return _OurSession(open_matcher(self._automaton, _UNBOUND))


class _OurSession:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allows(self, token: int) -> bool:
        return bool(allowed_tokens(self._matcher)[token])

    def take(self, token: int) -> None:
        self._matcher = self._matcher.after((token,))


class LlGuidance:
    """llguidance with its defaults. Raises ImportError where it is not installed."""

    def __init__(self, words: Words) -> None:
        from benchmarks.left_to_right import LeftToRight

        tokens = Tokens(words)
        self._engine = LeftToRight(words, tokens.spell)

    def __call__(self, schema: Any) -> Grammar | None:
        """Compile a schema for the vocabulary."""
        if self._engine.matcher(schema) is None:
            return None
        return _Restarted(lambda: _LlSession(self._engine, self._engine.matcher(schema)))


class _LlSession:
    def __init__(self, engine: Any, matcher: Any) -> None:
        self._engine, self._matcher = engine, matcher

    def allows(self, token: int) -> bool:
        return bool(self._engine.mask(self._matcher)[token])

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


class XGrammar:
    """xgrammar with its defaults, on one thread. Raises ImportError where it is not installed."""

    def __init__(self, words: Words) -> None:
        xgrammar = importlib.import_module("xgrammar")  # in no extra: it needs Triton, so give it its own environment
        vocabulary = [token or b"<%d>" % index for index, token in enumerate(words.tokens)]
        info = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, stop_token_ids=[words.end_id])
        self._library, self._size = xgrammar, len(vocabulary)
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def __call__(self, schema: Any) -> Grammar | None:
        """Compile a schema for the vocabulary."""
        try:
            compiled = self._compiler.compile_json_schema(json.dumps(schema))
        except RuntimeError:
            return None
        return _Restarted(lambda: _XSession(self._library, self._library.GrammarMatcher(compiled), self._size))


class _XSession:
    def __init__(self, library: Any, matcher: Any, size: int) -> None:
        self._matcher, self._bits = matcher, library.allocate_token_bitmask(1, size)

    def allows(self, token: int) -> bool:
        self._bits.fill_(-1)
        self._matcher.fill_next_token_bitmask(self._bits)
        return bool(int(self._bits[0, token // 32]) >> (token % 32) & 1)

    def take(self, token: int) -> None:
        self._matcher.accept_token(token)


class _Restarted:
    is_checked = False

    def __init__(self, begin: Callable[[], Session]) -> None:
        self.session = begin


ENGINES: Final[dict[str, Callable[[Words], Engine]]] = {
    "Twolane": Ours, "llguidance": LlGuidance, "xgrammar": XGrammar
}  # fmt: skip


@dataclass(slots=True)
class Measured:
    """What one engine did with some schemas. Times in microseconds."""

    mask_us: list[float] = field(default_factory=list)
    first_us: list[float] = field(default_factory=list)  # compilation and the first mask
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        """One more of these."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def add(self, other: "Measured") -> None:
        """Together with what another schema took."""
        self.mask_us += other.mask_us
        self.first_us += other.first_us
        for name, value in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + value


class Tokens:
    """Tokenises by the longest token at each position: no merges are needed to measure masks."""

    def __init__(self, words: Words) -> None:
        self._ids = {spelled: token for token, spelled in reversed(list(enumerate(words.tokens))) if spelled}
        self._longest = max(map(len, self._ids))
        self._end = words.end_id

    def of(self, text: bytes) -> list[int]:
        """The ids of a text and of its end. Raises KeyError if a byte is missing in the vocabulary."""
        return [*self.spell(text), self._end]

    def spell(self, text: bytes) -> list[int]:
        """The ids of a text."""
        ids: list[int] = []
        at = 0
        while at < len(text):
            size = next(s for s in range(self._longest, 0, -1) if s == 1 or text[at : at + s] in self._ids)
            ids.append(self._ids[text[at : at + size]])
            at += size
        return ids


def measure(engine: Engine, tokens: Tokens, case: dict[str, Any]) -> Measured:
    """One schema with its instances."""
    found = Measured()
    found.count("schemas")
    started = time.process_time()
    grammar = engine(case["schema"])
    if grammar is None:
        found.count("compile error")
        return found
    grammar.session().allows(0)
    found.first_us.append(1e6 * (time.process_time() - started))
    verdicts = [_verdict(grammar, tokens, test, case["schema"], found) for test in case["tests"]]
    for name in {verdict for verdict in verdicts if verdict} or {"passing"}:
        found.count(name)
    return found


def _verdict(grammar: Grammar, tokens: Tokens, test: dict[str, Any], schema: Any, found: Measured) -> str:
    value = _ordered(schema, test["data"])
    accepted = _accepts(grammar, tokens.of(json.dumps(value, ensure_ascii=False).encode()), found)
    if accepted == test["valid"]:
        return ""
    if not accepted:
        return "validation error"
    return "left to validation" if grammar.is_checked else "invalidation error"


def _ordered(schema: Any, value: Any) -> Any:
    try:
        return to_normal_form(schema, value)
    except InvalidRequest:
        return value


def _accepts(grammar: Grammar, ids: Sequence[int], found: Measured) -> bool:
    session = grammar.session()
    for token in ids:
        started = time.process_time_ns()
        allowed = session.allows(token)
        found.mask_us.append((time.process_time_ns() - started) / 1e3)
        found.count("tokens")
        if not allowed:
            return False
        if token != ids[-1]:
            session.take(token)
    return True


def measure_all(words: Words, cases: Sequence[dict[str, Any]]) -> dict[str, Measured]:
    """All engines that are installed, one after the other."""
    found: dict[str, Measured] = {}
    for name, build in ENGINES.items():
        try:
            build(words)
        except ImportError:
            continue
        total = Measured()
        for part in _in_processes(build, words, cases):
            total.add(part)
        found[name] = total
    return found


def _in_processes(
    build: Callable[[Words], Engine], words: Words, cases: Sequence[dict[str, Any]]
) -> Iterator[Measured]:
    """Each schema in a child process, which is replaced after a crash or a timeout."""
    context, child = multiprocessing.get_context("fork"), None
    for case in cases:
        if child is None:
            ours, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(theirs, build, words), daemon=True)
            child.start()
            theirs.close()
        try:
            ours.send(case)
            if not ours.poll(LIMIT_S):
                raise TimeoutError
            yield ours.recv()
        except (EOFError, BrokenPipeError, TimeoutError) as error:
            failed = Measured()
            failed.count("schemas")
            failed.count("timeout" if isinstance(error, TimeoutError) else "crash")
            child.kill()
            child = None
            yield failed
    if child is not None:
        child.kill()


def _serve(pipe: Connection, build: Callable[[Words], Engine], words: Words) -> None:
    engine, tokens = build(words), Tokens(words)
    engine({"type": "object"})  # warm-up
    while True:
        pipe.send(measure(engine, tokens, pipe.recv()))


def table(found: dict[str, Measured]) -> Table:
    """MaskBench's rows, one column per engine."""
    shown = Table("metric", *found)
    for title, values in (("TBM", [m.mask_us for m in found.values()]), ("TTFM", [m.first_us for m in found.values()])):
        shown.add_row(f"{title} avg", *(_us(np.mean(each)) if each else "" for each in values))
        for share in _SHARES:
            shown.add_row(f"{title} p{share:g}", *(_us(np.percentile(each, share)) if each else "" for each in values))
    for name in (
        *("tokens", "schemas", "passing", "compile error", "crash", "timeout", "validation error"),
        *("invalidation error", "left to validation"),
    ):
        shown.add_row(name, *(f"{each.counts.get(name, 0):,}" for each in found.values()))
    return shown


def _us(value: Any) -> str:
    return f"{float(value):,.0f}"
