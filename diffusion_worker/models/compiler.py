"""Kernels that are compiled at run time need a C compiler; without one, models run eager."""

import os
import shutil
from collections.abc import Callable, Mapping

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
