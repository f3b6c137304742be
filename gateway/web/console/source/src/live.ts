// The live state of the page: decisions, lanes and the connection. It reconnects by itself, also after a restart.
import { get, signedOut } from "./api";
import { Store } from "./store";
import type { Lanes, Row, Session } from "./types";

export const MAX_ROWS = 10_000;

export type Decisions = { rows: Row[]; version: number; scope: string; capacity: number };

export const decisions = new Store<Decisions>({ rows: [], version: 0, scope: "process", capacity: 0 });
export const lanes = new Store<Lanes | null>(null);
export const session = new Store<Session | null>(null);
export const connection = new Store<"connecting" | "live" | "lost">("connecting");

type Listing = {
  instance: string;
  columns: string[];
  rows: unknown[][];
  count: number;
  scope: string;
  capacity: number;
};

let columns: string[] = [];
let count = -1;
let instance = "";
let source: EventSource | null = null;
let retry: ReturnType<typeof setTimeout> | undefined;

export async function start(): Promise<void> {
  clearTimeout(retry);
  source?.close();
  try {
    session.set(await get<Session>("session"));
    await load();
    open();
  } catch {
    lose();
  }
}

// Forget what only the session may show.
export function stop(): void {
  clearTimeout(retry);
  source?.close();
  source = null;
  count = -1;
  instance = "";
  session.set(null);
  lanes.set(null);
  decisions.set({ rows: [], version: 0, scope: "process", capacity: 0 });
}

async function load(): Promise<void> {
  list(await get<Listing>("decisions"));
}

function list(found: Listing): void {
  ({ columns, count, instance } = found);
  const { scope, capacity } = found;
  decisions.update(({ version }) => ({ rows: found.rows.map(rowOf), version: version + 1, scope, capacity }));
}

function open(): void {
  source = new EventSource(`/console/api/live?after=${count}&instance=${instance}`);
  source.addEventListener("hello", () => connection.set("live"));
  source.addEventListener("listing", (event) => list(JSON.parse((event as MessageEvent<string>).data) as Listing));
  source.addEventListener("decisions", (event) => {
    const found = JSON.parse((event as MessageEvent<string>).data) as { rows: unknown[][]; count: number };
    count = found.count;
    decisions.update((old) => {
      const rows = old.rows.concat(found.rows.map(rowOf)).slice(-MAX_ROWS);
      return { ...old, rows, version: old.version + 1 };
    });
  });
  source.addEventListener("lanes", (event) => {
    const found = JSON.parse((event as MessageEvent<string>).data) as Lanes;
    lanes.set(found);
    const known = session.get();
    if (known && known.policy !== found.policy) get<Session>("session").then((fresh) => session.set(fresh), lose);
  });
  source.onerror = lose;
}

function lose(): void {
  clearTimeout(retry);
  source?.close();
  source = null;
  connection.set("lost");
  if (!signedOut.get()) retry = setTimeout(() => void start(), 1000);
}

function rowOf(values: unknown[]): Row {
  return Object.fromEntries(columns.map((name, index) => [name, values[index]])) as unknown as Row;
}
