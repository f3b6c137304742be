"""Constrained decoding: JSON Schema, regular expressions, choices and templates compiled to automata, without torch."""
