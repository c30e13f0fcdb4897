"""OpenAI's Python client."""

import asyncio
import json
import sys

import openai

base, model, picture = sys.argv[1:]
client = openai.OpenAI(base_url=base, api_key="none")
content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "what is this ?"}]
messages = [{"role": "user", "content": content}]
asked = {"model": model, "messages": messages, "max_tokens": 8}


async def asynchronous() -> str:
    async with openai.AsyncOpenAI(base_url=base, api_key="none") as other:
        return (await other.chat.completions.create(**asked)).choices[0].message.content


answer = client.chat.completions.create(**asked).choices[0].message
chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
with client.chat.completions.stream(**asked) as stream:
    for _ in stream:
        pass
    final = stream.current_completion_snapshot.choices[0].message.content
turn = {"role": "user", "content": "where ?"}
found = {
    "models": [each.id for each in client.models.list()],
    "text": client.embeddings.create(model=model, input="a dog").data[0].embedding,
    "batch": [each.embedding for each in client.embeddings.create(model=model, input=["a dog", "a cat"]).data],
    "answer": answer.content,
    "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
    "helper": final,
    "async": asyncio.run(asynchronous()),
    "usage": chunks[-1].usage.completion_tokens,
    "second": client.chat.completions.create(model=model, messages=[*messages, answer.model_dump(), turn], max_tokens=8)
    .choices[0]
    .message.content,
}
try:
    client.embeddings.create(model="nobody", input="a dog")
except openai.NotFoundError as error:
    found["error"] = error.code
print(json.dumps(found))
