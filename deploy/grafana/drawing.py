"""Draw a Board and its query results as one SVG, without network, scripts or Grafana, to check dashboards by eye.

Uses Grafana's 24-column grid; independent of where the data comes from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from deploy.grafana.answers import Answered, Series, Window
from deploy.grafana.panels import Board, Colour, Kind, Panel, Word

WIDTH: Final = 1440
COLOURS: Final = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
BACKGROUND: Final = "#ffffff"
_COLUMNS: Final = 24
_HEIGHTS: Final = {Kind.LINES: 220, Kind.STATES: 220, Kind.NUMBER: 90}
_HEADING: Final = 34
_GAP: Final = 8
_LEGENDS: Final = 4
STATE_COLOURS: Final = {
    Colour.GOOD: "#2ca02c",
    Colour.SOSO: "#ffbf00",
    Colour.BAD: "#d62728",
    Colour.NEITHER: "#bbbbbb",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle of the page, in pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


def layout(board: Board) -> tuple[tuple[Box, ...], int]:
    """The box of each panel, in the board's order, and the height of the page. Rows are filled from the left."""
    boxes: list[Box] = []
    top = _HEADING
    for section in board.sections:
        top += _HEADING
        left, tallest = 0, 0
        for panel in section.panels:
            width = WIDTH * panel.width // _COLUMNS
            if left + width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            boxes.append(Box(left=left, top=top, width=width - _GAP, height=_HEIGHTS[panel.kind] - _GAP))
            left, tallest = left + width, max(tallest, _HEIGHTS[panel.kind])
        top += tallest
    return tuple(boxes), top


def draw(board: Board, answers: Sequence[Answered], window: Window) -> str:
    """The whole page."""
    boxes, height = layout(board)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="{BACKGROUND}"/>',
        _text(8, 24, board.title, size=18),
    ]
    places = iter(zip(boxes, answers, strict=True))
    for section in board.sections:
        here = [next(places) for _ in section.panels]
        parts.append(_text(8, here[0][0].top - 8, section.title, size=14, colour="#666666"))
        for box, answered in here:
            parts += _panel(box, answered, window)
    return "\n".join([*parts, "</svg>"])


def _panel(box: Box, answered: Answered, window: Window) -> Iterator[str]:
    yield f'<g transform="translate({box.left},{box.top})">'
    yield f'<rect width="{box.width}" height="{box.height}" fill="none" stroke="#cccccc"/>'
    yield _text(6, 15, answered.panel.title, size=12)
    curves = [one for one in answered.curves if one.points]
    match answered.panel.kind:
        case Kind.NUMBER:
            colour = _colour(answered.panel, curves)
            yield _text(6, 60, _number(curves, answered.panel.unit), size=30, colour=colour)
        case Kind.LINES:
            yield from _lines(box, curves, answered.panel, window)
        case Kind.STATES:
            yield from _bands(box, curves, answered.panel.words, window)
    yield "</g>"


def _colour(panel: Panel, curves: Sequence[Series]) -> str:
    """That of the threshold that the number has reached."""
    if not panel.thresholds or not curves:
        return COLOURS[0]
    reached = [each.colour for each in panel.thresholds if curves[0].points[-1][1] >= each.at]
    return STATE_COLOURS[reached[-1] if reached else Colour.GOOD]


def _lines(box: Box, curves: Sequence[Series], panel: Panel, window: Window) -> Iterator[str]:
    """Curves from 0 to the maximum, the maximum at the axis, a legend of the first few, and thresholds below the
    maximum."""
    unit = panel.unit
    most = max((value for one in curves for _, value in one.points), default=0.0) or 1.0
    bottom, height = box.height - 46, box.height - 74
    yield _text(6, 30, said(most, unit), size=10, colour="#666666")
    yield f'<line x1="6" y1="{bottom}" x2="{box.width - 6}" y2="{bottom}" stroke="#cccccc"/>'
    for each in panel.thresholds if curves else ():
        if each.at <= most:
            y = bottom - height * each.at / most
            style = f'stroke="{STATE_COLOURS[each.colour]}" stroke-dasharray="6 4"'
            yield f'<line x1="6" y1="{y:.1f}" x2="{box.width - 6}" y2="{y:.1f}" {style}/>'
    for one, colour in zip(curves, _cycle(len(curves)), strict=True):
        places = [(_x(box, at_s, window), bottom - height * max(value, 0.0) / most) for at_s, value in one.points]
        if len(places) == 1:  # a line of one point would be invisible
            places.append((places[0][0] + 3, places[0][1]))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for number, one in enumerate(curves[:_LEGENDS]):
        left, top = 6 + (number % 2) * box.width // 2, box.height - 26 + (number // 2) * 14
        yield _text(left, top, f"{one.name} {said(one.points[-1][1], unit)}", size=10, colour=COLOURS[number])


def _bands(box: Box, curves: Sequence[Series], words: tuple[Word, ...], window: Window) -> Iterator[str]:
    """One band per series, a segment per point coloured by its value, and the last value as text."""
    height = min(24, (box.height - 30) // max(1, len(curves)))
    piece = (box.width - 180) * window.step_s / (window.end_s - window.begin_s)
    for number, one in enumerate(curves):
        top = 26 + number * height
        for at_s, value in one.points:
            colour = STATE_COLOURS[_word(words, value).colour]
            x = 170 + (_x(box, at_s, window) - 6) * (box.width - 180) / (box.width - 12)
            yield f'<rect x="{x:.1f}" y="{top}" width="{piece + 0.5:.1f}" height="{height - 3}" fill="{colour}"/>'
        yield _text(6, top + height / 2 + 3, f"{one.name}: {_word(words, one.points[-1][1]).text}", size=10)


def _word(words: tuple[Word, ...], value: float) -> Word:
    is_known = 0 <= value < len(words)
    return words[int(value)] if is_known else Word(text=f"{value:g}", colour=Colour.NEITHER)


def _x(box: Box, at_s: float, window: Window) -> float:
    return 6 + (box.width - 12) * (at_s - window.begin_s) / (window.end_s - window.begin_s)


def _cycle(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _number(curves: Sequence[Series], unit: str) -> str:
    return said(curves[0].points[-1][1], unit) if curves else "no data"


def said(value: float, unit: str) -> str:
    """A value with its unit, short."""
    match unit:
        case "percentunit":
            return f"{value:.1%}"
        case "s":
            return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
        case "bytes":
            return f"{value / 2**20:.4g} MiB"
        case "currencyUSD":
            return f"${value:.4g}"
        case "short":
            return f"{value:.4g}"
    return f"{value:.3g}/s"


def _text(x: float, y: float, text: str, *, size: int, colour: str = "#222222") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
