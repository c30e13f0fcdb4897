"""LlamaIndex's classes for the OpenAI API."""

import json
import sys

from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

base, model, picture = sys.argv[1:]
embeddings = OpenAILikeEmbedding(model_name=model, api_base=base, api_key="none")
chat = OpenAILike(model=model, api_base=base, api_key="none", is_chat_model=True, max_tokens=8, temperature=0)
messages = [ChatMessage(role="user", blocks=[ImageBlock(url=picture), TextBlock(text="what is this ?")])]
answer = chat.chat(messages).message
second = ChatMessage(role="user", content="where ?")
print(
    json.dumps(
        {
            "text": embeddings.get_query_embedding("a dog"),
            "batch": embeddings.get_text_embedding_batch(["a dog", "a cat"]),
            "answer": answer.content,
            "streamed": "".join(piece.delta or "" for piece in chat.stream_chat(messages)),
            "second": chat.chat([*messages, answer, second]).message.content,
        }
    )
)
