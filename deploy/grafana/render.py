"""Render a Board as Grafana JSON with Grafana's SDK: classic dashboards, for Grafana 10 to 12."""

from itertools import count
from string import ascii_uppercase
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
)

from deploy.grafana.panels import ANNOTATIONS, Annotation, Board, Colour, Kind, Panel, Word

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG: Final = "twolane"
_COLUMNS: Final = 24
_HEIGHTS: Final = {Kind.LINES: 8, Kind.NUMBER: 4, Kind.STATES: 8}
_Drawn = timeseries.Panel | stat.Panel | statetimeline.Panel


def render(board: Board) -> str:
    """The text of the file; deterministic."""
    page = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        # All jobs are those of the metric: `.+` would be every job of the Prometheus.
        .with_variable(_values_of("job", f"label_values({board.jobs_of}, job)"))
        .with_variable(
            _values_of("instance", f'label_values({board.jobs_of}{{job=~"$job"}}, instance)').all_value(".+")
        )
        .link(dashboard.DashboardLink("Twolane").tags([TAG]).as_dropdown(True).keep_time(True).include_vars(True))
    )
    for variable in board.variables:
        shown = _values_of(variable.name, variable.query).all_value(".+")
        page = page.with_variable(shown.label(variable.label) if variable.label else shown)
    for annotation in ANNOTATIONS:
        page = page.annotation(_annotation(annotation))
    numbers = count(1)
    for section in board.sections:
        page = page.with_row(dashboard.Row(section.title).id(next(numbers)))
        for panel in section.panels:
            page = page.with_panel(_drawn(panel).id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=1).encode(page.build()) + "\n"


def _values_of(name: str, query: str) -> dashboard.QueryVariable:
    """A variable that is refreshed when the time range changes, because instances come and go."""
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
    )


def _annotation(annotation: Annotation) -> dashboard.AnnotationQuery:
    """Grafana names an event by its labels: the policy's hash, or the instance."""
    made = (
        dashboard.AnnotationQuery().name(annotation.name).datasource(SOURCE).enable(True).icon_color(annotation.colour)
    )
    return made.expr(annotation.expr)


def _drawn(panel: Panel) -> _Drawn:
    drawn: _Drawn = (
        _empty(panel.kind)
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(SOURCE)
        .span(min(panel.width, _COLUMNS))
        .height(_HEIGHTS[panel.kind])
    )
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        drawn = drawn.with_target(
            prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
        )
    if panel.thresholds:
        drawn = drawn.thresholds(_thresholds(panel))
    if panel.thresholds and isinstance(drawn, timeseries.Panel):
        drawn = drawn.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    return drawn.mappings([_named(panel.words)]) if panel.words else drawn


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    """Grafana's first step has no value: it colours everything below the second one."""
    steps = [Threshold(value=None, color=Colour.GOOD)]
    steps += [Threshold(value=each.at, color=each.colour) for each in panel.thresholds]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _empty(kind: Kind) -> _Drawn:
    """An empty panel with explicit options, because Grafana's defaults change between versions."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    legend = legend.placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    match kind:
        case Kind.NUMBER:
            latest = common.ReduceDataOptions().calcs(["lastNotNull"])
            return stat.Panel().reduce_options(latest).graph_mode(BigValueGraphMode.AREA)
        case Kind.STATES:
            return statetimeline.Panel().legend(legend).tooltip(tooltip).show_value(VisibilityMode.AUTO)
        case Kind.LINES:
            drawn = timeseries.Panel().legend(legend).tooltip(tooltip).show_points(VisibilityMode.AUTO)
            return drawn.line_width(1).fill_opacity(5)


def _named(words: tuple[Word, ...]) -> ValueMap:
    return ValueMap(
        options={
            str(value): ValueMappingResult(text=word.text, color=word.colour, index=value)
            for value, word in enumerate(words)
        }
    )
