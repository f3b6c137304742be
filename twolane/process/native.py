"""Optional modules in C: an installation without a C compiler has none, and runs the Python code beside them."""

import logging
from importlib import import_module
from types import ModuleType

_log = logging.getLogger("twolane.native")


def load_native(name: str, **constants: int) -> ModuleType | None:
    """The module of this full name; None if it is not built, or if a constant of it has another value: it was built
    from other source, and computes something else. The latter is logged."""
    try:
        module = import_module(name)
    except ImportError:  # not built
        return None
    found = {constant: getattr(module, constant, None) for constant in constants}
    if found == constants:
        return module
    _log.warning("%s is not used: it was built from other source (%s, expected %s); rebuild it", name, found, constants)
    return None
