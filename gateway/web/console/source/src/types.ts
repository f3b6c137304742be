// What the gateway sends. All text in it is hostile: it is only ever set as text.
export type Attempt = {
  target: string;
  started_ms: number;
  first_byte_ms: number | null;
  ended_ms: number;
  outcome: string;
  location?: string;
  detail: string;
  skipped: boolean;
  probe: boolean;
  hedge?: boolean;
  queued_ms?: number;
  ignored?: string[];
  url?: string;
  slo: string | null;
  confidence: number | null;
  converged: boolean | null;
};

export type Decision = {
  time: string;
  id: string;
  trace: string | null;
  policy: string;
  principal: string | null;
  task: string;
  confidence: number;
  evidence: string;
  route: string;
  private: boolean;
  locations: string[] | null;
  stream: boolean;
  path: string;
  input_tokens: number | null;
  output_tokens: number | null;
  schema: string | null;
  schema_check: string | null;
  attempts: Attempt[];
  target: string | null;
  outcome: string;
  fallback: string | null;
  total_ms: number;
  overhead_ms: number;
  first_byte_ms: number | null;
  cost: number;
  low_confidence?: number;
  timings_ms: Record<string, number>;
};

// A row of the list, by the columns of the gateway.
export type Row = {
  time_ms: number;
  id: string;
  key: string | null;
  task: string;
  route: string;
  target: string | null;
  outcome: string;
  fallback: string | null;
  total_ms: number;
  cost: number;
  tokens: number;
  attempts: string;
  path: string;
  stream: boolean;
};

export type Lane = {
  route: string;
  target: string;
  state: "serving" | "probing" | "ejected";
  within_budget: boolean;
  budget_ms: number | null;
  first_token_budget_ms: number | null;
  guard_p95_ms: number | null;
  p50_ms: number | null;
  p95_ms: number | null;
  calls: number;
  failed: number;
};

export type Target = {
  target: string;
  pool: string;
  kind: string;
  model: string;
  location: string | null;
  breaker: string;
  in_flight: number;
  max_in_flight: number | null;
  waiting: number;
  residency: string;
  predicted_wait_ms: number | null;
  retry_after_s: number | null;
};

export type LaneChange = { time_ms: number; route: string; target: string; state: Lane["state"]; reason: string };

export type Lanes = {
  time_ms: number;
  since_ms: number;
  window_s: number;
  lanes: Lane[];
  targets: Target[];
  changes: LaneChange[];
  policy: string;
};

export type Session = {
  version: string;
  policy: string;
  requires_keys: boolean;
  targets: { name: string; kind: string; model: string; location: string | null }[];
  aliases: string[];
  routes: string[];
  apis: string[];
  trace_url: string | null;
  public_url: string;
};

export type Position = { token: string; confidence: number; state: "accepted" | "renoised" | "forced" | "pinned" };
export type Draft = {
  draft: string;
  block: number;
  step: number;
  entropy: number | null;
  positions: Position[];
  rejected: number;
};
