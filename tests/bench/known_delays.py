#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does `autoglm bench serve` tell the truth?

Starts an OpenAI-compatible server of its own (plain sockets, no shared code) whose first token and
token gaps take known times, measures it, and prints truth beside measurement. Exit status 1
when one is off by more than 2 % and 0.2 ms. The truth is what the server really did: when the
kernel received the request (its own time stamp, so that waking up the server does not count) and
when each token was written. Every connection has a process of its own, asleep between tokens, so
that noting the truth does not disturb it.

    python3 tests/bench/known_delays.py [--binary build/autoglm] [--requests 40] [--concurrency 4]
"""
import argparse
import json
import multiprocessing
import socket
import struct
import subprocess
import tempfile
import time


SO_TIMESTAMPNS = 35    # Linux, asm-generic; the socket module does not name it


def receive(connection):
    """Bytes, and the time.perf_counter() of their arrival in the kernel."""
    data, extra, _, _ = connection.recvmsg(65536, 64)
    now = time.perf_counter()
    for level, kind, value in extra:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, ns = struct.unpack("@ll", value)
            waited = time.time_ns() - seconds * 10**9 - ns
            return data, now - waited * 1e-9
    return data, now


def receive_request(connection):
    """All of it is read; the arrival of its first bytes, None when the client has gone."""
    data, start = receive(connection)
    if not data:
        return None
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, body = data.split(b"\r\n\r\n", 1)
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return start


def sleep_until(deadline):
    rest = deadline - time.perf_counter()
    if rest > 0:
        time.sleep(rest)


class Server:
    """Every answer: `tokens` events, the first after `ttft` seconds, then one each `gap`."""

    def __init__(self, ttft, gap, tokens, workers):
        self.ttft, self.gap, self.tokens = ttft, gap, tokens
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.truth = multiprocessing.Queue()
        self.workers = [multiprocessing.Process(target=self.work, daemon=True) for _ in range(workers)]
        for worker in self.workers:
            worker.start()

    def work(self):
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            with connection:
                while self.answer(connection):
                    pass

    def answer(self, connection):
        """One request; false when the client has gone."""
        start = receive_request(connection)
        if start is None:
            return False

        def chunk(value):
            data = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"
            return b"%x\r\n%s\r\n" % (len(data), data)

        out = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        times, due = [], start + self.ttft
        for i in range(self.tokens):
            out += chunk({"choices": [{"index": 0, "delta": {"content": f"t{i} "}}]})
            sleep_until(due)
            times.append(time.perf_counter())
            connection.sendall(out)
            out, due = b"", times[-1] + self.gap
        end = chunk({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": self.tokens}})
        connection.sendall(end + chunk(b"[DONE]") + b"0\r\n\r\n")
        self.truth.put((start, times))
        return True

    def stop(self, requests):
        self.spans = [self.truth.get(timeout=10) for _ in range(requests)]
        for worker in self.workers:
            worker.terminate()
            worker.join()
        self.listener.close()
        self.ttfts = [times[0] - start for start, times in self.spans]
        self.gaps = [b - a for _, times in self.spans for a, b in zip(times, times[1:])]
        self.seconds = max(times[-1] for _, times in self.spans) - min(start for start, _ in self.spans)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default="build/autoglm")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--concurrency", type=int, default=4)
    args = parser.parse_args()
    bad = 0
    print(f"{'truth: ttft/gap':18s} {'number':16s} {'truth':>10s} {'measured':>10s} {'off':>9s}")
    for ttft, gap in ((0.050, 0.010), (0.320, 0.018), (0.010, 0.004)):
        server = Server(ttft, gap, 40, args.concurrency)
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            subprocess.run([args.binary, "bench", "serve", "--base-url", f"http://127.0.0.1:{server.port}",
                            "--num-prompts", str(args.requests), "--max-concurrency", str(args.concurrency),
                            "--num-warmups", "0", "--quiet", "--save-result", out.name],
                           check=True, stdout=subprocess.DEVNULL)
            got = json.load(open(out.name))
        server.stop(args.requests)

        def median(values):
            values = sorted(values)
            return (values[len(values) // 2] + values[(len(values) - 1) // 2]) / 2

        rows = [
            ("median TTFT ms", 1e3 * median(server.ttfts), got["median_ttft_ms"], 0.2),
            ("median ITL ms", 1e3 * median(server.gaps), got["median_itl_ms"], 0.2),
            ("mean TPOT ms", 1e3 * sum(server.gaps) / len(server.gaps), got["mean_tpot_ms"], 0.2),
            ("output tok/s", args.requests * server.tokens / server.seconds, got["output_throughput"], 0),
        ]
        for name, truth, measured, slack in rows:
            off = measured - truth
            wrong = abs(off) > max(0.02 * truth, slack)
            bad += wrong
            print(f"{1e3 * ttft:5.0f} ms / {1e3 * gap:4.1f} ms {name:16s} {truth:10.3f} {measured:10.3f} "
                  f"{100 * off / truth:+8.2f}%{'  WRONG' if wrong else ''}")
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
