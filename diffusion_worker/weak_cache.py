"""What is computed once for an object, and freed with it."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

_Object = TypeVar("_Object")
_Result = TypeVar("_Result")


def once_per_object(function: Callable[[_Object], _Result]) -> Callable[[_Object], _Result]:
    """Make a function of one object compute its result on the first call for the object, and keep it as long as the
    object lives. The result must not refer to the object. Threads that call it first at the same time may each
    compute."""
    kept: WeakKeyDictionary[_Object, _Result] = WeakKeyDictionary()

    @wraps(function)
    def found(of: _Object) -> _Result:
        try:
            return kept[of]
        except KeyError:
            result = kept[of] = function(of)
            return result

    return found
