// A decision explained: a sentence, its evidence, and its attempts as a waterfall.
import { ms, percent, reason } from "./format";
import { session } from "./live";
import { useStore } from "./store";
import type { Attempt, Decision } from "./types";
import { LaneName, Limited, State } from "./ui";

export function useKinds(): Map<string, string> {
  const known = useStore(session);
  return new Map(known?.targets.map((target) => [target.name, target.kind]) ?? []);
}

export function Explanation({ decision }: { decision: Decision }) {
  const kinds = useKinds();
  return (
    <div class="explanation">
      <ol class="steps">
        <li>
          <b>Task</b> {decision.task}
          <span class="note">
            {percent(decision.confidence)} certain, by {decision.evidence}
          </span>
        </li>
        <li>
          <b>Route</b> {decision.route || "none"}
          {decision.private && <span class="note">private: only private locations</span>}
          <Limited to={decision.locations} />
        </li>
        {decision.attempts.map((attempt, index) => (
          <li key={index}>
            <b>
              <LaneName name={attempt.target} kinds={kinds} />
            </b>{" "}
            {attempt.target === decision.target && attempt.outcome === "ok" ? "answered" : reason(attempt.outcome)}
            <span class="note">
              {[
                attempt.skipped ? "not called" : ms(attempt.ended_ms - attempt.started_ms),
                attempt.location,
                attempt.detail,
                attempt.confidence === null ? "" : `confidence ${percent(attempt.confidence)}`,
                attempt.hedge ? "hedge" : "",
                attempt.probe ? "probe" : "",
                attempt.ignored?.length ? `ignores ${attempt.ignored.join(", ")}` : "",
              ]
                .filter(Boolean)
                .join(" · ")}
            </span>
          </li>
        ))}
        <li>
          <b>Result</b> <State value={decision.outcome} />
          <span class="note">
            {[
              decision.schema_check ? `schema: ${decision.schema_check}` : "",
              decision.cost ? `$${decision.cost.toPrecision(2)}` : "",
              decision.low_confidence === undefined ? "" : "below the minimum confidence, but the best there was",
            ]
              .filter(Boolean)
              .join(" · ")}
          </span>
        </li>
      </ol>
      <Waterfall decision={decision} />
    </div>
  );
}

export function Waterfall({ decision }: { decision: Decision }) {
  const total = Math.max(decision.total_ms, 0.1);
  const kinds = useKinds();
  const called = decision.attempts.filter((attempt) => !attempt.skipped);
  return (
    <figure class="waterfall">
      <figcaption>
        {ms(decision.total_ms)} in total, of which {ms(decision.overhead_ms)} in the gateway
      </figcaption>
      <table>
        <caption class="hidden">Timings of the request</caption>
        <tbody>
          {Object.entries(decision.timings_ms)
            .filter(([name]) => name === "classify" || name === "queue")
            .map(([name, took]) => {
              const from = name === "queue" ? (decision.timings_ms["classify"] ?? 0) : 0; // it ends with the call that answered
              return <Bar key={name} name={name} kind="own" from={from} to={from + took} total={total} />;
            })}
          {called.map((attempt, index) => (
            <Bar
              key={index}
              name={attempt.target}
              kind={barKind(attempt, kinds)}
              from={attempt.started_ms}
              first={attempt.first_byte_ms}
              to={attempt.ended_ms}
              total={total}
            />
          ))}
        </tbody>
      </table>
    </figure>
  );
}

function barKind(attempt: Attempt, kinds: Map<string, string>): string {
  if (attempt.outcome !== "ok") return "failed";
  return kinds.get(attempt.target) === "worker" ? "fast" : "quality";
}

type BarProps = { name: string; kind: string; from: number; first?: number | null; to: number; total: number };

function Bar({ name, kind, from, first, to, total }: BarProps) {
  const share = (value: number) => `${Math.min(100, Math.max(0, (value / total) * 100)).toFixed(2)}%`;
  const split = first ?? to;
  return (
    <tr>
      <th scope="row">{name}</th>
      <td class="track">
        <span class="bars">
          <span class={`bar bar-wait bar-${kind}`} style={{ left: share(from), width: share(split - from) }} />
          <span class={`bar bar-${kind}`} style={{ left: share(split), width: share(Math.max(to - split, 0)) }} />
        </span>
      </td>
      <td class="number">{ms(to - from)}</td>
    </tr>
  );
}
