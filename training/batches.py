"""Turns screens, questions and dialogues into batches for network.forward.

The kinds of batches: "one" (many single-turn questions share one picture),
"steps" (the picture comes after a text history of its own), "text" (dialogues),
"wall" (pictures full of labels, for the auxiliary loss alone) and "general" (plain text).
Every batch has one picture grid and one system prefix.
"""

import datetime
import math
import os
import random
import re

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

import dialogues
import labels as L
import screens
import tasks
from make_tokenizer import FIRST_NUMBER

LONGEST_EDGE, SHORTEST_EDGE = 752640, 12544          # 2 * pixels, as in preprocessor_config.json: at most 480 tokens a picture
IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"

# Real phones, width x height. The second list is never used in training.
PHONES = [(720, 1280), (720, 1600), (1080, 1920), (1080, 2160), (1080, 2340), (1080, 2400), (1440, 3200), (1170, 2532), (540, 1200), (480, 1067), (1440, 3088), (1200, 2000)]
UNSEEN_PHONES = [(1264, 2780), (1220, 2712), (1125, 2436), (1080, 2280), (1206, 2622), (720, 1520), (1440, 2960), (828, 1792)]


def target_size(h, w, longest=LONGEST_EDGE, shortest=SHORTEST_EDGE):
    """The processor's size: multiples of 28 under the cap (which counts two frames)."""
    if h < 28 or w < 28:
        s = max(28 / h, 28 / w)
        h, w = int(h * s), int(w * s)
    H, W = round(h / 28) * 28, round(w / 28) * 28
    if 2 * H * W > longest:
        beta = math.sqrt(2 * h * w / longest)
        H, W = max(28, math.floor(h / beta / 28) * 28), max(28, math.floor(w / beta / 28) * 28)
    elif 2 * H * W < shortest:
        beta = math.sqrt(shortest / (2 * h * w))
        H, W = math.ceil(h * beta / 28) * 28, math.ceil(w * beta / 28) * 28
    return H, W


def shrink(image):
    H, W = target_size(image.height, image.width)
    return image if image.size == (W, H) else image.resize((W, H), Image.BICUBIC)


WEEK_ZH = ["星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"]


def dated(rng, prompt):
    """The prompt with another date in its first line."""
    day = datetime.date(2024, 1, 1) + datetime.timedelta(days=rng.randrange(1500))
    first, _, rest = prompt.partition("\n")
    if first.startswith("今天的日期是"):
        first = f"今天的日期是: {day:%Y年%m月%d日} {WEEK_ZH[day.weekday()]}"
    elif first.startswith("The current date"):
        first = f"The current date: {day:%Y-%m-%d, %A}"
    return first + "\n" + rest


class Maker:
    def __init__(self, tokenizer_path, prompts, seed, split="train", small=False, general=None, pictures=48):
        self.tok = Tokenizer.from_file(tokenizer_path)
        self.rng = random.Random(seed)
        self.prompts, self.split, self.small = prompts, split, small
        self.pictures = 3 if small else pictures                 # of a batch of the kind "one"
        self.pools = {}
        self.general = np.memmap(general, np.uint8, "r") if general else None      # plain text, for the kind "general"
        if general:                                              # the end is held out
            self.general = self.general[:len(self.general) * 49 // 50]
        self.mix = dict(one=62, steps=18, text=10, wall=10)
        self.image_id = self.tok.token_to_id("<|image|>")
        self.element_id = self.ids(" element=[")[0]   # the word in front of a point

    def ids(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids

    # ---- text of a prompt

    def system(self, kind):
        rng = self.rng
        r = rng.random()
        if r < (0.55 if kind == "one" else 0.5):
            return ""
        if r < 0.65:
            return rng.choice(dialogues.GENERAL)
        prompt = dated(rng, rng.choice(self.prompts))
        if rng.random() < 0.12:                                  # a shorter one: some paragraphs dropped
            lines = prompt.split("\n")
            a = rng.randrange(1, len(lines))
            del lines[a:a + rng.randint(1, len(lines))]
            prompt = "\n".join(lines)
        return prompt

    def prefix(self, system):
        return self.ids("[gMASK]<sop>" + (f"<|system|>\n{system}" if system else ""))

    # ---- pictures

    def screen(self, H, W, kind=None, wide=None):
        """A screen whose resized picture is H x W, with label maps for the auxiliary loss."""
        rng = self.rng
        r = rng.random()
        if r < (0.3 if kind is None else 0.5):
            s = screens.draw_screen(rng, W, H, kind=kind)
        else:
            scale = rng.uniform(1.15, 2.0) if r < 0.75 or kind else rng.uniform(2.0, 3.6)
            w, h = round(W * scale), round(H * scale)
            s = screens.draw_screen(rng, w, h, kind=kind)
        sw, sh = s.image.size
        small = s.image if (sw, sh) == (W, H) else s.image.resize((W, H), Image.BICUBIC)
        # Class and place per merged token.
        R, C = H // 28, W // 28
        cls = np.zeros((R, C), np.int64)
        at = np.zeros((R, C, 2), np.float32)
        for e in s.elements:
            if not e.text_class:
                continue
            x0, y0, x1, y1 = e.ink[0] / sw * C, e.ink[1] / sh * R, e.ink[2] / sw * C, e.ink[3] / sh * R
            c0, c1 = max(0, int(x0 + .3)), min(C, max(int(x0 + .3) + 1, math.ceil(x1 - .3)))
            r0, r1 = max(0, int(y0 + .25)), min(R, max(int(y0 + .25) + 1, math.ceil(y1 - .25)))
            cls[r0:r1, c0:c1] = e.text_class
            at[r0:r1, c0:c1] = ((e.box[0] + e.box[2]) / 2 / sw, (e.box[1] + e.box[3]) / 2 / sh)
        return s, np.asarray(small, np.uint8).transpose(2, 0, 1), cls.reshape(-1), at.reshape(-1, 2)

    def reuse(self, kind, H, W, count):
        """Pictures for a batch: new ones, or (drawing being the slow part) older ones, for new questions."""
        pool = self.pools.setdefault("wall" if kind == "wall" else "screen", [])
        good = [m for m in pool if len(m[2]) >= count and m[3] < 4]
        if good and self.rng.random() < 0.62:
            chosen = self.rng.choice(good)
            chosen[3] += 1
            return chosen[0], chosen[1], self.rng.sample(chosen[2], count)
        made = [self.screen(H, W, "wall" if kind == "wall" else None) for _ in range(count)]
        pool.append([H, W, made, 1])
        del pool[:-8]
        return H, W, made

    def grid(self):
        rng = self.rng
        if rng.random() < 0.6:
            w, h = rng.choice(PHONES)
            if rng.random() < 0.06:
                w, h = h, w
            return target_size(h, w)
        C = rng.randint(12, 18)
        R = min(480 // C, max(C + 2, round(C * rng.uniform(1.6, 2.35))))
        return R * 28, C * 28

    # ---- positions

    def place(self, ids, grid, start):
        """Positions [3, n] of these ids when the first one stands at `start`; gives also the next position."""
        pos = np.empty((3, len(ids)), np.int64)
        k, p = 0, start
        while k < len(ids):
            if ids[k] == self.image_id:
                R, C = grid
                n = R * C
                pos[0, k:k + n] = p
                pos[1, k:k + n] = p + np.repeat(np.arange(R), C)
                pos[2, k:k + n] = p + np.tile(np.arange(C), R)
                p += max(R, C)
                k += n
            else:
                pos[:, k] = p
                p += 1
                k += 1
        return pos, p

    def swell(self, ids, n):
        k = ids.index(self.image_id)
        return ids[:k] + [self.image_id] * n + ids[k + 1:]

    # ---- batches

    def pack(self, rows, grid, start):
        """rows: list of (prompt ids, answer ids) -> padded ids, positions, labels, mask of the coordinates."""
        longest = max(len(a) + len(b) for a, b in rows)
        longest = math.ceil(longest / 8) * 8
        ids = np.zeros((len(rows), longest), np.int64)
        pos = np.zeros((3, len(rows), longest), np.int64)
        lab = np.full((len(rows), longest), -1, np.int64)
        soft = np.zeros((len(rows), longest), bool)
        for k, (a, b) in enumerate(rows):
            all_ids = a + b
            n = len(all_ids)
            ids[k, :n] = all_ids
            pos[:, k, :n], _ = self.place(all_ids, grid, start)
            lab[k, len(a) - 1:n - 1] = b
            if self.element_id in b:                             # the last two numbers are x and y
                at = b.index(self.element_id)
                numbers = [j for j in range(at, len(b)) if FIRST_NUMBER <= b[j] < FIRST_NUMBER + 990]
                soft[k, [len(a) - 1 + j for j in numbers]] = True
        return ids, pos, lab, soft

    def copied(self, row, prompt, answer):
        """(row, position that predicts, first and last source token) for every token of the typed text."""
        a, b = self.tok.encode(prompt, add_special_tokens=False), self.tok.encode(answer, add_special_tokens=False)
        begin = answer.index('text="') + 6
        text = answer[begin:answer.rindex('")')]
        at = prompt.find(text)
        out = []
        for j, (s, e) in enumerate(b.offsets):
            if at >= 0 and begin <= s < begin + len(text):
                source = [i for i, (x, y) in enumerate(a.offsets) if x < at + e - begin and y > at + s - begin]
                if source:
                    out.append((row, len(a.ids) - 1 + j, source[0], source[-1]))
        return out

    def answer_ids(self, q):
        return self.ids(q.answer + q.ends_with)

    def batch(self, kind):
        rng = self.rng
        if kind == "wall":
            H, W = (10 * 28, 6 * 28) if self.small else rng.choice([(20 * 28, 12 * 28), (18 * 28, 14 * 28), (24 * 28, 13 * 28)])
            _, _, made = self.reuse(kind, H, W, 3 if self.small else 48)
            return dict(kind=kind, image_level=-1, levels=[], images=np.stack([m[1] for m in made]), cls=np.stack([m[2] for m in made]), at=np.stack([m[3] for m in made]))
        system = self.system(kind) if kind != "general" else ""
        pre = self.prefix(system)
        level0 = (np.array([pre]), np.repeat(np.arange(len(pre))[None, None], 3, 0))
        out = dict(kind=kind, image_level=-1)
        lean = (2 if len(pre) > 1000 else 1)
        if kind == "general":                                    # pieces of text, every token a target
            rows, width = [], 48 if self.small else 384
            while len(rows) < (4 if self.small else 64):
                at = rng.randrange(max(1, len(self.general) - 8 * width))
                ids = self.ids(bytes(self.general[at:at + 8 * width]).decode("utf-8", "ignore"))[1:width]
                if len(ids) > 8:
                    rows.append((ids[:1], ids[1:]))
            ids, pos, lab, soft = self.pack(rows, (0, 0), len(pre))
            out.update(levels=[level0, (ids, pos)], labels=lab, soft=np.zeros_like(soft))
            return out
        if kind == "text":
            rows = []
            for _ in range(8 if self.small else 256 // (lean * lean)):
                if rng.random() < 0.06:      # an older exchange in front
                    _, lang, q0, a0 = dialogues.ask(rng, self.split)
                    head = f"<|user|>\n{q0}<|assistant|>\n{a0}"
                    _, _, q, a = dialogues.ask(rng, self.split, lang)
                else:
                    head, (_, _, q, a) = "", dialogues.ask(rng, self.split)
                rows.append((self.ids(f"{head}<|user|>\n{q}<|assistant|>\n"), self.ids(a + rng.choice(["<|user|>"]))))
            ids, pos, lab, soft = self.pack(rows, (0, 0), len(pre))
            out["levels"] = [level0, (ids, pos)]
            out["labels"], out["soft"] = lab, soft
            return out
        count = max(1, (self.pictures if kind == "one" else self.pictures * 5 // 6) // lean)
        H, W, made = self.reuse(kind, *((168, 112) if self.small else self.grid()), count)
        R, C = H // 28, W // 28
        count = len(made)
        per = 4 if self.small else (14 if kind == "one" else 2)
        out["images"] = np.stack([m[1] for m in made])
        out["cls"] = np.stack([m[2] for m in made])
        out["at"] = np.stack([m[3] for m in made])
        rows = []
        agent = len(system) > 200
        if kind == "one":
            out["image_level"] = 1
            head = self.swell(self.ids("<|user|>\n" + IMAGE), R * C)
            pos, nxt = self.place(head, (R, C), len(pre))
            look = np.zeros((count * per, R, C), bool)           # for the attention loss: where the target's label is
            copies = []                                          # for the attention loss: what is typed is copied from the question
            turns = []                                           # for the attention loss: (row, position, missing), the next word says whether the target is there
            for m in made:
                for q in tasks.questions(rng, m[0], per, self.split, 0.75 if agent else 0.2):
                    sw, sh = m[0].image.size
                    for x0, y0, x1, y1 in q.look:
                        look[len(rows), int(max(0, y0) / sh * R):max(1, math.ceil(y1 / sh * R - .25)), int(max(0, x0) / sw * C):max(1, math.ceil(x1 / sw * C - .25))] = True
                    join = "\n" if rng.random() < 0.9 else ""
                    prompt = f"{join}{q.text}<|assistant|>\n"
                    if q.action == "Type":
                        copies += self.copied(len(rows), prompt, q.answer + q.ends_with)
                    rows.append((self.ids(prompt), self.answer_ids(q)))
                    missing = q.kind in ("absent", "step:open") and q.action in ("Launch", "Swipe")
                    if q.box and q.look or missing:
                        turns.append((len(rows) - 1, len(rows[-1][0]), missing))       # in front of the first word of the thought
            ids, p2, lab, soft = self.pack(rows, (R, C), nxt)
            out["copies"] = np.array(copies, np.int64).reshape(-1, 4)
            out["turns"] = np.array(turns, np.int64).reshape(-1, 3)
            out["look"], out["look_at"] = look.reshape(len(rows), -1), len(pre) + head.index(self.image_id)
            out["levels"] = [level0, (np.array([head] * count), np.repeat(pos[:, None], count, 1)), (ids, p2)]
        else:
            out["image_level"] = 1
            for m in made:
                for _ in range(per):
                    q = tasks.episode(rng, m[0], self.split)
                    text = "".join(f"<|{role}|>\n{words}" for role, words in q.history)
                    rows.append((self.swell(self.ids(f"{text}<|user|>\n{IMAGE}\n{q.text}<|assistant|>\n"), R * C), self.answer_ids(q)))
            ids, p2, lab, soft = self.pack(rows, (R, C), len(pre))
            out["levels"] = [level0, (ids, p2)]
        out["labels"], out["soft"] = lab, soft
        return out

    def any_batch(self):
        kind = self.rng.choices(list(self.mix), list(self.mix.values()))[0]
        return self.batch(kind)


def to_tensors(b):
    out = dict(kind=b["kind"], image_level=b["image_level"], look_at=b.get("look_at"))
    out["levels"] = [(torch.from_numpy(np.ascontiguousarray(i)), torch.from_numpy(np.ascontiguousarray(p))) for i, p in b["levels"]]
    for k in ("images", "cls", "at", "labels", "soft", "look", "copies", "turns"):
        if k in b:
            out[k] = torch.from_numpy(b[k])
    return out


def to_device(b, device):
    move = lambda t: t.to(device, non_blocking=True)
    out = {k: (move(v) if torch.is_tensor(v) else v) for k, v in b.items() if k != "levels"}
    out["levels"] = [(move(i), move(p)) for i, p in b["levels"]]
    return out


def read_stages(texts):
    """["wall=60,one=40@0.3", "one=100"] -> [(0.3, {"wall": 60, "one": 40}), (inf, {"one": 100})]: shares of the kinds of
    batches, each until that share of the training has passed."""
    stages = []
    for text in texts:
        mix, _, end = text.partition("@")
        stages.append((float(end) if end else math.inf, {k: float(v) for k, v in (x.split("=") for x in mix.split(","))}))
    return stages


class Stream(torch.utils.data.IterableDataset):
    """Endless batches; every worker has its own seed.

    `passed`, one number in shared memory, is the share of the training that has passed: it says which of the stages holds.
    What was drawn before a stage ends is still used, so stages change some seconds late."""

    def __init__(self, tokenizer_path, prompts, seed, small=False, stages=None, general=None, pictures=48, passed=None):
        self.args, self.stages, self.passed = (tokenizer_path, prompts, seed, small, general, pictures), stages, passed

    def __iter__(self):
        path, prompts, seed, small, general, pictures = self.args
        info = torch.utils.data.get_worker_info()
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        maker = Maker(path, prompts, seed * 1000 + (info.id if info else 0), "train", small, general, pictures)
        while True:
            if self.stages:
                maker.mix = next((mix for end, mix in self.stages if self.passed.item() < end), self.stages[-1][1])
            yield to_tensors(maker.any_batch())


def read_prompts(paths):
    return [open(p, encoding="utf-8").read() for p in paths]
