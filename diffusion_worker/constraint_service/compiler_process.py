"""The process that compiles: `python -m diffusion_worker.constraint_service.compiler_process LIMIT_S` (see `frames`).

Two kinds of jobs: `V` and a lexicon, which is kept for what follows; `C` and a constraint with its headers as JSON,
which is answered with the constraint made ready for that lexicon.
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
    """Tells the process which words to lift onto."""
    return b"V" + vocabulary_bytes.to_bytes(vocabulary)


def constraint_job(constraint: Constraint, prefixes: TokenPrefixes) -> bytes:
    """Asks for a constraint."""
    return b"C" + json.dumps(prefixes).encode() + b"\n" + constraint.content()


class Compiler:
    """Does the jobs. Keeps one vocabulary."""

    def __init__(self) -> None:
        self._trie: TokenTrie | None = None

    def work(self, content: bytes) -> bytes:
        """One job. Raises InvalidRequest, UnsupportedSchema."""
        if content[:1] == b"V":
            self._trie = token_trie_of(vocabulary_bytes.from_bytes(content[1:]))
            return b""
        assert self._trie is not None, "the words come first"
        prefixes, _, constraint = content[1:].partition(b"\n")
        requested = Constraint(**json.loads(constraint))
        try:
            return compiled.to_bytes(compiled.compile_for_vocabulary(requested, self._trie, json.loads(prefixes)))
        except InvalidRequest:
            raise
        except RecursionError:
            raise UnsupportedSchema("nested too deeply", keyword=requested.kind, pointer="") from None
        except MemoryError:
            raise UnsupportedSchema("needs more memory than it may have", keyword=requested.kind, pointer="") from None
        except Exception as error:  # noqa: BLE001 - the outermost place of this process: what trips us is refused
            traceback.print_exc()
            raise UnsupportedSchema(
                f"the compiler failed on it: {type(error).__name__}", keyword=requested.kind, pointer=""
            ) from None


if __name__ == "__main__":
    run(Compiler().work)
