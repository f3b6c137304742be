// Who sends requests, how much they use, and which limit is near.
import { useEffect, useState } from "preact/hooks";
import { ApiError, get } from "./api";
import { clock, count, dollars } from "./format";
import { Meter } from "./lanes";
import { Empty, Problem } from "./ui";

type Limit = { name: string; limit: number; used: number | null; reset_s: number | null };
type Key = {
  name: string;
  scopes: string[] | null;
  is_restricted: boolean;
  requests: number;
  failed: number;
  tokens: number;
  cost: number;
  limits: Limit[];
};

export function Keys() {
  const [found, setFound] = useState<{ keys: Key[]; since_ms: number | null } | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let isOpen = true;
    const load = async () => {
      try {
        setFound(await get("keys"));
        setError("");
      } catch (failure) {
        setError((failure as ApiError).message);
      }
      if (isOpen) timer = setTimeout(load, 2000);
    };
    void load();
    return () => {
      isOpen = false;
      clearTimeout(timer);
    };
  }, []);
  if (error) return <Problem>{error}</Problem>;
  if (!found) return <Empty title="Loading …" />;
  const keys = [...found.keys].sort((left, right) => right.requests - left.requests);
  return (
    <section class="panel" aria-labelledby="keys-title">
      <h2 id="keys-title">Keys and spend</h2>
      <p class="note">
        {found.since_ms === null
          ? "No requests yet."
          : `Requests that this gateway process remembers, since ${clock(found.since_ms)}. Limits are counted by all replicas that share a Redis.`}
      </p>
      {keys.length === 0 ? (
        <Empty title="No API keys">The gateway has no keys file, and no requests have arrived.</Empty>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="API keys">
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Key</th>
                <th scope="col">Scopes</th>
                <th scope="col" class="number">
                  Requests
                </th>
                <th scope="col" class="number">
                  Failed
                </th>
                <th scope="col" class="number">
                  Tokens
                </th>
                <th scope="col" class="number">
                  Spend
                </th>
                <th scope="col">Limits</th>
              </tr>
            </thead>
            <tbody>
              {keys.map((key) => (
                <tr key={key.name}>
                  <th scope="row">{key.name || "without a key"}</th>
                  <td>
                    {key.scopes?.join(", ") ?? "–"}
                    {key.is_restricted && <span class="note"> restricted</span>}
                  </td>
                  <td class="number">{count(key.requests)}</td>
                  <td class="number">{count(key.failed)}</td>
                  <td class="number">{count(key.tokens)}</td>
                  <td class="number">{dollars(key.cost)}</td>
                  <td>
                    {key.limits.length === 0 && <span class="note">none</span>}
                    <ul class="limits">
                      {key.limits.map((limit) => (
                        <li key={limit.name}>
                          <span>{limit.name}</span>
                          {limit.used === null ? (
                            <span class="number">at most {count(limit.limit)}</span>
                          ) : (
                            <Meter used={round(limit.used)} size={limit.limit} />
                          )}
                        </li>
                      ))}
                    </ul>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function round(value: number): number {
  return value >= 10 ? Math.round(value) : Math.round(value * 1000) / 1000;
}
