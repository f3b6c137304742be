// Line charts, drawn by uPlot. Each has a text for screen readers.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { clock } from "./format";
import { useWidth } from "./ui";

export type Series = { name: string; values: (number | null)[]; color: string; dash?: boolean };
type Props = {
  label: string;
  x: number[];
  series: Series[];
  height: number;
  isTime?: boolean;
  cursor?: number; // an index to mark
};

export function LineChart({ label, x, series, height, isTime = false, cursor }: Props) {
  const [place, width] = useWidth<HTMLDivElement>();
  const chart = useRef<uPlot | null>(null);
  const marked = useRef(cursor);
  marked.current = cursor;
  const data = [x, ...series.map((each) => each.values)] as uPlot.AlignedData;
  const shape = series.map((each) => `${each.name}${each.color}`).join();

  useEffect(() => {
    if (!width) return;
    const color = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = {
      stroke: color("--muted"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const made = new uPlot(
      {
        width,
        height,
        legend: { show: false },
        cursor: { show: false },
        padding: [10, 8, 0, 0],
        scales: { x: { time: isTime }, y: { range: (_, _low, high) => [0, Math.max(high * 1.15, 0.1)] } },
        axes: [
          {
            ...axis,
            size: 24,
            space: 70,
            ...(isTime
              ? { values: (_: uPlot, times: number[]) => times.map((time) => clock(time * 1000).slice(0, 5)) }
              : { incrs: [1, 2, 5, 10, 20, 50], values: (_: uPlot, steps: number[]) => steps.map(String) }),
          },
          { ...axis, size: 46 },
        ],
        series: [
          {},
          ...series.map((each) => ({
            label: each.name,
            stroke: color(each.color),
            width: 2,
            spanGaps: true,
            ...(each.dash ? { dash: [5, 5] } : {}),
            points: { show: !each.dash, size: isTime ? 4 : 6, fill: color(each.color) },
          })),
        ],
        hooks: {
          draw: [
            (drawn: uPlot) => {
              const index = marked.current;
              if (index === undefined) return;
              const at = drawn.valToPos(drawn.data[0]![index]!, "x", true);
              drawn.ctx.save();
              drawn.ctx.strokeStyle = color("--ink");
              drawn.ctx.globalAlpha = 0.5;
              drawn.ctx.beginPath();
              drawn.ctx.moveTo(at, drawn.bbox.top);
              drawn.ctx.lineTo(at, drawn.bbox.top + drawn.bbox.height);
              drawn.ctx.stroke();
              drawn.ctx.restore();
            },
          ],
        },
      },
      data,
      place.current!,
    );
    chart.current = made;
    return () => {
      made.destroy();
      chart.current = null;
    };
  }, [width, shape, height, document.documentElement.dataset["theme"]]);

  useEffect(() => chart.current?.setData(data), [x, ...series.map((each) => each.values), cursor]);

  return <div class="plot" ref={place} role="img" aria-label={label} style={{ height: `${height}px` }} />;
}
