"""Fused operations: functions of tensors that are one operation on an accelerator.

On a CPU they are called as they are. Elsewhere each is an operator of torch, which `torch.compile` turns into as few
kernels as it can; without a compiler, or if compiling fails, the operator runs its eager form.
"""

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

import torch
from torch import library

from diffusion_worker.models.compiler import find_compiler

Function = TypeVar("Function", bound=Callable[..., Any])
_log = logging.getLogger(__name__)
_EAGER: Final[set[str]] = set()  # operators that could not be compiled
# The second is no TorchDynamoException: of a function that was compiled for too many kinds of inputs.
COMPILE_ERRORS: Final = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)


def fused(
    name: str,
    *,
    eager: Callable[..., Any] | None = None,
    mutates: Sequence[str] = (),
    fake: Callable[..., Any] | None = None,
) -> Callable[[Function], Function]:
    """Register a function under the name `twolane::name`. `eager`: a form of less temporary memory for where it is not
    compiled. `mutates`: names of the tensors that it writes to; it must not return its arguments. `fake`: a form for
    tensors without values, for graphs that contain it, if less is enough to know the shapes of its results."""

    def register(function: Function) -> Function:
        plain = eager or function

        @functools.wraps(function)
        def run(*args: Any) -> Any:
            if name not in _EAGER and find_compiler(os.environ) is not None:
                try:
                    return call_compiled(function, *args)
                except COMPILE_ERRORS as error:
                    _EAGER.add(name)
                    _log.warning("cannot compile %s, running eager: %s", name, compile_problem(error))
            return plain(*args)

        operator = library.custom_op(f"twolane::{name}", run, mutates_args=tuple(mutates))
        operator.register_fake(fake or function)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            return (plain if args[0].device.type == "cpu" else operator)(*args)

        return cast("Function", call)

    return register


def call_compiled(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that is compiled for tensors of all sizes: also for those of a single row, and for sizes that
    were equal in the first call by chance."""
    with torch.fx.experimental._config.patch(use_duck_shape=False, backed_size_oblivious=True):  # type: ignore[attr-defined]
        return _compiled(function)(*args)


def compile_problem(error: Exception) -> str:
    """What an error of the compiler says, in one line, without its advice."""
    return " ".join(str(error).strip().split("\n\n")[0].split())


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=True)
