// The request of the playground, to copy: as curl, and with OpenAI's client.
import { session } from "./live";
import type { Sample } from "./samples";

const CHAT = "/v1/chat/completions";

function address(): string {
  return session.get()?.public_url ?? "";
}

export function snippets(sample: Sample, body: string): Record<string, string> {
  return { curl: curl(sample, body), openai: openai(sample.path, body) };
}

function curl(sample: Sample, body: string): string {
  const key = session.get()?.requires_keys ? " -H 'authorization: Bearer YOUR_KEY'" : "";
  const extra = Object.entries(sample.headers ?? {}).map(([name, value]) => ` -H '${name}: ${value}'`);
  const quoted = body.replaceAll("'", "'\\''");
  return `curl -si ${address()}${sample.path} -H 'content-type: application/json'${key}${extra.join("")} -d '${quoted}'`;
}

// What OpenAI's client takes by name, by API; it sends other fields as `extra_body`.
const NAMED: Record<string, [call: string, result: string, fields: Set<string>]> = {
  [CHAT]: [
    "chat.completions",
    "answer.choices[0].message",
    words(`audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
      metadata modalities model n parallel_tool_calls prediction presence_penalty reasoning_effort response_format seed
      service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user`),
  ],
  "/v1/decisions": ["decisions", "answer", words("input model prompt_cache_key questions safety_identifier")],
};

function words(text: string): Set<string> {
  return new Set(text.split(/\s+/));
}

function openai(path: string, body: string): string {
  const begin = ["from openai import OpenAI", "", `client = OpenAI(base_url="${address()}/v1", api_key="YOUR_KEY")`];
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(body);
  } catch {
    return "# The body is not JSON.";
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) return "# The body is not a JSON object.";
  const named = NAMED[path];
  if (!named) {
    const route = path.replace("/v1", "");
    return [...begin, `answer = client.post("${route}", cast_to=object, body=${python(fields, 0)})`, "print(answer)"].join("\n");
  }
  const [call, result, known] = named;
  const given = Object.entries(fields).filter(([name]) => known.has(name));
  const others = Object.entries(fields).filter(([name]) => !known.has(name));
  if (others.length) given.push(["extra_body", Object.fromEntries(others)]);
  const lines = given.map(([name, value]) => `    ${name}=${python(value, 1)},`);
  const end = fields["stream"] === true ? ["for chunk in answer:", "    print(chunk)"] : [`print(${result})`];
  return [...begin, `answer = client.${call}.create(`, ...lines, ")", ...end].join("\n");
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
