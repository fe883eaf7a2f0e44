# SPDX-License-Identifier: Apache-2.0
"""Answers that go on after the line broke are the answers that never broke: tokens and text."""
import random
import sys

import httpx
import pytest
from support import MODEL, ROOT, events, image_part, text_part

sys.path.insert(0, str(ROOT / "examples"))
from resume_stream import BadLine, ask  # noqa: E402

TEXT = [{"role": "user", "content": "Describe the screen, then 打开设置 and scroll down."}]
PICTURE = [{"role": "user", "content": [image_part(), text_part("What is on the screen?")]}]


def request(messages, **fields):
    return {"model": MODEL, "messages": messages, "max_tokens": 120, "temperature": 0, "ignore_eos": True} | fields


def broken_and_whole(served, body, method, least, most, seed):
    """The same request over a bad line and over a good one, and how often the bad one broke."""
    line = BadLine("127.0.0.1", served.port, least, most, seed)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{line.port}/v1", timeout=60) as client:
            answer = ask(client, body, method)
    finally:
        line.close()
    with httpx.Client(base_url=served.base, timeout=60) as client:
        return answer, ask(client, body, method), line.cuts


def check(answer, whole):
    assert answer.ids == whole.ids
    assert answer.text == whole.text
    assert answer.finish_reason == whole.finish_reason


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fields", [
    {}, {"frequency_penalty": 0.7, "repetition_penalty": 1.2}, {"temperature": 1.0, "top_p": 0.9, "top_k": -1, "seed": 7},
    {"min_tokens": 60, "ignore_eos": False}, {"logprobs": True, "top_logprobs": 2}, {"return_reasoning": True},
    {"stop": ["zz", "设置"]}, {"bad_words": ["a", "the"]},
], ids=lambda fields: ",".join(fields) or "greedy")
def test_tokens(served, seed, fields):
    answer, whole, cuts = broken_and_whole(served, request(TEXT, **fields), "tokens", 200, 2500, seed)
    check(answer, whole)
    assert cuts > 0 or len(whole.ids) < 30


@pytest.mark.parametrize("seed", range(4))
def test_tokens_with_picture(served, seed):
    answer, whole, cuts = broken_and_whole(served, request(PICTURE, frequency_penalty=0.2), "tokens", 200, 2000, seed)
    check(answer, whole)
    assert cuts > 0


def test_cut_at_every_byte(served):
    """A short answer over connections of every length around a few events."""
    body = request(TEXT, max_tokens=6)
    with httpx.Client(base_url=served.base, timeout=60) as client:
        whole = ask(client, body, "tokens")
    for most in range(210, 2400, 73):
        line = BadLine("127.0.0.1", served.port, most, most)
        with httpx.Client(base_url=f"http://127.0.0.1:{line.port}/v1", timeout=60) as client:
            try:
                check(ask(client, body, "tokens", tries=20), whole)
            except RuntimeError as error:
                assert "too bad" in str(error) and most < 1200  # not even one event fits in
        line.close()


@pytest.mark.parametrize("messages", [TEXT, PICTURE], ids=["text", "picture"])
def test_text(served, messages):
    """continue_final_message: the partial text, cut back to where it makes the tokens the model had chosen."""
    answer, whole, _ = broken_and_whole(served, request(messages, max_tokens=40), "text", 8000, 16000, 1)
    check(answer, whole)


def resumed(served, body, ids):
    return served.post("/v1/chat/completions", body | {"resume_token_ids": ids, "return_token_ids": True})


def test_price_and_usage(served):
    """What is resumed is prompt, and nearly all of it is in the prefix cache."""
    body = request(TEXT, max_tokens=100)
    whole = served.post("/v1/chat/completions", body | {"return_token_ids": True}).json()
    ids = whole["choices"][0]["token_ids"]
    assert len(ids) == 100
    for taken in random.Random(3).sample(range(1, 100), 20):
        rest = resumed(served, body, ids[:taken]).json()
        assert rest["choices"][0]["token_ids"] == ids[taken:]
        usage = rest["usage"]
        assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"] + taken
        assert usage["completion_tokens"] == 100 - taken
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_text_price(served):
    body = request([{"role": "user", "content": "word " * 100}], max_tokens=20)
    served.chat(body["messages"], max_tokens=20, temperature=0, ignore_eos=True)
    rest = served.chat(body["messages"] + [{"role": "assistant", "content": "partly"}], continue_final_message=True,
                       add_generation_prompt=False, max_tokens=4).json()
    assert rest["usage"]["prompt_tokens_details"]["cached_tokens"] >= rest["usage"]["prompt_tokens"] - 20


def test_stream_of_a_resumed_answer(served):
    body = request(TEXT, max_tokens=30, stream=True, return_token_ids=True, stream_options={"include_usage": True})
    with httpx.stream("POST", served.base + "/chat/completions", json=body, timeout=60) as response:
        whole = events(response)
    ids = [token for event in whole[:-2] for token in event["choices"][0]["token_ids"]]
    with httpx.stream("POST", served.base + "/chat/completions", json=body | {"resume_token_ids": ids[:29]}, timeout=60) as response:
        rest = events(response)
    assert rest[0]["choices"][0]["token_ids"] == ids[29:] and rest[0]["choices"][0]["finish_reason"] == "length"
    assert rest[-2]["usage"]["completion_tokens"] == 1


def test_completions(served):
    body = {"model": MODEL, "prompt": "Open the", "max_tokens": 40, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    whole = served.post("/v1/completions", body).json()["choices"][0]
    ids = whole["token_ids"]
    rest = served.post("/v1/completions", body | {"resume_token_ids": ids[:17]}).json()["choices"][0]
    assert rest["token_ids"] == ids[17:]
    # Where there is no such field, a prompt of ids does the same; penalties then see a longer prompt.
    again = served.post("/v1/completions", body | {"prompt": whole["prompt_token_ids"] + ids[:17], "max_tokens": 23}).json()["choices"][0]
    assert again["token_ids"] == ids[17:]


@pytest.mark.parametrize("ids, fields, words", [
    ([-1], {}, "resume_token_ids"), ([10**9], {}, "out of range"), (["a"], {}, "resume_token_ids"), ("abc", {}, "list"),
    ([5] * 120, {}, "complete"), ([5] * 4096, {"max_tokens": 5000}, "complete"), ([5], {"n": 2}, "n > 1"),
    ([5], {"prompt_logprobs": 1}, "prompt_logprobs"), ([5], {"echo": True}, "echo"),
])
def test_refused(server, ids, fields, words):
    answer = resumed(server, request(TEXT, **fields), ids)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text


def test_ended_answers_are_refused(server):
    """275 is among the tiny checkpoint's stop tokens."""
    answer = resumed(server, request(TEXT, ignore_eos=False), [5, 275])
    assert answer.status_code == 400 and "complete" in answer.json()["error"]["message"]
    assert resumed(server, request(TEXT), [5, 275]).status_code == 200


def test_nothing_to_resume(server):
    assert resumed(server, request(TEXT, max_tokens=3), []).json()["usage"]["completion_tokens"] == 3
