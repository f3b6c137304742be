"""The blocks of the README."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PRINTED = "http://127.0.0.1:8080"


def block(language: str, start: str) -> str:
    """The fenced block of this language that begins with `start`."""
    blocks = map(textwrap.dedent, re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.DOTALL | re.MULTILINE))
    return next(b for b in blocks if b.startswith(start))
