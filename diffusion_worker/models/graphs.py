"""A function that is compiled into one graph for each kind of its inputs, before a worker serves.

Graphs are compiled when a kind is first met, which the warm-up takes care of; later inputs that would need another
graph run eager, since compiling would hold up all requests. What cannot be compiled is left to the caller.
"""

import contextlib
import logging
from collections.abc import Callable, Hashable
from typing import Any, Final

import torch

from diffusion_worker.models.fused import COMPILE_ERRORS, compile_problem

_log: Final = logging.getLogger(__name__)


class Graphs:
    """The graphs of `function`, which takes tensors and returns some. `name`: what it computes, for the log.
    `has_single`: inputs may have a dimension of 1 without being a kind of their own."""

    def __init__(self, function: Callable[..., Any], name: str, *, has_single: bool = False) -> None:
        self._run = torch.compile(function, fullgraph=True, dynamic=True)
        self._name = name
        # Two sizes that are equal in the first call need not stay so.
        self._shapes = {"use_duck_shape": False} | ({"backed_size_oblivious": True} if has_single else {})
        self._known: set[Hashable] = set()
        self._is_broken = False

    def run(self, kind: Hashable, *inputs: Any) -> Any:
        """The result of the function; None once it could not be compiled."""
        if self._is_broken:
            return None
        is_known = kind in self._known
        stance = torch.compiler.set_stance("eager_on_recompile") if is_known else contextlib.nullcontext()
        try:
            with stance, torch.fx.experimental._config.patch(self._shapes):  # type: ignore[attr-defined]
                found = self._run(*inputs)
        except COMPILE_ERRORS as error:
            self._is_broken = True
            _log.warning("cannot compile %s, running eager: %s", self._name, compile_problem(error))
            return None
        self._known.add(kind)
        return found
