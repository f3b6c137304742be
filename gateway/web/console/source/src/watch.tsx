// The canvas step by step: what the worker's draft events say about every position.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, errorOf, eventsOf, send } from "./api";
import { LineChart } from "./chart";
import { ms, percent } from "./format";
import { session } from "./live";
import { KeyField, SamplePicker, apiKey, draft, faultOf, jsonMistake, withModel } from "./playground";
import { useStore } from "./store";
import type { Draft, Position } from "./types";
import { Empty, Problem } from "./ui";

type Frame = { positions: Position[]; rejected: number; label: string; entropy: number | null; sealed: boolean };
type Run = { frames: Frame[]; usage: Usage | null; tookMs: number; text: string; isVerified: boolean };
type Usage = { completion_tokens: number; diffusion?: Record<string, number | boolean | null> };

const FRAME_MS = 650;
const MEANING: Record<string, string> = {
  accepted: "kept for the next step",
  renoised: "replaced by noise",
  forced: "forced by the schema",
  pinned: "final: streamed or verified",
};

export function Watch() {
  const known = useStore(session);
  const { sample, body } = useStore(draft);
  const workers = known?.targets.filter((target) => target.kind === "worker" && !isCausal(target.model)) ?? [];
  const [target, setTarget] = useState("");
  const [run, setRun] = useState<Run | null>(null);
  const [error, setError] = useState("");
  const [running, setRunning] = useState(false);
  const [slow, setSlow] = useState(false);
  const chosen = workers.find((each) => each.name === target) ?? workers[0];
  const watchable = sample.watchable && !jsonMistake(body);

  const start = async () => {
    setRunning(true);
    setError("");
    setRun(null);
    try {
      const isVerified = chosen!.model.endsWith(":verified");
      setRun(await watch(withModel(body, chosen!.name), isVerified, slow && !isVerified));
    } catch (failure) {
      setError(faultOf(failure).message);
    } finally {
      setRunning(false);
    }
  };

  return (
    <div class="watch">
      <section class="panel" aria-labelledby="watch-title">
        <h2 id="watch-title">Watch it denoise</h2>
        <p class="note">
          A diffusion model writes a whole canvas at once. Each step keeps the tokens that it is sure of and replaces the
          others by noise, until nothing changes any more.
        </p>
        <SamplePicker chosen={sample} only={(each) => each.watchable} />
        <KeyField />
        <div class="actions">
          <label class="field inline">
            <span>Target</span>
            <select value={chosen?.name} onChange={(event) => setTarget(event.currentTarget.value)}>
              {workers.map((each) => (
                <option key={each.name} value={each.name}>
                  {each.name} ({each.model})
                </option>
              ))}
            </select>
          </label>
          <label class="check">
            <input type="checkbox" checked={slow} onChange={(event) => setSlow(event.currentTarget.checked)} /> More steps
            <span class="note"> (a hotter schedule than the target's own)</span>
          </label>
          <button type="button" class="primary" disabled={!chosen || running || !watchable} onClick={start}>
            {running ? "Denoising …" : "Start"}
          </button>
        </div>
        {!watchable && <p class="note">Choose a sample above: the canvas of the current request cannot be watched.</p>}
        {!chosen && known && <Problem>The policy has no worker target.</Problem>}
        {error && <Problem>{error}</Problem>}
      </section>
      {run ? <Player run={run} /> : !running && <Empty title="Press Start to see the canvas">It takes a second.</Empty>}
    </div>
  );
}

function Player({ run }: { run: Run }) {
  const { frames } = run;
  const [at, setAt] = useState(0);
  const [playing, setPlaying] = useState(true);
  const last = frames.length - 1;
  const frame = frames[Math.min(at, last)];
  useEffect(() => {
    setAt(0);
    setPlaying(true);
  }, [run]);
  useEffect(() => {
    if (!playing) return;
    if (at >= last) {
      setPlaying(false);
      return;
    }
    const timer = setTimeout(() => setAt(at + 1), FRAME_MS);
    return () => clearTimeout(timer);
  }, [playing, at, last]);
  if (!frame) return <Empty title="The answer took no canvas step" />;
  const toggle = () => {
    if (!playing && at >= last) setAt(0);
    setPlaying(!playing);
  };
  const entropies = frames.map((each) => each.entropy);
  return (
    <section class="panel" aria-label="Canvas">
      <div class="player">
        <button type="button" class="primary round" onClick={toggle} aria-label={playing ? "Pause" : "Play"}>
          {playing ? "❚❚" : "▶"}
        </button>
        <label class="slider">
          <span class="hidden">Step</span>
          <input
            type="range"
            min={0}
            max={last}
            value={at}
            aria-valuetext={frame.label}
            onInput={(event) => {
              setPlaying(false);
              setAt(Number(event.currentTarget.value));
            }}
          />
        </label>
        <span class="step" aria-live={playing ? "off" : "polite"}>
          {frame.label}
        </span>
      </div>
      <Canvas frame={frame} />
      <ul class="legend" aria-label="Colours">
        {Object.entries(MEANING).map(([state, meaning]) => (
          <li key={state}>
            <span class={`token token-${state}`}>{state}</span> {meaning}
          </li>
        ))}
        <li>
          <span class="shades" aria-hidden="true">
            <i class="shade s1" />
            <i class="shade s2" />
            <i class="shade s3" />
          </span>{" "}
          the fuller, the more confident
        </li>
      </ul>
      <div class="figures">
        <Numbers run={run} frame={frame} />
        {entropies.some((each) => each !== null) && (
          <figure class="chart">
            <figcaption>Mean entropy per step, in nats</figcaption>
            <LineChart
              label={`Entropy per step: ${entropies.map((each) => each?.toFixed(2) ?? "none").join(", ")}`}
              x={frames.map((_, index) => index + (frames[0]!.label === "Noise" ? 0 : 1))}
              series={[{ name: "entropy", values: entropies, color: "--fast" }]}
              height={120}
              cursor={at}
            />
          </figure>
        )}
      </div>
    </section>
  );
}

function Canvas({ frame }: { frame: Frame }) {
  const place = useRef<HTMLDivElement>(null);
  return (
    <div class="canvas" ref={place} role="group" aria-label={`${frame.label}. ${summary(frame)}`} tabIndex={0}>
      <div aria-hidden="true" class={isGrid(frame) ? "grid" : ""}>
        {frame.positions.map((position, index) => (
          <span
            key={index}
            class={`token token-${position.state}`}
            style={{ "--certainty": String(position.confidence) } as Record<string, string>}
            title={`${percent(position.confidence)}, ${position.state}`}
          >
            {position.token.replaceAll("\n", "↵") || " "}
          </span>
        ))}
        {Array.from({ length: frame.rejected }, (_, index) => (
          <span key={`rejected ${index}`} class="token token-renoised">
            ░
          </span>
        ))}
      </div>
    </div>
  );
}

function Numbers({ run, frame }: { run: Run; frame: Frame }) {
  const passes = Number(run.usage?.diffusion?.["forward_passes"] ?? run.usage?.diffusion?.["denoising_steps"] ?? 0);
  const tokens = run.usage?.completion_tokens ?? 0;
  const confidence = run.usage?.diffusion?.["confidence"];
  const kept = frame.positions.filter((each) => each.state !== "renoised").length;
  const shown: [string, string][] = [
    ["kept", `${kept} of ${frame.positions.length + frame.rejected}`],
    ["tokens", String(tokens)],
    ["forward passes", String(passes)],
    ["tokens per pass", passes ? (tokens / passes).toFixed(1) : "–"],
    ["confidence", typeof confidence === "number" ? percent(confidence) : "–"],
    ["time", ms(run.tookMs)],
  ];
  return (
    <dl class="numbers">
      {shown.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function summary(frame: Frame): string {
  const kept = frame.positions.filter((each) => each.state !== "renoised").length;
  const entropy = frame.entropy === null ? "" : ` Mean entropy ${frame.entropy.toFixed(2)} nats.`;
  const text = frame.positions.map((each) => (each.state === "renoised" ? "░" : each.token)).join("");
  return `${kept} of ${frame.positions.length + frame.rejected} positions kept.${entropy} Text: ${text}`;
}

// A Sudoku of four by four is one.
function isGrid({ positions }: Frame): boolean {
  return positions.length === 16 && positions.every(({ token }) => /^[1-4░]$/.test(token));
}

function isCausal(model: string): boolean {
  return model.endsWith(":autoregressive");
}

const MORE_STEPS = { t_max: 1.4, t_min: 0.4, entropy_bound: 1, steps: 8 };

async function watch(body: string, isVerified: boolean, isSlow: boolean): Promise<Run> {
  const begin = performance.now();
  const asked = {
    ...JSON.parse(body),
    stream: true,
    stream_options: { include_usage: true, include_drafts: true },
    ...(isSlow ? { diffusion: MORE_STEPS } : {}),
  };
  const signal = new AbortController().signal;
  const sending = { path: draft.get().sample.path, headers: draft.get().sample.headers ?? {}, key: apiKey.get(), signal };
  const response = await send({ ...sending, body: JSON.stringify(asked) });
  if (!response.ok) throw await errorOf(response);
  const drafts: Draft[] = [];
  let usage: Usage | null = null;
  let text = "";
  for await (const { event, data } of eventsOf(response)) {
    if (event === "error" || data.error) throw new ApiError(data.error?.message ?? "The stream failed.", 200);
    if (data.twolane?.positions) drafts.push(data.twolane);
    if (data.usage) usage = data.usage;
    text += data.choices?.[0]?.delta?.content ?? "";
  }
  const frames = isVerified ? verifiedFrames(drafts) : canvasFrames(drafts);
  if (!isVerified && frames[0] && !asked.prediction) frames.unshift(noise(frames[0]));
  return { frames, usage, tookMs: performance.now() - begin, text, isVerified };
}

// What the canvas is before the first step; the tokens of the noise mean nothing.
function noise(first: Frame): Frame {
  const positions = first.positions.map(() => ({ token: "░", confidence: 0, state: "renoised" as const }));
  return { positions, rejected: 0, label: "Noise", entropy: null, sealed: false };
}

// Blocks follow each other: those that are sealed stay in view, pinned.
function canvasFrames(drafts: Draft[]): Frame[] {
  let sealed: Position[] = [];
  return drafts.map((each, index) => {
    const next = drafts[index + 1];
    const positions = [...sealed, ...each.positions];
    const isLast = !next || next.block !== each.block;
    if (isLast) sealed = [...sealed, ...each.positions.map((position) => ({ ...position, state: "pinned" as const }))];
    const block = drafts.at(-1)!.block > 0 ? `Block ${each.block + 1}, step` : "Step";
    const label = `${block} ${each.step}${isLast ? ", sealed" : ""}`;
    return { positions, rejected: 0, label, entropy: each.entropy, sealed: isLast };
  });
}

// Every verification adds the tokens that it accepted; what it rejected of the draft is drafted again.
function verifiedFrames(drafts: Draft[]): Frame[] {
  let known: Position[] = [];
  return drafts.map((each, index) => {
    const fresh = each.positions;
    const positions = [...known.map((position) => ({ ...position, state: "pinned" as const })), ...fresh];
    known = [...known, ...fresh];
    const label = `Verification ${index + 1}: ${fresh.length} tokens accepted, ${each.rejected} rejected`;
    return { positions, rejected: each.rejected, label, entropy: each.entropy, sealed: index === drafts.length - 1 };
  });
}
