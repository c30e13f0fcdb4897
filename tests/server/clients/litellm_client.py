"""LiteLLM."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no download

import litellm

base, model, picture = sys.argv[1:]
content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "what is this ?"}]
messages = [{"role": "user", "content": content}]
server = {"model": f"openai/{model}", "api_base": base, "api_key": "none"}
answer = litellm.completion(messages=messages, max_tokens=8, **server).choices[0].message
chunks = litellm.completion(messages=messages, max_tokens=8, stream=True, **server)
turn = {"role": "user", "content": "where ?"}
print(
    json.dumps(
        {
            "text": litellm.embedding(input="a dog", **server).data[0]["embedding"],
            "batch": [each["embedding"] for each in litellm.embedding(input=["a dog", "a cat"], **server).data],
            "answer": answer.content,
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "second": litellm.completion(
                messages=[*messages, {"role": "assistant", "content": answer.content}, turn], max_tokens=8, **server
            )
            .choices[0]
            .message.content,
        }
    )
)
