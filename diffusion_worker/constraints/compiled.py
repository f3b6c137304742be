"""A compiled constraint: the token automaton of a constraint for one vocabulary, and its serialisation for pipe and
disk.

Runs both stages of the compilation. It stores nothing and starts no process (see `constraint_service`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from diffusion_worker.constraints.compile import COMPILER_VERSION, Stats, compile_constraint
from diffusion_worker.constraints.schema.validation import make_validator
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens import token_automaton
from diffusion_worker.constraints.tokens.compilation import TOKEN_COMPILATION_VERSION, compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.token_trie import TokenTrie
from diffusion_worker.errors import UnsupportedSchema

TokenPrefixes = tuple[tuple[int, ...], ...]
NO_PREFIX: Final[TokenPrefixes] = ((),)
# part of every cache key: a result of another version is never reused
_VERSIONS: Final = f"compiler {COMPILER_VERSION}, tokens {TOKEN_COMPILATION_VERSION}, format {token_automaton.FORMAT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledConstraint:
    """`needs_check` names the keywords that only validation of the whole answer can check."""

    automaton: TokenAutomaton
    needs_check: tuple[str, ...]
    stats: Stats  # of the automaton over bytes


def digest_of(constraint: Constraint, vocabulary: str, prefixes: TokenPrefixes = NO_PREFIX) -> str:
    """The cache key: equal digests mean equal results; `vocabulary` is the digest of one. Raises InvalidRequest for a
    constraint that is too long."""
    return constraint.digest(f"{_VERSIONS}, vocabulary {vocabulary}, prefixes {prefixes}")


def compile_for_vocabulary(
    constraint: Constraint, vocabulary: TokenTrie, prefixes: Sequence[Sequence[int]] = NO_PREFIX
) -> CompiledConstraint:
    """Compile to bytes, then to tokens, without a time limit. Raises InvalidRequest and UnsupportedSchema."""
    make_validator(constraint)  # raises InvalidRequest for a constraint that is not well-formed
    compiled = compile_constraint(constraint)
    automaton = compile_tokens(compiled.automaton, vocabulary, prefixes)
    if automaton is None:
        raise UnsupportedSchema(
            "no token sequence of this vocabulary spells a valid answer", keyword=constraint.kind, pointer=""
        )
    return CompiledConstraint(automaton=automaton, needs_check=compiled.needs_check, stats=compiled.stats)


def to_bytes(compiled: CompiledConstraint) -> bytes:
    """One line of JSON, then the automaton."""
    info = {"needs_check": compiled.needs_check, "stats": asdict(compiled.stats)}
    return json.dumps(info).encode() + b"\n" + token_automaton.to_bytes(compiled.automaton)


def from_bytes(content: bytes) -> CompiledConstraint:
    """Deserialise. Raises ValueError for anything but the complete output of `to_bytes` of this version."""
    line, _, rest = content.partition(b"\n")
    try:
        info = json.loads(line)
        needs_check, stats = tuple(info["needs_check"]), Stats(**info["stats"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a compiled constraint: {error}") from error
    return CompiledConstraint(automaton=token_automaton.from_bytes(rest), needs_check=needs_check, stats=stats)
