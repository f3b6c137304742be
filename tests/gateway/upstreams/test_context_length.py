"""Messages that say that a request is too long for the model, in the words of servers and providers."""

from typing import Any

import pytest

from gateway.upstreams.context_length import ContextLimit, read_context_limit

TOO_LONG = {
    "OpenAI": (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 10000 tokens. Please"
        " reduce the length of the messages.",
        8192,
        10000,
    ),
    "OpenAI, later": (
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300012 tokens.",
        272000,
        300012,
    ),
    "OpenAI, without figures": ("Your input exceeds the context window of this model. Please adjust it.", None, None),
    "vLLM": (
        "This model's maximum context length is 4096 tokens. However, you requested 5077 tokens (4877 in the messages,"
        " 200 in the completion). Please reduce the length of the messages or completion.",
        4096,
        5077,
    ),
    "vLLM, input": (
        "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens.",
        4096,
        5000,
    ),
    "vLLM, max_tokens": (
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096 tokens"
        " and your request has 100 input tokens (5000 > 4096 - 100).",
        4096,
        None,
    ),
    "vLLM, prompt": (
        "The decoder prompt (length 5077) is longer than the maximum model length of 4096. Make sure that"
        " `max_model_len` is no smaller than the number of text tokens.",
        4096,
        5077,
    ),
    "SGLang": ("The input (5077 tokens) is longer than the model's context length (4096 tokens).", 4096, 5077),
    "SGLang, total": (
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5077"
        " tokens: 4877 tokens from the input messages and 200 tokens for the completion.",
        4096,
        5077,
    ),
    "llama.cpp": (
        "request (5077 tokens) exceeds the available context size (4096 tokens), try increasing it",
        4096,
        5077,
    ),
    "llama.cpp, earlier": (
        "the request exceeds the available context size. try increasing the context size",
        None,
        None,
    ),
    "LM Studio": (
        "Trying to keep the first 5077 tokens when context the overflows. However, the model is loaded with context"
        " length of only 4096 tokens, which is not enough.",
        4096,
        5077,
    ),
    "TGI": ("Input validation error: `inputs` must have less than 4095 tokens. Given: 5077", 4095, None),
    "TGI, total": (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and"
        " 200 `max_new_tokens`",
        4096,
        None,
    ),
    "TensorRT-LLM": ("Prompt length (5077) should not exceed max_num_tokens (4096)", None, None),
    "Anthropic": ("prompt is too long: 210000 tokens > 200000 maximum", 200000, 210000),
    "Anthropic, sum": (
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
        200000,
        210000,
    ),
    "Gemini": (
        "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
        1048576,
        1048577,
    ),
    "Mistral": (
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        32768,
        40000,
    ),
    "Cohere": (
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5077. Try using a shorter"
        " prompt.",
        4081,
        5077,
    ),
    "xAI": ("This model's maximum prompt length is 131072 but the request contains 150000 tokens.", 131072, 150000),
    "Bedrock": ("Input is too long for requested model.", None, None),
    "OpenRouter": (
        "This endpoint's maximum context length is 4096 tokens. However, you requested about 5077 tokens (5000 of text"
        " input, 77 in the output).",
        4096,
        5077,
    ),
    "vLLM, both": (
        "You passed 5000 input tokens and requested 77 output tokens. However, the model's context length is only 4096"
        " tokens, resulting in a maximum input length of 4019 tokens. Please reduce the length of the input prompt.",
        4096,
        5077,
    ),
    "SGLang, input": (
        "Input length (5077 tokens) exceeds the maximum allowed length (4096 tokens). Use a shorter input.",
        4096,
        5077,
    ),
    "TensorRT-LLM, input": ("Prompt length (5077) exceeds maximum input length (4096)", 4096, 5077),
    "llama-cpp-python": ("Requested tokens (5077) exceed context window of 4096", 4096, 5077),
    "Fireworks": ("The prompt is too long: 10000, model maximum context length: 8191", 8191, 10000),
    "Copilot": ("prompt token count of 150000 exceeds the limit of 128000", 128000, 150000),
    "Qwen": ("Range of input length should be [1, 30720]", 30720, None),
    "Moonshot": ("Invalid request: Your request exceeded model token limit: 8192", 8192, None),
    "Zhipu": ("Prompt exceeds max length", None, None),
    "MiniMax": ("invalid params, context window exceeds limit (2013)", None, None),
    "Volcengine": ("Total tokens of image and text exceed max message tokens.", None, None),
    "Groq": ("Please reduce the length of the messages or completion.", None, None),
    "Twolane's worker": (
        "The maximum context length is 4096 tokens; 'messages' has 5077, and the request needs at least 1 for the"
        " answer.",
        4096,
        5077,
    ),
}


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_message_about_the_context_is_recognised_with_its_figures(server: str) -> None:
    message, limit, needed = TOO_LONG[server]
    assert read_context_limit({"message": message, "code": 400}) == ContextLimit(limit=limit, needed=needed)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "no words that anybody knows"},
        {"type": "exceed_context_size_error", "message": ""},
        {"code": "context_length_exceeded", "message": None},
        {"code": "model_max_prompt_tokens_exceeded", "message": "no"},
    ],
)
def test_a_code_or_a_type_is_enough(error: Any) -> None:
    assert read_context_limit(error) == ContextLimit()


def test_llama_cpp_s_fields_are_read() -> None:
    error = {"code": 400, "type": "exceed_context_size_error", "n_ctx": 4096, "n_prompt_tokens": 5077, "message": "x"}
    assert read_context_limit(error) == ContextLimit(limit=4096, needed=5077)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens, whereas you provided 5000.",
        "Invalid 'messages[0].content': string too long. Expected a string with maximum length 1048576.",
        "'max_tokens' must be at least 1",
        "Rate limit reached: Limit 30000 tokens per minute, requested 50000.",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "The provided schema exceeds the maximum nesting depth",
        "temperature is too large",
        "the length of 'stop' exceeds the maximum of 4",
        "'n' exceeds the limit of 8",
        "Rate limit exceeds the limit of 8 requests",
        "metadata value is too long",
        "tools[0].function.name is too long",
        "Unsupported parameter: 'max_tokens' is not supported with this model.",
        "the context of the conversation is missing",
    ],
)
def test_other_messages_are_not(message: str) -> None:
    assert read_context_limit({"message": message, "code": 400}) is None


@pytest.mark.parametrize("error", [{}, {"message": 3}, {"message": ["prompt is too long"]}, {"n_ctx": 4096}])
def test_an_object_without_words_is_not(error: Any) -> None:
    assert read_context_limit(error) is None


def test_a_very_long_message_is_read_at_its_beginning_only() -> None:
    assert read_context_limit({"message": "x" * 100_000 + " prompt is too long"}) is None
