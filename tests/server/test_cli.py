# SPDX-License-Identifier: Apache-2.0
"""ask, chat, inspect, help: what a person sees in a terminal."""
import json
import os
import pty
import re
import signal
import subprocess
import time

import pytest
from support import BINARY, ROOT, encode, run, screen

QUICK = ("--max-tokens", "12", "--temperature", "0", "--ignore-eos", "--kv-cache-memory-bytes", "16M")


def test_version_and_help():
    version = run("version").stdout
    assert re.fullmatch(r"autoglm \d+\.\d+\.\d+\n", version) and run("--version").stdout == version
    overview = run("help").stdout
    for command in ("serve", "ask", "chat", "inspect"):
        assert f"autoglm {command} " in overview
        shown = run(command, "--help")
        assert shown.returncode == 0 and "--model" in shown.stdout and "\033" not in shown.stdout
    assert run().returncode == 2 and run("fly").returncode == 2


def test_demonstration_model():
    """Without --model: the checkpoint in models/, and a word on standard error that it is only that."""
    if not (ROOT / "models" / "autoglm-phone-demo" / "config.json").exists():
        pytest.skip("models/autoglm-phone-demo is not there: neither this nor the other tests ran against it")
    answer = run("ask", "--max-tokens", "8", "打开设置")
    assert answer.returncode == 0 and "demonstration" in answer.stderr


def test_ask(tiny):
    answer = run("ask", "--model", tiny, *QUICK, "hello", "there")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith("\n") and "\033" not in answer.stdout
    assert answer.stdout == run("ask", "--model", tiny, *QUICK, "hello there").stdout


def test_ask_json(tiny, tmp_path):
    (tmp_path / "screen.png").write_bytes(encode(screen()))
    answer = run("ask", "--model", tiny, *QUICK, "--json", "--image", tmp_path / "screen.png", "hello")
    found = json.loads(answer.stdout)
    assert found["usage"]["completion_tokens"] == 12 and found["usage"]["image_tokens"] >= 28
    assert found["finish_reason"] == "length" and found["timings"]["total_s"] > 0
    text_only = json.loads(run("ask", "--model", tiny, *QUICK, "--json", "hello").stdout)
    assert text_only["usage"]["image_tokens"] == 0 and text_only["timings"]["vision_s"] == 0


def test_ask_equals_server(tiny, server):
    asked = json.loads(run("ask", "--model", tiny, *QUICK, "--json", "hello").stdout)
    served = server.chat("hello", max_tokens=12, temperature=0, ignore_eos=True).json()
    assert served["choices"][0]["message"]["content"] == asked["text"]
    assert served["usage"]["prompt_tokens"] == asked["usage"]["prompt_tokens"]


def test_ask_standard_input(tiny):
    piped = run("ask", "--model", tiny, *QUICK, "-", input="hello")
    assert piped.stdout == run("ask", "--model", tiny, *QUICK, "hello").stdout


@pytest.mark.parametrize("arguments,code,message", [
    (("ask",), 2, "no"),
    (("ask", "--model", "{tiny}"), 2, "no question"),
    (("ask", "--model", "{tiny}", "--image", "/nowhere.png", "q"), 2, "/nowhere.png"),
    (("ask", "--model", "/nowhere", "q"), 1, "/nowhere"),
    (("ask", "--model", "{tiny}", "--image", "{tiny}/config.json", "q"), 1, "image"),
    (("ask", "--model", "{tiny}", "--temperature", "hot", "q"), 2, "--temperature"),
    (("chat", "--model", "{tiny}", "word"), 2, "word"),
    (("inspect", "/nowhere"), 1, "/nowhere"),
    (("serve", "--max-model-len", "0"), 2, "--max-model-len"),
])
def test_wrong_use(tiny, tmp_path, arguments, code, message):
    ended = run(*[argument.format(tiny=tiny) for argument in arguments],
                env=os.environ | {"AUTOGLM_MODELS": str(tmp_path)})
    assert ended.returncode == code and message in ended.stderr, (ended.returncode, ended.stderr)
    assert len(ended.stderr.strip().splitlines()) == 1


def test_inspect(tiny):
    shown = run("inspect", tiny)
    assert shown.returncode == 0, shown.stderr
    assert "Glm4vForConditionalGeneration" in shown.stdout
    raw = json.loads(run("inspect", tiny, "--json").stdout)
    assert raw["architecture"] == "Glm4vForConditionalGeneration" and raw["refused"] == []


def test_chat(tiny):
    said = run("chat", "--model", tiny, *QUICK, input="hello\n/help\n/reset\nhello\n/quit\nnot read\n")
    assert said.returncode == 0, said.stderr
    assert "/image FILE" in said.stderr and said.stdout.strip()


def test_chat_remembers(tiny):
    once = run("chat", "--model", tiny, *QUICK, input="hello\n").stdout
    assert run("chat", "--model", tiny, *QUICK, input="hello\n/reset\nhello\n").stdout == once * 2


def test_chat_image(tiny, tmp_path):
    (tmp_path / "screen.png").write_bytes(encode(screen()))
    said = run("chat", "--model", tiny, *QUICK, input=f"/image {tmp_path}/screen.png\nwhat?\n/image /nowhere.png\nand?\n")
    assert said.returncode == 0 and "/nowhere.png" in said.stderr


def in_terminal(arguments, environment=None, seconds=20, interrupt_after=None):
    """Run with a terminal on all three; what it wrote and how it ended."""
    master, slave = pty.openpty()
    process = subprocess.Popen([BINARY, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT,
                               env=os.environ | {"TERM": "xterm"} | (environment or {}), start_new_session=True)
    os.close(slave)
    output, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            block = os.read(master, 4096)
        except OSError:
            break
        if not block:
            break
        output += block
        if interrupt_after and interrupt_after in output:
            process.send_signal(signal.SIGINT)
            interrupt_after = None
    code = process.wait(10)
    os.close(master)
    return output.decode(errors="replace"), code


def test_terminal_has_progress_and_colour(tiny):
    output, code = in_terminal(["ask", "--model", tiny, *QUICK, "hello"])
    assert code == 0 and "\r\033[K" in output and "tokens/s" in output and "\033[2m" in output


def test_no_color(tiny):
    output, code = in_terminal(["ask", "--model", tiny, *QUICK, "hello"], {"NO_COLOR": "1"})
    assert code == 0 and "\033[2m" not in output and "\033[3" not in output


def test_interrupt_stops_an_answer(tiny):
    output, code = in_terminal(["ask", "--model", tiny, "--max-tokens", "3900", "--ignore-eos", "--json",
                                "--kv-cache-memory-bytes", "16M", "hello"], interrupt_after=b"%")
    assert code == 130
