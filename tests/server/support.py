# SPDX-License-Identifier: Apache-2.0
"""The server under test, pictures to send, and small readers of what comes back."""
import base64
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import httpx
from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("AUTOGLM_BINARY", str(ROOT / "build" / "autoglm"))
MODEL = "autoglm-phone-9b"
START_SECONDS = 60


class Server:
    """`autoglm serve` on a free port; `with Server(flags) as server:` waits until it is ready."""

    def __init__(self, *flags, env=None, wait=True, port="0"):
        self.flags = [str(flag) for flag in flags]
        self.env = {k: v for k, v in os.environ.items() if k not in ("VLLM_API_KEY", "AUTOGLM_API_KEY")} | (env or {})
        self.wait, self.asked_port = wait, port
        self.process = None
        self.port = None
        self.scheme = "https" if "--ssl-certfile" in self.flags else "http"

    def __enter__(self):
        self.log_file = tempfile.NamedTemporaryFile("w+", prefix="autoglm-", suffix=".log", delete=False)
        self.process = subprocess.Popen([BINARY, "serve", "--port", self.asked_port, *self.flags], cwd=ROOT, env=self.env,
                                        stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=subprocess.STDOUT)
        try:
            self.port = int(self.wait_for_line(r"Listening on https?://.*:(\d+)").group(1))
            if self.wait:
                self.wait_for_line("Application startup complete")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def log(self):
        return pathlib.Path(self.log_file.name).read_text(errors="replace")

    def wait_for_line(self, pattern, seconds=START_SECONDS):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = re.search(pattern, self.log)
            if found:
                return found
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
            time.sleep(0.01)
        raise AssertionError(f"no line like {pattern!r} within {seconds} s:\n{self.log}")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.log_file and os.path.exists(self.log_file.name):
            self.last_log = self.log
            self.log_file.close()
            os.unlink(self.log_file.name)

    @property
    def root(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def base(self):
        return self.root + "/v1"

    def get(self, path, **options):
        return httpx.get(self.root + path, timeout=30, **options)

    def post(self, path, body=None, **options):
        return httpx.post(self.root + path, json=body, timeout=60, **options)

    def chat(self, content="Hi", **fields):
        """POST a chat; a string or list of parts as one user message, or a list of messages."""
        messages = content
        if isinstance(content, str) or (content and "type" in content[0]):
            messages = [{"role": "user", "content": content}]
        return self.post("/v1/chat/completions", {"model": MODEL, "messages": messages, **fields})

    def alive(self):
        return self.process.poll() is None and self.get("/health").status_code == 200

    def metrics(self):
        """name -> sum over labels."""
        values = {}
        for line in self.get("/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.split("{")[0]
                values[name] = values.get(name, 0.0) + float(value)
        return values

    def rss_bytes(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text).group(1)) * 1024

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def settle(condition, seconds=20):
    """Wait until condition() holds; the last value either way."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def screen(width=112, height=196, mode="RGB", seed=0):
    """A picture with some structure: a bar, a button, a gradient."""
    image = Image.new("RGB", (width, height), (240, 240, 245))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, width, height // 10], fill=(40 + seed % 200, 90, 200))
    draw.rectangle([width // 4, height // 2, 3 * width // 4, height // 2 + 12], fill=(220, 60, 60))
    for x in range(width):
        draw.line([x, height - 10, x, height], fill=(255 * x // width, 128, seed % 256))
    return image.convert(mode)


def encode(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def data_uri(data, mime="image/png"):
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image_part(data=None, mime="image/png", **more):
    return {"type": "image_url", "image_url": {"url": data_uri(data if data is not None else encode(screen()), mime), **more}}


def text_part(text):
    return {"type": "text", "text": text}


def events(response):
    """Data of the SSE events of an httpx response, parsed; [DONE] stays a string."""
    found = []
    for line in response.iter_lines():
        if line.startswith("data: "):
            found.append(line[6:] if line[6:] == "[DONE]" else json.loads(line[6:]))
        else:
            assert line == "" or line.startswith(":"), line
    return found


def run(*arguments, **options):
    """Run `autoglm ARGUMENTS`; text of stdout and stderr, exit code."""
    return subprocess.run([BINARY, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          errors="replace", **options)
