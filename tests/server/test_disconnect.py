# SPDX-License-Identifier: Apache-2.0
"""Clients that vanish: in the request, in the queue, in the vision tower, in the stream. Nothing may stay behind."""
import concurrent.futures
import json
import random
import socket
import struct
import time

from support import MODEL, encode, image_part, screen, settle, text_part

CLIENTS = 200


def baseline(server):
    """What must come back: nothing runs, nothing waits, and no page is held that the cache could not give up."""
    server.post("/reset_prefix_cache")
    values = server.metrics()
    return {name: values[name] for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")}


def request_bytes(chance):
    content = "word " * chance.randrange(1, 300)
    if chance.random() < 0.4:
        content = [image_part(encode(screen(140, 280, seed=chance.randrange(200)))), text_part("what?")]
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": content}], "stream": chance.random() < 0.6,
                       "max_tokens": chance.choice([5, 200, 1500]), "ignore_eos": True, "n": chance.choice([1, 1, 3])}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def vanish(port, seed):
    """Send a random share of a request, read a random while, and go: politely, half-closed or by reset."""
    chance = random.Random(seed)
    data = request_bytes(chance)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        cut = chance.random()
        link.sendall(data if cut > 0.25 else data[:int(len(data) * cut * 4)])
        link.settimeout(chance.choice([0.001, 0.02, 0.1, 0.4]))
        try:
            for _ in range(chance.randrange(0, 4)):
                if not link.recv(chance.choice([1, 100, 4096])):
                    break
        except OSError:
            pass
        if chance.random() < 0.4:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
    return True


def test_two_hundred_clients_vanish(start, tiny):
    server = start("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "32M", "--enable-dev-routes",
                   "--max-num-seqs", "16")
    for seed in range(20):  # warm: caches and allocator have taken what they take
        vanish(server.port, 10_000 + seed)
    assert settle(lambda: server.metrics()["vllm:num_requests_running"] == 0)
    before, rss, files, threads = baseline(server), server.rss_bytes(), server.open_files(), server.threads()

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert all(pool.map(lambda seed: vanish(server.port, seed), range(CLIENTS)))

    assert settle(lambda: server.metrics()["vllm:num_requests_running"] == 0 and
                  server.metrics()["vllm:num_requests_waiting"] == 0), server.metrics()
    assert settle(lambda: baseline(server) == before), (before, baseline(server))
    # No time-out is near: keep-alive and receiving take more than a minute.
    assert settle(lambda: server.open_files() <= files + 2, 5), (files, server.open_files())
    assert server.threads() <= threads + 2
    assert server.rss_bytes() < rss + (64 << 20), (rss, server.rss_bytes())
    assert server.alive()
    answer = server.chat("still there?", max_tokens=3)
    assert answer.status_code == 200


def test_sockets_are_freed_within_a_second(start, tiny):
    """Whatever was under way and however the client left, while an older connection stays open and idle."""
    server = start("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "32M")
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "go"}], "max_tokens": 500, "ignore_eos": True,
                       "stream": True}).encode()
    stream = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    cases = [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", stream[:150], stream]
    with socket.create_connection(("127.0.0.1", server.port)):
        time.sleep(0.2)
        files = server.open_files()
        for reset in (False, True):
            for data in cases:
                links = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
                for link in links:
                    link.sendall(data)
                    if data is stream:
                        assert link.recv(1)
                    if reset:
                        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    link.close()
                left = time.monotonic()
                assert settle(lambda: server.open_files() <= files, 5), (reset, data[:20], server.open_files() - files)
                assert time.monotonic() - left < 1.5, (reset, data[:20])  # 0.75 s and what a busy machine adds


def test_disconnect_stops_generation(start, tiny):
    """The tokens of a stream nobody reads are not computed."""
    server = start("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "32M")
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "go on"}], "max_tokens": 3500,
                       "ignore_eos": True, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert link.recv(100).startswith(b"HTTP/1.1 200")
    assert settle(lambda: server.metrics()["vllm:num_requests_running"] == 0, 5)
    generated = server.metrics()["vllm:generation_tokens_total"]
    time.sleep(0.3)
    assert server.metrics()["vllm:generation_tokens_total"] == generated
    assert generated < 3400


def test_waiting_client_vanishes(start, tiny):
    """One sequence at a time; a request in the queue is dropped when its client goes."""
    server = start("--model", tiny, "--served-model-name", MODEL, "--max-num-seqs", "1", "--kv-cache-memory-bytes", "32M")
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "go"}], "max_tokens": 3500, "ignore_eos": True,
                       "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    links = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(4)]
    for link in links:
        link.sendall(head + body)
    assert settle(lambda: server.metrics()["vllm:num_requests_waiting"] >= 1, 5)
    for link in links[::-1]:
        link.close()
    assert settle(lambda: server.metrics()["vllm:num_requests_waiting"] == 0 and
                  server.metrics()["vllm:num_requests_running"] == 0, 5)
    assert server.chat("hi", max_tokens=2).status_code == 200


def test_slow_reader_does_not_block_others(start, tiny):
    """A client that reads nothing holds its own stream only."""
    server = start("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "32M")
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "go"}], "max_tokens": 3500, "ignore_eos": True,
                       "stream": True, "logprobs": True, "top_logprobs": 20}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(5):
            assert server.chat("hi", max_tokens=3).status_code == 200
    assert settle(lambda: server.metrics()["vllm:num_requests_running"] == 0, 10)
