export function ms(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value >= 10_000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ms`;
}

export function clock(time_ms: number): string {
  return new Date(time_ms).toLocaleTimeString([], { hour12: false });
}

export function dollars(value: number): string {
  if (value === 0) return "$0";
  return value < 0.01 ? `$${value.toPrecision(2)}` : `$${value.toFixed(2)}`;
}

export function percent(share: number): string {
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}%`;
}

export function count(value: number): string {
  return value.toLocaleString("en-US");
}

export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

export function quantile(ordered: number[], share: number): number | null {
  return ordered.length ? ordered[Math.max(0, Math.ceil(share * ordered.length) - 1)]! : null;
}

// Reasons in the words of the documentation.
export const REASONS: Record<string, string> = {
  ok: "answered",
  low_confidence: "its confidence was below the route's minimum",
  invalid_output: "its output did not match the schema",
  p95_breach: "the lane is ejected: its p95 exceeds the objective",
  predicted_slow: "its predicted wait exceeds the objective",
  upstream_error: "the server failed",
  upstream_auth: "the server refused the gateway's key",
  overloaded: "the target is at its limit",
  circuit_open: "its circuit breaker is open",
  not_resident: "its weights are not loaded",
  unsupported: "it does not support the request",
  context_length_exceeded: "the prompt is longer than its context",
  refused: "the server refused the request",
  deadline: "the time limit passed",
  hedge: "a hedged request answered first",
  cancelled: "it was cancelled",
  incomplete: "the stream ended early",
};

export function reason(outcome: string): string {
  return REASONS[outcome] ?? outcome.replaceAll("_", " ");
}
