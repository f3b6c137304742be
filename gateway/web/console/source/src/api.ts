// Requests to the gateway. A response of 401 opens the form to sign in.
import { Store } from "./store";

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly param: string | null = null,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

export const signedOut = new Store(false);
const OWN = { "x-twolane-console": "1", "content-type": "application/json" };

export async function get<T>(path: string): Promise<T> {
  return (await checked(await reach(`/console/api/${path}`, {}), true)).json() as Promise<T>;
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = { method: "POST", headers: OWN, body: JSON.stringify(body) };
  if (signal) init.signal = signal;
  return (await checked(await reach(`/console/api/${path}`, init), true)).json() as Promise<T>;
}

export async function signIn(key: string): Promise<void> {
  await checked(await reach("/console/session", { method: "POST", headers: OWN, body: JSON.stringify({ key }) }), false);
  signedOut.set(false);
}

export async function signOut(): Promise<void> {
  await reach("/console/session", { method: "DELETE", headers: OWN });
  signedOut.set(true);
}

export type Sending = { path: string; body: string; headers: Record<string, string>; key: string; signal: AbortSignal };

// A request of the playground, which the pipeline answers like one of the public port.
export async function send({ path, body, headers, key, signal }: Sending): Promise<Response> {
  const all: Record<string, string> = { ...headers, ...OWN };
  if (key) all["authorization"] = `Bearer ${key}`;
  return reach(`/console/send${path}`, { method: "POST", headers: all, body, signal });
}

async function reach(path: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(path, { credentials: "same-origin", cache: "no-store", ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The gateway does not respond.", 0);
  }
}

async function checked(response: Response, asksToSignIn: boolean): Promise<Response> {
  if (response.ok) return response;
  if (response.status === 401 && asksToSignIn) signedOut.set(true);
  throw await errorOf(response);
}

export async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text) as { error: { message: string; param?: string; code?: string } };
    return new ApiError(error.message, response.status, error.param ?? null, error.code ?? null);
  } catch {
    return new ApiError(text.slice(0, 300) || `HTTP status ${response.status}`, response.status);
  }
}

// The events of a stream: the data of each, parsed; `[DONE]` is left out.
export async function* eventsOf(response: Response): AsyncGenerator<{ event: string; data: any }> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const parts = rest.split("\n\n");
    rest = done ? "" : parts.pop()!;
    for (const part of parts) {
      const lines = part.split("\n");
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      const event = lines.find((line) => line.startsWith("event: "))?.slice(7) ?? "message";
      if (data && data !== "[DONE]") yield { event, data: JSON.parse(data) };
    }
    if (done) return;
  }
}
