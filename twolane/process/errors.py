"""What keeps a process from starting."""


class ConfigurationError(Exception):
    """A flag, an environment variable or a file that cannot be used; the message is one line and names it."""
