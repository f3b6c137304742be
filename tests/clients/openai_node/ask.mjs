// Ask one question per case with OpenAI's client for Node; input and output are those of ../openai_python/ask.py.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const given = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: given.url, apiKey: "k", maxRetries: 0, timeout: 60_000 });

for (const asked of given.cases) {
  console.log(JSON.stringify(await answer(asked)));
}

async function answer({ model, stream, text, fields }) {
  const seen = { text: "", calls: [], finished: false, error: "" };
  try {
    const made = await (fields
      ? client.completions.create({ model, stream, ...fields })
      : client.chat.completions.create({ model, messages: [{ role: "user", content: text }], stream }));
    for await (const each of stream ? made : [made]) {
      for (const choice of each?.choices ?? []) {
        add(seen, fields ? { content: choice.text } : stream ? choice.delta : choice.message, choice);
      }
    }
  } catch (error) {
    // An answer that the client cannot read throws whatever its parser throws.
    seen.error = error.code ?? error.constructor.name;
  }
  return seen;
}

// A message, or a fragment of one, of the first choice.
function add(seen, part, choice) {
  if (choice.index) return;
  const content = part?.content ?? "";
  seen.text += Array.isArray(content) ? content.map((each) => each.text).join("") : content;
  seen.finished ||= Boolean(choice.finish_reason);
  for (const called of [...(part?.tool_calls ?? []).map((call) => call.function), part?.function_call]) {
    if (!called) continue;
    if (called.name) seen.calls.push(["", ""]);
    const last = seen.calls.at(-1);
    last[0] += called.name ?? "";
    last[1] += typeof called.arguments === "object" ? JSON.stringify(called.arguments ?? "") : (called.arguments ?? "");
  }
}
