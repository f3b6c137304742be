// The request of the playground, to copy: as curl, and with OpenAI's client.
import { session } from "./live";
import type { Sample } from "./samples";

function address(): string {
  return session.get()?.public_url ?? "";
}

export function snippets(sample: Sample, body: string): Record<string, string> {
  const found: Record<string, string> = { curl: curl(sample, body) };
  const method = { "/v1/chat/completions": "chat.completions", "/v1/decisions": "decisions" }[sample.path];
  if (method) found["openai"] = openai(method, body);
  return found;
}

function curl(sample: Sample, body: string): string {
  const key = session.get()?.requires_keys ? " -H 'authorization: Bearer YOUR_KEY'" : "";
  const extra = Object.entries(sample.headers ?? {}).map(([name, value]) => ` -H '${name}: ${value}'`);
  const quoted = body.replaceAll("'", "'\\''");
  return `curl -si ${address()}${sample.path} -H 'content-type: application/json'${key}${extra.join("")} -d '${quoted}'`;
}

function openai(method: string, body: string): string {
  const lines = ["from openai import OpenAI", "", `client = OpenAI(base_url="${address()}/v1", api_key="YOUR_KEY")`];
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(body);
  } catch {
    return "# The body is not JSON.";
  }
  const given = Object.entries(fields).map(([name, value]) => `    ${name}=${python(value, 1)},`);
  const shown = method === "decisions" ? "print(answer)" : "print(answer.choices[0].message)";
  return [...lines, `answer = client.${method}.create(`, ...given, ")", shown].join("\n");
}

function python(value: unknown, depth: number): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const pad = "    ".repeat(depth + 1);
  const end = "    ".repeat(depth);
  const parts = Array.isArray(value)
    ? value.map((each) => python(each, depth + 1))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each, depth + 1)}`);
  const [left, right] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const short = `${left}${parts.join(", ")}${right}`;
  return short.length < 70 ? short : `${left}\n${parts.map((each) => `${pad}${each},\n`).join("")}${end}${right}`;
}
