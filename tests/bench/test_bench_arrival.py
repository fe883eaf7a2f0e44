# SPDX-License-Identifier: Apache-2.0
"""`autoglm bench serve` against a scripted server: what it says about tokens that reach many
connections at once, cut anywhere, and about tokens that arrive while it does not run."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
from known_delays import receive_request  # noqa: E402
from support import BINARY, ROOT  # noqa: E402

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
END = b"data: [DONE]\n\n"


def event(text):
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text}]}).encode() + b"\n\n"


def start_bench(port, requests, *flags):
    return subprocess.Popen([BINARY, "bench", "serve", "--base-url", f"http://127.0.0.1:{port}", "--json", "--quiet",
                             "--num-prompts", str(requests), "--num-warmups", "0", "--model-name", "scripted",
                             "--input-len", "4", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_bursts_to_many_connections():
    """Every event is counted once, wherever a write ends, and every stream keeps its own text."""
    requests, tokens = 96, 20
    listener = socket.create_server(("127.0.0.1", 0), backlog=requests)

    def serve():
        connections = [listener.accept()[0] for _ in range(requests)]
        for connection in connections:
            receive_request(connection)
        rest = [HEAD] * requests
        for token in range(tokens):
            for i, connection in enumerate(connections):
                data = rest[i] + event(f"{i}.{token} ")
                cut = len(data) if token + 1 == tokens else len(data) - (7 * i + token) % 40
                connection.sendall(data[:cut])
                rest[i] = data[cut:]
            time.sleep(0.003)
        for connection in connections:
            connection.sendall(END)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    done = start_bench(listener.getsockname()[1], requests, "--save-detailed", "--allow-lag")
    out, err = done.communicate(timeout=60)
    thread.join(10)
    listener.close()
    assert done.returncode == 0, err
    got = json.loads(out)
    assert got["completed"] == requests
    assert got["output_lens"] == [tokens] * requests
    assert [len(gaps) for gaps in got["itls"]] == [tokens - 1] * requests
    assert all(gap >= 0 for gaps in got["itls"] for gap in gaps)
    streams = sorted(got["generated_texts"], key=lambda text: int(text.split(".")[0]))
    assert streams == ["".join(f"{i}.{token} " for token in range(tokens)) for i in range(requests)]


def test_arrival_is_not_the_time_of_reading():
    """The first token arrives while the client is stopped: its time is the kernel's, and the
    client says that it was late."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = start_bench(listener.getsockname()[1], 1)
    connection, _ = listener.accept()
    receive_request(connection)
    start = time.monotonic()
    time.sleep(0.1)
    os.kill(client.pid, signal.SIGSTOP)
    time.sleep(0.1)
    connection.sendall(HEAD + event("first "))
    sent = time.monotonic() - start
    time.sleep(0.8)
    os.kill(client.pid, signal.SIGCONT)
    stopped = time.monotonic() - start
    time.sleep(0.3)
    connection.sendall(event("second") + END)
    connection.close()
    listener.close()
    out, err = client.communicate(timeout=60)
    got = json.loads(out)
    assert client.returncode == 3 and "after they arrived" in err
    assert got["client_lag_p99_ms"] > 500
    assert 1e3 * sent - 50 < got["mean_ttft_ms"] < 1e3 * (sent + stopped) / 2
    assert got["mean_itl_ms"] > 1e3 * (stopped - sent)
