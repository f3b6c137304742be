"""What an answer may be, as automata over bytes: JSON Schema, regex, choices and templates, compiled without torch."""
