// Lists the models, and asks for one that there is not: prints what the client
// makes of both, one line each.
const { OpenAI, NotFoundError } = require("openai");

async function main() {
  const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
  const models = [];
  for await (const model of client.models.list()) {
    models.push(model.id);
  }
  console.log(models.sort().join(" "));
  try {
    await client.chat.completions.create({ model: "gpt-9", messages: [{ role: "user", content: "hi" }] });
  } catch (e) {
    console.log(e instanceof NotFoundError, e.status, e.type, e.param, e.code, e.error.message);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
