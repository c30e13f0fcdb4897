"""The library of the command ``llm``."""

import base64
import json
import os
import sys
import tempfile

os.environ["LLM_USER_PATH"] = tempfile.mkdtemp()

import llm
from llm.default_plugins.openai_models import Chat

base, model, picture = sys.argv[1:]
chat = Chat(model, model_name=model, api_base=base, vision=True)
chat.key = "none"
attachment = llm.Attachment(type="image/png", content=base64.b64decode(picture.partition(",")[2]))
conversation = llm.Conversation(model=chat)
answer = conversation.prompt("what is this ?", attachments=[attachment], stream=False, max_tokens=8).text()
second = conversation.prompt("where ?", stream=False, max_tokens=8).text()
streamed = "".join(chat.prompt("what is this ?", attachments=[attachment], stream=True, max_tokens=8))
print(json.dumps({"answer": answer, "streamed": streamed, "second": second}))
