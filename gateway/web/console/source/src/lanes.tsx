// Lanes live: latency per route against its objective, states over time, fallbacks, and the queues of all targets.
import { useMemo } from "preact/hooks";
import { LineChart } from "./chart";
import { clock, count, ms, plural, quantile } from "./format";
import { decisions, lanes } from "./live";
import { Sankey, type Flow } from "./sankey";
import { useStore } from "./store";
import type { Lane, LaneChange, Lanes as LanesNow, Row } from "./types";
import { Empty, LaneName, State, useWidth } from "./ui";
import { useKinds } from "./explain";

const WINDOW_MS = 10 * 60_000;
const BUCKET_MS = 10_000;

export function Lanes() {
  const now = useStore(lanes);
  const { rows, scope } = useStore(decisions);
  const kinds = useKinds();
  const flows = useMemo(() => flowsOf(rows), [rows]);
  if (!now) return <Empty title="Waiting for the gateway …" />;
  const routes = [...new Set(now.lanes.map((lane) => lane.route))];
  return (
    <div class="stack">
      <section aria-labelledby="routes-title">
        <h2 id="routes-title">Routes</h2>
        <p class="note">
          Latency of the last ten minutes, in steps of ten seconds, against the objective of the first lane.
        </p>
        <div class="cards">
          {routes.map((route) => (
            <RouteCard key={route} route={route} now={now} rows={rows} kinds={kinds} />
          ))}
        </div>
      </section>
      <section class="panel" aria-labelledby="timeline-title">
        <h2 id="timeline-title">Lane states</h2>
        <Timeline now={now} />
      </section>
      <section class="panel" aria-labelledby="fallbacks-title">
        <h2 id="fallbacks-title">Fallbacks</h2>
        {flows.length ? (
          <>
            <p class="note">
              From the target on the left to the one on the right, by reason: {count(sum(flows))} fallbacks in the last{" "}
              {count(rows.length)} decisions of {scope === "replicas" ? "all replicas" : "this gateway"}.
            </p>
            <Sankey flows={flows} kinds={kinds} />
          </>
        ) : (
          <Empty title="No request has changed its lane">
            A fallback appears here with its reason: low confidence, an invalid output, an ejected lane.
          </Empty>
        )}
      </section>
      <section class="panel" aria-labelledby="targets-title">
        <h2 id="targets-title">Targets</h2>
        <TargetTable now={now} kinds={kinds} />
      </section>
    </div>
  );
}

type CardProps = { route: string; now: LanesNow; rows: Row[]; kinds: Map<string, string> };

function RouteCard({ route, now, rows, kinds }: CardProps) {
  const own = now.lanes.filter((lane) => lane.route === route);
  const budget = own[0]?.budget_ms ?? null;
  const { x, p50, p95, all, requests } = useMemo(() => latenciesOf(rows, route, now.time_ms), [rows, route, Math.floor(now.time_ms / BUCKET_MS)]);
  const p95Now = quantile(all, 0.95);
  const isLate = budget !== null && p95Now !== null && p95Now > budget;
  return (
    <article class="card">
      <header>
        <h3>{route}</h3>
        <span class="note">{plural(requests, "request")}</span>
      </header>
      <p class="pair">
        <span>
          <b class="big">{ms(quantile(all, 0.5))}</b> p50
        </span>
        <span>
          <b class={`big ${isLate ? "late" : ""}`}>{ms(p95Now)}</b> p95
        </span>
        <span>{objectiveOf(own[0]) ? `objective ${objectiveOf(own[0])}` : <span class="note">no objective</span>}</span>
      </p>
      {requests > 0 ? (
        <LineChart
          label={`Latency of ${route}: p50 ${ms(quantile(all, 0.5))}, p95 ${ms(p95Now)}`}
          x={x}
          isTime
          height={110}
          series={[
            { name: "p50", values: p50, color: "--muted" },
            { name: "p95", values: p95, color: isLate ? "--late" : "--fast" },
            ...(budget === null ? [] : [{ name: "objective", values: x.map(() => budget), color: "--near", dash: true }]),
          ]}
        />
      ) : (
        <p class="quiet-plot">No requests yet</p>
      )}
      <ul class="lane-list">
        {own.map((lane) => (
          <LaneLine key={lane.target} lane={lane} kinds={kinds} />
        ))}
      </ul>
    </article>
  );
}

function LaneLine({ lane, kinds }: { lane: Lane; kinds: Map<string, string> }) {
  return (
    <li>
      <LaneName name={lane.target} kinds={kinds} />
      {isGuarded(lane) && <State value={lane.state} />}
      <span class="note">
        {lane.calls ? `p50 ${ms(lane.p50_ms)}, p95 ${ms(lane.p95_ms)}, ${plural(lane.calls, "call")}` : "no calls"}
        {lane.failed ? `, ${lane.failed} failed` : ""}
      </span>
    </li>
  );
}

function isGuarded(lane: Lane): boolean {
  return lane.budget_ms !== null || lane.first_token_budget_ms !== null;
}

function objectiveOf(lane: Lane | undefined): string {
  const firstToken = lane?.first_token_budget_ms ?? null;
  return [
    (lane?.budget_ms ?? null) === null ? "" : ms(lane!.budget_ms),
    firstToken === null ? "" : `${ms(firstToken)} to the first token`,
  ]
    .filter(Boolean)
    .join(", ");
}

function latenciesOf(rows: Row[], route: string, now_ms: number) {
  const first = Math.floor((now_ms - WINDOW_MS) / BUCKET_MS);
  const last = Math.floor(now_ms / BUCKET_MS);
  const buckets = new Map<number, number[]>();
  const all: number[] = [];
  for (let index = rows.length - 1; index >= 0; index--) {
    const row = rows[index]!;
    const bucket = Math.floor(row.time_ms / BUCKET_MS);
    if (bucket < first) break;
    if (row.route !== route) continue;
    all.push(row.total_ms);
    const own = buckets.get(bucket);
    if (own) own.push(row.total_ms);
    else buckets.set(bucket, [row.total_ms]);
  }
  const x: number[] = [];
  const p50: (number | null)[] = [];
  const p95: (number | null)[] = [];
  for (let bucket = first; bucket <= last; bucket++) {
    const own = (buckets.get(bucket) ?? []).sort((left, right) => left - right);
    x.push((bucket * BUCKET_MS) / 1000);
    p50.push(quantile(own, 0.5));
    p95.push(quantile(own, 0.95));
  }
  all.sort((left, right) => left - right);
  return { x, p50, p95, all, requests: all.length };
}

function flowsOf(rows: Row[]): Flow[] {
  const flows = new Map<string, Flow>();
  for (const row of rows) {
    const attempts = row.attempts.split(",").map((each) => each.split("="));
    for (let index = 0; index + 1 < attempts.length; index++) {
      const [left, why] = attempts[index]!;
      const [taken] = attempts[index + 1]!;
      if (!left || !taken || !why || left === taken || why === "ok" || why === "cancelled") continue;
      const key = `${left}\n${why}\n${taken}`;
      const known = flows.get(key);
      if (known) known.requests++;
      else flows.set(key, { from: left, reason: why, to: taken, requests: 1 });
    }
  }
  return [...flows.values()].sort((left, right) => right.requests - left.requests);
}

function sum(flows: Flow[]): number {
  return flows.reduce((total, flow) => total + flow.requests, 0);
}

// Lane states over time

function Timeline({ now }: { now: LanesNow }) {
  const [place, width] = useWidth<HTMLDivElement>();
  const guarded = now.lanes.filter(isGuarded);
  if (!guarded.length) return <Empty title="No lane has an objective">Add `slo` to a route of the policy.</Empty>;
  const end = now.time_ms;
  const begin = Math.max(now.since_ms, end - WINDOW_MS, end - Math.max(60_000, end - now.since_ms));
  const label = Math.min(190, Math.max(120, width * 0.3));
  const x = (time: number) => label + (Math.max(0, time - begin) / Math.max(1, end - begin)) * (width - label - 4);
  const recent = [...now.changes].reverse().slice(0, 8);
  return (
    <>
      <div ref={place}>
        {width > 0 && (
          <svg
            class="timeline"
            width={width}
            height={guarded.length * 30 + 22}
            role="img"
            aria-label={`State of ${guarded.length} lanes since ${clock(begin)}; ${now.changes.length} changes`}
          >
            {guarded.map((lane, row) => (
              <g key={`${lane.route} ${lane.target}`} transform={`translate(0 ${row * 30})`}>
                <text x={0} y={19}>
                  {lane.route} / {lane.target}
                </text>
                {spansOf(lane, now.changes, begin, end).map((span, index) => (
                  <rect
                    key={index}
                    class={`span span-${span.state}`}
                    x={x(span.from)}
                    y={6}
                    width={Math.max(2, x(span.to) - x(span.from))}
                    height={18}
                    rx={4}
                  >
                    <title>{`${span.state} from ${clock(span.from)}: ${span.reason}`}</title>
                  </rect>
                ))}
              </g>
            ))}
            <text x={label} y={guarded.length * 30 + 16} class="tick">
              {clock(begin)}
            </text>
            <text x={width - 4} y={guarded.length * 30 + 16} class="tick" text-anchor="end">
              now
            </text>
          </svg>
        )}
      </div>
      {recent.length > 0 ? (
        <ol class="changes" aria-label="Latest changes of lanes">
          {recent.map((change, index) => (
            <li key={index}>
              <time>{clock(change.time_ms)}</time>
              <span>
                {change.route} / {change.target}
              </span>
              <State value={change.state} />
              <span class="note">{change.reason}</span>
            </li>
          ))}
        </ol>
      ) : (
        <p class="note">No lane has changed its state since {clock(now.since_ms)}.</p>
      )}
    </>
  );
}

type Span = { from: number; to: number; state: string; reason: string };

function spansOf(lane: Lane, changes: LaneChange[], begin: number, end: number): Span[] {
  const own = changes.filter((change) => change.route === lane.route && change.target === lane.target);
  const spans: Span[] = [];
  let open: Span = { from: begin, to: end, state: "serving", reason: "within its objective" };
  for (const change of own) {
    spans.push({ ...open, to: change.time_ms });
    open = { from: change.time_ms, to: end, state: change.state, reason: change.reason };
  }
  spans.push(open);
  return spans.filter((span) => span.to > begin).map((span) => ({ ...span, from: Math.max(span.from, begin) }));
}

function TargetTable({ now, kinds }: { now: LanesNow; kinds: Map<string, string> }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Table of targets">
      <table class="table">
        <thead>
          <tr>
            <th scope="col">Target</th>
            <th scope="col">Model</th>
            <th scope="col">Location</th>
            <th scope="col">Weights</th>
            <th scope="col">Breaker</th>
            <th scope="col">In flight</th>
            <th scope="col">Waiting</th>
            <th scope="col">Predicted wait</th>
          </tr>
        </thead>
        <tbody>
          {now.targets.map((target) => (
            <tr key={target.target}>
              <th scope="row">
                <LaneName name={target.target} kinds={kinds.has(target.target) ? kinds : new Map([[target.target, target.kind]])} />
              </th>
              <td>{target.model}</td>
              <td>{target.location ?? <span class="note">not stated</span>}</td>
              <td>{target.kind === "worker" ? <State value={target.residency} /> : <span class="note">remote</span>}</td>
              <td>
                <State value={target.breaker} />
              </td>
              <td>
                <Meter used={target.in_flight} size={target.max_in_flight} />
              </td>
              <td class="number">{count(target.waiting)}</td>
              <td class="number">{ms(target.predicted_wait_ms)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Meter({ used, size }: { used: number; size: number | null }) {
  if (size === null) return <span class="number">{count(used)}</span>;
  const share = Math.min(1, used / size);
  return (
    <span class="meter-line">
      <span class="meter" aria-hidden="true">
        <i class={share >= 1 ? "full" : share >= 0.8 ? "near" : ""} style={{ width: `${share * 100}%` }} />
      </span>
      <span class="number">
        {count(used)} of {count(size)}
      </span>
    </span>
  );
}
