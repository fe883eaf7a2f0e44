# SPDX-License-Identifier: Apache-2.0
"""Requests, pictures, checkpoints and command lines that are wrong on purpose.

Each row says what is sent, the status that must come back and a piece of the message. A client's mistake
is never a 5xx: clients send the same megabyte again after one.
"""
import base64
import io
import json
import re
import shutil
import socket
import struct
import zlib

import httpx
import pytest
from PIL import Image
from support import MODEL, data_uri, encode, image_part, run, screen, settle, text_part

HI = [{"role": "user", "content": "hi"}]
BASE = {"model": MODEL, "messages": HI, "max_tokens": 2}


def user(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


def image_url(url):
    return user({"type": "image_url", "image_url": {"url": url}})


def check(response, status, message):
    assert response.status_code == status, (response.status_code, response.text[:400])
    if status < 400:
        return
    error = response.json()["error"]
    assert error["code"] == status and error["type"] and isinstance(error["message"], str)
    assert "\n" not in error["message"] and len(error["message"]) < 2000
    assert re.search(message, error["message"], re.I), (message, error["message"])


# ---- fields of a chat request: 400 each ----

FIELDS = [
    # name, fields laid over a good request, piece of the message
    ("messages null", {"messages": None}, "messages"),
    ("messages empty", {"messages": []}, "messages"),
    ("messages text", {"messages": "hi"}, "messages"),
    ("messages object", {"messages": {"role": "user"}}, "messages"),
    ("messages of numbers", {"messages": [1, 2]}, r"messages\[0\]|messages"),
    ("message without role", {"messages": [{"content": "hi"}]}, "role"),
    ("role number", {"messages": [{"role": 5, "content": "hi"}]}, "role"),
    ("role unknown", {"messages": [{"role": "<|user|>", "content": "hi"}]}, "role"),
    ("role empty", {"messages": [{"role": "", "content": "hi"}]}, "role"),
    ("content number", {"messages": [{"role": "user", "content": 7}]}, "content"),
    ("content object", {"messages": [{"role": "user", "content": {"text": "a"}}]}, "content"),
    ("part text", {"messages": [{"role": "user", "content": ["a", 3]}]}, "content"),
    ("part of unknown type", user({"type": "hologram"}), "hologram|type"),
    ("part video", user({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}), "video"),
    ("part audio", user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}), "audio"),
    ("text part without text", user({"type": "text"}), "text"),
    ("text part number", user({"type": "text", "text": 5}), "text"),
    ("image part without url", user({"type": "image_url"}), "image_url"),
    ("image part null", user({"type": "image_url", "image_url": None}), "image_url"),
    ("image part empty object", user({"type": "image_url", "image_url": {}}), "url"),
    ("image url number", user({"type": "image_url", "image_url": {"url": 5}}), "url"),
    ("image in system", {"messages": [{"role": "system", "content": [image_part(b"x")]}, *HI]}, "image|png|jpeg"),
    ("temperature negative", {"temperature": -0.1}, "temperature"),
    ("temperature text", {"temperature": "hot"}, "temperature"),
    ("temperature list", {"temperature": [1]}, "temperature"),
    ("temperature huge", {"temperature": 1e300}, "temperature"),
    ("top_p zero", {"top_p": 0}, "top_p"),
    ("top_p above one", {"top_p": 1.01}, "top_p"),
    ("top_p negative", {"top_p": -1}, "top_p"),
    ("top_k below -1", {"top_k": -2}, "top_k"),
    ("top_k fraction", {"top_k": 1.5}, "top_k"),
    ("min_p negative", {"min_p": -0.1}, "min_p"),
    ("min_p above one", {"min_p": 1.1}, "min_p"),
    ("repetition_penalty zero", {"repetition_penalty": 0}, "repetition_penalty"),
    ("repetition_penalty negative", {"repetition_penalty": -1}, "repetition_penalty"),
    ("frequency_penalty high", {"frequency_penalty": 2.01}, "frequency_penalty"),
    ("frequency_penalty low", {"frequency_penalty": -2.01}, "frequency_penalty"),
    ("presence_penalty high", {"presence_penalty": 99}, "presence_penalty"),
    ("presence_penalty text", {"presence_penalty": "a"}, "presence_penalty"),
    ("max_tokens negative", {"max_tokens": -1}, "max_tokens"),
    ("max_tokens zero", {"max_tokens": 0}, "max_tokens must be at least 1, got 0."),
    ("max_completion_tokens zero", {"max_completion_tokens": 0}, "max_tokens must be at least 1, got 0."),
    ("max_tokens fraction", {"max_tokens": 1.5}, "max_tokens"),
    ("max_tokens text", {"max_tokens": "many"}, "max_tokens"),
    ("max_completion_tokens negative", {"max_completion_tokens": -5}, "max_(completion_)?tokens"),
    ("min_tokens negative", {"min_tokens": -1}, "min_tokens"),
    ("min_tokens above max_tokens", {"min_tokens": 50}, "min_tokens"),
    ("n zero", {"n": 0}, r"\bn\b"),
    ("n negative", {"n": -1}, r"\bn\b"),
    ("n huge", {"n": 1_000_000_000}, r"\bn\b"),
    ("n text", {"n": "3"}, r"\bn\b"),
    ("seed text", {"seed": "x"}, "seed"),
    ("seed fraction", {"seed": 0.5}, "seed"),
    ("stop number", {"stop": 5}, "stop"),
    ("stop of numbers", {"stop": [1]}, "stop"),
    ("stop too many", {"stop": ["x%d" % i for i in range(500)]}, "stop"),
    ("stop empty text", {"stop": [""]}, "stop"),
    ("stop_token_ids text", {"stop_token_ids": ["a"]}, "stop_token_ids"),
    ("stop_token_ids object", {"stop_token_ids": {}}, "stop_token_ids"),
    ("logprobs text", {"logprobs": "yes"}, "logprobs"),
    ("top_logprobs without logprobs", {"top_logprobs": 3}, "logprobs"),
    ("top_logprobs high", {"logprobs": True, "top_logprobs": 21}, "logprobs.*21"),
    ("top_logprobs negative", {"logprobs": True, "top_logprobs": -5}, "top_logprobs"),
    ("logit_bias list", {"logit_bias": [1]}, "logit_bias"),
    ("logit_bias beyond the vocabulary", {"logit_bias": {"99999999": 1}}, "logit_bias"),
    ("logit_bias negative id", {"logit_bias": {"-1": 1}}, "logit_bias"),
    ("logit_bias no id", {"logit_bias": {"abc": 1}}, "logit_bias"),
    ("logit_bias text", {"logit_bias": {"1": "much"}}, "logit_bias"),
    ("allowed_token_ids empty", {"allowed_token_ids": []}, "allowed_token_ids"),
    ("allowed_token_ids beyond", {"allowed_token_ids": [2**31]}, "allowed_token_ids"),
    ("bad_words number", {"bad_words": [5]}, "bad_words"),
    ("stream text", {"stream": "yes"}, "stream"),
    ("stream_options without stream", {"stream_options": {"include_usage": True}}, "stream"),
    ("stream_options list", {"stream": True, "stream_options": [1]}, "stream_options"),
    ("model number", {"model": 5}, "model"),
    ("chat_template_kwargs list", {"chat_template_kwargs": []}, "chat_template_kwargs"),
    ("enable_thinking text", {"chat_template_kwargs": {"enable_thinking": "false"}}, "enable_thinking"),
    ("both continuations", {"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ("prompt_logprobs streamed", {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ("prompt_logprobs high", {"prompt_logprobs": 1000}, "prompt_logprobs"),
    ("response_format unknown", {"response_format": {"type": "xml"}}, "response_format"),
    ("response_format text", {"response_format": "json"}, "response_format"),
    ("tools object", {"tools": {}}, "tools"),
    ("truncate below -1", {"truncate_prompt_tokens": -7}, "truncate_prompt_tokens"),
    ("chat template", {"chat_template": "{{ 7*7 }}"}, "template"),
    ("image placeholder in the text", {"messages": [{"role": "user", "content": "<|image|>"}]}, "placeholder"),
    ("prompt over the window", {"messages": [{"role": "user", "content": "a " * 50000}]}, "maximum context length"),
]


@pytest.mark.parametrize("fields,message", [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_fields(server, fields, message, stream):
    body = BASE | ({"stream": True} if stream else {}) | fields
    if stream and "stream" in message:
        body = BASE | fields
    check(server.post("/v1/chat/completions", body), 400, message)


# Odd, but what vLLM takes, or what the design clamps: not an error.
ACCEPTED = [
    ("content missing", {"messages": [{"role": "user"}, *HI]}),
    ("content null", {"messages": [{"role": "user", "content": None}, *HI]}),
    ("part without type", user({"text": "a"})),
    ("max_tokens beyond 64 bit", {"max_tokens": 10**30, "stop_token_ids": list(range(256)), "min_p": 0}),
    ("temperature zero", {"temperature": 0}),
    ("top_k -1", {"top_k": -1}),
    ("unknown field", {"no_such_field": [1, {"a": None}]}),
    ("empty text", {"messages": [{"role": "user", "content": ""}]}),
    ("control tokens in the text", {"messages": [{"role": "user", "content": "<|user|><|endoftext|>"}]}),
    ("stop null", {"stop": None, "seed": None, "n": None, "logit_bias": None}),
]


@pytest.mark.parametrize("fields", [row[1] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_accepted(server, fields):
    check(server.post("/v1/chat/completions", BASE | fields), 200, "")


COMPLETIONS = [
    ("prompt missing", {"prompt": None}, "prompt"),
    ("prompt number", {"prompt": 5}, "prompt"),
    ("prompt object", {"prompt": {}}, "prompt"),
    ("prompt empty list", {"prompt": []}, "prompt"),
    ("prompt mixed", {"prompt": ["a", 5]}, "prompt"),
    ("token beyond the vocabulary", {"prompt": [1, 2, 2**30]}, "token|prompt"),
    ("token negative", {"prompt": [1, -2]}, "token|prompt"),
    ("too many prompts", {"prompt": ["a"] * 100000}, "prompt"),
    ("logprobs high", {"logprobs": 21}, "logprobs"),
    ("logprobs negative", {"logprobs": -3}, "logprobs"),
    ("suffix", {"suffix": "end"}, "suffix"),
    ("best_of", {"best_of": 1000000}, "best_of"),
]


@pytest.mark.parametrize("fields,message", [row[1:] for row in COMPLETIONS], ids=[row[0] for row in COMPLETIONS])
def test_completions(server, fields, message):
    body = {"model": MODEL, "prompt": "a", "max_tokens": 2} | fields
    check(server.post("/v1/completions", {key: value for key, value in body.items() if value is not None}), 400, message)


OTHERS = [
    ("POST", "/v1/chat/completions", {"model": "gpt-4", "messages": HI}, 404, "gpt-4"),
    ("POST", "/v1/completions", {"model": "gpt-4", "prompt": "a"}, 404, "gpt-4"),
    ("GET", "/v1/models/nothing", None, 404, "nothing"),
    ("GET", "/v1/nothing", None, 404, "."),
    ("GET", "/", None, 404, "."),
    ("GET", "/../../etc/passwd", None, 404, "."),
    ("GET", "/v1/chat/completions", None, 405, "."),
    ("DELETE", "/v1/models", None, 405, "."),
    ("PUT", "/v1/chat/completions", {}, 405, "."),
    ("POST", "/health", {}, 405, "."),
    ("POST", "/tokenize", {}, 400, "prompt|messages"),
    ("POST", "/tokenize", {"prompt": 5}, 400, "prompt"),
    ("POST", "/detokenize", {}, 400, "tokens"),
    ("POST", "/detokenize", {"tokens": "a"}, 400, "tokens"),
    ("POST", "/detokenize", {"tokens": [2**40]}, 400, "token"),
    ("POST", "/detokenize", {"tokens": [-1]}, 400, "token"),
    ("POST", "/detokenize", {"tokens": [10**6]}, 400, "token"),
]


@pytest.mark.parametrize("method,path,body,status,message", OTHERS)
def test_routes(server, method, path, body, status, message):
    check(httpx.request(method, server.root + path, json=body, timeout=20), status, message)


# ---- bodies that are no requests ----

RAW = [
    ("empty", b"", 400, "body|JSON|empty"),
    ("no JSON", b"hello", 400, "JSON"),
    ("cut short", b'{"model": "autoglm', 400, "JSON"),
    ("list", b"[]", 400, "object"),
    ("number", b"5", 400, "object"),
    ("null", b"null", 400, "object"),
    ("text after", b'{"messages": []} x', 400, "JSON"),
    ("single quotes", b"{'messages': []}", 400, "JSON|messages|prompt"),
    ("trailing comma", b'{"messages": [],}', 400, "JSON"),
    ("NUL", b"\0" * 100, 400, "JSON"),
    ("invalid UTF-8", b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', 400, "JSON|UTF-8"),
    ("overlong UTF-8", b'{"messages":[{"role":"user","content":"\xc0\xaf"}]}', 400, "JSON|UTF-8"),
    ("UTF-16", '{"messages": []}'.encode("utf-16"), 400, "JSON"),
    ("depth", b'{"messages":' + b"[" * 100000 + b"]" * 100000 + b"}", 400, "JSON|depth|nest"),
    ("depth of objects", b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "JSON|depth|nest"),
    ("form", b"model=a&messages=b", 400, "JSON"),
    ("gzip bytes", b"\x1f\x8b\x08\0" + b"\0" * 50, 400, "JSON"),
]


@pytest.mark.parametrize("body,status,message", [row[1:] for row in RAW], ids=[row[0] for row in RAW])
def test_bodies(server, body, status, message):
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        response = httpx.post(server.root + path, content=body, headers={"Content-Type": "application/json"}, timeout=30)
        check(response, status, message)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
@pytest.mark.parametrize("field", [b"temperature", b"top_p", b"presence_penalty", b"max_tokens"])
def test_numbers_that_are_none(server, field, number):
    body = b'{"%s": %s, "messages": [{"role": "user", "content": "a"}], "prompt": "a"}' % (field, number)
    for path in ("/v1/chat/completions", "/v1/completions"):
        check(httpx.post(server.root + path, content=body, timeout=30), 400, field.decode() + "|JSON")


def test_body_over_the_limit(server):
    response = httpx.post(server.base + "/chat/completions", content=b" " * (33 << 20), timeout=60)
    check(response, 413, "33554432|32 MiB|bytes")


def test_many_duplicate_keys(server):
    body = b"{" + b'"max_tokens":1,' * 200000 + b'"messages":[{"role":"user","content":"a"}]}'
    assert httpx.post(server.base + "/chat/completions", content=body, timeout=60).status_code in (200, 400)


def test_many_messages(server):
    response = server.post("/v1/chat/completions", BASE | {"messages": HI * 100000})
    assert response.status_code == 400


# ---- below HTTP ----

SOCKETS = [
    ("nothing", b"", None),
    ("no HTTP", b"hello\r\n\r\n", (400, None)),
    ("TLS hello", bytes.fromhex("16030100c8010000c40303") + b"\0" * 200, (400, None)),
    ("no version", b"GET /health\r\n\r\n", (400, 505, None)),
    ("bad version", b"GET /health HTTP/9.9\r\n\r\n", (400, 505, None)),
    ("long path", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (400, 414, 431, 404, None)),
    ("many headers", b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(20000)) + b"\r\n", (400, 413, 431, None)),
    ("long header", b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " + b"y" * 500000 + b"\r\n\r\n", (400, 413, 431, None)),
    ("length negative", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", (400, 413, None)),
    ("length text", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", (400, None)),
    ("length huge", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", (400, 413, None)),
    ("length over the limit", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n", (413, None)),
    ("two lengths", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", (400, None)),
    ("length and chunks", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400, None)),
    ("chunk size text", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (400, None)),
    ("chunk size huge", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", (400, 413, None)),
    ("header without colon", b"GET /health HTTP/1.1\r\nHost x\r\n\r\n", (400, 200, None)),
    ("NUL in a header", b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", (400, 200, None)),
    ("traversal", b"GET /v1/models/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (404, 400)),
    ("connect", b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404, 405, 501, None)),
    ("trace", b"TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (400, 404, 405, 501, None)),
]


@pytest.mark.parametrize("data,codes", [row[1:] for row in SOCKETS], ids=[row[0] for row in SOCKETS])
def test_sockets(server, data, codes):
    """A status of the list, or (None) a closed connection; never an answer of another kind."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as link:
        answer = b""
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while block := link.recv(65536):
                answer += block
                if b"\r\n\r\n" in answer:
                    break
        except OSError:  # the server may close before all is sent
            pass
    found = re.match(rb"HTTP/1\.[01] (\d+)", answer)
    assert codes is None or (int(found.group(1)) if found else None) in codes, answer[:200]


# ---- pictures ----


def png_chunk(name, data, crc=None):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)


def png(width, height, depth=8, colour=2, rows=b"\0" * 64, interlace=0, before=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def png_bomb():
    """A gigabyte of rows in a megabyte of file."""
    return png(20000, 20000, rows=b"\0" * (1 << 26))


GOOD_PNG, GOOD_JPEG, GOOD_WEBP = encode(screen()), encode(screen(), "JPEG"), encode(screen(), "WEBP")


def gif():
    out = io.BytesIO()
    Image.new("P", (40, 40)).save(out, "GIF")
    return out.getvalue()


def jpeg_sized(width, height):
    """A JPEG whose frame header claims another size."""
    data = bytearray(GOOD_JPEG)
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claim(width, height):
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + \
        struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3] + b"\0" * 8


PICTURES = [
    ("empty", b"", "image|empty"),
    ("text", b"this is not a picture", "image|PNG"),
    ("zeros", b"\0" * 1000, "image|PNG"),
    ("GIF", gif(), "image|PNG|GIF"),
    ("BMP", encode(screen(), "BMP"), "image|PNG"),
    ("TIFF", encode(screen(), "TIFF"), "image|PNG"),
    ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "image|PNG"),
    ("HTML", b"<html></html>", "image|PNG"),
    ("PNG signature only", GOOD_PNG[:8], "."),
    ("PNG cut in the header", GOOD_PNG[:20], "."),
    ("PNG cut in the pixels", GOOD_PNG[:len(GOOD_PNG) // 2], "."),
    ("PNG without pixels", GOOD_PNG[:33] + png_chunk(b"IEND", b""), "."),
    ("PNG header checksum", GOOD_PNG[:29] + b"\0\0\0\0" + GOOD_PNG[33:], "."),
    ("PNG pixel noise", GOOD_PNG[:60] + bytes(range(256)) + GOOD_PNG[316:], "."),
    ("PNG width zero", png(0, 10), "."),
    ("PNG height zero", png(10, 0), "."),
    ("PNG too wide", png(2**31 - 1, 1), "."),
    ("PNG too large", png(65535, 65535), "."),
    ("PNG bomb", png_bomb(), "."),
    ("PNG depth 3", png(10, 10, depth=3), "."),
    ("PNG colour 5", png(10, 10, colour=5), "."),
    ("PNG palette missing", png(10, 10, colour=3), "."),
    ("PNG interlace 9", png(10, 10, interlace=9), "."),
    ("PNG rows missing", png(100, 100, rows=b"\0" * 10), "."),
    ("PNG filter 77", png(10, 10, rows=(b"\x4d" + b"\0" * 30) * 10), "."),
    ("JPEG start only", b"\xff\xd8\xff", "."),
    ("JPEG cut in the header", GOOD_JPEG[:30], "."),
    ("JPEG size zero", jpeg_sized(0, 0), "."),
    ("JPEG too large", jpeg_sized(65500, 65500), "."),
    ("JPEG noise", GOOD_JPEG[:24] + b"\xff" * 100, "."),
    ("WebP RIFF only", b"RIFF\x10\0\0\0WEBP", "."),
    ("WebP cut", GOOD_WEBP[:40], "."),
    ("WebP too large", webp_claim(16384, 16384), "."),
    ("WebP claims 16777216", webp_claim(16777216, 16777216), "."),
    ("aspect ratio over 200", encode(Image.new("RGB", (6000, 4))), "aspect|ratio"),
]


@pytest.mark.parametrize("data,message", [row[1:] for row in PICTURES], ids=[row[0] for row in PICTURES])
def test_pictures(server, data, message):
    check(server.chat([image_part(data), text_part("what?")], max_tokens=1), 400, message)


URLS = [
    ("empty", "", "url|image"),
    ("no base64", "data:image/png;base64,@@@@", "base64"),
    ("cut base64", data_uri(GOOD_PNG)[:-30] + "!", "base64"),
    ("no comma", "data:image/png;base64", "data|,|url"),
    ("no base64 word", "data:image/png,AAAA", "base64|data"),
    ("data only", "data:", "data|url"),
    ("http", "http://127.0.0.1:1/a.png", "allowed-media-domains|not allowed|refused"),
    ("metadata service", "http://169.254.169.254/latest/meta-data", "allowed-media-domains|not allowed|refused"),
    ("https", "https://example.com/a.png", "allowed-media-domains|not allowed|refused"),
    ("file", "file:///etc/passwd", "allowed-local-media-path|not allowed|refused"),
    ("file upper case", "FILE:///etc/passwd", "allowed-local-media-path|not allowed|refused|scheme"),
    ("path", "/etc/passwd", "url|scheme|data:"),
    ("ftp", "ftp://example.com/a.png", "url|scheme|data:"),
    ("gopher", "gopher://127.0.0.1/", "url|scheme|data:"),
    ("javascript", "javascript:alert(1)", "url|scheme|data:"),
    ("backslash", "http:\\\\127.0.0.1\\a", "url|scheme|allowed|data:"),
    ("bare base64", base64.b64encode(GOOD_PNG).decode(), "url|scheme|data:"),
]


@pytest.mark.parametrize("url,message", [row[1:] for row in URLS], ids=[row[0] for row in URLS])
def test_image_urls(server, url, message):
    check(server.post("/v1/chat/completions", BASE | image_url(url)), 400, message)


def test_too_many_images(server):
    parts = [image_part(encode(screen(28, 28)))] * 11
    check(server.chat([*parts, text_part("?")], max_tokens=1), 400, "10|images")


def test_local_files(start, tiny, tmp_path):
    """file:// reads below the named folder and nowhere else, whatever the links say."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "a b.png").write_bytes(GOOD_PNG)
    (outside / "secret.png").write_bytes(GOOD_PNG)
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "text.png").write_text("not a picture")
    server = start("--model", tiny, "--served-model-name", MODEL, "--kv-cache-memory-bytes", "32M",
                   "--allowed-local-media-path", inside)
    ask = lambda url: server.post("/v1/chat/completions", BASE | image_url(url))  # noqa: E731
    check(ask(f"file://{inside}/a%20b.png"), 200, ".")
    for url in (f"file://{outside}/secret.png", f"file://{inside}/../out/secret.png", f"file://{inside}/%2e%2e/out/secret.png",
                f"file://{inside}/link.png", "file:///etc/passwd", "file:///dev/zero", f"file://{inside}",
                f"file://{inside}/none.png", f"file://{inside}/text.png", f"file://evil.example{inside}/a%20b.png",
                f"file://{inside}/a%20b.png%00.txt"):
        response = ask(url)
        check(response, 400, ".")
        assert "root:" not in response.text


def test_still_alive(server):
    """After all of the above: the same process serves, nothing runs, and its memory is bounded."""
    assert server.alive() and server.chat("hi", max_tokens=2).status_code == 200
    assert settle(lambda: server.metrics()["vllm:num_requests_running"] == 0)
    assert server.rss_bytes() < 1 << 30


# ---- checkpoints: the program ends with 1 and one line that names the file ----


def edit_json(name, change):
    def apply(folder):
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))
    return apply


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def remove(name):
    return lambda folder: (folder / name).unlink()


def text_set(key, value):
    return edit_json("config.json", lambda config: config["text_config"].__setitem__(key, value))


def vision_set(key, value):
    return edit_json("config.json", lambda config: config["vision_config"].__setitem__(key, value))


def weights_edit(change):
    """change(header dict, data bytes) -> (header bytes, data) of the first safetensors file."""
    def apply(folder):
        file = sorted(folder.glob("*.safetensors"))[0]
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header, data = change(json.loads(raw[8:8 + size]), raw[8 + size:])
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        header += b" " * (-len(header) % 8)
        file.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return apply


def first_tensor(change):
    def apply(header, data):
        name = next(key for key in header if key != "__metadata__")
        change(header[name])
        return header, data
    return weights_edit(apply)


def without_last_tensor(header, data):
    name = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"][1])
    start = header.pop(name)["data_offsets"][0]
    return header, data[:start]


def weights_raw(data):
    return lambda folder: [file.write_bytes(data) for file in sorted(folder.glob("*.safetensors"))[:1]]


CHECKPOINTS = [
    ("config missing", remove("config.json"), "config.json"),
    ("config empty", write("config.json", b""), "config.json"),
    ("config no JSON", write("config.json", b"{"), "config.json"),
    ("config list", write("config.json", b"[]"), "config.json"),
    ("config NUL", write("config.json", b"\0" * 64), "config.json"),
    ("architecture", edit_json("config.json", lambda c: c.update(architectures=["LlamaForCausalLM"], model_type="llama")), "Llama|llama"),
    ("hidden zero", text_set("hidden_size", 0), "hidden_size"),
    ("hidden negative", text_set("hidden_size", -64), "hidden_size"),
    ("hidden text", text_set("hidden_size", "64"), "hidden_size"),
    ("hidden huge", text_set("hidden_size", 2**40), "hidden_size"),
    ("hidden other", text_set("hidden_size", 128), "shape|hidden|vocab|embed|out_hidden"),
    ("heads zero", text_set("num_attention_heads", 0), "num_attention_heads"),
    ("heads do not divide", text_set("num_attention_heads", 7), "heads|head"),
    ("kv heads do not divide", text_set("num_key_value_heads", 3), "num_key_value_heads|heads"),
    ("layers huge", text_set("num_hidden_layers", 10**9), "num_hidden_layers"),
    ("more layers than weights", text_set("num_hidden_layers", 3), "layers"),
    ("vocab zero", text_set("vocab_size", 0), "vocab_size"),
    ("activation", text_set("hidden_act", "gelu_new"), "hidden_act"),
    ("eps text", text_set("rms_norm_eps", "small"), "rms_norm_eps"),
    ("vision depth huge", vision_set("depth", 10**9), "depth"),
    ("vision heads", vision_set("num_heads", 7), "num_heads|heads"),
    ("patch zero", vision_set("patch_size", 0), "patch_size"),
    ("tokenizer missing", remove("tokenizer.json"), "tokenizer.json"),
    ("tokenizer cut", write("tokenizer.json", b'{"model":'), "tokenizer.json"),
    ("tokenizer unknown model", edit_json("tokenizer.json", lambda t: t["model"].update(type="Unigram")), "tokenizer.json|Unigram"),
    ("preprocessor cut", write("preprocessor_config.json", b"{"), "preprocessor_config.json"),
    ("preprocessor size", edit_json("preprocessor_config.json", lambda p: p.update(size={"shortest_edge": -1, "longest_edge": 0})), "preprocessor_config.json|edge"),
    ("generation no JSON", write("generation_config.json", b"nope"), "generation_config.json"),
    ("generation temperature", edit_json("generation_config.json", lambda g: g.update(temperature="hot")), "temperature"),
    ("weights empty", weights_raw(b""), "safetensors"),
    ("weights header huge", weights_raw(struct.pack("<Q", 2**63) + b"{}"), "safetensors"),
    ("weights header beyond the file", weights_raw(struct.pack("<Q", 1000) + b"{}"), "safetensors"),
    ("weights header no JSON", weights_raw(struct.pack("<Q", 4) + b"abcd"), "safetensors"),
    ("weights pickle", weights_raw(b"\x80\x02}q\x00." + b"\0" * 64), "safetensors"),
    ("tensor missing", weights_edit(lambda h, d: ({k: v for k, v in h.items() if "lm_head" not in k and "layers.0.mlp" not in k}, d)), "belong to no tensor"),
    ("last tensor missing", weights_edit(without_last_tensor), "missing|not found|lacks|no tensor"),
    ("tensor offsets beyond", first_tensor(lambda t: t.update(data_offsets=[0, 2**62])), "safetensors|offset"),
    ("tensor offsets backwards", first_tensor(lambda t: t.update(data_offsets=[t["data_offsets"][1], t["data_offsets"][0]])), "safetensors|offset"),
    ("tensor offsets negative", first_tensor(lambda t: t.update(data_offsets=[-8, 8])), "safetensors|offset"),
    ("tensor shape overflow", first_tensor(lambda t: t.update(shape=[2**40, 2**40])), "safetensors|shape"),
    ("tensor shape other", first_tensor(lambda t: t.update(shape=[1] + t["shape"])), "shape"),
    ("tensor dtype", first_tensor(lambda t: t.update(dtype="Q99")), "dtype|Q99"),
    ("data cut", weights_edit(lambda h, d: (h, d[:-64])), "safetensors"),
]


@pytest.mark.parametrize("damage,message", [row[1:] for row in CHECKPOINTS], ids=[row[0] for row in CHECKPOINTS])
def test_checkpoints(tiny, tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    damage(folder)
    ended = run("ask", "--model", folder, "--max-tokens", "1", "--quiet", "--kv-cache-memory-bytes", "8M", "hi")
    assert ended.returncode == 1, (ended.returncode, ended.stderr)
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), ended.stderr


# ---- command lines: exit code 2 and one line; tests/unit/cli has the long table ----

FLAGS = [
    (["--max-modle-len", "9"], "did you mean --max-model-len"),
    (["--port", "abc"], "--port"),
    (["--port", "70000"], "65535"),
    (["--dtype", "int3"], "float16"),
    (["--gpu-memory-utilization", "7"], "from 0.01 to 1"),
    (["--mm-processor-kwargs", "{"], "mm-processor-kwargs"),
    (["--limit-mm-per-prompt", '{"image": -1}'], "limit-mm-per-prompt"),
    (["--tensor-parallel-size", "2"], "this build runs on one device"),
    (["--ssl-keyfile", "k"], "ssl-certfile"),
    (["--host"], "needs a value"),
    (["one", "two"], "unexpected"),
    (["--max-model-len", "\x1b[2J"], "max-model-len"),
    (["--" + "x" * 5000], "unknown flag"),
]


@pytest.mark.parametrize("arguments,message", FLAGS, ids=[" ".join(row[0])[:30].encode("ascii", "replace").decode() for row in FLAGS])
def test_command_lines(tiny, arguments, message):
    ended = run("serve", *(["--model", tiny] if "one" not in arguments else []), *arguments)
    assert ended.returncode == 2 and message in ended.stderr, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1 and "\x1b" not in ended.stderr
