# SPDX-License-Identifier: Apache-2.0
"""langchain-openai as articles about the model use it."""
import asyncio

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from support import MODEL, data_uri, encode, screen


def chat_model(served, thinking=True, reasoning=False, **options):
    return ChatOpenAI(
        model=MODEL,
        temperature=0.5,
        api_key="EMPTY",
        base_url=served.base,
        extra_body={"enable_thinking": thinking, "return_reasoning": reasoning},
        streaming=True,
        max_retries=0,
        max_tokens=16,
        **options,
    )


def with_image(text="What is on the screen?"):
    return HumanMessage(content=[
        {"type": "image_url", "image_url": {"url": data_uri(encode(screen()))}},
        {"type": "text", "text": text},
    ])


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("reasoning", [True, False])
def test_invoke(served, thinking, reasoning):
    answer = chat_model(served, thinking, reasoning).invoke("Hello")
    assert isinstance(answer, AIMessage) and isinstance(answer.content, str)
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_messages(served):
    answer = chat_model(served).invoke([SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello."),
                                        HumanMessage("Again")])
    assert isinstance(answer.content, str)


def test_stream(served):
    chunks = list(chat_model(served, seed=3).stream("Hello"))
    assert len(chunks) > 1
    assert "".join(chunk.content for chunk in chunks) == chat_model(served, seed=3).invoke("Hello").content


def test_astream_with_image(served):
    async def collect():
        return [chunk async for chunk in chat_model(served).astream([with_image()])]

    chunks = asyncio.run(collect())
    assert len(chunks) > 1 and any(chunk.response_metadata.get("finish_reason") for chunk in chunks)


def test_batch(served):
    questions = [f"Question {i}" for i in range(6)]
    answers = chat_model(served, seed=9).batch(questions)
    assert len(answers) == 6
    alone = [chat_model(served, seed=9).invoke(question).content for question in questions]
    assert [answer.content for answer in answers] == alone


def test_usage(served):
    model = chat_model(served, stream_usage=True)
    answer = model.invoke("Hello")
    assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + answer.usage_metadata["output_tokens"]


def test_no_think_form_differs(server):
    """enable_thinking is heard at the top level and in chat_template_kwargs."""
    messages = [{"role": "user", "content": "Hi"}]
    plain = server.chat(messages, max_tokens=1).json()["usage"]["prompt_tokens"]
    top = server.chat(messages, max_tokens=1, enable_thinking=False).json()["usage"]["prompt_tokens"]
    inner = server.chat(messages, max_tokens=1, chat_template_kwargs={"enable_thinking": False}).json()["usage"]["prompt_tokens"]
    assert top == inner and top >= plain
