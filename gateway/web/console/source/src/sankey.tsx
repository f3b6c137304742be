// Fallbacks as flows: from a target, through a reason, to the target that was tried next.
import { count, reason } from "./format";
import { useWidth } from "./ui";

export type Flow = { from: string; reason: string; to: string; requests: number };
type Node = { name: string; size: number; y: number; height: number; used: [number, number] };

const GAP = 14;
const LEAST = 240; // pixels; more if there are many names
const NAME = 16; // the least height of one
const BAR = 10;

export function Sankey({ flows, kinds }: { flows: Flow[]; kinds: Map<string, string> }) {
  const [place, width] = useWidth<HTMLDivElement>();
  const names = [(flow: Flow) => flow.from, (flow: Flow) => flow.reason, (flow: Flow) => flow.to] as const;
  const most = Math.max(...names.map((nameOf) => new Set(flows.map(nameOf)).size));
  const height = Math.max(LEAST, most * (NAME + GAP) + GAP);
  const columns = [column(flows, names[0], height), column(flows, names[1], height), column(flows, names[2], height)] as const;
  const xs = [0, width / 2 - BAR / 2, width - BAR];
  const isNarrow = width < 560; // no room for reasons between the targets: they are listed below
  const color = (name: string) => (kinds.get(name) === "worker" ? "fast" : "quality");
  return (
    <div ref={place}>
      {width > 0 && (
        <svg class="sankey" width={width} height={height + 8} aria-hidden="true">
          {flows.map((flow) => {
            const [from, why, to] = [columns[0].get(flow.from)!, columns[1].get(flow.reason)!, columns[2].get(flow.to)!];
            const band = (node: Node) => (flow.requests / node.size) * node.height;
            const first = ribbon(xs[0]! + BAR, from.y + from.used[1], band(from), xs[1]!, why.y + why.used[0], band(why));
            const second = ribbon(xs[1]! + BAR, why.y + why.used[1], band(why), xs[2]!, to.y + to.used[0], band(to));
            from.used[1] += band(from);
            why.used[0] += band(why);
            why.used[1] += band(why);
            to.used[0] += band(to);
            return (
              <g key={`${flow.from} ${flow.reason} ${flow.to}`} class={`flow flow-${color(flow.from)}`}>
                <title>{`${flow.from} → ${flow.to}: ${flow.requests}, ${reason(flow.reason)}`}</title>
                <path d={first} />
                <path d={second} />
              </g>
            );
          })}
          {columns.map((nodes, index) =>
            [...nodes.values()].map((node) => (
              <g key={`${index} ${node.name}`}>
                <rect
                  class={index === 1 ? "node node-reason" : `node node-${color(node.name)}`}
                  x={xs[index]!}
                  y={node.y}
                  width={BAR}
                  height={node.height}
                  rx={3}
                />
                {(index !== 1 || !isNarrow) && <text
                  x={index === 2 ? xs[2]! - 8 : xs[index]! + BAR + 8}
                  y={node.y + node.height / 2 + 4}
                  text-anchor={index === 2 ? "end" : "start"}
                >
                  {index === 1 ? node.name.replaceAll("_", " ") : node.name} <tspan class="tick">{count(node.size)}</tspan>
                </text>}
              </g>
            )),
          )}
        </svg>
      )}
      <ul class={isNarrow ? "flow-list" : "hidden"}>
        {flows.map((flow) => (
          <li key={`${flow.from} ${flow.reason} ${flow.to}`}>
            <b>{count(flow.requests)}</b> {flow.from} → {flow.to}: {flow.reason.replaceAll("_", " ")}
          </li>
        ))}
      </ul>
    </div>
  );
}

function column(flows: Flow[], nameOf: (flow: Flow) => string, most: number): Map<string, Node> {
  const sizes = new Map<string, number>();
  for (const flow of flows) sizes.set(nameOf(flow), (sizes.get(nameOf(flow)) ?? 0) + flow.requests);
  const total = [...sizes.values()].reduce((left, right) => left + right, 0);
  const room = most - GAP * (sizes.size - 1) - NAME * sizes.size;
  const nodes = new Map<string, Node>();
  let y = 4;
  for (const [name, size] of sizes) {
    const height = NAME + Math.max(0, (size / total) * room);
    nodes.set(name, { name, size, y, height, used: [0, 0] });
    y += height + GAP;
  }
  return nodes;
}

function ribbon(x0: number, y0: number, h0: number, x1: number, y1: number, h1: number): string {
  const middle = (x0 + x1) / 2;
  const top = `M${x0},${y0}C${middle},${y0} ${middle},${y1} ${x1},${y1}`;
  return `${top}L${x1},${y1 + h1}C${middle},${y1 + h1} ${middle},${y0 + h0} ${x0},${y0 + h0}Z`;
}
