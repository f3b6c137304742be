"""Bodies of calls that have a form of their own."""
