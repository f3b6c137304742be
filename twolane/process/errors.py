"""Errors that prevent a process from starting, and its exit code then."""

WRONG_USE = 2


class ConfigurationError(Exception):
    """A flag, an environment variable or a file is invalid; the message is one line and names it."""
