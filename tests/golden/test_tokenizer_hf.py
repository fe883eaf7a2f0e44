# SPDX-License-Identifier: Apache-2.0
"""Our tokenizer against Hugging Face `tokenizers`, line by line. Needs the built test program
(build/tests/golden/test_tokenizer_lines, or $AGL_TOKENIZER_LINES); run from the repository root."""

import json
import os
import struct
import subprocess

import pytest

import make_tokenizer_vectors as vectors

tokenizers = pytest.importorskip("tokenizers")
PROGRAM = os.environ.get("AGL_TOKENIZER_LINES", "build/tests/golden/test_tokenizer_lines")
FIXTURE = os.path.join(vectors.FIXTURES, "tokenizer.json")
LINES = 100_000


def run(mode, path, data):
    if not os.path.exists(PROGRAM):
        pytest.skip(f"{PROGRAM} is not built: make test-binaries")
    records = path.parent / "records"
    records.write_bytes(data)
    return subprocess.run([PROGRAM, mode, str(path), str(records)], check=True, stdout=subprocess.PIPE).stdout


def encode(path, lines, mode="encode"):
    data = b"".join(struct.pack("<I", len(line)) + line for line in (line.encode() for line in lines))
    out = run(mode, path, data).decode().split("\n")
    assert len(out) == len(lines) + 1
    return [[int(i) for i in line.split()] for line in out[:-1]]


def decode(path, lists, mode):
    data = b"".join(struct.pack(f"<{len(ids) + 1}I", len(ids), *ids) for ids in lists)
    out, at, texts = run(mode, path, data), 0, []
    while at < len(out):
        (length,) = struct.unpack_from("<I", out, at)
        texts.append(out[at + 4 : at + 4 + length].decode())
        at += 4 + length
    assert len(texts) == len(lists)
    return texts


def load():
    with open(FIXTURE, encoding="utf-8") as file:
        return json.load(file)


def gpt2(value):
    value["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def legacy_merges(value):
    value["model"]["merges"] = [" ".join(merge) for merge in value["model"]["merges"]]


def ignore_merges(value):
    value["model"]["ignore_merges"] = True
    del value["model"]["merges"][1000:]


def strips(value):
    for i, token in enumerate(value["added_tokens"]):
        token["lstrip"], token["rstrip"], token["normalized"] = i % 2 == 0, i % 3 == 0, i % 5 == 0


def missing_bytes(value):
    lost = set("ÿþĀ%z")
    vocab = value["model"]["vocab"]
    kept = [text for text in vocab if not lost & set(text)]
    value["model"]["merges"] = [merge for merge in value["model"]["merges"] if not lost & set("".join(merge))]
    value["model"]["vocab"] = {text: i for i, text in enumerate(kept)}
    for i, token in enumerate(value["added_tokens"]):
        token["id"] = len(kept) + i


def prefix(value):
    special = {text: {"id": text, "ids": [vectors.VOCAB + i], "tokens": [text]}
               for i, text in enumerate(vectors.SPECIAL)}  # fmt: skip
    piece = lambda text: {"SpecialToken": {"id": text, "type_id": 0}}  # noqa: E731
    single = [piece("[gMASK]"), piece("<sop>"), {"Sequence": {"id": "A", "type_id": 0}}, piece("<eop>")]
    template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    value["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    value["post_processor"]["processors"][1]["pair"] = single + [{"Sequence": {"id": "B", "type_id": 1}}]


def compare(tmp_path, value, count, mode="encode"):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    reference = tokenizers.Tokenizer.from_file(str(path))
    lines = vectors.make_lines(count, vectors.spellings_of(reference), seed=count)
    expected = reference.encode_batch(lines, add_special_tokens=mode == "encode-special")
    for line, ours, theirs in zip(lines, encode(path, lines, mode), expected):
        assert ours == theirs.ids, repr(line)


def test_many_lines(tmp_path):
    compare(tmp_path, load(), LINES)


@pytest.mark.parametrize("change", [gpt2, legacy_merges, ignore_merges, strips, missing_bytes, prefix])
def test_variants(tmp_path, change):
    value = load()
    change(value)
    compare(tmp_path, value, 10_000, "encode-special" if change is prefix else "encode")


def every_join(value):
    """A vocabulary in which every byte merges with each of a, 1, space and ', so that ids show
    every cut that the pre-tokenizer makes beside them."""
    spelling = {}
    for text in (text for text in value["model"]["vocab"] if len(text) == 1):
        spelling[tokenizers.decoders.ByteLevel().decode([text])] = text
    singles = [text for text in value["model"]["vocab"] if len(text) == 1]
    near = [spelling[c] for c in "a1 '"]
    merges = [pair for x in singles for y in near for pair in ((x, y), (y, x))]
    merges = list(dict.fromkeys(merges))
    texts = singles + [x + y for x, y in merges]
    value["model"]["vocab"] = {text: i for i, text in enumerate(texts)}
    value["model"]["merges"] = [list(pair) for pair in merges]
    for i, token in enumerate(value["added_tokens"]):
        token["id"] = len(texts) + i


@pytest.mark.parametrize("pattern", ["glm", "gpt2"])
def test_every_character(tmp_path, pattern):
    """Each character before and after a letter, a digit, a space and an apostrophe: classes agree."""
    value = load()
    every_join(value)
    if pattern == "gpt2":
        gpt2(value)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    reference = tokenizers.Tokenizer.from_file(str(path))
    codes = [*range(0x32400), *range(0x32400, 0x110000, 101)]  # few are assigned above U+323AF
    characters = [chr(c) for c in codes if not 0xD800 <= c < 0xE000]
    step = 8
    lines = ["".join(f"a{c}a{c}1{c} {c}'{c}a " for c in characters[i : i + step])
             for i in range(0, len(characters), step)]  # fmt: skip
    for line, ours, theirs in zip(lines, encode(path, lines), reference.encode_batch(lines, add_special_tokens=False)):
        assert ours == theirs.ids, repr(line)


# Odd lengths: with pairs merged from the wrong end another token is left over.
LONG = ["字" * 199_999, "a" * 299_993, "-" * 299_993, " " * 299_993, "\n " * 99_991, "'s" * 50_000, "1" * 99_998]


@pytest.mark.parametrize("text", LONG, ids=lambda text: repr(text[:2]))
def test_long_runs(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(load(), ensure_ascii=False), encoding="utf-8")
    reference = tokenizers.Tokenizer.from_file(str(path))
    assert encode(path, [text]) == [reference.encode(text, add_special_tokens=False).ids]


@pytest.mark.parametrize("mode", ["decode", "decode-keep"])
def test_decode(tmp_path, mode):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(load(), ensure_ascii=False), encoding="utf-8")
    reference = tokenizers.Tokenizer.from_file(str(path))
    lists = vectors.make_id_lists(20_000, reference.get_vocab_size())
    expected = reference.decode_batch(lists, skip_special_tokens=mode == "decode")
    for ids, ours, theirs in zip(lists, decode(path, lists, mode), expected):
        assert ours == theirs, ids


def test_chats_are_current():
    """The committed prompts are what Jinja renders from the committed template."""
    pytest.importorskip("jinja2")
    with open(os.path.join(vectors.FIXTURES, "glm41v.chat_template.jinja"), encoding="utf-8") as file:
        expected = vectors.make_chats(file.read())
    with open(os.path.join(vectors.FIXTURES, "chats.json"), encoding="utf-8") as file:
        assert json.load(file) == expected
