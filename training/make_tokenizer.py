"""Trains the byte-level BPE vocabulary and writes tokenizer.json and tokenizer_config.json.

    python make_tokenizer.py OUT_DIR [--vocab 2560] [--system-prompts FILE ...] [--text FILE ...]

Layout of the ids: 256 bytes, the numbers 10..999 in order, the learned merges,
then the added tokens of GLM-4.1V. A number up to 999 is always one token.
"""

import argparse
import json
import os
import random
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import dialogues
import labels
import phrases
import screens
import tasks

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
           "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>"]
PLAIN = ["<think>", "</think>", "<answer>", "</answer>", "<|begin_of_box|>", "<|end_of_box|>", "<|sep|>"]
FIRST_NUMBER = 256          # id of the number 10


def pre_tokenizer():
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def corpus(system_prompts, texts):
    rng = random.Random(1)
    for _ in range(3000):
        screen = screens.draw_screen(rng, 112, 252)
        for q in tasks.questions(rng, screen, 8, "train", 0.3):
            yield q.text
            yield q.answer
        q = tasks.episode(rng, screen, "train")
        for _, t in q.history:
            yield t
        yield q.answer
    for _ in range(12000):
        _, _, q, a = dialogues.ask(rng)
        yield q
        yield a
    for _, zh, en in labels.CONCEPTS:
        for _ in range(40):
            yield zh
            yield en
            yield " " + en
    for text in system_prompts:
        for _ in range(400):
            yield text
    for text in texts:
        yield text
    for text in phrases.TYPED_ZH + phrases.TYPED_EN:
        for _ in range(20):
            yield text


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--vocab", type=int, default=2560)
    ap.add_argument("--system-prompts", nargs="*", default=[])
    ap.add_argument("--text", nargs="*", default=[])
    args = ap.parse_args()
    read = lambda path: open(path, encoding="utf-8", errors="replace").read()
    prompts = [read(p) for p in args.system_prompts]
    texts = [read(p) for p in args.text]

    learn = args.vocab - 256 - 990 - len(SPECIAL) - len(PLAIN)
    teacher = Tokenizer(models.BPE())
    teacher.pre_tokenizer = pre_tokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tags = re.compile("|".join(re.escape(t) for t in SPECIAL + PLAIN) + r"|\d")
    teacher.train_from_iterator((tags.sub("\n", t) for t in corpus(prompts, texts)),
                                trainers.BpeTrainer(vocab_size=256 + learn, initial_alphabet=alphabet, show_progress=False, min_frequency=2))
    learned = json.loads(teacher.to_str())["model"]

    # Bytes in the order of their code points, so that the table does not depend on the library.
    vocab = {ch: k for k, ch in enumerate(alphabet)}
    merges = []
    for n in range(10, 1000):
        vocab[str(n)] = len(vocab)
        merges.append((str(n)[:-1], str(n)[-1]))
    assert vocab["10"] == FIRST_NUMBER and vocab["999"] == FIRST_NUMBER + 989
    for a, b in learned["merges"]:
        if len(vocab) < args.vocab - len(SPECIAL) - len(PLAIN):
            merges.append((a, b))
            vocab.setdefault(a + b, len(vocab))

    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizer()
    tok.decoder = decoders.ByteLevel()
    for name in SPECIAL:
        tok.add_special_tokens([AddedToken(name, normalized=False, special=True)])
    for name in PLAIN:
        tok.add_tokens([AddedToken(name, normalized=False, special=False)])
    assert tok.get_vocab_size() == args.vocab, tok.get_vocab_size()
    os.makedirs(args.out, exist_ok=True)
    tok.save(os.path.join(args.out, "tokenizer.json"))

    added = {str(tok.token_to_id(t)): dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=t in SPECIAL) for t in SPECIAL + PLAIN}
    config = dict(added_tokens_decoder=added, additional_special_tokens=SPECIAL, clean_up_tokenization_spaces=False, do_lower_case=False, eos_token="<|endoftext|>",
                  extra_special_tokens={}, model_input_names=["input_ids", "attention_mask"], model_max_length=32768, pad_token="<|endoftext|>", padding_side="left",
                  processor_class="Glm4vProcessor", remove_space=False, tokenizer_class="PreTrainedTokenizer")
    with open(os.path.join(args.out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, ensure_ascii=False, indent=2)
        f.write("\n")
    for p, text in zip(args.system_prompts, prompts):
        print(p, len(text), "characters,", len(tok.encode(text).ids), "tokens")


if __name__ == "__main__":
    main()
