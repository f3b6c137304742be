"""The compiler process: `python -m diffusion_worker.constraint_service.compiler_process LIMIT_S` (protocol:
`pipe_framing`).

Two kinds of jobs: `V` and the vocabulary bytes, which stay loaded; `C` and a constraint with its allowed token prefixes
as JSON, answered with the constraint compiled for the loaded vocabulary.
"""

import json
import traceback

from diffusion_worker.constraint_service.pipe_framing import run
from diffusion_worker.constraints import compiled
from diffusion_worker.constraints.compiled import TokenPrefixes
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens import vocabulary_bytes
from diffusion_worker.constraints.tokens.token_trie import TokenTrie, token_trie_of
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema


def vocabulary_job(vocabulary: vocabulary_bytes.VocabularyBytes) -> bytes:
    """The job that loads a vocabulary."""
    return b"V" + vocabulary_bytes.to_bytes(vocabulary)


def constraint_job(constraint: Constraint, prefixes: TokenPrefixes) -> bytes:
    """The job that compiles a constraint."""
    return b"C" + json.dumps(prefixes).encode() + b"\n" + constraint.content()


class Compiler:
    """Executes jobs; keeps one vocabulary loaded."""

    def __init__(self) -> None:
        self._trie: TokenTrie | None = None

    def work(self, content: bytes) -> bytes:
        """Execute one job. Raises InvalidRequest, UnsupportedSchema."""
        if content[:1] == b"V":
            self._trie = token_trie_of(vocabulary_bytes.from_bytes(content[1:]))
            return b""
        assert self._trie is not None, "no vocabulary is loaded"
        prefixes, _, constraint = content[1:].partition(b"\n")
        requested = Constraint(**json.loads(constraint))
        try:
            return compiled.to_bytes(compiled.compile_for_vocabulary(requested, self._trie, json.loads(prefixes)))
        except InvalidRequest:
            raise
        except RecursionError:
            raise UnsupportedSchema("nested too deeply", keyword=requested.kind, pointer="") from None
        except MemoryError:
            raise UnsupportedSchema(
                "exceeds the memory limit of the compiler", keyword=requested.kind, pointer=""
            ) from None
        except Exception as error:  # noqa: BLE001 - outermost handler of this process: an internal error refuses the constraint
            traceback.print_exc()
            raise UnsupportedSchema(
                f"internal error of the compiler: {type(error).__name__}", keyword=requested.kind, pointer=""
            ) from None


if __name__ == "__main__":
    run(Compiler().work)
