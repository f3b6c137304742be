"""A constraint ready for the engine: compiled, lifted onto a vocabulary, and how that is written for pipe and disk.

Knows how the halves fit together; keeps nothing and starts nothing (see `store`, `child`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from diffusion_worker.constraints.compile import COMPILER_VERSION, Stats, compile_constraint
from diffusion_worker.constraints.schema.validation import final_check
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens import token_automaton
from diffusion_worker.constraints.tokens.compilation import LIFT_VERSION, lift
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.token_trie import Vocabulary
from diffusion_worker.errors import UnsupportedSchema

Headers = tuple[tuple[int, ...], ...]
NO_HEADER: Final[Headers] = ((),)
# part of every key: whatever was made by other rules is another thing
_VERSIONS: Final = f"compiler {COMPILER_VERSION}, lift {LIFT_VERSION}, format {token_automaton.FORMAT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """`needs_check` names the keywords that the automaton leaves to the final check."""

    automaton: TokenAutomaton
    needs_check: tuple[str, ...]
    stats: Stats  # of the automaton over bytes


def digest_of(constraint: Constraint, vocabulary: str, headers: Headers = NO_HEADER) -> str:
    """Equal digests mean equal results; `vocabulary` is the digest of one. Raises InvalidRequest for one that is too
    long."""
    return constraint.digest(f"{_VERSIONS}, vocabulary {vocabulary}, headers {headers}")


def make_ready(constraint: Constraint, vocabulary: Vocabulary, headers: Sequence[Sequence[int]] = NO_HEADER) -> Ready:
    """Raises InvalidRequest and UnsupportedSchema; takes what time it takes."""
    final_check(constraint)  # says by itself what is not well-formed
    compiled = compile_constraint(constraint)
    automaton = lift(compiled.automaton, vocabulary, headers)
    if automaton is None:
        raise UnsupportedSchema("the tokens can spell no answer", keyword=constraint.kind, pointer="")
    return Ready(automaton=automaton, needs_check=compiled.needs_check, stats=compiled.stats)


def to_bytes(ready: Ready) -> bytes:
    """A line of facts, then the automaton."""
    info = {"needs_check": ready.needs_check, "stats": asdict(ready.stats)}
    return json.dumps(info).encode() + b"\n" + token_automaton.to_bytes(ready.automaton)


def from_bytes(content: bytes) -> Ready:
    """The reverse. Raises ValueError for anything that `to_bytes` of this version has not written whole."""
    line, _, rest = content.partition(b"\n")
    try:
        info = json.loads(line)
        needs_check, stats = tuple(info["needs_check"]), Stats(**info["stats"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a constraint made ready: {error}") from error
    return Ready(automaton=token_automaton.from_bytes(rest), needs_check=needs_check, stats=stats)
