"""Kernels that are compiled at run time need a C compiler; without one, models run eager."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping

COMPILERS = ("cc", "gcc", "clang")  # those that triton tries, besides $CC


def find_compiler(environment: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The C compiler that triton would use; None if there is none."""
    chosen = environment.get("CC")
    return which(chosen) if chosen else next(filter(None, map(which, COMPILERS)), None)


def run_eager_without_compiler(device_type: str, say: Callable[[str], None]) -> None:
    """On an accelerator without a C compiler, let torch ignore every `torch.compile`, and say so in one line."""
    if device_type == "cpu" or find_compiler(os.environ) is not None:
        return
    import torch

    torch.compiler.set_stance("force_eager")
    say("no C compiler (cc, gcc, clang or $CC): kernels cannot be compiled, running eager")


@contextlib.contextmanager
def compiling(device_type: str) -> Iterator[None]:
    """On an accelerator, compile functions in this context and never after it: inputs for which nothing was compiled
    run eager then. Compiling takes minutes, which would hold up all requests, and look like a device that hangs."""
    may_compile = device_type != "cpu" and find_compiler(os.environ) is not None
    if may_compile and "torch._dynamo" in sys.modules:
        _set_stance("default")
    yield
    if may_compile and "torch._dynamo" in sys.modules:
        _set_stance("eager_on_recompile")


def _set_stance(stance: str) -> None:
    import torch

    torch.compiler.set_stance(stance)  # type: ignore[arg-type]
