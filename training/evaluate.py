"""Held-out evaluation: the same questions to a server over HTTP, or to transformers.

    python evaluate.py --base-url http://127.0.0.1:8000/v1 [--model autoglm-phone-9b] --screens 100 --texts 200 --out server.json
    python evaluate.py --transformers ../models/autoglm-phone-demo --screens 100 --texts 200 --out reference.json
    python evaluate.py --compare server.json reference.json

Screens, sizes and phrasings are none of those of the training: another seed, phones that
training never draws (half of the screens), and the held-out phrasings. Greedy (temperature 0), no streaming.
"""

import argparse
import base64
import io
import json
import math
import os
import random
import re
import time
import urllib.request

import batches
import dialogues
import screens
import significance
import tasks

POINT = r"\[(\d{1,3}),\s*(\d{1,3})\]"
FORMS = [r'do\(action="(Tap|Long Press|Double Tap)", element=' + POINT + r'\)', r'do\(action="(Swipe)", start=' + POINT + ", end=" + POINT + r'\)', r'do\(action="(Type)", text="(.*)"\)',
         r'do\(action="(Launch)", app="([^"]+)"\)', r'do\(action="(Back|Home)"\)', r'do\(action="(Wait)", duration="\d+ seconds"\)', r'(finish)\(message="(.*)"\)']
WHOLE = re.compile(r"<think>[^<]*</think>\n<answer>(?:" + "|".join(f"(?:{f})" for f in FORMS) + r")$", re.S)


def parse(text):
    """(action, x, y, action text) or None if the form is wrong."""
    if not WHOLE.match(text):
        return None
    body = text.split("<answer>", 1)[1]
    for f in FORMS:
        m = re.match(f + "$", body, re.S)
        if m:
            at = re.search("element=" + POINT, body)
            return m.group(1), int(at[1]) if at else None, int(at[2]) if at else None, body
    return None


def data_url(image, kind, made):
    """`made` keeps what was encoded for this screen already."""
    if kind in made:
        return made[kind]
    buffer = io.BytesIO()
    image.save(buffer, kind, **(dict(quality=85) if kind != "PNG" else dict(compress_level=1)))
    made[kind] = f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
    return made[kind]


def conversation(rng, q, image, system, made):
    messages = [dict(role="system", content=system)] if system else []
    for role, text in q.history:
        messages.append(dict(role=role, content=[dict(type="text", text=text)] if role == "user" else text))
    parts = [dict(type="image_url", image_url=dict(url=data_url(image, rng.choice(["PNG", "PNG", "JPEG"]), made))), dict(type="text", text=q.text)]
    if rng.random() < 0.3:
        parts.reverse()
    return messages + [dict(role="user", content=parts)]


def make_cases(args):
    rng = random.Random(args.seed)
    prompts = batches.read_prompts(args.prompts)
    cases = []
    for k in range(args.screens):
        w, h = rng.choice(batches.UNSEEN_PHONES if k % 2 == 0 else batches.PHONES)
        screen = screens.draw_screen(rng, w, h)
        made = {}
        for q in tasks.questions(rng, screen, args.per_screen, "test", 0.4) + [tasks.episode(rng, screen, "test")]:
            system = batches.dated(rng, rng.choice(prompts)) if prompts and rng.random() < args.system_share else ""
            cases.append(dict(kind=q.kind, lang=q.lang, screen=screen.kind, size=[w, h], unseen_size=k % 2 == 0, system=len(system), expected=q.answer, action=q.action, box=q.box,
                              messages=conversation(rng, q, screen.image, system, made), question=q.text))
    seen = set()
    while len([c for c in cases if c["kind"] == "text"]) < args.texts and len(seen) < 100000:
        name, lang, text, answer = dialogues.ask(rng, "test")
        seen.add(len(seen))
        cases.append(dict(kind="text", lang=lang, intent=name, hand=not ":" in name, expected=answer, messages=[dict(role="user", content=text)], question=text, action="", box=None))
    return cases


def mark(case, text):
    """Adds the verdict to a case."""
    case["text"] = text
    if case["action"]:
        got = parse(text)
        case["valid"] = got is not None
        case["right_action"] = bool(got and got[0] == case["action"])
        want = parse(case["expected"])
        if case["box"]:
            x0, y0, x1, y1 = case["box"]
            case["hit"] = bool(case["right_action"] and x0 <= got[1] <= x1 and y0 <= got[2] <= y1)
            case["distance"] = math.hypot(got[1] - want[1], got[2] - want[2]) if got and got[1] is not None else None
            case["right"] = case["hit"]
        else:
            case["right"] = bool(got and got[3] == want[3])
    else:
        case["right"] = text == case["expected"]
    return case


def share(cases, key):
    values = [c[key] for c in cases if c.get(key) is not None]
    return (sum(values) / len(values) if values else None), len(values)


def report(cases):
    taps = [c for c in cases if c["box"]]
    acts = [c for c in cases if c["action"]]
    texts = [c for c in cases if c["kind"] == "text"]
    rows = {}

    def row(name, group, key):
        value, n = share(group, key)
        rows[name] = dict(value=value, n=n)

    row("tap inside the target box", taps, "hit")
    row("  ... on phone sizes never trained", [c for c in taps if c["unseen_size"]], "hit")
    row("  ... with a system prompt", [c for c in taps if c["system"]], "hit")
    row("  ... with a text history", [c for c in taps if c["kind"].startswith("step:")], "hit")
    row("mean click distance (0-999 units)", taps, "distance")
    near = sorted(c["distance"] for c in taps if c["distance"] is not None)
    rows["median click distance"] = dict(value=near[len(near) // 2] if near else None, n=len(near))
    row("valid action form", acts, "valid")
    row("right action type", acts, "right_action")
    row("whole action right", acts, "right")
    for kind in sorted({c["kind"] for c in acts}):
        row("  " + kind, [c for c in acts if c["kind"] == kind], "right")
    row("screen questions, exact text", [c for c in cases if c["kind"] in ("look", "whatat")], "right")
    row("text answers, exact, unseen phrasings", texts, "right")
    row("  hand-written intents", [c for c in texts if c["hand"]], "right")
    row("  intents from families", [c for c in texts if not c["hand"]], "right")
    return rows


def table(rows):
    for name, r in rows.items():
        if r["value"] is not None:
            if "distance" in name:
                print(f"{name:42s} {r['value']:8.2f}   n={r['n']}")
            else:
                low, high = significance.interval(r["value"] * r["n"], r["n"])
                print(f"{name:42s} {100 * r['value']:7.2f}%   n={r['n']:<4d} 95 %: {100 * low:.1f} to {100 * high:.1f}")


def ask_server(args, messages):
    body = dict(model=args.model, messages=messages, temperature=0, max_tokens=200, stream=False)
    request = urllib.request.Request(args.base_url.rstrip("/") + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json", "Authorization": "Bearer EMPTY"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]


def compare(a, b):
    x, y = (json.load(open(p, encoding="utf-8"))["cases"] for p in (a, b))
    if [c["question"] for c in x] != [c["question"] for c in y]:
        raise SystemExit("the two files hold different questions")
    same = sum(p["text"] == q["text"] for p, q in zip(x, y))
    print(f"same text in {same} of {len(x)} answers")
    for name, chosen in (("taps", lambda c: c["box"]), ("actions", lambda c: c["action"]), ("text answers", lambda c: c["kind"] == "text"), ("all", lambda c: True)):
        pairs = [(p["right"], q["right"]) for p, q in zip(x, y) if chosen(p)]
        if pairs:
            lost, won, p_value = significance.paired(*zip(*pairs))
            print(f"{name + ' right':20s} {sum(p for p, _ in pairs)} and {sum(q for _, q in pairs)} of {len(pairs)}; right to wrong {lost}, wrong to right {won}, exact p {p_value:.2g}")
    for p, q in zip(x, y):
        if p["text"] != q["text"]:
            print(repr(p["question"]), "\n  ", repr(p["text"]), "\n  ", repr(q["text"]))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--base-url")
    ap.add_argument("--model", default="autoglm-phone-9b")
    ap.add_argument("--transformers", metavar="DIR")
    ap.add_argument("--compare", nargs=2, metavar="FILE")
    ap.add_argument("--screens", type=int, default=60)
    ap.add_argument("--per-screen", type=int, default=3)
    ap.add_argument("--texts", type=int, default=120)
    ap.add_argument("--seed", type=int, default=20261122)
    here = os.path.dirname(os.path.abspath(__file__))
    ap.add_argument("--prompts", nargs="*", default=[os.path.join(here, "prompts", f) for f in ("agent_zh.txt", "agent_en.txt")])
    ap.add_argument("--system-share", type=float, default=0.4)
    ap.add_argument("--batch", type=int, default=1, help="conversations at once (transformers only)")
    ap.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    ap.add_argument("--out")
    args = ap.parse_args()
    if args.compare:
        return compare(*args.compare)
    cases = make_cases(args)
    print(len(cases), "questions")
    begin = time.time()
    if args.transformers:
        import torch
        from reference import Reference
        ref = Reference(args.transformers, dtype=getattr(torch, args.dtype))
        order = sorted(range(len(cases)), key=lambda k: (cases[k]["kind"] == "text", cases[k].get("system", 0)))      # like with like
        for k in range(0, len(order), args.batch):
            part = [cases[j] for j in order[k:k + args.batch]]
            for case, text in zip(part, ref.answers([c["messages"] for c in part])):
                mark(case, text)
    elif args.base_url:
        for case in cases:
            mark(case, ask_server(args, case["messages"]))
    else:
        ap.error("give --base-url or --transformers")
    seconds = time.time() - begin
    rows = report(cases)
    table(rows)
    print(f"{seconds:.1f} s, {seconds / len(cases):.2f} s a question")
    if args.out:
        for c in cases:
            c.pop("messages")
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(dict(subject=args.transformers or args.base_url, seed=args.seed, seconds=seconds, metrics=rows, cases=cases), f, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    main()
