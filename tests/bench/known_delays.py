#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does `autoglm bench serve` tell the truth?

Starts an OpenAI-compatible server of its own (asyncio, no shared code) whose first token and
token gaps take known times, measures it, and prints truth beside measurement. Exit status 1
when one is off by more than 2 % and 0.2 ms. The truth is what the server really did: it notes
the time of every write.

    python3 tests/bench/known_delays.py [--binary build/autoglm] [--requests 40] [--concurrency 4]
"""
import argparse
import asyncio
import json
import subprocess
import tempfile
import threading
import time


async def sleep_until(deadline):
    """Sleep, then spin for the last half millisecond: asyncio's timer is coarser than we measure."""
    rest = deadline - time.perf_counter()
    if rest > 0.0005:
        await asyncio.sleep(rest - 0.0005)
    while time.perf_counter() < deadline:
        pass


class Server:
    """Every answer: `tokens` events, the first after `ttft` seconds, then one each `gap`."""

    def __init__(self, ttft, gap, tokens):
        self.ttft, self.gap, self.tokens = ttft, gap, tokens
        self.ttfts, self.gaps, self.spans = [], [], []
        self.ready = threading.Event()

    async def answer(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                              if line.startswith(b"content-length"))
                await reader.readexactly(length)
                await self.stream(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def stream(self, writer):
        start = time.perf_counter()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

        def event(value):
            data = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))

        due, last = start + self.ttft, None
        for i in range(self.tokens):
            await sleep_until(due)
            event({"choices": [{"index": 0, "delta": {"content": f"t{i} "}}]})
            await writer.drain()
            now = time.perf_counter()
            (self.ttfts if last is None else self.gaps).append(now - (start if last is None else last))
            last, due = now, due + self.gap
        event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": self.tokens}})
        event(b"[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.spans.append((start, last))

    def run(self):
        async def main():
            server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
            self.ready.set()
            await self.stop.wait()

        asyncio.run(main())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default="build/autoglm")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--concurrency", type=int, default=4)
    args = parser.parse_args()
    bad = 0
    print(f"{'truth: ttft/gap':18s} {'number':16s} {'truth':>10s} {'measured':>10s} {'off':>9s}")
    for ttft, gap in ((0.050, 0.010), (0.320, 0.018), (0.010, 0.004)):
        server = Server(ttft, gap, 40)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        server.ready.wait()
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            subprocess.run([args.binary, "bench", "serve", "--base-url", f"http://127.0.0.1:{server.port}",
                            "--num-prompts", str(args.requests), "--max-concurrency", str(args.concurrency),
                            "--num-warmups", "0", "--quiet", "--save-result", out.name],
                           check=True, stdout=subprocess.DEVNULL)
            got = json.load(open(out.name))
        server.loop.call_soon_threadsafe(server.stop.set)
        thread.join()

        def median(values):
            values = sorted(values)
            return (values[len(values) // 2] + values[(len(values) - 1) // 2]) / 2

        span = max(end for _, end in server.spans) - min(start for start, _ in server.spans)
        rows = [
            ("median TTFT ms", 1e3 * median(server.ttfts), got["median_ttft_ms"], 0.2),
            ("median ITL ms", 1e3 * median(server.gaps), got["median_itl_ms"], 0.2),
            ("mean TPOT ms", 1e3 * sum(server.gaps) / len(server.gaps), got["mean_tpot_ms"], 0.2),
            ("output tok/s", args.requests * server.tokens / span, got["output_throughput"], 0),
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
