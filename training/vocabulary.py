"""The byte-level vocabulary of the embedded checkpoint: 16 special tokens, then the 256 bytes.

Any Unicode text round-trips. Training encodes bytes directly; serving loads the same vocabulary from `tokenizer.json`
through the `tokenizers` library. A test compares both.
"""

import json
from pathlib import Path

PAD, EOS, BOS, IMAGE, BEGIN_IMAGE, END_IMAGE, USER, MODEL, SYSTEM = range(9)
SPECIALS = (
    *("<pad>", "<eos>", "<bos>", "<image>", "<boi>", "<eoi>", "<user>", "<model>", "<system>"),
    *(f"<reserved-{i}>" for i in range(9, 16)),
)
FIRST_BYTE = len(SPECIALS)
VOCAB_SIZE = FIRST_BYTE + 256

CHAT_TEMPLATE = (
    "{{ '<bos>' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' or message['role'] == 'developer' %}{{ '<system>' + message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<user>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<model>' + message['content'] + '<eos>' }}"
    "{% else %}{{ raise_exception('role ' + message['role'] + ' is not known to this checkpoint') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<model>' }}{% endif %}"
)


def encode_text(text: str) -> list[int]:
    """Ids of the UTF-8 bytes of `text`, without special tokens."""
    return [FIRST_BYTE + byte for byte in text.encode()]


def decode_ids(ids: list[int]) -> str:
    """Text of the bytes among `ids` up to the first end token; special tokens are dropped, invalid UTF-8 becomes
    U+FFFD."""
    end = ids.index(EOS) if EOS in ids else len(ids)
    return bytes(i - FIRST_BYTE for i in ids[:end] if i >= FIRST_BYTE).decode(errors="replace")


def encode_prompt(text: str) -> list[int]:
    """One user message as rendered by the chat template, followed by the generation prompt."""
    return [BOS, USER, *encode_text(text), MODEL]


def save_tokenizer(folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(SPECIALS)}
    vocab |= {symbol: FIRST_BYTE + byte for byte, symbol in enumerate(_byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n")


def _byte_symbols() -> list[str]:
    """The printable symbol of each byte in byte-level BPE files (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    shifted = iter(range(256, 512))
    return [chr(byte if byte in printable else next(shifted)) for byte in range(256)]
