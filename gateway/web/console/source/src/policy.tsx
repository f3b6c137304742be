// The running policy, and a proposed one beside it: mistakes at their line, one request by both, recent traffic by both.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, post } from "./api";
import { Editor, type Mistake } from "./editor";
import { count, dollars, ms } from "./format";
import { session } from "./live";
import { draft } from "./playground";
import { Store, useStore } from "./store";
import { Empty, Limited, Problem } from "./ui";

type Explained = {
  task: string;
  confidence: number;
  evidence: string;
  route: string;
  private: boolean;
  locations: string[] | null;
  candidates: { target: string; location: string | null; reason: string | null; detail: string }[];
  error?: { message: string };
};
type Checked = {
  version?: string;
  targets?: number;
  routes?: string[];
  warnings?: string[];
  explanation?: Explained;
  error?: { message: string; line: number; column: number };
};
type Figures = {
  requests: number;
  errors: number;
  p95_ms: number;
  hedges: number;
  dollars: number;
  lanes: { route: string; target: string | null; requests: number; share: number; p95_ms: number; dollars: number }[];
};
type Simulation = {
  assumed: string[];
  assumed_ms: number;
  old: Figures;
  new: Figures;
  moved: { task: string; old_route: string; old_target: string | null; new_route: string; new_target: string | null; requests: number }[];
  error?: { message: string };
};
type Result = { running: Checked; proposed: Checked; simulation?: Simulation };

const proposed = new Store<string | null>(null);
const CHECK_AFTER_MS = 700;

export function Policy() {
  const [running, setRunning] = useState<{ text: string; version: string; file: string } | null>(null);
  const [checked, setChecked] = useState<Result | null>(null);
  const [explained, setExplained] = useState<Result | null>(null);
  const [simulation, setSimulation] = useState<Simulation | null>(null);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState("");
  const text = useStore(proposed);
  const latest = useRef({ check: 0, explain: 0, simulate: 0 });

  const version = useStore(session)?.policy;
  const shown = useRef<string | null>(null);
  useEffect(() => {
    get<{ text: string; version: string; file: string }>("policy").then(
      (found) => {
        if (proposed.get() === null || proposed.get() === shown.current) proposed.set(found.text);
        shown.current = found.text;
        setRunning(found);
      },
      (failure: ApiError) => setError(failure.message),
    );
  }, [version]);

  const compare = async (what: "check" | "explain" | "simulate", more: object) => {
    const number = ++latest.current[what];
    setBusy(what);
    try {
      const found = await post<Result>("policy/compare", { policy: proposed.get(), ...more });
      if (number !== latest.current[what]) return;
      setChecked(found);
      if (what === "explain") setExplained(found);
      if (what === "simulate") setSimulation(found.simulation ?? null);
      setError("");
    } catch (failure) {
      setError((failure as ApiError).message);
    } finally {
      setBusy((now) => (now === what ? "" : now));
    }
  };
  useEffect(() => {
    if (text === null || !running) return;
    setExplained(null);
    setSimulation(null);
    const timer = setTimeout(() => void compare("check", {}), CHECK_AFTER_MS);
    return () => clearTimeout(timer);
  }, [text, running]);

  if (!running || text === null) return error ? <Problem>{error}</Problem> : <Empty title="Loading …" />;
  const mistakes = mistakesOf(checked?.proposed);
  return (
    <div class="stack">
      <p class="note">
        Nothing here changes the gateway: <code>{running.file}</code> remains the source of truth, and a change of the file
        is loaded at once. A proposal is checked in a process of its own.
      </p>
      <div class="columns even">
        <section class="panel" aria-labelledby="running-title">
          <header class="row">
            <h2 id="running-title">Running</h2>
            <code>{running.version}</code>
          </header>
          <div class="editor-box taller">
            <Editor label="Running policy, read-only" language="yaml" value={running.text} />
          </div>
          <Differs checked={checked?.running} running={running} />
        </section>
        <section class="panel" aria-labelledby="proposed-title">
          <header class="row">
            <h2 id="proposed-title">Proposed</h2>
            <Verdict checked={checked?.proposed} busy={busy === "check"} running={running.version} />
            <button type="button" class="quiet" onClick={() => proposed.set(running.text)}>
              Reset
            </button>
          </header>
          <div class="editor-box taller">
            <Editor
              label="Proposed policy"
              language="yaml"
              value={text}
              onChange={(value) => proposed.set(value)}
              mistakes={mistakes}
            />
          </div>
          <div aria-live="polite">
            {mistakes.map((mistake) => (
              <Problem key={mistake.message}>
                Line {mistake.line}: {mistake.message}
              </Problem>
            ))}
            {checked?.proposed.warnings?.map((warning) => (
              <p class="warning" key={warning}>
                {warning}
              </p>
            ))}
          </div>
        </section>
      </div>
      {error && <Problem>{error}</Problem>}
      <section class="panel" aria-labelledby="compare-title">
        <h2 id="compare-title">Compare</h2>
        <div class="actions">
          <button type="button" disabled={!!busy} onClick={() => compare("explain", { request: requestOfPlayground() })}>
            Explain the playground's request by both
          </button>
          <button type="button" disabled={!!busy} onClick={() => compare("simulate", { simulate: true })}>
            Simulate the recent decisions
          </button>
          {busy && busy !== "check" && <span class="note pulse">Comparing …</span>}
        </div>
        <div aria-live="polite">
          {explained?.running.explanation && (
            <div class="columns even">
              <ExplainedBy title="Running" explained={explained.running.explanation} />
              {explained.proposed.explanation && <ExplainedBy title="Proposed" explained={explained.proposed.explanation} />}
            </div>
          )}
          {simulation && <Simulated simulation={simulation} />}
        </div>
      </section>
    </div>
  );
}

function Verdict({ checked, busy, running }: { checked: Checked | undefined; busy: boolean; running: string }) {
  if (busy) return <span class="note pulse">Checking …</span>;
  if (!checked) return null;
  if (checked.error) return <span class="state state-error">invalid</span>;
  const isSame = checked.version === running;
  return (
    <span class="note">
      <code>{checked.version}</code> {isSame ? "same as running" : `valid: ${checked.routes!.length} routes, ${checked.targets} targets`}
    </span>
  );
}

// A file with a mistake is not loaded: the gateway goes on with the policy that it had.
function Differs({ checked, running }: { checked: Checked | undefined; running: { version: string; file: string } }) {
  if (!checked || checked.version === running.version) return null;
  const why = checked.error ? `its line ${Math.max(1, checked.error.line)}: ${checked.error.message}` : "it is loaded in a moment";
  return (
    <p class="warning" role="status">
      {running.file} is no longer the policy {running.version}, which the gateway runs: {why}
    </p>
  );
}

function mistakesOf(checked: Checked | undefined): Mistake[] {
  return checked?.error ? [{ ...checked.error, line: Math.max(1, checked.error.line) }] : [];
}

function requestOfPlayground() {
  const { sample, body } = draft.get();
  return { path: sample.path, body, headers: sample.headers ?? {} };
}

function ExplainedBy({ title, explained }: { title: string; explained: Explained }) {
  if (explained.error) {
    return (
      <article class="card">
        <h3>{title}</h3>
        <Problem>{explained.error.message}</Problem>
      </article>
    );
  }
  return (
    <article class="card">
      <h3>{title}</h3>
      <ol class="steps">
        <li>
          <b>Task</b> {explained.task} <span class="note">by {explained.evidence}</span>
        </li>
        <li>
          <b>Route</b> {explained.route} {explained.private && <span class="note">private</span>}
          <Limited to={explained.locations} />
        </li>
        {explained.candidates.map((candidate) => (
          <li key={candidate.target}>
            <b>{candidate.target}</b> {candidate.reason ? candidate.reason.replaceAll("_", " ") : "eligible"}
            <span class="note">{[candidate.location, candidate.detail].filter(Boolean).join(", ")}</span>
          </li>
        ))}
      </ol>
    </article>
  );
}

function Simulated({ simulation }: { simulation: Simulation }) {
  if (simulation.error) return <Problem>{simulation.error.message}</Problem>;
  const { old, new: fresh } = simulation;
  const rows: [string, string, string, number][] = [
    ["p95 of all requests", ms(old.p95_ms), ms(fresh.p95_ms), fresh.p95_ms - old.p95_ms],
    ["cost", dollars(old.dollars), dollars(fresh.dollars), fresh.dollars - old.dollars],
    ["errors", count(old.errors), count(fresh.errors), fresh.errors - old.errors],
    ["hedged requests", count(old.hedges), count(fresh.hedges), 0],
  ];
  return (
    <>
      <h3>{count(old.requests)} recent requests, replayed in virtual time</h3>
      <table class="table narrow">
        <thead>
          <tr>
            <th scope="col">Figure</th>
            <th scope="col" class="number">
              Running
            </th>
            <th scope="col" class="number">
              Proposed
            </th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([name, before, after, change]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td class="number">{before}</td>
              <td class={`number ${change > 0 ? "worse" : change < 0 ? "better" : ""}`}>{after}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {simulation.moved.length > 0 ? (
        <ul class="moved">
          {simulation.moved.slice(0, 8).map((each, index) => (
            <li key={index}>
              {count(each.requests)} {each.task}: {each.old_route} / {each.old_target ?? "none"} → {each.new_route} /{" "}
              {each.new_target ?? "none"}
            </li>
          ))}
        </ul>
      ) : (
        <p class="note">No request changes its lane.</p>
      )}
      {simulation.assumed.length > 0 && (
        <p class="note">
          No recent request called {simulation.assumed.join(", ")}: assumed {ms(simulation.assumed_ms)} at the median.
        </p>
      )}
    </>
  );
}
