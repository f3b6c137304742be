"""The step of a constrained row in C (`_native.c`), where it was built: the same results as the Python code beside it.
An installation without a C compiler has no such module and computes in Python.
"""

from typing import Final

from twolane.process.native import load_native

# The version is that of the results.
NATIVE: Final = load_native("diffusion_worker.constraints.inference._native", VERSION=3)
