"""The compiler pool: processes that compile constraints, and processes that validate answers."""

import asyncio
import json
from typing import Final

from diffusion_worker.constraint_service.compiler_process import constraint_job, vocabulary_job
from diffusion_worker.constraint_service.job_pool import START_S, JobPool, JobProcess, Times, TooLong
from diffusion_worker.constraint_service.validator_process import validation_job
from diffusion_worker.constraints.compiled import CompiledConstraint, TokenPrefixes, from_bytes
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes
from diffusion_worker.errors import Refused, UnsupportedSchema

COMPILE: Final = Times(quick_s=2.0, limit_s=10.0, wait_s=10.0)
VALIDATE: Final = Times(quick_s=0.5, limit_s=3.0, wait_s=10.0)


class CompilerPool:
    """Compiles and validates, for each API key its share of the time. Close it after use."""

    def __init__(self, *, compiling: Times = COMPILE, validating: Times = VALIDATE) -> None:
        self._compilers = JobPool("compiler_process", compiling)
        self._validators = JobPool("validator_process", validating)

    async def compile(
        self, constraint: Constraint, vocabulary: VocabularyBytes, prefixes: TokenPrefixes, owner: str = ""
    ) -> CompiledConstraint:
        """Compile a constraint for a vocabulary, on behalf of an API key. Raises InvalidRequest and UnsupportedSchema
        as the compiler does, the latter also if it needs too much processor time; OverCapacity if the compilers are
        busy, Refused if the machine is; CompilerFailed if a process crashed twice."""
        await self._validators.start()  # needed once the answer is complete

        async def prepare(process: JobProcess) -> None:
            await _load_vocabulary(process, vocabulary)

        try:
            compiled = await self._compilers.run(constraint_job(constraint, prefixes), owner, prepare)
        except TooLong:
            raise _too_long(constraint, "compile", self._compilers.times) from None
        return await asyncio.to_thread(from_bytes, compiled)

    async def validate(self, constraint: Constraint, text: str, owner: str = "") -> str | None:
        """The violation of a whole answer; None: valid. Raises as `compile` does."""
        try:
            response = await self._validators.run(validation_job(constraint, text), owner)
        except TooLong:
            raise _too_long(constraint, "check", self._validators.times) from None
        violation: str | None = json.loads(response)
        return violation

    async def close(self) -> None:
        """Kill all processes."""
        await asyncio.gather(self._compilers.close(), self._validators.close())


async def _load_vocabulary(process: JobProcess, vocabulary: VocabularyBytes) -> None:
    """Send the vocabulary to the compiler unless it is loaded."""
    if process.loaded_vocabulary == vocabulary.digest:
        return
    try:
        await process.request(vocabulary_job(vocabulary), START_S)
    except TimeoutError:
        message = "the constraint compiler did not load the vocabulary in time"
        raise Refused(message, retry_after_s=START_S) from None
    process.loaded_vocabulary = vocabulary.digest


def _too_long(constraint: Constraint, task: str, times: Times) -> UnsupportedSchema:
    return UnsupportedSchema(
        f"takes longer than {times.limit_s:g} s of processor time to {task}", keyword=constraint.kind, pointer=""
    )
