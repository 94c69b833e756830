// Streams a chat completion for each line of parameters that it reads, and
// prints what came of it as a line: text, what names the run, roles, ends, usage, error.
const readline = require("node:readline");
const { OpenAI } = require("openai");

async function run(client, { extra_body, ...params }) {
  const got = { text: {}, roles: 0, ends: [], usage: null, error: "" };
  const names = new Set();
  try {
    const stream = await client.chat.completions.create({ stream: true, ...params, ...extra_body });
    for await (const chunk of stream) {
      names.add([chunk.id, chunk.model, chunk.object].join(" "));
      if (chunk.usage) got.usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.usage.total_tokens];
      for (const c of chunk.choices) {
        got.text[c.index] = (got.text[c.index] ?? "") + (c.delta.content ?? "");
        got.roles += c.delta.role ? 1 : 0;
        for (const call of c.delta.tool_calls ?? []) {
          got.text[c.index] += `<${call.index} ${call.function?.name ?? ""} ${call.function?.arguments ?? ""}>`;
        }
        for (const p of c.logprobs?.content ?? []) got.text[c.index] += `[${p.token} ${p.logprob.toFixed(4)}]`;
        if (c.finish_reason) got.ends.push(c.finish_reason);
      }
    }
  } catch (error) {
    got.error = error.constructor.name || "Error";
  }
  return { ...got, names: names.size };
}

async function main() {
  const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0, timeout: 60000 });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await run(client, JSON.parse(line))));
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
