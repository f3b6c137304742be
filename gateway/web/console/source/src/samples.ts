// Requests as applications send them. The bundled checkpoint knows the first tasks; any model can be asked the others.
export type Sample = {
  name: string;
  description: string;
  path: string;
  headers?: Record<string, string>;
  body: Record<string, unknown>;
  watchable: boolean; // the worker can show its canvas
};

const CHAT = "/v1/chat/completions";
const ORDER = {
  type: "object",
  properties: {
    name: { type: ["string", "null"] },
    qty: { type: "integer" },
    item: { type: "string" },
    day: { type: ["string", "null"] },
  },
  required: ["name", "qty", "item", "day"],
  additionalProperties: false,
};
const user = (content: string) => [{ role: "user", content }];

export const SAMPLES: Sample[] = [
  {
    name: "Edit",
    description: "A text with its source as a prediction: most of the output is known.",
    path: CHAT,
    watchable: true,
    body: {
      model: "auto",
      seed: 1,
      max_tokens: 64,
      metadata: { task: "edit" },
      messages: user("Clean up this commit subject: Removes stale cache from session."),
      prediction: { type: "content", content: "Removes stale cache from session." },
    },
  },
  {
    name: "Text",
    description: "The same task without its source: the canvas starts from noise.",
    path: CHAT,
    watchable: true,
    body: {
      model: "auto",
      seed: 1,
      max_tokens: 64,
      metadata: { task: "edit" },
      messages: user("Clean up this commit subject: Fixed brokn token in api"),
    },
  },
  {
    name: "JSON Schema",
    description: "Structured output: the worker guarantees the schema by construction.",
    path: CHAT,
    watchable: true,
    body: {
      model: "auto",
      seed: 1,
      max_tokens: 96,
      messages: user("Extract the order as JSON: hi, i need 3 red lamp for anna on monday"),
      response_format: { type: "json_schema", json_schema: { name: "order", schema: ORDER } },
    },
  },
  {
    name: "Sudoku",
    description: "A puzzle that is solved in any order, not from left to right.",
    path: CHAT,
    watchable: true,
    body: {
      model: "auto",
      seed: 1,
      max_tokens: 64,
      metadata: { task: "reasoning" },
      messages: user("Solve this sudoku: _2__4___2_____21"),
    },
  },
  {
    name: "Tools",
    description: "A tool that must be called, with arguments that match its schema.",
    path: CHAT,
    watchable: true,
    body: {
      model: "auto",
      seed: 1,
      max_tokens: 96,
      messages: user("Extract the order as JSON: 2 blue mug for leo by friday"),
      tools: [{ type: "function", function: { name: "order", description: "Place an order.", parameters: ORDER } }],
      tool_choice: "required",
    },
  },
  {
    name: "Fill in",
    description: "Code between a prompt and a suffix, as editors send it.",
    path: "/v1/fim/completions",
    watchable: false,
    body: {
      model: "auto",
      seed: 1,
      max_tokens: 32,
      prompt: "def fibonacci(n):\n    if n < 2:\n        return ",
      suffix: "\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    },
  },
  {
    name: "Decisions",
    description: "Questions about one input, answered with probabilities.",
    path: "/v1/decisions",
    watchable: false,
    body: {
      model: "auto",
      input: "hi, i need 3 red lamp for anna on monday",
      questions: [
        { type: "predicate", name: "order", instructions: "Is this an order?" },
        {
          type: "choice",
          name: "day",
          instructions: "Which day?",
          choices: [{ value: "monday" }, { value: "friday" }, { value: "none" }],
        },
      ],
    },
  },
  {
    name: "Question",
    description: "An open question goes to the quality lane.",
    path: CHAT,
    watchable: false,
    body: {
      model: "auto",
      seed: 1,
      max_tokens: 40,
      temperature: 0,
      messages: user("What is the capital of France? Answer in one sentence."),
    },
  },
];
