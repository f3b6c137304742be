"""Tokenization of the released checkpoint's kind: its control tokens under their own ids, Gemma's vocabulary form, and
chat templates of the same shape as those it was published with, written here."""

import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Library

from diffusion_worker.models.toy import ToyModel
from diffusion_worker.text.chat_template import load_chat_template
from diffusion_worker.text.tokenizer import Tokenizer, load_tokenizer
from diffusion_worker.types.requests import DenoisingParams
from diffusion_worker.web.serving_state import Tokenization

CONTROL = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<|tool>": 46,
    "<tool|>": 47,
    "<|tool_call>": 48,
    "<tool_call|>": 49,
    "<|tool_response>": 50,
    "<tool_response|>": 51,
    '<|"|>': 52,
    "<|think|>": 98,
    "<|channel>": 100,
    "<channel|>": 101,
    "<|turn>": 105,
    "<turn|>": 106,
}
END_IDS = (1, 106, 50)

_MACROS = """
{%- macro value(it) -%}
  {%- if it is string -%}<|"|>{{ it }}<|"|>
  {%- elif it is boolean -%}{{ 'true' if it else 'false' }}
  {%- elif it is mapping -%}{{ '{' }}{{ pairs(it) }}{{ '}' }}
  {%- elif it is sequence -%}[{% for inner in it %}{{ value(inner) }}{{ ',' if not loop.last }}{% endfor %}]
  {%- else -%}{{ it }}{%- endif -%}
{%- endmacro -%}
{%- macro pairs(it) -%}
  {%- for key, inner in it | dictsort -%}{{ key }}:{{ value(inner) }}{{ ',' if not loop.last }}{%- endfor -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set rest = messages -%}
{%- if enable_thinking or tools or messages[0].role == 'system' -%}
  {{- '<|turn>system\\n' -}}
  {%- if enable_thinking -%}{{- '<|think|>' -}}{%- endif -%}
  {%- if messages[0].role == 'system' -%}{{- messages[0].content | trim -}}{%- set rest = messages[1:] -%}{%- endif -%}
  {%- for tool in tools or [] -%}
    {{- '<|tool>declaration:' + tool.function.name + '{description:' + value(tool.function.description) -}}
    {{- ',parameters:' + value(tool.function.parameters) + '}<tool|>' -}}
  {%- endfor -%}
  {{- '<turn|>\\n' -}}
{%- endif -%}
"""
_CALLS = """
    {%- for call in message.get('tool_calls') or [] -%}
      {{- '<|tool_call>call:' + call.function.name + '{' + pairs(call.function.arguments) + '}<tool_call|>' -}}
    {%- endfor -%}
"""
# With tool messages, matched by call id; thoughts continue after the last user message.
TEMPLATE = (
    _MACROS
    + """
{%- set ns = namespace(open=false, calls=[]) -%}
{%- for message in rest -%}
  {%- if message.role == 'tool' -%}
    {%- for call in ns.calls if call.id == message.tool_call_id -%}
      {{- '<|tool_response>response:' + call.function.name + '{value:' + value(message.content) + '}' -}}
      {{- '<tool_response|>' -}}
    {%- endfor -%}
  {%- else -%}
    {%- if not (message.role == 'assistant' and ns.open) -%}
      {{- '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}
    {%- endif -%}
    {%- if message.reasoning_content -%}
      {{- '<|channel>thought\\n' + message.reasoning_content + '\\n<channel|>' -}}
    {%- endif -%}
"""
    + _CALLS
    + """
    {%- set ns.calls = message.get('tool_calls') or [] -%}
    {{- message.content | trim -}}
    {%- set ns.open = ns.calls | length > 0 -%}
    {%- if not ns.open -%}{{- '<turn|>\\n' -}}{%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and not ns.open -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""
)
# As first published: a tool result is part of the turn that called it.
FIRST_TEMPLATE = (
    _MACROS
    + """
{%- for message in rest -%}
    {{- '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}
"""
    + _CALLS
    + """
    {%- for answer in message.get('tool_responses') or [] -%}
      {{- '<|tool_response>response:' + answer.name + '{value:' + value(answer.response) + '}<tool_response|>' -}}
    {%- endfor -%}
    {{- message.content | trim -}}
    {%- if not message.get('tool_responses') -%}{{- '<turn|>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and not messages[-1].get('tool_responses') -%}
  {{- '<|turn>model\\n' -}}
  {%- if not enable_thinking -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}
{%- endif -%}
"""
)


def save_released_words(folder: Path, template: str = TEMPLATE) -> None:
    """The text side of such a checkpoint: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`."""
    names = {rank: text for text, rank in CONTROL.items()}
    pieces = [names.get(rank, f"<unused{rank}>") for rank in range(107)]
    pieces += [*(f"<0x{byte:02X}>" for byte in range(256)), "\n", "▁", *map(chr, range(0x21, 0x7F))]
    vocab = {piece: rank for rank, piece in enumerate(pieces)}
    library = Library(models.BPE(vocab=vocab, merges=[], byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Replace(" ", "▁")
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    (folder / "chat_template.jinja").write_text(template)


@functools.cache
def released_words(template: str = TEMPLATE) -> Tokenization:
    """The same, loaded."""
    with tempfile.TemporaryDirectory() as name:
        save_released_words(Path(name), template)
        tokenizer = load_tokenizer(Path(name))
        return Tokenization(tokenizer=tokenizer, template=load_chat_template(Path(name), tokenizer))


def released_tokenizer() -> Tokenizer:
    """Its tokenizer alone."""
    return released_words().tokenizer


def spelled(ids: Sequence[int]) -> str:
    """The text of ids, with control tokens written out."""
    return released_tokenizer().decode_with_specials(ids)


def released_net(answer: str | Callable[[str], str], **knobs: Any) -> ToyModel:
    """A model that answers with this text, in which control tokens are recognised, or with a function of the prompt."""
    tokenizer = released_tokenizer()

    def script(prompt: tuple[int, ...]) -> tuple[int, ...]:
        return tokenizer.encode(answer if isinstance(answer, str) else answer(spelled(prompt)))

    denoising = DenoisingParams(canvas_length=16, steps=16)
    return ToyModel(script, **{"vocab_size": tokenizer.size, "denoising": denoising, "end_ids": END_IDS, **knobs})
