"""Writes the end-to-end cases of the test suite: small pictures, conversations, and the reference's greedy text.

    python make_fixtures.py --model-dir ../models/autoglm-phone-demo --out ../tests/fixtures/demo [--seed 77]

Each case holds `name`, `messages` (OpenAI form; the picture's url is a file name beside cases.json), `action`,
`box` (target in 0..999 units, or null) and `text`: what transformers writes in fp32 with PIL preprocessing, greedily,
without the stop token. Of the candidates only those are taken whose answer is right, and where the best token leads
the second by `margin` or more: 0.2 for words, 0.02 for the two coordinates. (Neighbouring coordinates are close by
training: a runner with bf16 arithmetic may write a number that is one or two off, one with fp32 may not.)
"""

import argparse
import json
import os
import random

import torch
from PIL import Image

import batches
import dialogues
import screens
import tasks
from evaluate import parse
from make_tokenizer import FIRST_NUMBER
from reference import Reference

# name, what to draw, size, file type, how to ask
PLAN = [("zh_home_tap", "home", "zh", (1080, 2280), "png", "tap"), ("en_settings_tap", "listing", "en", (720, 1520), "webp", "tap"), ("zh_dialog_tap", "dialog", "zh", (828, 1792), "jpeg", "tap"),
        ("en_shop_tap", "shop", "en", (1220, 2712), "webp", "tap"), ("zh_scatter_system", "scatter", "zh", (1264, 2780), "webp", "system"), ("en_home_system_text_first", "home", "en", (1125, 2436), "webp", "system"),
        ("zh_search_cross", "search", "zh", (1206, 2622), "webp", "cross"), ("zh_launch", "listing", "zh", (1440, 2960), "png", "launch"), ("en_back", "form", "en", (720, 1520), "png", "back"),
        ("zh_type", "chat", "zh", (1080, 2280), "webp", "type"), ("zh_history_tap", "listing", "zh", (1220, 2712), "webp", "step:tap"), ("en_history_finish", "listing", "en", (1080, 2280), "webp", "step:finish")]


def wanted(rng, screen, how):
    """A question of the wished kind about this screen, or None."""
    if how in ("tap", "system", "cross"):
        pool = [e for e in screen.elements if e.kind not in ("switch",)]
        if not pool:
            return None
        other = "en" if screen.lang == "zh" else "zh"
        q = tasks.ask_element(rng, screen, rng.choice(pool), "test", other if how == "cross" else screen.lang)
        return q if q.kind == "tap" else None
    if how == "launch":
        q = tasks.ask_absent(rng, screen, "test")
        return q if q.action == "Launch" else None
    if how in ("back", "type"):
        q = tasks.ask_general(rng, screen, "test")
        return q if q.kind == how and (how == "back" or q.action == "Type") else None
    q = tasks.episode(rng, screen, "test")
    return q if q.kind == how else None


@torch.no_grad()
def margin(ref, messages, folder, text, stop):
    """Smallest gap between the best and the second logit along the answer: (words, coordinates, is it greedy)."""
    ids, feats = ref.prepare(messages, folder)
    answer = ref.tok.encode(text, add_special_tokens=False).ids + [stop]
    all_ids = torch.tensor([ids + answer])
    inputs = dict(input_ids=all_ids, attention_mask=torch.ones_like(all_ids))
    if feats is not None:
        inputs.update(pixel_values=feats["pixel_values"].float(), image_grid_thw=feats["image_grid_thw"], mm_token_type_ids=(all_ids == ref.image_id).long())
    logits = ref.model(**{k: v.to(ref.device) for k, v in inputs.items()}).logits[0, len(ids) - 1:-1].float()
    top = logits.topk(2, -1)
    gap = (top.values[:, 0] - top.values[:, 1]).tolist()
    at = answer.index(ref.tok.token_to_id("\u0120element")) if "element=" in text else len(answer)
    number = [j > at and FIRST_NUMBER <= t < FIRST_NUMBER + 990 for j, t in enumerate(answer)]
    return min(g for g, n in zip(gap, number) if not n), min([g for g, n in zip(gap, number) if n] + [9.0]), top.indices[:, 0].tolist() == answer


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model-dir", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int, default=77)
    ap.add_argument("--margin", type=float, default=0.2)
    ap.add_argument("--only", default="", help="make this picture case alone and add it to the others")
    args = ap.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    prompts = {lang: open(os.path.join(here, "prompts", f"agent_{lang}.txt"), encoding="utf-8").read() for lang in ("zh", "en")}
    os.makedirs(args.out, exist_ok=True)
    for old in os.listdir(args.out):
        if not args.only:
            os.remove(os.path.join(args.out, old))
    ref = Reference(args.model_dir, device="cpu")
    stops = {t: ref.tok.token_to_id(t) for t in ("</answer>", "<|user|>")}
    cases = []
    if args.only:
        cases = [c for c in json.load(open(os.path.join(args.out, "cases.json"), encoding="utf-8")) if c["name"] != args.only]
    for name, kind, lang, size, ext, how in PLAN:
        if args.only not in ("", name):
            continue
        for attempt in range(40):
            rng = random.Random(f"{args.seed}/{name}/{attempt}")
            w, h = size
            screen = screens.draw_screen(rng, w, h, lang, kind, **(dict(keyboard=True) if how == "type" else {}))
            q = next((q for q in (wanted(rng, screen, how) for _ in range(60)) if q), None)
            if q is None:
                continue
            path = f"{name}.{ext}"
            file = os.path.join(args.out, path)
            screen.image.save(file, **dict(png=dict(optimize=True), webp=dict(quality=80, method=6), jpeg=dict(quality=70))[ext])
            if os.path.getsize(file) > 60 * 1024:
                continue
            messages = [dict(role="system", content=batches.dated(rng, prompts[lang]))] if how == "system" else []
            for role, text in q.history:
                messages.append(dict(role=role, content=[dict(type="text", text=text)] if role == "user" else text))
            parts = [dict(type="image_url", image_url=dict(url=path)), dict(type="text", text=q.text)]
            messages.append(dict(role="user", content=parts[::-1] if "text_first" in name else parts))
            text = ref.answer(messages, args.out)
            got, want = parse(text), parse(q.answer)
            right = got and got[0] == q.action and (got[3] == want[3] if not q.box else q.box[0] <= got[1] <= q.box[2] and q.box[1] <= got[2] <= q.box[3])
            if not right:
                print(name, attempt, "wrong:", repr(text))
                continue
            gap, near, same = margin(ref, messages, args.out, text, stops["</answer>"])
            if gap < args.margin or near < args.margin / 10 or not same:
                print(name, attempt, f"margin {gap:.3f} {near:.3f}", same, flush=True)
                continue
            cases.append(dict(name=name, messages=messages, action=q.action, box=list(q.box) if q.box else None, text=text, margin=round(gap, 3), coordinate_margin=round(near, 3)))
            print(name, "attempt", attempt, os.path.getsize(file), "bytes", f"margin {gap:.2f} {near:.3f}", repr(text), flush=True)
            break
        else:
            print(name, "NOT FOUND")
    for name, question in (("zh_who", "你是谁？"), ("en_can", "What can you do?"), ("zh_modalities", "请问你支持什么输入？"), ("en_hi", "Hi")):
        if args.only:
            break
        messages = [dict(role="user", content=question)]
        text = ref.answer(messages)
        gap, _, same = margin(ref, messages, ".", text, stops["<|user|>"])
        print(name, f"margin {gap:.2f}", same, repr(text))
        if same and gap >= args.margin:
            cases.append(dict(name=name, messages=messages, action="", box=None, text=text, margin=round(gap, 3)))
    kept = {p["image_url"]["url"] for c in cases for m in c["messages"] if isinstance(m["content"], list) for p in m["content"] if p["type"] == "image_url"}
    for f in os.listdir(args.out):
        if f not in kept:
            os.remove(os.path.join(args.out, f))
    with open(os.path.join(args.out, "cases.json"), "w", encoding="utf-8") as f:
        json.dump(cases, f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
