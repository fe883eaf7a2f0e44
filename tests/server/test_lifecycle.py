# SPDX-License-Identifier: Apache-2.0
"""From the first line of the log to the exit code: start, readiness, keys, TLS, overload, shutdown."""
import concurrent.futures
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import httpx
import pytest
from support import MODEL, Server, events, run, settle

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def flags(tiny, *more):
    return ("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "32M", *more)


@pytest.fixture(scope="module")
def large(tiny, tmp_path_factory):
    """A configuration that takes a moment to fill with random weights; the folder has none."""
    folder = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 8,
                              "num_attention_heads": 8, "num_key_value_heads": 2}
    config["vision_config"]["out_hidden_size"] = 1024
    for key in ("rope_parameters", "rope_scaling"):
        if key in config["text_config"]:
            config["text_config"][key]["mrope_section"] = [8, 12, 12]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# ---- start ----


def test_lines_that_scripts_wait_for(server):
    order = [r"Started server process \[\d+\]", "Waiting for application startup", "Listening on http",
             "Model loaded successfully with 0 GPUs enabled", "Application startup complete",
             r"running on http://\S+:\d+ \(Press CTRL\+C to quit\)"]
    places = [re.search(line, server.log) for line in order]
    assert all(places), [line for line, place in zip(order, places) if not place]
    assert [place.start() for place in places] == sorted(place.start() for place in places)
    assert server.log.startswith("INFO:     Started server process")
    assert re.search(r"Loaded in [\d.]+ s: \w+", server.log)


def test_health(server):
    assert server.get("/healthz").json() == {"status": "ok"}
    for path in ("/health", "/livez", "/readyz"):
        assert server.get(path).status_code == 200
    assert "version" in server.get("/version").json()


def test_port_answers_while_loading(start, large):
    server = start(*flags(large, "--load-format", "dummy"), wait=False)
    seen = []
    while server.process.poll() is None:
        health = server.get("/healthz")
        chat = server.post("/v1/chat/completions", BODY | {"max_tokens": 1})
        seen.append((health.status_code, chat.status_code))
        if health.status_code == 200:
            break
        assert chat.status_code in (503, 200)
        if chat.status_code == 503:
            assert chat.json()["error"]["code"] == 503 and "retry-after" in chat.headers
            assert server.get("/livez").status_code == 200 and server.get("/readyz").status_code in (503, 200)
    assert seen[0] == (503, 503) and seen[-1][0] == 200
    assert server.chat("hi", max_tokens=1).status_code == 200


def test_signal_while_loading(start, large):
    server = start(*flags(large, "--load-format", "dummy"), wait=False)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0


def test_port_in_use(server, tiny):
    ended = run("serve", *flags(tiny), "--port", server.port)
    assert ended.returncode == 1 and re.search(r"ERROR:.*(in use|port)", ended.stderr)


def test_demonstration_model_by_default(start, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "autoglm-phone-demo")
    server = start(env={"AUTOGLM_MODELS": str(tmp_path)})
    assert "DEMONSTRATION" in server.log
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["autoglm-phone-9b"]


def test_model_name_defaults_to_the_path(start, tiny):
    server = start(str(tiny))
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == [str(tiny)]


def test_official_line_pastes(tiny, tmp_path):
    """The README of Open-AutoGLM behind `autoglm`, the hub id found in the local hub cache."""
    cache = tmp_path / "hub" / "models--zai-org--AutoGLM-Phone-9B"
    shutil.copytree(tiny, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    line = ["python3", "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "autoglm-phone-9b",
            "--allowed-local-media-path", "/", "--mm-encoder-tp-mode", "data", "--mm_processor_cache_type", "shm",
            "--mm_processor_kwargs", '{"max_pixels":5000000}', "--max-model-len", "auto", "--chat-template-content-format",
            "string", "--limit-mm-per-prompt", '{"image":10}', "--model", "zai-org/AutoGLM-Phone-9B", "--port", "0"]
    server = Server(env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    server.flags = line
    import support
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([support.BINARY, *line], env=server.env, cwd=support.ROOT, stdout=log, stderr=log)
    try:
        assert settle(lambda: "Application startup complete" in (tmp_path / "log").read_text() or process.poll() is not None)
        text = (tmp_path / "log").read_text()
        assert process.poll() is None, text
        assert text.count("--mm-encoder-tp-mode has no effect") == 1 and text.count("WARNING") == 2
        port = re.search(r"running on http://\S+:(\d+)", text).group(1)
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"] == "autoglm-phone-9b"
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_json_log(start, tiny):
    server = start(*flags(tiny, "--log-format", "json"))
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert lines[0]["level"] == "info" and lines[0]["message"].startswith("Started server process") and lines[0]["time"]


def test_unix_socket(tiny, tmp_path):
    path = tmp_path / "autoglm.sock"
    import support
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([support.BINARY, "serve", *map(str, flags(tiny)), "--uds", path], cwd=support.ROOT,
                                   stdout=log, stderr=log)
    try:
        assert settle(lambda: "Application startup complete" in (tmp_path / "log").read_text())
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://local") as client:
            assert client.get("/healthz").json() == {"status": "ok"}
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert not path.exists()


def test_root_path(start, tiny):
    server = start(*flags(tiny, "--root-path", "/llm"))
    assert server.get("/llm/v1/models").status_code == 200
    assert server.get("/v1/models").status_code == 200


# ---- who may ask ----


@pytest.mark.parametrize("by_environment", [False, True])
def test_api_keys(start, tiny, by_environment):
    keys = ("--api-key", "first", "second")
    server = start(*flags(tiny), env={"VLLM_API_KEY": "first"}) if by_environment else start(*flags(tiny, *keys))
    assert server.get("/health").status_code == 200 and server.get("/healthz").status_code == 200
    for path in ("/v1/models", "/models", "/metrics", "/version"):
        assert server.get(path).status_code == 401, path
    for path in ("/v1/chat/completions", "/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        assert server.post(path, BODY).status_code == 401, path
    for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": "first"}, {"Authorization": "Bearer first "[:-2]},
                    {"Authorization": "Basic first"}, {"X-Api-Key": "firs"}):
        assert server.get("/v1/models", headers=headers).status_code == 401, headers
    assert server.get("/v1/models", headers={"Authorization": "Bearer first"}).status_code == 200
    assert server.get("/v1/models", headers={"X-Api-Key": "first"}).status_code == 200
    assert server.get("/v1/models", headers={"Authorization": "Bearer second"}).status_code == (401 if by_environment else 200)
    assert httpx.options(server.base + "/models", headers={"Origin": "x", "Access-Control-Request-Method": "GET"}).status_code in (200, 204)
    error = server.get("/v1/models").json()["error"]
    assert error["code"] == 401 and error["message"]


def test_any_key_without_keys(server):
    assert server.get("/v1/models", headers={"Authorization": "Bearer EMPTY"}).status_code == 200


def test_tls(start, tiny, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days",
                    "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True,
                   capture_output=True)
    server = start(*flags(tiny, "--ssl-certfile", certificate, "--ssl-keyfile", key))
    trusted = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(verify=trusted, base_url=server.root, timeout=30) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        answer = client.post("/v1/chat/completions", json=BODY | {"max_tokens": 3})
        assert answer.status_code == 200
        with client.stream("POST", "/v1/chat/completions", json=BODY | {"max_tokens": 3, "stream": True}) as response:
            assert events(response)[-1] == "[DONE]"
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{server.port}/health", timeout=5)
    assert "https://" in server.log


@pytest.mark.parametrize("which", ["missing", "garbage"])
def test_tls_bad_files(tiny, tmp_path, which):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    if which == "garbage":
        key.write_text("not a key")
        certificate.write_text("not a certificate")
    ended = run("serve", *flags(tiny), "--port", "0", "--ssl-certfile", certificate, "--ssl-keyfile", key)
    assert ended.returncode == 1 and "ERROR:" in ended.stderr and re.search("ssl-certfile|pem", ended.stderr)


# ---- overload ----


def test_overload_is_429(start, tiny):
    server = start(*flags(tiny, "--max-num-seqs", "1", "--max-queued-requests", "2"))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.chat("hi", max_tokens=400, ignore_eos=True), range(16)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}, codes
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]["code"] == 429
    assert server.chat("hi", max_tokens=1).status_code == 200


def test_request_timeout(start, tiny):
    server = start(*flags(tiny, "--request-timeout", "0.05"))
    answer = server.chat("hi", max_tokens=3900, ignore_eos=True)
    assert answer.status_code in (408, 504, 503), answer.text
    assert server.alive()


# ---- the end ----


class Stream:
    """A stream read by a thread of its own."""

    def __init__(self, server, tokens, **fields):
        self.found, self.failure, self.started = [], None, threading.Event()
        self.thread = threading.Thread(target=self.read, args=(server, tokens, fields))
        self.thread.start()
        assert self.started.wait(20)

    def read(self, server, tokens, fields):
        try:
            body = BODY | {"max_tokens": tokens, "ignore_eos": True, "stream": True} | fields
            with httpx.stream("POST", server.base + "/chat/completions", json=body, timeout=60) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self.found.append(line[6:])
                        self.started.set()
        except httpx.HTTPError as failure:
            self.failure = failure
        self.started.set()


def test_sigterm_lets_running_requests_end(start, tiny):
    server = start(*flags(tiny))
    stream = Stream(server, 3000)
    server.process.send_signal(signal.SIGTERM)
    stream.thread.join(60)
    assert stream.failure is None and stream.found[-1] == "[DONE]"
    assert json.loads(stream.found[-2])["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(20) == 0
    assert "Application shutdown complete" in server.log and "Finished server process" in server.log


def test_draining_refuses_new_requests(start, tiny):
    server = start(*flags(tiny))
    stream = Stream(server, 3900)
    server.process.send_signal(signal.SIGTERM)
    codes = set()
    while stream.thread.is_alive() and server.process.poll() is None:
        try:
            codes.add(server.chat("hi", max_tokens=1).status_code)
        except httpx.HTTPError:
            codes.add("refused")
    stream.thread.join(60)
    assert stream.found[-1] == "[DONE]"
    assert codes <= {503, "refused", 200} and codes & {503, "refused"}


def test_drain_has_an_end(start, tiny):
    server = start(*flags(tiny, "--shutdown-timeout", "0.1"))
    stream = Stream(server, 3900, logprobs=True, top_logprobs=20, n=4)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    stream.thread.join(20)
    assert time.monotonic() - began < 15
    if stream.failure is None:
        assert any("error" in line or "abort" in line or line == "[DONE]" for line in stream.found[-3:])


def test_second_signal_ends_now(start, tiny):
    server = start(*flags(tiny, "--max-num-seqs", "1"))
    streams = [Stream(server, 3900, logprobs=True, top_logprobs=20)] 
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_line("Shutting down")
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGINT)
    assert server.process.wait(5) == 0
    for stream in streams:
        stream.thread.join(20)


def test_sigint_when_idle(start, tiny):
    server = start(*flags(tiny))
    with socket.create_connection(("127.0.0.1", server.port)):  # an idle connection does not hold it
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
    assert "Application shutdown complete" in server.log
