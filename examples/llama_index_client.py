# SPDX-License-Identifier: Apache-2.0
"""LlamaIndex.   llama_index_client.py [BASE_URL]"""
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model="autoglm-phone-9b",
    api_base=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1",
    api_key="EMPTY",
    is_chat_model=True,
    context_window=25480,
    max_tokens=64,
)

for piece in llm.stream_chat([ChatMessage(role="user", content="打开设置")]):
    print(piece.delta, end="", flush=True)
print()
