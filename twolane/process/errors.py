"""Errors that prevent a process from starting, its exit code then, and the text of errors."""

WRONG_USE = 2


class ConfigurationError(Exception):
    """A flag, an environment variable or a file is invalid; the message is one line and names it."""


def first_line(error: BaseException) -> str:
    """The first line of an error message, without the advice that libraries append; the type if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
