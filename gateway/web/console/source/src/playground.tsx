// Requests as applications send them, with the decision beside them, and both lanes side by side on demand.
import { useRef, useState } from "preact/hooks";
import { ApiError, errorOf, eventsOf, get, send } from "./api";
import { Editor } from "./editor";
import { Explanation } from "./explain";
import { ms } from "./format";
import { session } from "./live";
import { SAMPLES, type Sample } from "./samples";
import { snippets } from "./snippets";
import { Store, useStore } from "./store";
import type { Decision } from "./types";
import { Copy, Empty, LaneName, Problem, State, Tabs } from "./ui";
import { useKinds } from "./explain";

export const apiKey = new Store(""); // in memory only: it is gone when the page is closed
export const draft = new Store({ sample: SAMPLES[0]!, body: pretty(SAMPLES[0]!.body) });

type Outcome = {
  title: string;
  text: string;
  tookMs: number;
  error: ApiError | null;
  decision: Decision | null;
  raw: string;
};

export function pretty(value: unknown): string {
  return JSON.stringify(value, null, 2);
}

export function Playground() {
  const known = useStore(session);
  const { sample, body } = useStore(draft);
  const [outcomes, setOutcomes] = useState<Outcome[]>([]);
  const [running, setRunning] = useState(false);
  const abort = useRef<AbortController | null>(null);

  const mistake = jsonMistake(body);
  const run = async (models: (string | null)[]) => {
    abort.current?.abort();
    const controller = (abort.current = new AbortController());
    setRunning(true);
    setOutcomes([]);
    try {
      // One after the other: two requests at once would slow each other down on a small machine.
      for (const model of models) {
        const outcome = await ask(sample, model === null ? body : withModel(body, model), model, controller.signal);
        setOutcomes((old) => [...old, outcome]);
      }
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
    } finally {
      setRunning(false);
    }
  };
  const lanes = pair(known?.targets ?? []);

  return (
    <div class="columns">
      <section class="panel" aria-labelledby="request-title">
        <h2 id="request-title">Request</h2>
        <SamplePicker chosen={sample} />
        <p class="note">{sample.description}</p>
        <KeyField />
        <p class="path">
          <span class="method">POST</span> {sample.path}
        </p>
        <div class="editor-box tall">
          <Editor
            label="Body of the request, as JSON"
            language="json"
            value={body}
            onChange={(value) => draft.set({ sample, body: value })}
            mistakes={mistake ? [mistake] : []}
          />
        </div>
        {mistake && <Problem>{mistake.message}</Problem>}
        <div class="actions">
          <button type="button" class="primary" disabled={!!mistake || running} onClick={() => run([null])}>
            Send
          </button>
          <button type="button" disabled={!!mistake || running || lanes.length < 2} onClick={() => run(lanes)}>
            Both lanes side by side
          </button>
          {running && (
            <button type="button" class="quiet" onClick={() => abort.current?.abort()}>
              Cancel
            </button>
          )}
        </div>
        <Tabs
          label="The request in other forms"
          tabs={Object.fromEntries(
            Object.entries(snippets(sample, body)).map(([name, text]) => [
              name,
              () => (
                <div class="snippet">
                  <Copy text={text} label="Copy" />
                  <pre tabIndex={0}>{text}</pre>
                </div>
              ),
            ]),
          )}
        />
      </section>
      <section class="panel" aria-labelledby="answer-title" aria-busy={running}>
        <h2 id="answer-title">Answer</h2>
        <div aria-live="polite">
          {running && !outcomes.length && <p class="note pulse">Waiting for the answer …</p>}
          {!running && !outcomes.length && (
            <Empty title="Send a request to see where it goes">
              The gateway classifies it, picks a lane, validates the answer, and changes lane if it has to. Every step of
              that decision appears here.
            </Empty>
          )}
          <div class={outcomes.length > 1 ? "side-by-side" : ""}>
            {outcomes.map((outcome, index) => (
              <Answer key={index} outcome={outcome} />
            ))}
          </div>
        </div>
      </section>
    </div>
  );
}

export function SamplePicker({ chosen, only }: { chosen: Sample; only?: (sample: Sample) => boolean }) {
  return (
    <div class="chips" role="group" aria-label="Samples">
      {SAMPLES.filter(only ?? (() => true)).map((sample) => (
        <button
          key={sample.name}
          type="button"
          class="chip"
          aria-pressed={sample.name === chosen.name}
          onClick={() => draft.set({ sample, body: pretty(sample.body) })}
        >
          {sample.name}
        </button>
      ))}
    </div>
  );
}

export function KeyField() {
  const known = useStore(session);
  const key = useStore(apiKey);
  if (!known?.requires_keys) return null;
  return (
    <label class="field">
      <span>API key of the requests</span>
      <input
        type="password"
        autocomplete="off"
        value={key}
        placeholder="Its limits apply"
        onInput={(event) => apiKey.set(event.currentTarget.value)}
      />
    </label>
  );
}

function Answer({ outcome }: { outcome: Outcome }) {
  const kinds = useKinds();
  const { decision, error } = outcome;
  return (
    <article class="answer">
      <header>
        <h3>{decision?.target ? <LaneName name={decision.target} kinds={kinds} /> : outcome.title}</h3>
        <span class="big">{ms(outcome.tookMs)}</span>
        <Validity outcome={outcome} />
      </header>
      {error ? (
        <Problem>
          {error.param ? <code>{error.param}</code> : null} {error.message}
        </Problem>
      ) : (
        <pre class="output" tabIndex={0} aria-label="Text of the answer">
          {outcome.text || "(no text)"}
        </pre>
      )}
      {decision && (
        <>
          <h4>Why</h4>
          <Explanation decision={decision} />
        </>
      )}
      <details>
        <summary>The whole response</summary>
        <pre tabIndex={0}>{outcome.raw}</pre>
      </details>
    </article>
  );
}

function Validity({ outcome }: { outcome: Outcome }) {
  if (outcome.error) return <State value="error" />;
  const check = outcome.decision?.schema_check;
  if (check) return <State value={check} />;
  const first = outcome.text.trim()[0];
  if (first !== "{" && first !== "[") return null;
  return <State value={isJson(outcome.text) ? "valid JSON" : "not JSON"} />;
}

async function ask(sample: Sample, body: string, model: string | null, signal: AbortSignal): Promise<Outcome> {
  const begin = performance.now();
  const title = model ?? "answer";
  const given = { path: sample.path, body, headers: sample.headers ?? {}, key: apiKey.get(), signal };
  let decision: Decision | null = null;
  try {
    const response = await send(given);
    const id = response.headers.get("x-request-id");
    if (!response.ok) {
      const error = await errorOf(response);
      decision = await decided(id);
      return { title, text: "", tookMs: performance.now() - begin, error, decision, raw: error.message };
    }
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    const { text, raw } = isStream ? await streamed(response) : whole(await response.text());
    const tookMs = performance.now() - begin;
    decision = await decided(id);
    return { title, text, tookMs, error: null, decision, raw };
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    return { title, text: "", tookMs: performance.now() - begin, error: faultOf(error), decision, raw: "" };
  }
}

// Whatever a response is, or if it ends early, the page says so.
export function faultOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof SyntaxError) return new ApiError("The response is not JSON.", 200);
  return new ApiError("The response ended early.", 0);
}

// The decision is recorded when the response has ended, a moment after the page has read it.
export async function decided(id: string | null): Promise<Decision | null> {
  for (let tries = 0; id && tries < 20; tries++) {
    try {
      return await get<Decision>(`decisions/${encodeURIComponent(id)}`);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) return null;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  return null;
}

async function streamed(response: Response): Promise<{ text: string; raw: string }> {
  let text = "";
  const raw: string[] = [];
  for await (const { event, data } of eventsOf(response)) {
    raw.push(JSON.stringify(data));
    if (event === "error") throw new ApiError(data.error?.message ?? "The stream failed.", 200);
    text += data.choices?.[0]?.delta?.content ?? data.choices?.[0]?.text ?? "";
  }
  return { text, raw: raw.join("\n") };
}

function whole(body: string): { text: string; raw: string } {
  const answer = JSON.parse(body);
  const choice = answer.choices?.[0];
  const calls = choice?.message?.tool_calls?.map(
    (call: any) => `${call.function?.name ?? ""}(${call.function?.arguments ?? ""})`,
  );
  const text = choice?.message?.content || choice?.text || calls?.join("\n") || (answer.answers && pretty(answer.answers));
  return { text: String(text || ""), raw: pretty(answer) };
}

function pair(targets: { name: string; kind: string }[]): string[] {
  const fast = targets.find((target) => target.kind === "worker");
  const quality = targets.find((target) => target.kind !== "worker") ?? targets.find((target) => target !== fast);
  return fast && quality ? [fast.name, quality.name] : [];
}

export function withModel(body: string, model: string): string {
  return pretty({ ...JSON.parse(body), model });
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

export function jsonMistake(text: string): { line: number; column: number; message: string } | null {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return null;
    return { line: 1, column: 1, message: "The body must be a JSON object." };
  } catch (error) {
    const message = (error as Error).message;
    const position = Number(/position (\d+)/.exec(message)?.[1] ?? text.length);
    const before = text.slice(0, position).split("\n");
    return { line: before.length, column: before.at(-1)!.length + 1, message: `Not JSON: ${message}` };
  }
}
