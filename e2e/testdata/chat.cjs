// Streams one chat completion and prints what each chunk says, one line each,
// but for what names the run: id and time.
const { OpenAI } = require("openai");

async function main() {
  const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
  const stream = await client.chat.completions.create({
    model: "any",
    messages: [{ role: "user", content: "Tell me of fire." }],
    temperature: 0,
    seed: 7,
    max_tokens: 32,
    cache_prompt: false,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    const usage = chunk.usage && [chunk.usage.prompt_tokens, chunk.usage.completion_tokens];
    console.log(JSON.stringify([chunk.object, chunk.model, chunk.choices, usage]));
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
