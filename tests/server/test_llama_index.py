# SPDX-License-Identifier: Apache-2.0
"""LlamaIndex's OpenAILike."""
import asyncio

import pytest
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike
from support import MODEL, encode, screen


@pytest.fixture(scope="module")
def llm(served):
    return OpenAILike(model=MODEL, api_base=served.base, api_key="EMPTY", is_chat_model=True, max_tokens=12,
                      temperature=0.0, context_window=4096, max_retries=0)


def test_complete(llm):
    assert isinstance(llm.complete("Hello").text, str)


def test_chat(llm):
    answer = llm.chat([ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hi")])
    assert answer.message.role == "assistant" and isinstance(answer.message.content, str)


def test_stream_chat(llm):
    chunks = list(llm.stream_chat([ChatMessage(role="user", content="Hi")]))
    assert "".join(chunk.delta or "" for chunk in chunks) == chunks[-1].message.content


def test_image(llm):
    message = ChatMessage(role="user", blocks=[ImageBlock(image=encode(screen())), TextBlock(text="What is this?")])
    assert llm.chat([message]).raw.usage.prompt_tokens > llm.chat([ChatMessage(role="user", content="What is this?")]).raw.usage.prompt_tokens + 20


def test_async(llm):
    assert asyncio.run(llm.acomplete("Hello")).text == llm.complete("Hello").text


def test_plain_completions(served):
    plain = OpenAILike(model=MODEL, api_base=served.base, api_key="EMPTY", is_chat_model=False, max_tokens=5,
                       temperature=0.0, context_window=4096, max_retries=0)
    assert isinstance(plain.complete("Once upon").text, str)
