#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the tokenizer fixtures: tests/fixtures/tokenizer/{tokenizer.json,lines.json,chats.json}.

The tokenizer is of GLM's kind: byte-level BPE behind GLM-4's pattern, GLM-4.1V's added tokens with
their flags. It is trained on Python's own sources and on the Chinese message catalogues of the
machine, so a new run elsewhere gives another vocabulary; the lines depend on the seed only.
Run from the repository root; needs `tokenizers` and `jinja2`.
"""

import gettext
import glob
import json
import os
import random
import sysconfig
import unicodedata

FIXTURES = os.path.join("tests", "fixtures", "tokenizer")
SEED = 20251122
VOCAB = 6000

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
    "<|end_of_video|>", "<|image|>", "<|video|>",
]  # fmt: skip
PLAIN = ["<think>", "</think>", "<answer>", "</answer>", "<|begin_of_box|>", "<|end_of_box|>", "<|sep|>"]
SPECIAL_AFTER_PLAIN = {"<|sep|>"}


def corpus():
    stdlib = sysconfig.get_paths()["stdlib"]
    for name in sorted(glob.glob(os.path.join(stdlib, "*.py")))[:80]:
        with open(name, encoding="utf-8", errors="replace") as file:
            yield file.read()
    for _ in range(4):  # as much Chinese as English
        for name in sorted(glob.glob("/usr/share/locale/zh_CN/LC_MESSAGES/*.mo")):
            with open(name, "rb") as file:
                for text in gettext.GNUTranslations(file)._catalog.values():
                    if isinstance(text, str):
                        yield text


def train():
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    for text in PLAIN:
        token = AddedToken(text, normalized=False, special=text in SPECIAL_AFTER_PLAIN)
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


# ---- lines -----------------------------------------------------------------

WORDS = "the of and to in is that it's I'll we've don't HTTP server GPU TOKEN naïve café Straße über".split()
CHINESE = "打开设置应用微信支付宝的一是了我不在人有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后"
CODE = ["def f(x):\n    return x+1", "for(int i=0;i<n;i++){", "a->b[c]!=0x1F&&!d", "{\"k\": [1, 2.5e-3, null]}",
        "SELECT * FROM t WHERE a='b';", "</div>\r\n\r\n\t<p>", "#include <stdio.h>\n", "https://a.b/c?d=e&f=%20",
        "do(action=\"Launch\", app=\"京东\")", "'S'T'RE'Ve'm'LL'd", "x'ſ 'ſt", "1234567890", "３４５ ⅷ ½ ²",
        "<|user|", "|>", "<think", "[gMASK]<sop><|user|>\n", "<|begin_of_image|><|image|><|end_of_image|>"]  # fmt: skip
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\u2003", "\u180e", "\u2028",
          "\u0085", "\x0b", "\x0c", "\u200b", "\ufeff"]  # fmt: skip
EMOJI = "😀😂🤣👍🏽👩‍💻👨‍👩‍👧‍👦🇨🇳🏳️‍🌈1️⃣☎️✨❤️‍🔥🥲🫠"
RANGES = [(0x20, 0x7E), (0, 0x1F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x8FF), (0x900, 0xDFF),
          (0xE00, 0x1FFF), (0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xA000, 0xABFF),
          (0xAC00, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x20000, 0x323AF), (0xE0000, 0x10FFFF)]  # fmt: skip


def random_character(rng):
    first, last = rng.choice(RANGES)
    return chr(rng.randint(first, last))


def make_piece(rng, spellings):
    kind = rng.randrange(14)
    if kind == 0:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 8)))
    if kind == 1:
        return "".join(rng.choice(CHINESE) for _ in range(rng.randint(1, 20))) + rng.choice("。，！？、\n ")
    if kind == 2:
        return rng.choice(CODE)
    if kind == 3:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 6)))
    if kind == 4:
        start = rng.randrange(len(EMOJI))
        return EMOJI[start : start + rng.randint(1, 9)]
    if kind == 5:
        return str(rng.randint(0, 10 ** rng.randint(1, 25)))
    if kind == 6:  # random bytes
        return rng.randbytes(rng.randint(1, 12)).decode("utf-8", errors="replace")
    if kind == 7:
        return rng.choice(SPECIAL + PLAIN)
    if kind in (8, 9, 10):  # what the vocabulary knows, in any order
        return "".join(rng.choice(spellings) for _ in range(rng.randint(1, 10)))
    if kind == 11:
        return "".join(random_character(rng) for _ in range(rng.randint(1, 8)))
    if kind == 12:
        return random_character(rng) * rng.randint(1, 70)
    return rng.choice(WORDS) + unicodedata.normalize("NFD", rng.choice(["é", "ñ", "각", "が", "ệ"])) + rng.choice("?!…—·")


def make_lines(count, spellings, seed=SEED):
    """Lines of mixed Chinese, English, code, emoji and random characters, without surrogates."""
    rng = random.Random(seed)
    return ["".join(make_piece(rng, spellings) for _ in range(rng.randint(0, 7))) for _ in range(count)]


def spellings_of(tokenizer):
    texts = (tokenizer.decode([i], skip_special_tokens=False) for i in range(tokenizer.get_vocab_size()))
    return [text for text in texts if text and "\ufffd" not in text]


def make_id_lists(count, vocab, seed=SEED):
    rng = random.Random(seed)
    return [[rng.randrange(vocab) if rng.random() < 0.7 else rng.randrange(256) for _ in range(rng.randint(0, 30))]
            for _ in range(count)]  # fmt: skip


# ---- chats -----------------------------------------------------------------

IMAGE = {"type": "image"}


def text_part(text):
    return {"type": "text", "text": text}


CHATS = [
    [("user", "Hi")],
    [("system", "You are helpful.\n"), ("user", "打开设置")],
    [("system", "S"), ("user", [IMAGE, text_part("tap here\n\n{}")])],
    [("user", [text_part("a"), IMAGE, text_part("b"), IMAGE]), ("assistant", "<think>t</think><answer>x</answer>"),
     ("user", [text_part("no image")])],
    [("system", "S"), ("user", "q"), ("assistant", ""), ("user", "")],
    [("user", "a"), ("tool", "ignored"), ("developer", "ignored"), ("assistant", " lead and trail \n"), ("user", "b")],
    [("user", "{{ braces }} {% raw %}\n<|user|>\n[gMASK]<sop>")],
    [("user", [IMAGE, IMAGE, text_part("two"), text_part("texts")])],
    [("assistant", "only assistant")],
    [("user", [IMAGE])],
]  # fmt: skip


def make_chats(template):
    """Render with Jinja as transformers does; openai layout, contents as in the request."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    compiled = environment.from_string(template)
    chats = []
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        chats.append({
            "messages": messages,
            "prompt": compiled.render(messages=messages, add_generation_prompt=True),
            "prompt_open": compiled.render(messages=messages, add_generation_prompt=False),
        })
    return chats


def dump(name, value):
    with open(os.path.join(FIXTURES, name), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


def main():
    tokenizer = train()
    dump("tokenizer.json", json.loads(tokenizer.to_str()))
    lines = make_lines(800, spellings_of(tokenizer))
    lists = make_id_lists(200, tokenizer.get_vocab_size())
    dump("lines.json", {
        "encode": [[line, tokenizer.encode(line, add_special_tokens=False).ids] for line in lines],
        "decode": [[ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids)] for ids in lists],
    })
    with open(os.path.join(FIXTURES, "glm41v.chat_template.jinja"), encoding="utf-8") as file:
        dump("chats.json", make_chats(file.read()))


if __name__ == "__main__":
    main()
