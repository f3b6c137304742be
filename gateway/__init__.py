"""Twolane gateway."""

__version__ = "0.1.0"
