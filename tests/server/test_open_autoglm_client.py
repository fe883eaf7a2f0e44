# SPDX-License-Identifier: Apache-2.0
"""Requests shaped as the Open-AutoGLM client and its ports send them, byte habits included."""
import json
import socket

import httpx
import openai
import pytest
from support import MODEL, data_uri, encode, events, image_part, screen, text_part

PARAMETERS = {"max_tokens": 16, "temperature": 0.0, "top_p": 0.85, "frequency_penalty": 0.2}
SYSTEM = "今天的日期是: 2026年11月22日 星期日\n你是一个智能体分析专家。\n<think>{think}</think>\n<answer>{action}</answer>"
INFO = json.dumps({"current_app": "小红书"}, ensure_ascii=False)


def phone_screen():
    """RGBA with an iCCP chunk, as Android's screencap gives it through Pillow."""
    return encode(screen(108, 240, "RGBA"), "PNG", icc_profile=b"\0" * 128)


def first_step():
    return [{"role": "system", "content": SYSTEM},
            {"role": "user", "content": [image_part(phone_screen()), text_part(f"打开设置\n\n{INFO}")]}]


def later_step():
    """The image of the old turn is gone, its message is still a list, and the tags come back doubled."""
    return [{"role": "system", "content": SYSTEM},
            {"role": "user", "content": [text_part(f"打开设置\n\n{INFO}")]},
            {"role": "assistant", "content": '<think><think>先打开应用</think>\n<answer></think><answer>do(action="Launch", app="设置")</answer>'},
            {"role": "user", "content": [image_part(phone_screen()), text_part(f"** Screen Info **\n\n{INFO}")]}]


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=served.base, api_key="EMPTY", max_retries=0) as one:
        yield one


@pytest.mark.parametrize("messages", [first_step(), later_step()], ids=["first", "later"])
def test_step_streams(client, messages):
    content = ""
    for chunk in client.chat.completions.create(messages=messages, model=MODEL, extra_body={}, stream=True, **PARAMETERS):
        if len(chunk.choices) == 0:
            continue
        if chunk.choices[0].delta.content is not None:
            content += chunk.choices[0].delta.content
    whole = client.chat.completions.create(messages=messages, model=MODEL, **PARAMETERS)
    assert content == whole.choices[0].message.content
    for marker in ("<|user|>", "<|endoftext|>", "<|observation|>", "</answer>", "<|begin_of_image|>"):
        assert marker not in content


def test_probe(client):
    """main.py: check_model_api."""
    answer = client.with_options(timeout=30.0).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=5, temperature=0.0, stream=False)
    assert answer.choices and len(answer.choices) > 0


def test_models_probe(served):
    """ios.py."""
    listed = httpx.get(f"{served.base}/models", timeout=10).json()
    assert MODEL in [model["id"] for model in listed["data"]]


def test_deployment_check(client):
    """scripts/check_deployment: prints content and the three numbers."""
    answer = client.chat.completions.create(messages=first_step(), model=MODEL, stream=False, **PARAMETERS)
    assert answer.choices[0].message.content is not None
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == answer.usage.total_tokens


def prompt_tokens(served, messages, **fields):
    response = served.chat(messages, **({"max_tokens": 1} | fields))
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens"]


def test_text_before_image_is_the_same_prompt(served):
    """String layout: the image comes first, whatever the client's order."""
    image, text = image_part(phone_screen()), text_part("打开设置")
    fields = {"temperature": 0, "max_tokens": 8, "logprobs": True, "ignore_eos": True}
    one = served.chat([image, text], **fields).json()
    other = served.chat([text, image], **fields).json()
    assert one["usage"] == other["usage"] or one["usage"]["prompt_tokens"] == other["usage"]["prompt_tokens"]
    assert one["choices"][0]["message"]["content"] == other["choices"][0]["message"]["content"]


def test_string_and_list_are_the_same_prompt(served):
    as_text = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"},
               {"role": "user", "content": "V"}]
    as_list = [{"role": m["role"], "content": [text_part(m["content"])]} for m in as_text]
    assert prompt_tokens(served, as_text) == prompt_tokens(served, as_list)


VARIANTS = {
    "webp labelled png": dict(messages=[{"role": "user", "content": [
        image_part(encode(screen(96, 214), "WEBP", quality=80), "image/png"), text_part("hi")]}]),
    "jpeg labelled png": dict(messages=[{"role": "user", "content": [
        image_part(encode(screen(96, 214), "JPEG"), "image/png"), text_part("hi")]}]),
    "png labelled text": dict(messages=[{"role": "user", "content": [
        image_part(phone_screen(), "text/plain"), text_part("hi")]}]),
    "no mime": dict(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": data_uri(phone_screen(), "")}}, text_part("hi")]}]),
    "detail": dict(messages=[{"role": "user", "content": [image_part(phone_screen(), detail="high"), text_part("hi")]}]),
    "url as text": dict(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": data_uri(phone_screen())}, text_part("hi")]}]),
    "image only": dict(messages=[{"role": "user", "content": [image_part(phone_screen())]}]),
    "consecutive users": dict(messages=[{"role": "user", "content": "first"},
                                        {"role": "user", "content": [image_part(phone_screen())]}]),
    "consecutive assistants": dict(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                                             {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]),
    "max_completion_tokens": dict(max_tokens=None, max_completion_tokens=8),
    "skip_special_tokens": dict(skip_special_tokens=False),
    "float32 parameters": dict(top_p=0.8500000238418579, frequency_penalty=0.20000000298023224),
    "tools": dict(tools=[{"type": "function", "function": {"name": "tap", "description": "Tap", "parameters": {
        "type": "object", "properties": {"x": {"type": "integer"}}}}}], tool_choice="auto"),
    "empty tools": dict(tools=[]),
    "tool history": dict(messages=[
        {"role": "user", "content": "open"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "tap", "arguments": "{\"x\":1}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"}, {"role": "user", "content": "next"}]),
    "assistant list": dict(messages=[{"role": "user", "content": "a"},
                                     {"role": "assistant", "content": [text_part("b")]}, {"role": "user", "content": "c"}]),
    "reasoning in history": dict(messages=[{"role": "user", "content": "a"}, {
        "role": "assistant", "content": "b", "reasoning_content": "because"}, {"role": "user", "content": "c"}]),
    "text response_format": dict(response_format={"type": "text"}),
    "osworld": dict(stop=["<|user|>", "<|observation|>", "</answer>"], skip_special_tokens=False,
                    include_stop_str_in_output=True, repetition_penalty=1.05),
    "unknown fields": dict(reasoning_effort="low", some_future_field={"a": 1}, user="me", metadata={"k": "v"}),
    "name": dict(messages=[{"role": "user", "name": "phone", "content": "hi"}]),
    "developer role": dict(messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}]),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_variants(server, name, stream):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
    body = {key: value for key, value in (body | VARIANTS[name]).items() if value is not None}
    with httpx.stream("POST", server.base + "/chat/completions", json=body | {"stream": stream}, timeout=60) as response:
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        if stream:
            found = events(response)
            assert found[-1] == "[DONE]" and not any("error" in event for event in found[:-1])
        else:
            assert json.loads(response.read())["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions"])
def test_paths_without_v1(server, path):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    assert server.post(path, body).status_code == 200


def test_get_models_without_v1(server):
    assert server.get("/models").json() == server.get("/v1/models").json()


def test_model_may_be_left_out(server):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    assert server.post("/v1/chat/completions", body).status_code == 200


def test_cors_preflight(server):
    response = httpx.options(server.base + "/chat/completions", headers={
        "Origin": "https://phone.example", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type"})
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] in ("*", "https://phone.example")
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed and "content-type" in allowed
    answer = httpx.post(server.base + "/chat/completions", headers={"Origin": "https://phone.example"}, timeout=30,
                        json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    assert answer.headers["access-control-allow-origin"] in ("*", "https://phone.example")


def test_expect_continue(server):
    """curl asks for leave before it sends a megabyte."""
    body = json.dumps({"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert link.recv(64).startswith(b"HTTP/1.1 100")
        link.sendall(body)
        assert link.recv(65536).startswith(b"HTTP/1.1 200")


def test_full_size_screenshot_is_accepted(served):
    """1080 x 2400, about a megabyte of base64; the tiny model's window may be too small for its tokens."""
    noisy = encode(screen(1080, 2400, "RGBA"))
    response = served.chat([image_part(noisy), text_part("hi")], max_tokens=1)
    if response.status_code == 200:
        # 39 x 86 merged cells at the checkpoint's own limit; the demonstration model's is 480 tokens.
        assert response.json()["usage"]["prompt_tokens_details"]["image_tokens"] in (3354, 448)
    else:
        assert response.status_code == 400 and "maximum context length" in response.json()["error"]["message"]


def test_keep_alive(server):
    with httpx.Client(base_url=server.root) as client:
        for _ in range(20):
            assert client.get("/health").status_code == 200
            assert client.post("/v1/chat/completions", timeout=30, json={
                "model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).status_code == 200


def test_accept_event_stream_lines(server):
    """The Android client reads lines that begin with `data: ` and waits for [DONE]."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}
    with httpx.stream("POST", server.base + "/chat/completions", json=body, timeout=30,
                      headers={"Accept": "text/event-stream"}) as response:
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
