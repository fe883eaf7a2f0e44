# SPDX-License-Identifier: Apache-2.0
"""The openai package: text, then a stream with a screenshot.   openai_client.py [BASE_URL] [IMAGE]"""
import base64
import pathlib
import sys

from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key="EMPTY")

answer = client.chat.completions.create(
    model="autoglm-phone-9b",
    messages=[{"role": "user", "content": "打开设置"}],
    max_tokens=64,
)
print(answer.choices[0].message.content)
print(answer.usage)

if len(sys.argv) > 2:
    screenshot = base64.b64encode(pathlib.Path(sys.argv[2]).read_bytes()).decode()
    stream = client.chat.completions.create(
        model="autoglm-phone-9b",
        messages=[{
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{screenshot}"}},
                {"type": "text", "text": "点击搜索框"},
            ],
        }],
        temperature=0.0,
        top_p=0.85,
        frequency_penalty=0.2,
        max_tokens=64,
        stream=True,
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
