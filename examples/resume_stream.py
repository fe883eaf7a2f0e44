# SPDX-License-Identifier: Apache-2.0
"""A long answer over a bad line: go on after a dropped connection, no token lost, none twice.

    resume_stream.py [BASE_URL] [--method tokens|text] [--max-tokens N] [--image FILE] [--bad-line] [PROMPT]

tokens  The same request again plus `resume_token_ids`: the ids received so far. The server takes them as the
        start of the answer, so penalties, seeds, stop strings and images behave as if nothing had happened.
text    What every OpenAI-compatible server of this kind can do: the partial text as a last assistant message with
        `continue_final_message`. Text may split into other tokens than the model had chosen, and half a
        character is no text at all, so the text is first cut back to where `/tokenize` gives the received ids.

Both cost the price of a prefix-cache hit: see cached_tokens. --bad-line puts a proxy between that hangs up
after a random number of bytes, and compares the result with an answer that came in one piece.
"""
import argparse
import base64
import json
import pathlib
import random
import socket
import threading

import httpx


class Answer:
    """What has arrived: the pieces are (text, ids) of whole events; half an event never counts."""

    def __init__(self):
        self.prompt_ids, self.pieces, self.finish_reason, self.usage = None, [], None, None

    @property
    def text(self):
        return "".join(text for text, _ in self.pieces)

    @property
    def ids(self):
        return [token for _, ids in self.pieces for token in ids]

    def keep(self, tokens):
        """Forget the pieces that go beyond the first `tokens` ids."""
        count = 0
        for place, (_, ids) in enumerate(self.pieces):
            count += len(ids)
            if count > tokens:
                del self.pieces[place:]
                return

    def read(self, response):
        """Take the events of one connection. Raises httpx.TransportError if it breaks."""
        buffered = b""
        for block in response.iter_raw():
            buffered += block
            *events, buffered = buffered.split(b"\n\n")
            for event in events:
                if event.startswith(b"data: {"):
                    self.take(json.loads(event[6:]))

    def take(self, chunk):
        if "error" in chunk:
            raise RuntimeError(chunk["error"]["message"])
        self.usage = chunk.get("usage") or self.usage
        if self.prompt_ids is None:
            self.prompt_ids = chunk.get("prompt_token_ids")
        for choice in chunk["choices"]:
            ids = choice.get("token_ids") or []
            self.pieces.append((choice["delta"].get("content") or "", ids))
            self.finish_reason = choice["finish_reason"] or self.finish_reason


def by_tokens(client, request, answer):
    """Text without ids is the start of a token whose id did not come (stop strings do that): it comes again."""
    while answer.pieces and not answer.pieces[-1][1]:
        answer.pieces.pop()
    return request | {"resume_token_ids": answer.ids}


def with_text(request, answer):
    final = {"role": "assistant", "content": answer.text}
    return {"messages": request["messages"] + [final], "continue_final_message": True, "add_generation_prompt": False}


def by_text(client, request, answer):
    while answer.ids and answer.prompt_ids is not None:
        want = answer.prompt_ids + answer.ids
        body = {"model": request["model"]} | with_text(request, answer)
        reply = client.post(client.base_url.join("../tokenize"), json=body)
        have = reply.raise_for_status().json()["tokens"]
        same = next((i for i, (a, b) in enumerate(zip(want, have)) if a != b), min(len(want), len(have)))
        if same == len(want) == len(have):
            break
        answer.keep(min(same - len(answer.prompt_ids), len(answer.ids) - 1))
    if not answer.ids:
        answer.pieces.clear()
        return request
    return request | with_text(request, answer) | {"max_tokens": request["max_tokens"] - len(answer.ids)}


METHODS = {"tokens": by_tokens, "text": by_text}


def ask(client, request, method, say=lambda line: None, tries=1000):
    """The whole answer to a streamed chat request, whatever the line does."""
    request = request | {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    answer = Answer()
    for _ in range(tries):
        try:
            body = METHODS[method](client, request, answer) if answer.pieces else request
            with client.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise RuntimeError(response.read().decode())
                answer.read(response)
        except httpx.TransportError as broken:
            say(f"[{type(broken).__name__} after {len(answer.ids)} tokens]")
        if answer.finish_reason is not None:
            return answer
    raise RuntimeError("the line is too bad")


class BadLine:
    """A proxy on the loopback that hangs up after a random number of bytes, but never before `least`."""

    def __init__(self, host, port, least, most, seed=None):
        self.target, self.least, self.most, self.random = (host, port), least, most, random.Random(seed)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            threading.Thread(target=self.copy, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self.copy, args=(far, near, self.random.randint(self.least, self.most)), daemon=True).start()

    def copy(self, source, sink, left):
        try:
            while data := source.recv(65536):
                sink.sendall(data if left is None else data[:left])
                if left is not None and left <= len(data):
                    self.cuts += 1
                    break
                left = None if left is None else left - len(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


def content(prompt, image):
    if image is None:
        return prompt
    data = base64.b64encode(pathlib.Path(image).read_bytes()).decode()
    return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}, {"type": "text", "text": prompt}]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:8000/v1")
    parser.add_argument("prompt", nargs="?", default="打开设置")
    parser.add_argument("--method", choices=METHODS, default="tokens")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--image")
    parser.add_argument("--bad-line", action="store_true")
    options = parser.parse_args()
    request = {"model": "autoglm-phone-9b", "temperature": 0, "max_tokens": options.max_tokens,
               "messages": [{"role": "user", "content": content(options.prompt, options.image)}]}
    url = httpx.URL(options.base_url)
    line = BadLine(url.host, url.port or 80, 2000, 20000) if options.bad_line else None
    bad_url = url.copy_with(host="127.0.0.1", port=line.port) if line else url
    with httpx.Client(base_url=bad_url, timeout=600) as client:
        answer = ask(client, request, options.method, say=print)
    print(answer.text)
    print(f"{len(answer.ids)} tokens, finish_reason {answer.finish_reason}, last connection: {answer.usage}")
    if line:
        with httpx.Client(base_url=url, timeout=600) as client:
            whole = ask(client, request, options.method)
        same = whole.text == answer.text and whole.ids == answer.ids
        print(f"{line.cuts} cuts; {'equal to' if same else 'DIFFERENT from'} the answer in one piece")
        raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
