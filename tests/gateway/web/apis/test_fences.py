"""Fences around texts that arrive in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.web.apis.fences import Fence, Unfence

CODE = st.lists(st.text(alphabet=st.sampled_from("ab `#\té"), max_size=8), max_size=5).map("\n".join)


def in_pieces(filter_: Unfence | Fence, text: str, sizes: list[int]) -> str:
    passed, at = "", 0
    for size in sizes:
        passed += filter_.feed(text[at : at + size])
        at += size
    return passed + filter_.feed(text[at:]) + filter_.close()


PIECES = st.lists(st.integers(1, 4), max_size=40)


@given(code=CODE.filter(lambda code: "```" not in code), language=st.sampled_from(["", "python"]), sizes=PIECES)
def test_the_fence_around_a_text_is_removed_however_it_is_cut(code: str, language: str, sizes: list[int]) -> None:
    assert in_pieces(Unfence(), f"```{language}\n{code}\n```", sizes) == code
    assert in_pieces(Unfence(), f"\n```{language}\n{code}\n```\n", sizes) == code
    assert in_pieces(Unfence(), f"```{language}\n{code}\n```\nThis changes f.", sizes) == code


@given(text=CODE.filter(lambda text: not text.lstrip().startswith("```")), sizes=PIECES)
def test_a_text_that_does_not_begin_with_a_fence_passes_unchanged(text: str, sizes: list[int]) -> None:
    assert in_pieces(Unfence(), text, sizes) == text


@given(code=CODE.filter(lambda code: "```" not in code), sizes=PIECES)
def test_a_fence_that_was_cut_off_leaves_the_text(code: str, sizes: list[int]) -> None:
    assert in_pieces(Unfence(), f"```\n{code}", sizes).rstrip("\n`") == code.rstrip("\n`")


def test_text_passes_as_soon_as_it_cannot_be_a_fence() -> None:
    unfence = Unfence()
    assert [unfence.feed(piece) for piece in ("x", " = 1", "\n```\n")] == ["x", " = 1", "\n```\n"]


@given(code=CODE, sizes=PIECES)
def test_a_fence_of_its_own_ends_with_an_empty_line(code: str, sizes: list[int]) -> None:
    assert in_pieces(Fence(), code, sizes) == "```\n" + code.rstrip("\n") + "\n\n```"


@given(code=CODE.filter(lambda code: "```" not in code), sizes=PIECES)
def test_what_clients_cut_out_of_the_fence_is_the_code(code: str, sizes: list[int]) -> None:
    """As Continue cuts it: from behind the first line to before the empty one."""
    answer = in_pieces(Fence(), code, sizes)
    assert answer[answer.index("```\n") + 4 : answer.rindex("\n\n```")] == code.rstrip("\n")
