#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What batching, chunked prefill and the prefix cache are worth through HTTP, and what scheduling costs.

    tests/load/http_ratios.py [--layers 4] [--width 1024] [--prompt 5000] [--streams 1 8 64]

Random weights in BF16 at the 9B model's proportions, cut down (--width 4096 --layers 2 is two of its layers), with the tokenizer
of models/autoglm-phone-demo. Each pair of numbers comes from the same minutes; the load average is printed beside them.
Only Python's library is needed; throughput is measured by `autoglm bench serve`.
"""
import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("AUTOGLM_BINARY", str(ROOT / "build" / "autoglm"))
DEMO = ROOT / "models" / "autoglm-phone-demo"


def make_model(folder, width, layers):
    """The demonstration model's files around a configuration of other widths."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "preprocessor_config.json"):
        shutil.copy(DEMO / name, folder / name)
    config = json.loads((DEMO / "config.json").read_text())
    text = config["text_config"]
    text |= {"hidden_size": width, "intermediate_size": width * 13696 // 4096, "num_hidden_layers": layers,
             "num_attention_heads": width // 128, "num_key_value_heads": 2, "max_position_embeddings": 8192, "dtype": "bfloat16"}
    for key in ("rope_parameters", "rope_scaling"):
        if key in text:
            text[key]["mrope_section"] = [8, 12, 12]
    config["vision_config"]["out_hidden_size"] = width
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Server:
    def __init__(self, model, *flags):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        self.process = subprocess.Popen([BINARY, "serve", str(model), "--served-model-name", "autoglm-phone-9b", "--load-format", "dummy",
                                         "--port", "0", "--host", "127.0.0.1", "--disable-uvicorn-access-log", *flags],
                                        stdout=self.log, stderr=subprocess.STDOUT)
        while "Application startup complete" not in self.text():
            if self.process.poll() is not None:
                raise SystemExit(self.text())
            time.sleep(0.05)
        self.port = int(re.search(r"Listening on http://\S+?:(\d+)", self.text()).group(1))

    def text(self):
        return pathlib.Path(self.log.name).read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"^{re.escape(name)}{{[^}}]*}} (\S+)", text, re.M).group(1))

    def bench(self, streams, output):
        done = subprocess.run([BINARY, "bench", "serve", "--base-url", f"http://127.0.0.1:{self.port}", "--dataset-name", "random",
                               "--random-input-len", "32", "--random-output-len", str(output), "--num-prompts", str(2 * streams),
                               "--max-concurrency", str(streams), "--ignore-eos", "--json", "--quiet", "--allow-lag"],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)


class Stream:
    """A streamed completion of token ids, read by its own thread: times of its events."""

    def __init__(self, server, tokens, output):
        self.times, self.ids, self.begun = [], [], threading.Event()
        self.sent = time.monotonic()
        self.thread = threading.Thread(target=self.read, args=(server, tokens, output))
        self.thread.start()

    def read(self, server, tokens, output):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/completions", json.dumps({"model": "autoglm-phone-9b", "prompt": tokens, "max_tokens": output,
                           "ignore_eos": True, "temperature": 0, "stream": True, "return_token_ids": True}))
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                self.times.append(time.monotonic())
                self.ids += json.loads(line[6:])["choices"][0].get("token_ids") or []
                self.begun.set()
        self.begun.set()
        connection.close()

    def wait(self):
        self.thread.join()
        return self

    @property
    def ttft(self):
        return self.times[0] - self.sent


def tokens(count, salt):
    return [(i * i * 31 + i * 7 + salt * 131) % 200 + 20 for i in range(count)]


def gaps_while_prefilling(server, prompt, salt):
    """Gaps of four running streams from the moment the long prompt is sent to its first token."""
    running = [Stream(server, tokens(16, salt + i), 4000) for i in range(4)]
    for stream in running:
        stream.begun.wait()
    time.sleep(1)
    before = [b - a for stream in running for a, b in zip(stream.times, stream.times[1:])]
    long = Stream(server, tokens(prompt, salt + 9), 1).wait()
    gaps = [b - a for stream in running for a, b in zip(stream.times, stream.times[1:]) if b > long.sent and a < long.times[0]]
    server.running = running
    return statistics.median(before), max(gaps), long.ttft


def second_turn(server, salt):
    """The history, its answer, and a few more tokens."""
    first = tokens(2000, salt)
    answer = Stream(server, first, 32).wait()
    return Stream(server, first + answer.ids + tokens(40, salt + 5), 2).wait().ttft


def load():
    return f"{os.getloadavg()[0]:.1f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--prompt", type=int, default=5000)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--output", type=int, default=64)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(pathlib.Path(folder) / "model", options.width, options.layers)
        flags = ["--max-model-len", "8192", "--kv-cache-memory-bytes", "512M"]
        with Server(model, *flags) as server:
            rates = [server.bench(count, options.output)["output_throughput"] for count in options.streams]
            for count, rate in zip(options.streams, rates):
                rows.append((f"output tokens/s, {count} streams", f"{rate:.1f}", f"{rate / rates[0]:.2f} x", load()))
            warm = second_turn(server, 1)
            usual, chunked, ttft = gaps_while_prefilling(server, options.prompt, 2)
            rows.append((f"longest gap of 4 streams while {options.prompt} tokens prefill, in chunks", f"{chunked * 1e3:.0f} ms",
                         f"{chunked / usual:.1f} x the usual {usual * 1e3:.1f} ms", load()))
            rows.append(("… first token of that prompt", f"{ttft * 1e3:.0f} ms", "", load()))
        with Server(model, *flags, "--no-enable-chunked-prefill", "--no-enable-prefix-caching") as server:
            cold = second_turn(server, 1)
            usual, whole, ttft = gaps_while_prefilling(server, options.prompt, 2)
            rows.append(("… whole", f"{whole * 1e3:.0f} ms", f"{whole / usual:.1f} x the usual {usual * 1e3:.1f} ms; {whole / chunked:.1f} x in chunks", load()))
            rows.append(("… first token of that prompt", f"{ttft * 1e3:.0f} ms", "", load()))
        rows.append(("first token of turn 2 (2,032 of 2,072 tokens known), cold", f"{cold * 1e3:.0f} ms", "", load()))
        rows.append(("… with the prefix cache", f"{warm * 1e3:.0f} ms", f"{cold / warm:.1f} x sooner", load()))
        small = make_model(pathlib.Path(folder) / "small", 256, 1)
        with Server(small, "--max-num-seqs", "256", "--max-model-len", "1024", "--kv-cache-memory-bytes", "512M") as server:
            streams = [Stream(server, tokens(16, i), 600) for i in range(256)]
            for stream in streams:
                stream.begun.wait()
            names = "agl_steps_total", "agl_schedule_seconds_total", "agl_overlapped_seconds_total", "agl_step_seconds_total"
            before = [server.metric(name) for name in names]
            time.sleep(4)
            steps, schedule, overlapped, step = (server.metric(name) - start for name, start in zip(names, before))
            rows.append(("host work per step of 256 sequences, before launch + after", f"{schedule / steps * 1e6:.0f} + {overlapped / steps * 1e6:.0f} us",
                         f"{100 * (schedule + overlapped) / step:.1f} % of a step of {step / steps * 1e3:.1f} ms", load()))
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)
            for stream in streams:
                stream.wait()
    print(f"width {options.width}, {options.layers} layers, BF16, {os.cpu_count()} CPUs\n")
    print("| what | value | ratio | load average |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
