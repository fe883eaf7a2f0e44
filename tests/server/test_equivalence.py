# SPDX-License-Identifier: Apache-2.0
"""The same request gives the same answer, however it is asked and whoever else is being served."""
import concurrent.futures

import httpx
import pytest
from support import MODEL, encode, events, image_part, screen, text_part

PROMPTS = ["short", "a somewhat longer prompt that spans several pages of keys and values " * 3, "你好，世界", "1 2 3 4 5 6"]


def greedy(server, content, tokens=24, **fields):
    response = server.chat(content, max_tokens=tokens, temperature=0, ignore_eos=True, logprobs=True, **fields)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    return choice["message"]["content"], [entry["logprob"] for entry in choice["logprobs"]["content"]]


def streamed(server, content, **fields):
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "stream": True, **fields}
    with httpx.stream("POST", server.base + "/chat/completions", json=body, timeout=60) as response:
        found = events(response)
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in found[:-1] if event["choices"])


def reset(server):
    assert server.post("/reset_prefix_cache").status_code == 200


@pytest.mark.parametrize("fields", [
    dict(temperature=0), dict(temperature=1.0, seed=11), dict(temperature=0.7, top_p=0.9, top_k=20, seed=3),
    dict(temperature=0, frequency_penalty=0.2, top_p=0.85), dict(temperature=0, repetition_penalty=1.2),
    dict(temperature=1.0, min_p=0.1, seed=8)], ids=str)
def test_stream_is_whole(server, fields):
    whole = server.chat(PROMPTS[1], max_tokens=32, ignore_eos=True, **fields).json()["choices"][0]["message"]["content"]
    assert streamed(server, PROMPTS[1], max_tokens=32, ignore_eos=True, **fields) == whole


def test_seed_repeats_and_seeds_differ(server):
    def text(seed):
        return server.chat("hello", max_tokens=24, temperature=1.0, top_p=1.0, top_k=-1, seed=seed, ignore_eos=True).json()["choices"][0]["message"]["content"]

    assert [text(seed) for seed in (1, 2, 3)] == [text(seed) for seed in (1, 2, 3)]
    assert len({text(seed) for seed in (1, 2, 3, 4)}) > 1


def test_no_seed_differs(server):
    texts = {server.chat("hello", max_tokens=24, temperature=1.0, top_p=1.0, top_k=-1, ignore_eos=True).json()["choices"][0]["message"]["content"] for _ in range(4)}
    assert len(texts) > 1


def test_batch_is_single(server):
    """Answers given alone, with the caches cold, and while all others run."""
    images = [image_part(encode(screen(seed=seed))) for seed in (0, 70)]
    contents = [*PROMPTS, *[[image, text_part("what?")] for image in images]]
    alone = []
    for content in contents:
        reset(server)
        alone.append(greedy(server, content))
    reset(server)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda content: greedy(server, content), contents * 4))
    for (text, logprobs), (other_text, other_logprobs) in zip(alone * 4, together):
        assert other_text == text
        # The same sums may be grouped differently when more rows are in the batch.
        assert other_logprobs == pytest.approx(logprobs, abs=1e-3)


def test_cached_prefix_is_cold(server):
    prompt = PROMPTS[1] * 3
    reset(server)
    cold = greedy(server, prompt)
    warm = greedy(server, prompt)
    assert warm[0] == cold[0] and warm[1] == pytest.approx(cold[1], abs=1e-3)
    usage = server.chat(prompt, max_tokens=1).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0


def test_cached_image_is_cold(server):
    content = [image_part(encode(screen(140, 252, seed=5))), text_part("what?")]
    reset(server)
    cold = greedy(server, content)
    warm = greedy(server, content)
    assert warm[0] == cold[0] and warm[1] == pytest.approx(cold[1], abs=1e-3)


def test_other_image_is_not_the_cached_one(server):
    """The prefix key holds the pixels, not the placeholder."""
    first = greedy(server, [image_part(encode(screen(seed=1))), text_part("what?")])
    second = greedy(server, [image_part(encode(screen(seed=170))), text_part("what?")])
    assert first[1] != second[1]


def test_chunked_prefill_is_whole(start, tiny):
    """A prompt in pieces of 64 tokens, and one in a single step."""
    prompt = PROMPTS[1] * 4
    common = ("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "64M")
    whole = greedy(start(*common, "--max-num-batched-tokens", "4096"), prompt)
    chunked = greedy(start(*common, "--max-num-batched-tokens", "64"), prompt)
    assert chunked[0] == whole[0] and chunked[1] == pytest.approx(whole[1], abs=1e-3)


def test_threads_do_not_matter(start, tiny):
    common = ("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "64M")
    one = greedy(start(*common, "--threads", "1"), PROMPTS[1])
    three = greedy(start(*common, "--threads", "3"), PROMPTS[1])
    assert one == three


def test_preempted_is_whole(start, tiny):
    """A pool too small for all: sequences wait or start over, and nobody sees it."""
    small = start("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "1M", "--max-model-len", "512",
                  "--no-enable-prefix-caching")
    alone = [greedy(small, f"prompt {i}", tokens=100) for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: greedy(small, f"prompt {i}", tokens=100), range(8)))
    assert [text for text, _ in together] == [text for text, _ in alone]


def test_continue_final_message(server):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    fields = dict(add_generation_prompt=False, continue_final_message=True, max_tokens=4, temperature=0, ignore_eos=True)
    plain = server.chat(messages, **fields).json()
    echoed = server.chat(messages, echo=True, **fields).json()
    assert plain["usage"]["prompt_tokens"] == echoed["usage"]["prompt_tokens"]
    assert echoed["choices"][0]["message"]["content"] == "Well" + plain["choices"][0]["message"]["content"]
