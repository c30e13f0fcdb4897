// OpenAI's JavaScript client.
import OpenAI from "openai";

const [base, model, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: "none" });
const content = [
  { type: "image_url", image_url: { url: picture } },
  { type: "text", text: "what is this ?" },
];
const messages = [{ role: "user", content }];
const asked = { model, messages, max_tokens: 8 };
const found = {};
found.models = (await client.models.list()).data.map((each) => each.id);
found.text = (await client.embeddings.create({ model, input: "a dog" })).data[0].embedding;
const batch = await client.embeddings.create({ model, input: ["a dog", "a cat"] });
found.batch = batch.data.map((each) => each.embedding);
const answer = (await client.chat.completions.create(asked)).choices[0].message;
found.answer = answer.content;
found.streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  found.streamed += chunk.choices[0]?.delta?.content ?? "";
}
const turns = [...messages, answer, { role: "user", content: "where ?" }];
const second = await client.chat.completions.create({ model, messages: turns, max_tokens: 8 });
found.second = second.choices[0].message.content;
try {
  await client.embeddings.create({ model: "nobody", input: "a dog" });
} catch (error) {
  found.error = error instanceof OpenAI.NotFoundError ? error.code : String(error);
}
console.log(JSON.stringify(found));
