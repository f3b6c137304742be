// The latest decisions. Only the rows in view are in the document, so ten thousand scroll like ten.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ApiError, get } from "./api";
import { Explanation, useKinds } from "./explain";
import { clock, count, dollars, ms } from "./format";
import { decisions, session } from "./live";
import { Store, useStore } from "./store";
import type { Decision, Row } from "./types";
import { Copy, Empty, LaneName, Problem, State } from "./ui";

const ROW_PX = 38;
const EXTRA = 8; // rows above and below those in view

type Filter = { route: string; reason: string; key: string; target: string; minMs: string; text: string };
const NONE: Filter = { route: "", reason: "", key: "", target: "", minMs: "", text: "" };
const filter = new Store<Filter>(NONE);

export function Decisions({ opened, onOpen }: { opened: string; onOpen: (id: string) => void }) {
  const { rows, scope, capacity } = useStore(decisions);
  const chosen = useStore(filter);
  const [paused, setPaused] = useState<Row[] | null>(null);
  const source = paused ?? rows;
  const shown = useMemo(() => filtered(source, chosen), [source, chosen]);
  const whose = { replicas: "all replicas", gateway: "this gateway" }[scope] ?? "this gateway process";
  return (
    <div class={opened ? "master opened" : "master"}>
      <section class="panel list" aria-labelledby="decisions-title">
        <header class="row">
          <h2 id="decisions-title">Decisions</h2>
          <span class="note" role="status">
            {shown.length === source.length ? "" : `${count(shown.length)} of `}
            {count(source.length)} of {whose}, which keeps {count(capacity)}
          </span>
          <button type="button" class="quiet" aria-pressed={paused !== null} onClick={() => setPaused(paused ? null : rows)}>
            {paused ? `Resume (${count(Math.max(0, rows.length - paused.length))} new)` : "Pause"}
          </button>
        </header>
        <Filters rows={source} chosen={chosen} />
        {source.length === 0 ? (
          <Empty title="No decisions yet">Send a request, in the playground or from an application.</Empty>
        ) : (
          <List rows={shown} opened={opened} onOpen={onOpen} />
        )}
      </section>
      {opened && <Record id={opened} onClose={() => onOpen("")} />}
    </div>
  );
}

function filtered(rows: Row[], { route, reason, key, target, minMs, text }: Filter): Row[] {
  const least = Number(minMs) || 0;
  const words = text.trim().toLowerCase();
  const found: Row[] = [];
  for (let index = rows.length - 1; index >= 0; index--) {
    const row = rows[index]!;
    if (route && row.route !== route) continue;
    if (key && (row.key ?? "(none)") !== key) continue;
    if (target && row.target !== target) continue;
    if (row.total_ms < least) continue;
    if (reason && !(reason === "any fallback" ? row.fallback : row.attempts.split(",").some((each) => each.endsWith(`=${reason}`)))) continue;
    if (words && !`${row.id} ${row.task} ${row.attempts} ${row.path} ${row.outcome}`.toLowerCase().includes(words)) continue;
    found.push(row);
  }
  return found;
}

function Filters({ rows, chosen }: { rows: Row[]; chosen: Filter }) {
  const options = useMemo(() => {
    const reasons = new Set<string>();
    for (const row of rows) for (const part of row.attempts.split(",")) reasons.add(part.split("=")[1] ?? "");
    reasons.delete("ok");
    reasons.delete("");
    const of = (pick: (row: Row) => string | null) => [...new Set(rows.map(pick))].filter(Boolean).sort() as string[];
    return {
      route: of((row) => row.route),
      target: of((row) => row.target),
      reason: ["any fallback", ...[...reasons].sort()],
      key: of((row) => row.key ?? "(none)"),
    };
  }, [rows]);
  const set = (name: keyof Filter, value: string) => filter.set({ ...chosen, [name]: value });
  return (
    <div class="filters" role="search" aria-label="Filter decisions">
      {(["route", "target", "reason", "key"] as const).map((name) => (
        <label key={name} class="field">
          <span>{name}</span>
          <select value={chosen[name]} onChange={(event) => set(name, event.currentTarget.value)}>
            <option value="">all</option>
            {options[name].map((each) => (
              <option key={each} value={each}>
                {each.replaceAll("_", " ")}
              </option>
            ))}
          </select>
        </label>
      ))}
      <label class="field">
        <span>slower than, ms</span>
        <input
          type="number"
          min={0}
          value={chosen.minMs}
          onInput={(event) => set("minMs", event.currentTarget.value)}
        />
      </label>
      <label class="field grow">
        <span>ID, task or path</span>
        <input type="search" value={chosen.text} onInput={(event) => set("text", event.currentTarget.value)} />
      </label>
      {JSON.stringify(chosen) !== JSON.stringify(NONE) && (
        <button type="button" class="quiet" onClick={() => filter.set(NONE)}>
          Clear
        </button>
      )}
    </div>
  );
}

type ListProps = { rows: Row[]; opened: string; onOpen: (id: string) => void };

function List({ rows, opened, onOpen }: ListProps) {
  const kinds = useKinds();
  const place = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  useEffect(() => {
    const element = place.current!;
    let frame = 0;
    const measure = () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => setView({ top: element.scrollTop, height: element.clientHeight }));
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    element.addEventListener("scroll", measure, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", measure);
    };
  }, []);
  const first = Math.max(0, Math.floor(view.top / ROW_PX) - EXTRA);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW_PX) + EXTRA);
  return (
    <div class="scroll virtual" ref={place} tabIndex={0} role="region" aria-label="List of decisions">
      <table class="table decisions" aria-rowcount={rows.length + 1}>
        <thead>
          <tr aria-rowindex={1}>
            <th scope="col">Time</th>
            <th scope="col">Task</th>
            <th scope="col">Route</th>
            <th scope="col">Target</th>
            <th scope="col">Why</th>
            <th scope="col" class="number">
              Latency
            </th>
            <th scope="col">Key</th>
          </tr>
        </thead>
        <tbody>
          {first > 0 && (
            <tr aria-hidden="true" class="spacer">
              <td colSpan={7} style={{ height: `${first * ROW_PX}px` }} />
            </tr>
          )}
          {rows.slice(first, last).map((row, index) => (
            <tr key={row.id} aria-rowindex={first + index + 2} class={row.id === opened ? "chosen" : ""}>
              <td>
                <button type="button" class="link" onClick={() => onOpen(row.id)} aria-label={`Open decision of ${clock(row.time_ms)}`}>
                  {clock(row.time_ms)}
                </button>
              </td>
              <td>{row.task}</td>
              <td>{row.route || "–"}</td>
              <td>
                <LaneName name={row.target} kinds={kinds} />
              </td>
              <td>
                {row.outcome !== "ok" ? (
                  <State value={row.outcome} />
                ) : row.fallback ? (
                  <span class="why">{row.fallback.replaceAll("_", " ")}</span>
                ) : (
                  <span class="note">first choice</span>
                )}
              </td>
              <td class="number">{ms(row.total_ms)}</td>
              <td class="cut">{row.key ?? "–"}</td>
            </tr>
          ))}
          {last < rows.length && (
            <tr aria-hidden="true" class="spacer">
              <td colSpan={7} style={{ height: `${(rows.length - last) * ROW_PX}px` }} />
            </tr>
          )}
        </tbody>
      </table>
    </div>
  );
}

function Record({ id, onClose }: { id: string; onClose: () => void }) {
  const known = useStore(session);
  const [record, setRecord] = useState<Decision | null>(null);
  const [error, setError] = useState("");
  const close = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    setRecord(null);
    setError("");
    close.current?.focus({ preventScroll: true });
    get<Decision>(`decisions/${encodeURIComponent(id)}`).then(setRecord, (failure: ApiError) => setError(failure.message));
  }, [id]);
  const trace = record?.trace && known?.trace_url?.replace("{trace}", encodeURIComponent(record.trace));
  return (
    <aside
      class="panel record"
      aria-label={`Decision ${id}`}
      onKeyDown={(event) => event.key === "Escape" && onClose()}
    >
      <header class="row">
        <h2>Decision</h2>
        <button type="button" class="quiet" ref={close} onClick={onClose}>
          Close
        </button>
      </header>
      {error && <Problem>{error}</Problem>}
      {record && (
        <>
          <p class="id">
            <code>{record.id}</code> <Copy text={record.id} label="Copy ID" />
          </p>
          <Explanation decision={record} />
          <dl class="facts">
            {factsOf(record).map(([name, value]) => (
              <div key={name}>
                <dt>{name}</dt>
                <dd>{value}</dd>
              </div>
            ))}
            <div>
              <dt>trace</dt>
              <dd>
                {trace ? (
                  <a href={trace} rel="noreferrer" target="_blank">
                    {record.trace}
                  </a>
                ) : (
                  (record.trace ?? "none")
                )}
              </dd>
            </div>
          </dl>
          <details>
            <summary>The full record</summary>
            <pre tabIndex={0}>{JSON.stringify(record, null, 2)}</pre>
          </details>
          <p class="note">Decisions contain no text of prompts or answers.</p>
        </>
      )}
    </aside>
  );
}

function factsOf(record: Decision): [string, string][] {
  return [
    ["time", new Date(record.time).toLocaleString()],
    ["API", `${record.path}${record.stream ? ", streamed" : ""}`],
    ["key", record.principal ?? "none"],
    ["policy", record.policy],
    ["tokens", `${record.input_tokens ?? "?"} in, ${record.output_tokens ?? "?"} out`],
    ["cost", dollars(record.cost)],
    ["output format", record.schema ?? "none"],
  ];
}
