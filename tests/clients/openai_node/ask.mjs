// Ask one question per case with OpenAI's client for Node; input and output are those of ../openai_python/ask.py.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const given = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: given.url, apiKey: "k", maxRetries: 0, timeout: 60_000 });

const others = {
  responses: async (fields) => {
    const made = await client.responses.create(fields);
    return [made.status, made.output_text];
  },
  "responses stream": async (fields) => {
    const stream = client.responses.stream(fields);
    let text = "";
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    const made = await stream.finalResponse();
    return [made.status, made.output_text, text];
  },
  decisions: async (fields) => (await client.decisions.create(fields)).answers,
  embeddings: async (fields) => (await client.embeddings.create(fields)).data.map((each) => each.embedding),
  "fill in": async (fields) => {
    const { choices } = await client.post("/fim/completions", { body: fields });
    return [choices[0].text, choices[0].message.content];
  },
  models: async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    return names;
  },
};

for (const asked of given.cases) {
  const seen = asked.api ? await others[asked.api](asked.fields) : await answer(asked);
  console.log(JSON.stringify(seen));
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
