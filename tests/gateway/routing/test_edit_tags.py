"""The tags around code in messages of editors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.edit_tags import CODE_TO_EDIT, section, tagged_code, without_caret

CODE = "def f():\n    return 1\n"
LINES = st.text(alphabet=st.sampled_from("ab<>/|\n "), max_size=30)


@pytest.mark.parametrize(
    "message",
    [
        f"<instruction>Return two.</instruction>\n<code>{CODE}</code>\n<update>return 2</update>",
        f"<instructions>Return two.</instructions>\n<code>{CODE}</code>\n<update>return 2</update>",
        f"<code>{CODE}</code>\n<update>return 2</update>",
        f"\n  <code>{CODE}</code><update>return 2</update>\n",
    ],
)
def test_the_code_of_a_message_with_an_update_is_found(message: str) -> None:
    assert tagged_code(message) == CODE


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Fix <code>f()</code>, please: <update>now</update>",
        f"<code>{CODE}</code>",
        f"<instruction>Explain.</instruction><code>{CODE}</code>",
        "<code></code><update>return 2</update>",
        "<update>return 2</update>",
    ],
)
def test_any_other_message_is_no_edit(message: str) -> None:
    assert tagged_code(message) is None


def test_code_that_contains_the_tags_is_found_whole() -> None:
    page = "<p><code>x</code></p>"
    assert tagged_code(f"<code>{page}</code>\n<update><code>y</code></update>") == page


@given(text=LINES)
def test_a_section_comes_back_without_the_line_breaks_next_to_its_tags(text: str) -> None:
    message = f"<|current_file_content|>\n<|{CODE_TO_EDIT}|>\n{text}\n<|/{CODE_TO_EDIT}|>\n<|/current_file_content|>"
    assert section(message, CODE_TO_EDIT) == text
    assert section(message, "original_code") is None


def test_the_mark_of_the_cursor_is_removed() -> None:
    assert without_caret("def f(<|cursor|>):") == "def f():"
