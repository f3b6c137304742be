"""Fill-in-the-middle prompts: the markers by which code models tell the text before a gap from the text after it.

From the prompt templates of Qwen-Coder, CodeGemma and Granite (`<|fim_prefix|>`), StarCoder (`<fim_prefix>`),
SantaCoder (`<fim-prefix>`), DeepSeek-Coder (`<｜fim▁begin｜>`), Code Llama (`<PRE>`), GLM (`<|code_prefix|>`),
Seed-Coder (`<[fim-prefix]>`) and Codestral (`[SUFFIX]...[PREFIX]`).
"""

import re
from typing import Final, NamedTuple


class Family(NamedTuple):
    """The markers of one family of models: before the prefix, the suffix and the completion. Code Llama's have spaces
    around them, which belong to the markers."""

    prefix: str
    suffix: str
    middle: str
    is_spaced: bool = False


class Gap(NamedTuple):
    """The texts before and after the gap."""

    prefix: str
    suffix: str


FAMILIES: Final = (
    Family("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    Family("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    Family("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
    Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    Family("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    Family("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
    Family("<PRE>", "<SUF>", "<MID>", is_spaced=True),
)
_CODESTRAL: Final = ("[SUFFIX]", "[PREFIX]")
_ENDS: Final = (
    "<|endoftext|>",
    "<|file_separator|>",
    "<|file_sep|>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<EOT>",
    "<|cursor|>",
)
_ALL: Final = [marker for family in FAMILIES for marker in (family.prefix, family.suffix, family.middle)]
# Stop strings that only end what a model of some family would write: answers without markers never contain them.
STOPS: Final = frozenset((*_ALL, *_CODESTRAL, *_ENDS))
# All begin with "<". The character behind it is looked at before the alternatives, which take three times as long to
# rule out: markup has thousands of "<".
MARKERS: Final = re.compile(
    f"<(?=[{re.escape(''.join(sorted({marker[1] for marker in _ALL})))}])"
    f"(?:{'|'.join(re.escape(marker[1:]) for marker in _ALL)})"
)
_ASSISTANT: Final = "<|assistant|>"  # opens the answer in templates of GLM
_EMPTY_SUFFIXES: Final = frozenset({"<|endoftext|>"})  # what some clients send for none: their servers need a suffix


def gap_of(prompt: str) -> Gap | None:
    """The gap that a prompt marks; None for a prompt without a complete set of markers.

    The text before the first marker, such as other files, belongs to the prefix. The suffix may precede the prefix, and
    the completion may have begun: then its beginning is the end of the prefix.
    """
    if prompt.lstrip().startswith(_CODESTRAL[0]):
        suffix, found, prefix = prompt.lstrip()[len(_CODESTRAL[0]) :].partition(_CODESTRAL[1])
        return Gap(prefix, suffix) if found else None
    if "<" not in prompt:
        return None
    return next((gap for family in FAMILIES if (gap := _gap_in(prompt, family)) is not None), None)


def suffix_of(given: str | None) -> str | None:
    """The text after the gap as a request gives it; None if there is none."""
    return None if not given or given in _EMPTY_SUFFIXES else given


def _gap_in(prompt: str, family: Family) -> Gap | None:
    """The parts between the last complete set of markers: an earlier one is an example, or part of the file."""
    middle = prompt.rfind(family.middle)
    prefix, suffix = prompt.rfind(family.prefix, 0, max(middle, 0)), prompt.rfind(family.suffix, 0, max(middle, 0))
    if min(prefix, suffix, middle) < 0:
        return None
    begun = prompt[middle + len(family.middle) :]
    begun = "" if begun.strip() == _ASSISTANT else begun
    before = prompt[: min(prefix, suffix)]
    if prefix < suffix:
        left, right = prompt[prefix + len(family.prefix) : suffix], prompt[suffix + len(family.suffix) : middle]
    else:
        left, right = prompt[prefix + len(family.prefix) : middle], prompt[suffix + len(family.suffix) : prefix]
    if family.is_spaced:
        left, right, begun = left.removeprefix(" ").removesuffix(" "), right.removesuffix(" "), begun.removeprefix(" ")
    return Gap(before + left + begun, right)
