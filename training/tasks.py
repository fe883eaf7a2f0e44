"""Questions about a screen, with their answers in AutoGLM's form.

A Question is one user turn (perhaps with text history before it) and the exact
text that the model should write. `split` is "train" or "test": they use
different phrasings.
"""

import json
from dataclasses import dataclass

import labels as L
import phrases as P

OPEN, CLOSE = "<think>", "</think>\n<answer>"


@dataclass
class Question:
    kind: str               # tap switch long double absent back home swipe type wait finish look whatat chat step:*
    lang: str
    text: str               # the user's words of the turn that holds the picture
    answer: str             # all the text to be written, without the stop token
    ends_with: str          # the stop token
    action: str = ""        # Tap, Type, ... or "" for a plain answer
    box: tuple = None       # target in 0..999 units: x0 y0 x1 y1
    history: tuple = ()     # ((role, text), ...) in front of it
    look: tuple = ()        # boxes in pixels of the picture that tell where the target is


def unit_box(box, w, h):
    return tuple(round(v / s * 1000) for v, s in zip(box, (w, h, w, h)))


def point(box, w, h):
    clip = lambda v: min(999, max(0, int(v)))
    return clip((box[0] + box[2]) / 2 / w * 1000), clip((box[1] + box[3]) / 2 / h * 1000)


def quote(lang, text):
    return f"“{text}”" if lang == "zh" else f"\"{text}\""


def _longer(lang):
    """{label: the other labels that it is a part of}, in small letters."""
    names = [L.label(c, lang).lower() for c in range(len(L.CONCEPTS))]
    return {n: [m for m in names if n in m and n != m] for n in names}


LONGER = dict(zh=_longer("zh"), en=_longer("en"))


def name_in(words, lang, name):
    """The phrase with this label in it; in quotes if the words beside it would make another label of it, as in "select all"."""
    text = words.format(x=name)
    if any(other in text.lower() for other in LONGER[lang][name.lower()]):
        text = words.format(x=quote(lang, name))
    return text


def do(think, action):
    return f"{OPEN}{think}{CLOSE}{action}"


def touch(action, screen, box):
    x, y = point(box, *screen.image.size)
    return f"do(action=\"{action}\", element=[{x},{y}])"


def think_touch(lang, element, verb="tap"):
    name = L.label(element.concept, lang) if element.kind == "icon" else element.text
    zh = dict(tap="点击它", long="长按它", double="双击它")[verb]
    en = dict(tap="tap it", long="long press it", double="double tap it")[verb]
    if element.kind == "switch":
        return f"“{name}”右边有开关，{zh}。" if lang == "zh" else f"There is a switch next to \"{name}\", so I {en}."
    if element.kind == "icon":
        return f"屏幕上有{name}，{zh}。" if lang == "zh" else f"I see the {name} on the screen and {en}."
    return f"屏幕上有“{name}”，{zh}。" if lang == "zh" else f"I see \"{name}\" on the screen and {en}."


SWIPE_WORD = dict(up=("向上滑动", "swipe up"), down=("向下滑动", "swipe down"), left=("向左滑动", "swipe left"), right=("向右滑动", "swipe right"))


def swipe(direction):
    a, b = P.SWIPE_POINTS[direction]
    return f"do(action=\"Swipe\", start=[{a}], end=[{b}])"


CHARACTERS = sorted({ch for c in L.CONCEPTS for ch in c[1]} | {ch for t in L.FILLER_ZH for ch in t if "\u4e00" <= ch <= "\u9fff"} | set(P.SURNAMES + P.GIVEN))


def typed_text(rng, lang, split):
    """Something to type: it has to be copied, so it is anything."""
    r = rng.random()
    if r < 0.3 or (split == "test" and r < 0.5):
        pool = P.TYPED_ZH if lang == "zh" else P.TYPED_EN
        return rng.choice([t for k, t in enumerate(pool) if (k % 5 == 0) == (split == "test")])
    if r < 0.45:
        return rng.choice(P.SURNAMES) + "".join(rng.sample(P.GIVEN, rng.randint(1, 2))) if lang == "zh" else L.label(rng.choice(L.GROUP_IDS["item"]), "en")
    if r < 0.75:
        if lang == "zh" and rng.random() < 0.5:
            return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(2, 8)))
        some = rng.sample(L.CONCEPTS, rng.randint(1, 3))
        return "".join(c[1] for c in some) if lang == "zh" else " ".join(c[2] for c in some).lower()
    if r < 0.85:
        return str(rng.randint(10, 99999999999))
    letters = "abcdefghijklmnopqrstuvwxyz" + ("0123456789" if rng.random() < 0.5 else "")
    return " ".join("".join(rng.choice(letters) for _ in range(rng.randint(3, 8))) for _ in range(rng.choice([1, 1, 2])))


def type_step(lang, text):
    return do("输入框已经激活，输入文字。" if lang == "zh" else "The input field is focused, so I type the text.", f"do(action=\"Type\", text=\"{text}\")")


def field_step(lang, screen):
    return do("先点击输入框。" if lang == "zh" else "I tap the input field first.", touch("Tap", screen, screen.input))


def launch_step(lang, name):
    return do(f"屏幕上没有“{name}”，直接启动它。" if lang == "zh" else f"\"{name}\" is not on the screen, so I launch it.", f"do(action=\"Launch\", app=\"{name}\")")


def wait_step(lang):
    return do("页面正在加载，等待一下。" if lang == "zh" else "The page is loading, so I wait.", "do(action=\"Wait\", duration=\"2 seconds\")")


def finish_step(lang, message):
    return do("任务已经完成。" if lang == "zh" else "The task is done.", f"finish(message=\"{message}\")")


def phrase(rng, table, lang, split):
    return rng.choice(table[lang][split])


def info(rng, lang, app=None):
    app = app or (("System Home" if rng.random() < 0.4 else L.label(rng.choice(L.GROUP_IDS["app"]), lang)))
    if rng.random() < 0.06:                                      # some clients pretty-print it or say more
        return json.dumps({"current_app": app}, ensure_ascii=False, indent=2)
    return json.dumps({"current_app": app}, ensure_ascii=False)


def pick_lang(rng, screen):
    return screen.lang if rng.random() < 0.85 else ("en" if screen.lang == "zh" else "zh")


def ask_element(rng, screen, element, split, lang=None):
    """A question whose answer is a touch on this element."""
    lang = lang or pick_lang(rng, screen)
    w, h = screen.image.size
    name = L.label(element.concept, lang)
    if lang == "en" and rng.random() < 0.15:
        name = name.lower()
    box = unit_box(element.box, w, h)
    look = (element.ink,)
    if element.kind == "switch":
        look += tuple(e.ink for e in screen.elements if e.concept == element.concept and e.kind == "row")
        return Question("switch", lang, name_in(phrase(rng, P.SWITCH, lang, split), lang, name), do(think_touch(lang, element), touch("Tap", screen, element.box)), "</answer>", "Tap", box, look=look)
    r = rng.random()
    kind, table, verb, action = ("tap", P.TAP, "tap", "Tap") if r < 0.9 else ("long", P.LONG, "long", "Long Press") if r < 0.95 else ("double", P.DOUBLE, "double", "Double Tap")
    return Question(kind, lang, name_in(phrase(rng, table, lang, split), lang, name), do(think_touch(lang, element, verb), touch(action, screen, element.box)), "</answer>", action, box, look=look)


def ask_absent(rng, screen, split):
    lang = pick_lang(rng, screen)
    groups = ["app"] if rng.random() < 0.5 else ["setting", "button", "tab", "item"]
    concept = rng.choice([c for g in groups for c in L.GROUP_IDS[g] if c not in screen.shown])
    name = L.label(concept, lang)
    text = name_in(phrase(rng, P.TAP, lang, split), lang, name)
    if L.CONCEPTS[concept][0] == "app":
        return Question("absent", lang, text, launch_step(lang, name), "</answer>", "Launch")
    return Question("absent", lang, text, do(f"屏幕上没有“{name}”，向上滑动查找。" if lang == "zh" else f"\"{name}\" is not on the screen, so I swipe up to look for it.", swipe("up")), "</answer>", "Swipe")


def ask_general(rng, screen, split):
    lang = pick_lang(rng, screen)
    what = rng.choice(["back", "home", "swipe", "type", "type", "type", "type", "type", "wait", "finish"])
    if what == "back":
        return Question(what, lang, phrase(rng, P.BACK, lang, split), do("返回上一页。" if lang == "zh" else "I go back to the previous page.", "do(action=\"Back\")"), "</answer>", "Back")
    if what == "home":
        return Question(what, lang, phrase(rng, P.HOME, lang, split), do("回到桌面。" if lang == "zh" else "I go to the home screen.", "do(action=\"Home\")"), "</answer>", "Home")
    if what == "swipe":
        d = rng.choice(list(P.SWIPES))
        return Question(what, lang, phrase(rng, P.SWIPES[d], lang, split), do(f"需要{SWIPE_WORD[d][0]}。" if lang == "zh" else f"I {SWIPE_WORD[d][1]}.", swipe(d)), "</answer>", "Swipe")
    if what == "type":
        text = typed_text(rng, lang, split)
        words = phrase(rng, P.TYPE, lang, split).format(t=text)
        if screen.input and not screen.keyboard:
            return Question(what, lang, words, field_step(lang, screen), "</answer>", "Tap", unit_box(screen.input, *screen.image.size), look=(screen.input,))
        return Question(what, lang, words, type_step(lang, text), "</answer>", "Type")
    if what == "wait":
        return Question(what, lang, phrase(rng, P.WAIT, lang, split), do("按要求等待。" if lang == "zh" else "I wait as asked.", "do(action=\"Wait\", duration=\"2 seconds\")"), "</answer>", "Wait")
    return Question(what, lang, phrase(rng, P.FINISH, lang, split), finish_step(lang, "任务已完成。" if lang == "zh" else "Task completed."), "</answer>", "finish")


def ask_look(rng, screen, split):
    """Plain answers about what is seen."""
    lang = screen.lang
    seen = [e for e in screen.elements if e.kind not in ("icon", "switch")]
    if not seen:
        return None
    w, h = screen.image.size
    if rng.random() < 0.3:
        seen.sort(key=lambda e: (round((e.ink[1] + e.ink[3]) / 2 / h * 50), e.ink[0]))
        names = [e.text for e in seen[:5]]
        return Question("look", lang, phrase(rng, P.LOOK, lang, split), ("屏幕上有：" + "、".join(names) + "。") if lang == "zh" else "I see: " + ", ".join(names) + ".", "<|user|>")
    e = rng.choice(seen)
    x, y = point(e.ink, w, h)
    return Question("whatat", lang, phrase(rng, P.WHATAT, lang, split).format(p=f"{x},{y}"), e.text, "<|user|>")


# ---- several steps ---------------------------------------------------------------

OPEN_TASK = dict(zh=dict(train=["打开{a}", "请打开{a}", "帮我打开{a}", "启动{a}"], test=["麻烦打开{a}"]),
                 en=dict(train=["Open {a}", "open {a}", "Please open {a}", "launch {a}"], test=["please launch {a}"]))
OPEN_TAP = dict(zh=dict(train=["打开{a}，点击{b}", "在{a}里点击{b}", "进入{a}，然后打开{b}", "打开{a}的{b}", "去{a}里打开{b}", "打开{a}，找到{b}", "帮我在{a}里打开{b}"], test=["请打开{a}，然后点击{b}", "帮我打开{a}，找到{b}"]),
                en=dict(train=["Open {a} and tap {b}", "In {a}, tap {b}", "open {a}, then open {b}", "go to {b} in {a}", "Open {b} in {a}", "Use {a} to open {b}"], test=["Please open {a} and tap {b}", "open {a} and go to {b}"]))
BOTH = dict(zh=dict(train=["先点击{b}，再点击{c}", "依次点击{b}和{c}", "点击{b}，然后点击{c}"], test=["请先点{b}，再点{c}"]),
            en=dict(train=["Tap {b}, then tap {c}", "first tap {b} and then {c}", "tap {b} and then tap {c}"], test=["please tap {b} first and then {c}"]))
SEARCH = dict(zh=dict(train=["在{a}搜索{t}", "打开{a}搜索{t}", "用{a}搜一下{t}", "帮我在{a}里搜索{t}"], test=["请在{a}里搜一下{t}"]),
              en=dict(train=["Search for {t} in {a}", "Open {a} and search for {t}", "use {a} to search for {t}"], test=["please search for {t} in {a}"]))
MESSAGE = dict(zh=dict(train=["用{a}给{b}发消息说{t}", "打开{a}，给{b}发{t}", "给{b}发一条{a}：{t}"], test=["请用{a}给{b}发{t}"]),
               en=dict(train=["Send {t} to {b} in {a}", "Open {a} and send {b} the message {t}", "use {a} to tell {b}: {t}"], test=["please send {t} to {b} in {a}"]))


def _old_touch(rng, lang, name, action="Tap"):
    e = f"屏幕上有“{name}”，点击它。" if lang == "zh" else f"I see \"{name}\" on the screen and tap it."
    return e, f"do(action=\"{action}\", element=[{rng.randint(30, 970)},{rng.randint(30, 970)}])"


def _split(answer):
    think, action = answer[len(OPEN):].split(CLOSE)
    return think, action


def _wrap(rng, think, action):
    r = rng.random()
    if r < 0.55:      # the way the Open-AutoGLM client sends an answer back: with the tags doubled
        return f"<think><think>{think}</think>\n<answer></think><answer>{action}</answer>"
    if r < 0.75:
        return f"<think>{think}</think><answer>{action}</answer>"
    if r < 0.9:
        return f"<think>{think}</think>\n<answer>{action}"
    return f"<think>{think}</think>\n<answer>{action}</answer>"


def episode(rng, screen, split, first_only=False):
    """A task of several steps, at the step for which this screen is the picture."""
    lang = screen.lang
    w, h = screen.image.size
    seen = [e for e in screen.elements if e.kind not in ("icon", "switch", "key")]
    apps = [e for e in seen if e.kind == "app" and L.CONCEPTS[e.concept][0] == "app"]
    app = rng.choice(L.GROUP_IDS["app"])
    name = lambda c: L.label(c, lang)
    any_concept = lambda: rng.choice(L.GROUP_IDS[rng.choice(["setting", "button", "tab", "item"])])
    text = typed_text(rng, lang, split)
    steps = []                                       # what was done: (think, action)

    def opened(a):
        steps.append(_old_touch(rng, lang, name(a)) if rng.random() < 0.5 else _split(launch_step(lang, name(a))))
        if rng.random() < 0.12:
            steps.append(_split(wait_step(lang)))

    def field_tapped():
        think, _ = _split(do("先点击输入框。" if lang == "zh" else "I tap the input field first.", ""))
        steps.append((think, _old_touch(rng, lang, "")[1]))

    go = next((e for e in seen if e.concept in (L.ID["搜索"], L.ID["发送"]) and e.kind == "button"), None)
    choice = rng.random()
    box, action = None, ""
    if first_only or choice < 0.2:
        # The first step: the app is on the screen or it is not.
        e = rng.choice(apps) if apps and rng.random() < 0.7 else None
        a = e.concept if e else rng.choice([c for c in L.GROUP_IDS["app"] if c not in screen.shown])
        table = rng.choice([OPEN_TASK, OPEN_TAP, SEARCH, MESSAGE])
        task = phrase(rng, table, lang, split).format(a=name(a), b=name(any_concept()), t=text)
        if screen.kind == "loading":
            answer, action = wait_step(lang), "Wait"
        elif e:
            answer, action, box = do(think_touch(lang, e), touch("Tap", screen, e.box)), "Tap", e.box
        else:
            answer, action = launch_step(lang, name(a)), "Launch"
        kind = "step:open"
    elif screen.kind == "loading":
        task = phrase(rng, OPEN_TAP, lang, split).format(a=name(app), b=name(any_concept()))
        opened(app)
        answer, action, kind = wait_step(lang), "Wait", "step:wait"
    elif screen.input and choice < 0.8:
        who = any_concept()
        table = SEARCH if screen.kind == "search" else MESSAGE
        task = phrase(rng, table, lang, split).format(a=name(app), b=name(who), t=text)
        opened(app)
        if table is MESSAGE:
            steps.append(_old_touch(rng, lang, name(who)))
        if not screen.keyboard:
            answer, action, box, kind = field_step(lang, screen), "Tap", screen.input, "step:field"
        else:
            field_tapped()
            if go and rng.random() < 0.5:
                steps.append(_split(type_step(lang, text)))
                answer, action, box, kind = do(think_touch(lang, go), touch("Tap", screen, go.box)), "Tap", go.box, "step:go"
            else:
                answer, action, kind = type_step(lang, text), "Type", "step:type"
    elif choice < 0.45 and len(seen) >= 2:
        b, c = rng.sample(seen, 2)
        task = phrase(rng, BOTH, lang, split).format(b=name(b.concept), c=name(c.concept))
        e = b
        if rng.random() < 0.6:
            steps.append(_old_touch(rng, lang, b.text))
            e = c
        answer, action, box, kind = do(think_touch(lang, e), touch("Tap", screen, e.box)), "Tap", e.box, "step:both"
    elif choice < 0.7 and seen:
        e = rng.choice(seen)
        task = phrase(rng, OPEN_TAP, lang, split).format(a=name(app), b=name(e.concept))
        opened(app)
        answer, action, box, kind = do(think_touch(lang, e), touch("Tap", screen, e.box)), "Tap", e.box, "step:tap"
    else:
        # All is done: say so.
        r, b, c = rng.random(), any_concept(), any_concept()
        if r < 0.3:
            task = phrase(rng, OPEN_TASK, lang, split).format(a=name(app))
            opened(app)
        elif r < 0.6:
            task = phrase(rng, OPEN_TAP, lang, split).format(a=name(app), b=name(b))
            opened(app)
            if rng.random() < 0.2:
                steps.append(_split(do(f"屏幕上没有“{name(b)}”，向上滑动查找。" if lang == "zh" else f"\"{name(b)}\" is not on the screen, so I swipe up to look for it.", swipe("up"))))
            steps.append(_old_touch(rng, lang, name(b)))
        elif r < 0.75:
            task = phrase(rng, BOTH, lang, split).format(b=name(b), c=name(c))
            steps += [_old_touch(rng, lang, name(b)), _old_touch(rng, lang, name(c))]
        elif r < 0.88:
            task = phrase(rng, SEARCH, lang, split).format(a=name(app), t=text)
            opened(app); field_tapped()
            steps += [_split(type_step(lang, text)), _old_touch(rng, lang, name(L.ID["搜索"]))]
        else:
            task = phrase(rng, MESSAGE, lang, split).format(a=name(app), b=name(b), t=text)
            opened(app); steps.append(_old_touch(rng, lang, name(b))); field_tapped()
            steps += [_split(type_step(lang, text)), _old_touch(rng, lang, name(L.ID["发送"]))]
        answer, action, kind = finish_step(lang, "任务已完成。" if lang == "zh" else "Task completed."), "finish", "step:finish"
    history = []
    turn = f"{task}\n\n{info(rng, lang)}"
    for think, act in steps:
        history += [("user", turn), ("assistant", _wrap(rng, think, act))]
        turn = f"** Screen Info **\n\n{info(rng, lang, name(app) if rng.random() < .7 else None)}"
    if not steps and rng.random() < 0.3:
        turn = task
    look = tuple(e.ink for e in seen if e.box is box) or ((box,) if box else ())
    return Question(kind, lang, turn, answer, "</answer>", action, unit_box(box, w, h) if box else None, tuple(history), look)


def questions(rng, screen, count, split, with_info):
    """`count` single-turn questions about one screen. `with_info`: chance of a screen info line."""
    out = []
    pool = list(screen.elements)
    rng.shuffle(pool)
    while len(out) < count:
        r = rng.random()
        if r < 0.66 and screen.elements:
            if not pool:
                pool = list(screen.elements)
                rng.shuffle(pool)
            q = ask_element(rng, screen, pool.pop(), split)
        elif r < 0.76:
            q = ask_absent(rng, screen, split)
        elif r < 0.90:
            q = ask_general(rng, screen, split)
        elif r < 0.95:
            q = ask_look(rng, screen, split)
        else:
            q = episode(rng, screen, split, first_only=True)
        if q is None:
            continue
        if screen.kind == "loading" and q.kind in ("tap", "absent"):
            q.answer, q.action, q.box, q.ends_with, q.look = wait_step(q.lang), "Wait", None, "</answer>", ()
        if not q.kind.startswith("step:") and rng.random() < with_info:
            q.text += "\n\n" + info(rng, q.lang)
        out.append(q)
    return out
