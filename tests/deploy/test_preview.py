"""The preview reports missing data and draws the results of queries."""

import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.grafana.answers import Answered, Series, Window, filled_in
from deploy.grafana.boards import BOARDS
from deploy.grafana.drawing import COLOURS, STATE_COLOURS, WIDTH, draw, layout, said
from deploy.grafana.panels import Board, Colour, Kind
from deploy.grafana.preview import PictureError, main, photograph

WINDOW = Window(begin_s=1000.0, end_s=1060.0, step_s=1.0, rate_s=10.0)
SERIES = Series(name="a & <b>", points=((1010.0, 0.0), (1020.0, 2.0)))


def answers(board: Board, *series: Series) -> list[Answered]:
    """The same answer to every query."""
    return [Answered(panel=panel, series=(series,) * len(panel.queries)) for panel in board.panels]


def test_a_query_without_points_and_a_curve_that_is_no_number_are_complained_of() -> None:
    panel = BOARDS[0].panels[0]
    assert not Answered(panel=panel, series=((SERIES,),)).complaints
    assert len(Answered(panel=panel, series=((),)).complaints) == 1
    assert len(Answered(panel=panel, series=((replace(SERIES, points=()),),)).complaints) == 1
    assert "not a number" in Answered(panel=panel, series=((replace(SERIES, had_nan=True),),)).complaints[0]


def test_no_variable_is_left_in_a_query() -> None:
    for board in BOARDS:
        for panel in board.panels:
            assert all("$" not in filled_in(query.expr, WINDOW) for query in panel.queries)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_panels_are_laid_out_side_by_side_and_never_over_each_other(board: Board) -> None:
    boxes, height = layout(board)
    assert len(boxes) == len(board.panels)
    taken: set[tuple[int, int]] = set()
    for box in boxes:
        assert box.left >= 0
        assert box.left + box.width <= WIDTH
        assert box.top + box.height <= height
        places = {
            (x, y) for x in range(box.left, box.left + box.width, 4) for y in range(box.top, box.top + box.height, 4)
        }
        assert not places & taken
        taken |= places


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_page_is_well_formed_and_holds_every_title_and_curve(board: Board) -> None:
    page = draw(board, answers(board, SERIES), WINDOW)
    texts = {element.text or "" for element in ET.fromstring(page).iter("{http://www.w3.org/2000/svg}text")}
    assert {panel.title for panel in board.panels} <= texts
    assert page.count("<polyline") == sum(len(panel.queries) for panel in board.panels if panel.kind is Kind.LINES)
    assert any(text.startswith("a & <b>") for text in texts) or not any(p.kind is not Kind.NUMBER for p in board.panels)


def test_without_data_a_panel_is_as_empty_as_it_looks() -> None:
    page = draw(BOARDS[0], answers(BOARDS[0]), WINDOW)
    assert "<polyline" not in page
    assert page.count("no data") == sum(panel.kind is Kind.NUMBER for panel in BOARDS[0].panels)
    assert not any(colour in page for colour in (*COLOURS[1:], STATE_COLOURS[Colour.GOOD]))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.031, "s", "31 ms"),
        (2.5, "s", "2.5 s"),
        (0.5, "percentunit", "50.0%"),
        (2**20, "bytes", "1 MiB"),
        (3, "reqps", "3/s"),
    ],
)
def test_values_are_said_with_their_unit(value: float, unit: str, text: str) -> None:
    assert said(value, unit) == text


def test_a_prometheus_that_is_not_there_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["http://127.0.0.1:1", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--rate-seconds", "nan"]])
def test_a_window_that_is_none_is_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["http://127.0.0.1:1", "--out", str(tmp_path), *words])


def test_a_browser_that_fails_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text("#!/bin/sh\necho no display >&2; exit 3\n")
    browser.chmod(0o755)
    page = tmp_path / "page.svg"
    with pytest.raises(PictureError, match="no display"):
        photograph(str(browser), page, height=100)
    assert {file.name for file in tmp_path.iterdir()} == {"browser"}


def test_a_browser_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.grafana.preview._PICTURE_S", 3.0)
    browser, children = tmp_path / "browser", tmp_path / "child"
    browser.write_text(f"#!/bin/sh\nsleep 3600 &\necho $! > {children}\nwait\n")
    browser.chmod(0o755)
    with pytest.raises(PictureError, match="longer than"):
        photograph(str(browser), tmp_path / "page.svg", height=100)
    while is_alive(int(children.read_text())):
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
