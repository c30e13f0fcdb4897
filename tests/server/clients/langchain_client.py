"""LangChain's classes for the OpenAI API."""

import json
import sys

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

base, model, picture = sys.argv[1:]
embeddings = OpenAIEmbeddings(base_url=base, api_key="none", model=model, check_embedding_ctx_length=False)
chat = ChatOpenAI(base_url=base, api_key="none", model=model, max_tokens=8)
content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "what is this ?"}]
messages = [HumanMessage(content=content)]
answer = chat.invoke(messages)
print(
    json.dumps(
        {
            "text": embeddings.embed_query("a dog"),
            "batch": embeddings.embed_documents(["a dog", "a cat"]),
            "answer": answer.content,
            "streamed": "".join(piece.content for piece in chat.stream(messages)),
            "second": chat.invoke([*messages, answer, HumanMessage(content="where ?")]).content,
        }
    )
)
