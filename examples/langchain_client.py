# SPDX-License-Identifier: Apache-2.0
"""langchain-openai: invoke and stream.   langchain_client.py [BASE_URL]"""
import sys

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="autoglm-phone-9b",
    temperature=0.5,
    api_key="EMPTY",
    base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1",
    extra_body={"enable_thinking": True, "return_reasoning": True},
    streaming=True,
    max_tokens=64,
)

print(model.invoke("打开设置").content)
for chunk in model.stream("打开设置"):
    print(chunk.content, end="", flush=True)
print()
