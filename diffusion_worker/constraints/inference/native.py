"""The step of a constrained row in C (`_native.c`), where it was built: the same results as the Python code beside it.
An installation without a C compiler has no such module and computes in Python.
"""

from types import ModuleType
from typing import Final

VERSION: Final = 1  # of the results; a module that was built from another source is ignored


def _load() -> ModuleType | None:
    try:
        from diffusion_worker.constraints.inference import _native
    except ImportError:  # not built
        return None
    return _native if _native.VERSION == VERSION else None


NATIVE: Final = _load()
