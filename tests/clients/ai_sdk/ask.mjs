// Ask one question per case with the AI SDK, whose OpenAI provider calls the responses API.
//
// stdin: {"url": ..., "cases": [{"how": ..., "openai": {...}}]}, where `how` is `generate` or `stream` (both run a loop
// of steps with a tool) or `object` (a structured answer), and `openai` are the provider's options. stdout: one JSON line
// for each, in order: what an application sees, or {"error": ...}.

import { text as read } from 'node:stream/consumers'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, Output, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

const given = JSON.parse(await read(process.stdin))
const openai = createOpenAI({ baseURL: given.url, apiKey: 'k' })
globalThis.AI_SDK_LOG_WARNINGS = false

const weather = tool({
  description: 'The weather of a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sun in ${city}`,
})

for (const { how, openai: options } of given.cases) {
  const asked = { model: openai('auto'), prompt: 'Rome or Oslo?', maxRetries: 0, providerOptions: { openai: options ?? {} } }
  try {
    console.log(JSON.stringify(await answer(how, asked)))
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }))
  }
}

async function answer(how, asked) {
  if (how === 'object') {
    const schema = z.object({ city: z.string(), degrees: z.number() })
    return { object: (await generateText({ ...asked, output: Output.object({ schema }) })).output }
  }
  const loop = { ...asked, tools: { weather }, stopWhen: stepCountIs(5) }
  const seen = how === 'stream' ? await streamed(loop) : await generateText(loop)
  return {
    text: seen.text,
    finished: seen.finishReason,
    results: seen.steps.flatMap(step => step.toolResults.map(result => result.output)),
    tokens: seen.usage.totalTokens,
  }
}

async function streamed(loop) {
  let failure
  const stream = streamText({ ...loop, onError: ({ error }) => { failure = error } })
  const pieces = []
  for await (const part of stream.fullStream) if (part.type === 'text-delta') pieces.push(part.text)
  if (failure) throw failure
  const [finishReason, steps, usage] = await Promise.all([stream.finishReason, stream.steps, stream.usage])
  return { text: pieces.join(''), finishReason, steps, usage }
}
