// The official Node client, unchanged. Usage: node openai_client.mjs http://127.0.0.1:8000/v1

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "What is the capital of France?" }];
const options = { model, messages, temperature: 0, max_tokens: 40 };

const whole = await client.chat.completions.create(options);
const answer = whole.choices[0].message.content;
assert.ok(answer);

let text = "";
let usage = null;
const streaming = { ...options, stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create(streaming)) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, answer);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const parameters = { type: "object", properties: { city: { enum: ["Paris", "Oslo"] } }, required: ["city"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const runner = client.chat.completions.stream({ ...options, tools, tool_choice: "required", parallel_tool_calls: false });
const called = (await runner.finalChatCompletion()).choices[0];
assert.equal(called.finish_reason, "tool_calls");
assert.ok(JSON.parse(called.message.tool_calls[0].function.arguments).city);

const schema = { type: "object", properties: { big: { type: "boolean" } }, required: ["big"], additionalProperties: false };
const response_format = { type: "json_schema", json_schema: { name: "size", strict: true, schema } };
const parsed = await client.chat.completions.parse({ ...options, response_format });
assert.equal(typeof parsed.choices[0].message.parsed.big, "boolean");

const done = await client.completions.create({ model, prompt: "The capital of France is", max_tokens: 8, logprobs: 1 });
assert.ok(done.choices[0].logprobs.tokens.length > 0);

const left = await client.chat.completions.create({ ...options, stream: true, max_tokens: 400 });
for await (const _ of left) break;

await assert.rejects(client.chat.completions.create({ ...options, temperature: 9 }), OpenAI.BadRequestError);
await assert.rejects(client.models.retrieve("none"), OpenAI.NotFoundError);
console.log("ok");
