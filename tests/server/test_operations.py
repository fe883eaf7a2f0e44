# SPDX-License-Identifier: Apache-2.0
"""What an operator relies on: order, limits, health, and nothing left behind by clients that leave."""
import concurrent.futures
import json
import re
import socket
import threading
import time

import pytest
from support import MODEL, encode, image_part, screen, settle, text_part
from test_lifecycle import BODY, Stream, flags, large  # noqa: F401


def leave(server, body, until, path="/v1/chat/completions"):
    """Send a request, wait for until(metrics), hang up."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
        assert settle(lambda: until(server.metrics()))
    return server.metrics()


def is_idle(server):
    now = server.metrics()
    return (now["vllm:num_requests_running"] == now["vllm:num_requests_waiting"] == now["agl_http_active_requests"] == 0
            and now["agl_kv_pages_free"] == now["agl_kv_pages"])


def aborts(server, phase):
    return int(re.search(rf'agl_aborts_total{{[^}}]*phase="{phase}"}} (\d+)', server.get("/metrics").text).group(1))


# ---- clients that leave, phase by phase ----


def test_leave_in_queue(start, tiny):
    server = start(*flags(tiny, "--max-num-seqs", "1"))
    stream = Stream(server, 2000)
    leave(server, BODY | {"max_tokens": 100}, lambda now: now["vllm:num_requests_waiting"] == 1)
    assert settle(lambda: server.metrics()["vllm:num_requests_waiting"] == 0)
    assert aborts(server, "queue") == 1
    stream.thread.join(60)
    assert stream.found[-1] == "[DONE]" and settle(lambda: is_idle(server))


def test_leave_in_prefill(start, large):
    server = start(*flags(large, "--load-format", "dummy", "--max-num-seqs", "4", "--max-num-batched-tokens", "16"))
    before = server.metrics()["agl_steps_total"]
    leave(server, BODY | {"messages": [{"role": "user", "content": "x" * 1500}], "max_tokens": 5},
          lambda now: now["agl_steps_total"] > before + 1)
    assert settle(lambda: is_idle(server))
    assert aborts(server, "prefill") == 1
    assert server.metrics()["agl_steps_total"] - before < 1500 / 16  # the rest was not computed


@pytest.mark.parametrize("stream", [False, True])
def test_leave_in_decode(start, tiny, stream):
    server = start(*flags(tiny))
    leave(server, BODY | {"max_tokens": 3900, "ignore_eos": True, "stream": stream},
          lambda now: now["vllm:generation_tokens_total"] > 5)
    assert settle(lambda: is_idle(server))
    assert aborts(server, "decode") == 1 and server.metrics()["vllm:generation_tokens_total"] < 3900


def test_leave_during_media_and_vision(start, large):
    """The pictures are being decoded, or in the tower: whichever, nothing stays."""
    server = start(*flags(large, "--load-format", "dummy", "--max-pixels", "200704"))
    parts = [image_part(encode(screen(336, 336, seed=i))) for i in range(4)]
    for wait in (lambda now: True, lambda now: now["agl_http_active_requests"] > 0, lambda now: now["vllm:num_requests_running"] > 0):
        leave(server, BODY | {"messages": [{"role": "user", "content": parts + [text_part("?")]}], "max_tokens": 50}, wait)
        assert settle(lambda: is_idle(server), 60)
    assert server.chat("hi", max_tokens=1).status_code == 200


# ---- order and limits ----


def test_priority(start, tiny):
    """Lower goes first, whatever came first; without the flag, the order of arrival."""
    for policy, expected in (("priority", ["urgent", "first", "second"]), ("fcfs", ["first", "second", "urgent"])):
        server = start(*flags(tiny, "--max-num-seqs", "1", "--scheduling-policy", policy))
        blocker = Stream(server, 3900, logprobs=True, top_logprobs=20)
        ended = []

        def ask(name, priority):
            server.chat("hi", max_tokens=200, ignore_eos=True, priority=priority)
            ended.append(name)

        threads = []
        for count, (name, priority) in enumerate([("first", 5), ("second", 5), ("urgent", -1)], 1):
            threads.append(threading.Thread(target=ask, args=(name, priority)))
            threads[-1].start()
            assert settle(lambda: server.metrics()["vllm:num_requests_waiting"] == count)
        for thread in threads:
            thread.join(60)
        blocker.thread.join(60)
        assert ended == expected
        server.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_deadline(start, tiny, stream):
    server = start(*flags(tiny))
    answer = server.chat("hi", max_tokens=3900, ignore_eos=True, deadline_ms=50, stream=stream)
    if not stream:
        assert answer.status_code == 504 and "deadline" in answer.json()["error"]["message"]
    else:
        last = [line for line in answer.text.splitlines() if line][-2:]
        assert answer.status_code == 504 or ("deadline" in last[0] and last[1] == "data: [DONE]")
    assert settle(lambda: is_idle(server))
    for wrong in (-1, 1 << 40, "soon"):
        assert server.chat("hi", deadline_ms=wrong).status_code == 400


def test_fairness_under_overload(start, tiny):
    """Ten times what runs at once: all are served, in order of arrival within one turn of the slots."""
    server = start(*flags(tiny, "--max-num-seqs", "4"))
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: server.chat("hi", max_tokens=50, ignore_eos=True), range(40)))
    assert all(answer.status_code == 200 for answer in answers)
    assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {50}


# ---- health ----


def test_stall_turns_health_off_and_on(start, large):
    """A step that takes longer than the limit is a stall; its end is the end of it."""
    server = start(*flags(large, "--load-format", "dummy", "--stall-timeout", "0.02", "--max-num-batched-tokens", "4096"))
    done = threading.Event()

    def ask():
        while not done.is_set():
            server.chat("x" * 1500, max_tokens=1, cache_salt=str(time.monotonic()))

    thread = threading.Thread(target=ask)
    thread.start()
    seen = set()
    assert settle(lambda: seen.add(server.get("/livez").status_code) or 503 in seen, 60)
    refused = None
    for _ in range(200):
        refused = server.get("/healthz")
        if refused.status_code == 503:
            break
    assert refused.status_code == 503 and "has not finished a step" in refused.json()["error"]["message"]
    done.set()
    thread.join(60)
    assert settle(lambda: server.get("/livez").status_code == 200 and server.get("/healthz").status_code == 200)


def test_late_first_token_is_noticed(start, tiny):
    server = start(*flags(tiny, "--max-num-seqs", "1"))
    for _ in range(40):
        server.chat("hi", max_tokens=1, cache_salt="a")
    stream = Stream(server, 3900, logprobs=True, top_logprobs=20)
    server.chat("hi", max_tokens=1, cache_salt="a")  # waits for the whole long answer
    stream.thread.join(60)
    text = server.get("/metrics").text
    assert int(re.search(r'agl_ttft_anomalies_total{[^}]*phase="queue"} (\d+)', text).group(1)) >= 1
    baseline = re.search(r'agl_ttft_baseline_seconds{[^}]*prompt_tokens_le="16",images_le="0"} (\S+)', text)
    assert 0 < float(baseline.group(1)) < 1
    assert re.search(r"WARNING: .*Late first token of request chatcmpl-\S+: .* mostly queue", server.log)


# ---- ids ----


def test_request_ids(server):
    import httpx
    for path, body in (("/v1/chat/completions", BODY | {"max_tokens": 1}), ("/v1/chat/completions", {"bad": 1}), ("/nothing", {})):
        answer = server.post(path, body)
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
        named = httpx.post(server.root + path, json=body, headers={"X-Request-Id": "my-id.7"})
        assert named.headers["x-request-id"] == "my-id.7"
        if named.status_code == 200:
            assert named.json()["id"] == "chatcmpl-my-id.7"
    unsafe = httpx.post(server.base + "/chat/completions", json=BODY | {"max_tokens": 1}, headers={"X-Request-Id": "a b\"c"})
    assert re.fullmatch(r"[0-9a-f]{32}", unsafe.headers["x-request-id"])
    assert MODEL == unsafe.json()["model"]
