"""Constraint service: concurrent requests share a compilation, and refusals are cached."""

import asyncio
from pathlib import Path

import pytest

from diffusion_worker.constraint_service.cache import ConstraintCache
from diffusion_worker.constraint_service.compiler_pool import CompilerPool
from diffusion_worker.constraint_service.job_pool import Times
from diffusion_worker.constraint_service.service import ConstraintService
from diffusion_worker.constraints.compiled import CompiledConstraint, TokenPrefixes, compile_for_vocabulary
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.token_trie import token_trie_of
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema
from diffusion_worker.types.model_info import ModelInfo
from tests.worker.serving import toy_model, toy_tokenizer

pytestmark = pytest.mark.anyio

YES = Constraint(kind="choice", value=["yes", "no"], field="structured_outputs.choice")
TOKENIZER = toy_tokenizer()


def info() -> ModelInfo:
    return toy_model().info


class SlowCompilerPool(CompilerPool):
    """Compiles when the test allows it, and counts compilations."""

    def __init__(self, refusal: InvalidRequest | None = None) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.starts = asyncio.Semaphore(0)
        self.started = self.compiled = self.cancelled = 0
        self._refusal = refusal

    async def compile(
        self, constraint: Constraint, words: VocabularyBytes, prefixes: TokenPrefixes, owner: str = ""
    ) -> CompiledConstraint:
        self.started += 1
        self.starts.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._refusal:
            raise self._refusal
        self.compiled += 1
        return compile_for_vocabulary(constraint, token_trie_of(words), prefixes)


async def until_waiting(constraint_service: ConstraintService, count: int) -> None:
    async with asyncio.timeout(120):
        while sum(flight.waiting for flight in constraint_service._pending.values()) != count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_concurrent_requests_share_one_compilation() -> None:
    """Later requests use its result; another constraint is compiled separately."""
    compiler_pool = SlowCompilerPool()
    constraint_service = ConstraintService(compiler_pool=compiler_pool)
    waiting = [asyncio.create_task(constraint_service.bind(YES, TOKENIZER, info())) for _ in range(20)]
    await until_waiting(constraint_service, 20)
    compiler_pool.go.set()
    results = await asyncio.gather(*waiting)
    later = await constraint_service.bind(YES, TOKENIZER, info())
    assert {id(bound.automaton) for bound in (*results, later)} == {id(later.automaton)}
    assert (compiler_pool.started, compiler_pool.compiled) == (1, 1)
    await constraint_service.bind(Constraint(kind="choice", value=["no"]), TOKENIZER, info())
    assert compiler_pool.compiled == 2
    await constraint_service.close()


async def test_compilation_is_cancelled_when_the_last_waiting_request_is_cancelled() -> None:
    """Not earlier; a later request starts a new compilation."""
    compiler_pool = SlowCompilerPool()
    constraint_service = ConstraintService(compiler_pool=compiler_pool)
    first, second = (asyncio.create_task(constraint_service.bind(YES, TOKENIZER, info())) for _ in range(2))
    await compiler_pool.starts.acquire()
    await until_waiting(constraint_service, 2)
    first.cancel()
    await asyncio.wait([first])
    assert compiler_pool.cancelled == 0
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.create_task(constraint_service.bind(YES, TOKENIZER, info()))
    await compiler_pool.starts.acquire()
    assert compiler_pool.cancelled == 1
    compiler_pool.go.set()
    await third
    assert compiler_pool.compiled == 1
    assert not constraint_service._pending
    await constraint_service.close()


async def test_closing_cancels_running_compilations() -> None:
    """Waiting requests receive an error."""
    compiler_pool = SlowCompilerPool()
    constraint_service = ConstraintService(compiler_pool=compiler_pool)
    waiting = asyncio.create_task(constraint_service.bind(YES, TOKENIZER, info()))
    await compiler_pool.starts.acquire()
    await constraint_service.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert compiler_pool.cancelled == 1


async def test_a_refusal_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one minute: repeating a schema that takes too long must not delay other requests."""
    compiler_pool = SlowCompilerPool(UnsupportedSchema("takes too long", keyword="choice", pointer=""))
    compiler_pool.go.set()
    constraint_service = ConstraintService(compiler_pool=compiler_pool)
    for _ in range(3):
        with pytest.raises(UnsupportedSchema) as caught:
            await constraint_service.bind(YES, TOKENIZER, info())
        assert caught.value.param == "structured_outputs.choice"
    assert compiler_pool.started == 1
    monkeypatch.setattr("diffusion_worker.constraint_service.service.REFUSAL_TTL_S", 0.0)
    with pytest.raises(UnsupportedSchema):
        await constraint_service.bind(YES, TOKENIZER, info())
    assert compiler_pool.started == 2
    await constraint_service.close()


async def test_a_failed_validation_disables_its_constraint() -> None:
    """The next request with the same constraint is refused before generation."""
    value = {"type": "array", "items": {"pattern": "^(a+)+$"}}
    slow = Constraint(kind="json_schema", value=value, field="response_format")
    constraint_service = ConstraintService(
        compiler_pool=CompilerPool(validating=Times(quick_s=0.3, limit_s=0.3, wait_s=60))
    )
    bound = await constraint_service.bind(slow, TOKENIZER, info())
    with pytest.raises(UnsupportedSchema, match="to check"):
        await bound.validate(f'["{"a" * 60}!"]')
    with pytest.raises(UnsupportedSchema, match="to check") as caught:
        await constraint_service.bind(slow, TOKENIZER, info())
    assert caught.value.param == "response_format"
    await constraint_service.close()


async def test_the_cache_folder_avoids_recompilation_in_the_next_process(tmp_path: Path) -> None:
    """A broken cache file only causes a recompilation."""
    compiler_pool = SlowCompilerPool()
    compiler_pool.go.set()
    for is_broken, compiled in ((False, 1), (False, 1), (True, 2)):
        if is_broken:
            _break_files(tmp_path)
        constraint_service = ConstraintService(ConstraintCache(tmp_path), compiler_pool)
        await constraint_service.bind(YES, TOKENIZER, info())
        await constraint_service.close()
        assert compiler_pool.compiled == compiled


def _break_files(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"broken")
