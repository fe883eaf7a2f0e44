"""Draws Android-like screens with PIL and says what is where.

A Screen holds the picture and its elements. Boxes are in pixels of the picture.
All randomness comes from the random.Random that is handed in.
"""

import functools
import glob
import math
import os
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

import labels as L

FONT_FOLDERS = [os.environ.get("SCREEN_FONTS", ""), "/usr/share/fonts"]
CJK_FONTS = ["wqy-microhei.ttc", "NotoSansCJK-Regular*", "NotoSansCJK-Bold*"]
LATIN_FONTS = ["Roboto-Regular.ttf", "Roboto-Medium.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf"]


@functools.lru_cache(None)
def _find_fonts(patterns):
    found = []
    for pattern in patterns:
        for folder in FONT_FOLDERS:
            hits = folder and sorted(glob.glob(os.path.join(folder, "**", pattern), recursive=True))
            if hits:
                found.append(hits[0])
                break
    return found


@functools.lru_cache(4096)
def _font(path, size):
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@dataclass
class Element:
    concept: int            # number in labels.CONCEPTS, or -1
    text: str               # what is written (or the icon's name)
    kind: str               # app row button tab item icon field key switch
    box: tuple              # x0 y0 x1 y1: a press inside is right
    ink: tuple              # where the label itself is
    text_class: int = 0     # for the auxiliary loss


@dataclass
class Screen:
    image: Image.Image
    kind: str
    lang: str
    elements: list = field(default_factory=list)
    keyboard: bool = False      # typing is possible now
    input: tuple = None         # box of the input field, if any
    shown: set = field(default_factory=set)     # concepts that stand anywhere on it


def hsv(h, s, v):
    i = int(h * 6) % 6
    f = h * 6 - int(h * 6)
    p, q, t = v * (1 - s), v * (1 - f * s), v * (1 - (1 - f) * s)
    r, g, b = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)][i]
    return int(r * 255), int(g * 255), int(b * 255)


class Painter:
    """A picture being drawn, with the theme's colours and a unit `u` (1/360 of the width)."""

    def __init__(self, rng, width, height, lang):
        self.rng, self.w, self.h, self.lang = rng, width, height, lang
        # Narrow screens count 360 units, wide ones (tablets, landscape) more, so that text keeps its size.
        self.units = 360 if height > width else 720
        self.u = width / self.units
        self.dark = rng.random() < 0.3
        self.hue = rng.random()
        if self.dark:
            g = rng.randint(0, 40)
            self.back, self.card = (g, g, g + rng.randint(0, 8)), (g + 24, g + 24, g + 28)
            self.ink, self.grey, self.line = (rng.randint(215, 255),) * 3, (150,) * 3, (g + 45,) * 3
        else:
            g = rng.randint(232, 255)
            self.back, self.card = (g, g, min(255, g + 3)), (255, 255, 255) if g < 250 else (244, 245, 247)
            self.ink, self.grey, self.line = (rng.randint(0, 50),) * 3, (130,) * 3, (g - 18,) * 3
        self.accent = hsv(self.hue, rng.uniform(0.6, 0.95), rng.uniform(0.55, 0.9))
        self.cjk = rng.choice(_find_fonts(tuple(CJK_FONTS)))
        self.latin = rng.choice(_find_fonts(tuple(LATIN_FONTS)))
        self.scale = rng.choice([0.92, 1.0, 1.0, 1.08, 1.18])
        self.image = Image.new("RGB", (width, height), self.back)
        self.draw = ImageDraw.Draw(self.image)
        self.elements = []

    def px(self, units):
        return units * self.u

    def font(self, units, text):
        size = max(9, round(units * self.scale * self.u))
        return _font(self.latin if text.isascii() else self.cjk, size)

    def text(self, x, y, text, units, fill=None, anchor="lm", limit=None):
        """Write text; gives its box. `limit` is the widest it may be, in pixels."""
        font = self.font(units, text)
        if limit and len(text) * font.size > limit and font.getlength(text) > limit:
            size = max(8, int(font.size * limit / font.getlength(text)))
            font = _font(font.path, size)
            while len(text) > 1 and font.getlength(text) > limit * 1.05:
                text = text[:-1]
        self.draw.text((x, y), text, fill=fill or self.ink, font=font, anchor=anchor)
        return self.draw.textbbox((x, y), text, font=font, anchor=anchor)

    def rounded(self, box, radius, fill=None, outline=None, width=1):
        x0, y0, x1, y1 = [round(v) for v in box]
        radius = min(round(radius), (x1 - x0) // 2, (y1 - y0) // 2)
        self.draw.rounded_rectangle((x0, y0, x1, y1), max(0, radius), fill=fill, outline=outline, width=width)

    def add(self, concept, kind, box, ink, text=None):
        box = (max(0, box[0]), max(0, box[1]), min(self.w, box[2]), min(self.h, box[3]))
        lang = "zh" if L.CONCEPTS[concept][0] == "key" else self.lang
        self.elements.append(Element(concept, text or L.label(concept, self.lang), kind, box, ink, L.text_class(concept, lang)))

    # ---- parts -------------------------------------------------------------

    def label_button(self, concept, box, style=None):
        rng = self.rng
        style = style or rng.choice(["fill", "fill", "soft", "line", "plain"])
        radius = rng.choice([0, self.px(4), self.px(8), self.px(40)])
        ink = self.ink
        if style == "fill":
            fill = self.accent
            ink = (255, 255, 255) if sum(fill) < 560 else (20, 20, 20)
            self.rounded(box, radius, fill)
        elif style == "soft":
            self.rounded(box, radius, self.line)
        elif style == "line":
            self.rounded(box, radius, None, self.accent, max(1, round(self.u)))
            ink = self.ink
        else:
            ink = rng.choice([self.ink, self.ink, self.accent if 150 < sum(self.accent) < 480 and not self.dark else self.ink])
        where = self.text((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, L.label(concept, self.lang), rng.uniform(14, 17),
                          ink, "mm", box[2] - box[0] - self.px(6))
        self.add(concept, "button", box, where)

    def icon(self, concept, cx, cy, r, ink=None):
        """One of the twenty drawn icons, centre and half size in pixels."""
        d, ink = self.draw, ink or self.ink
        n = L.ICON_INDEX[concept]
        lw = max(2, round(r * 0.2))
        p = lambda *a: [(cx + a[i] * r, cy + a[i + 1] * r) for i in range(0, len(a), 2)]
        b = lambda x0, y0, x1, y1: (cx + x0 * r, cy + y0 * r, cx + x1 * r, cy + y1 * r)
        line = lambda *a: d.line(p(*a), fill=ink, width=lw, joint="curve")
        if n == 0:
            line(.3, -.8, -.5, 0, .3, .8); line(-.5, 0, .9, 0)
        elif n == 1:
            d.ellipse(b(-.8, -.8, .4, .4), outline=ink, width=lw); line(.3, .3, .9, .9)
        elif n == 2:
            for k in (-.7, 0, .7):
                d.ellipse(b(-.2, k - .2, .2, k + .2), fill=ink)
        elif n == 3:
            line(-.9, 0, .9, 0); line(0, -.9, 0, .9)
        elif n == 4:
            line(-.7, -.7, .7, .7); line(-.7, .7, .7, -.7)
        elif n == 5:
            for k in (-.6, 0, .6):
                line(-.8, k, .8, k)
        elif n == 6:
            d.ellipse(b(-.9, -.7, .05, .2), fill=ink); d.ellipse(b(-.05, -.7, .9, .2), fill=ink)
            d.polygon(p(-.85, 0, .85, 0, 0, .9), fill=ink)
        elif n == 7:
            pts = []
            for k in range(10):
                a, q = -math.pi / 2 + k * math.pi / 5, .95 if k % 2 == 0 else .42
                pts += [math.cos(a) * q, math.sin(a) * q]
            d.polygon(p(*pts), fill=ink)
        elif n == 8:
            d.pieslice(b(-.65, -.85, .65, .7), 180, 360, fill=ink); d.rectangle(b(-.65, -.1, .65, .5), fill=ink)
            d.rectangle(b(-.9, .42, .9, .58), fill=ink); d.ellipse(b(-.2, .6, .2, .95), fill=ink)
        elif n == 9:
            d.rectangle(b(-.55, -.4, .55, .9), outline=ink, width=lw); line(-.85, -.55, .85, -.55); line(-.25, -.85, .25, -.85)
            line(-.18, -.1, -.18, .6); line(.18, -.1, .18, .6)
        elif n == 10:
            d.polygon(p(-.6, -.85, .85, 0, -.6, .85), fill=ink)
        elif n == 11:
            d.rectangle(b(-.6, -.8, -.15, .8), fill=ink); d.rectangle(b(.15, -.8, .6, .8), fill=ink)
        elif n == 12:
            line(-.85, .05, -.25, .65, .85, -.6)
        elif n == 13:
            d.rounded_rectangle(b(-.35, -.95, .35, .3), r * .3, fill=ink); d.arc(b(-.65, -.5, .65, .6), 0, 180, fill=ink, width=lw)
            line(0, .6, 0, .95)
        elif n == 14:
            d.polygon(p(-.9, -.8, .95, 0, -.9, .8, -.5, 0), fill=ink)
        elif n == 15:
            d.polygon(p(0, -.9, .95, 0, -.95, 0), fill=ink); d.rectangle(b(-.6, 0, .6, .8), fill=ink)
        elif n == 16:
            d.arc(b(-1.2, -1.2, .8, .8), 15, 165, fill=ink, width=max(3, lw * 2))
            d.ellipse(b(-1.15, -.25, -.5, .35), fill=ink); d.ellipse(b(.15, .1, .8, .75), fill=ink)
        elif n == 17:
            d.rounded_rectangle(b(-.95, -.55, .95, .75), r * .2, outline=ink, width=lw); d.ellipse(b(-.38, -.25, .38, .5), outline=ink, width=lw)
            d.rectangle(b(-.3, -.8, .3, -.5), fill=ink)
        elif n == 18:
            line(0, -.9, 0, .4); line(-.5, -.1, 0, .45, .5, -.1); line(-.8, .85, .8, .85)
        else:
            d.ellipse(b(-.9, -.9, .9, .9), outline=ink, width=lw)
            d.ellipse(b(-.45, -.4, -.15, -.1), fill=ink); d.ellipse(b(.15, -.4, .45, -.1), fill=ink)
            d.arc(b(-.5, -.4, .5, .55), 20, 160, fill=ink, width=lw)
        pad = max(self.px(8), r * 0.6)
        box = (cx - r - pad, cy - r - pad, cx + r + pad, cy + r + pad)
        self.add(concept, "icon", box, (cx - r, cy - r, cx + r, cy + r))

    def status_bar(self):
        if self.rng.random() < 0.1:
            return 0
        h = self.px(26)
        y = h / 2
        self.text(self.px(14), y, f"{self.rng.randint(0, 23)}:{self.rng.randint(0, 59):02d}", 11)
        x = self.w - self.px(14)
        self.draw.rectangle((x - self.px(18), y - self.px(4), x, y + self.px(4)), outline=self.ink)
        self.draw.rectangle((x - self.px(18), y - self.px(4), x - self.px(self.rng.uniform(2, 16)), y + self.px(4)), fill=self.ink)
        for k in range(4):
            self.draw.rectangle((x - self.px(36 - 3 * k), y + self.px(4 - 2 * k), x - self.px(34 - 3 * k), y + self.px(4)), fill=self.ink)
        return h

    def nav_bar(self):
        style = self.rng.random()
        if style < 0.35:
            return self.h
        h = self.px(22 if style < 0.7 else 36)
        y = self.h - h / 2
        if style < 0.7:
            self.rounded((self.w * .35, y - self.px(2), self.w * .65, y + self.px(2)), self.px(2), self.grey)
        else:
            r = self.px(7)
            for k, x in enumerate((.2, .5, .8)):
                x *= self.w
                if k == 0:
                    self.draw.polygon([(x - r, y), (x + r, y - r), (x + r, y + r)], outline=self.grey)
                elif k == 1:
                    self.draw.ellipse((x - r, y - r, x + r, y + r), outline=self.grey, width=2)
                else:
                    self.draw.rectangle((x - r, y - r, x + r, y + r), outline=self.grey, width=2)
        return self.h - h

    def title_bar(self, top, concept=None, text=None, back=None, icons=0):
        rng, h = self.rng, self.px(rng_range(self.rng, 44, 58))
        y, x = top + h / 2, self.px(16)
        icons_here = rng.sample([1, 2, 3, 5, 7, 8, 17], icons) if icons else []
        if back if back is not None else rng.random() < 0.75:
            self.icon(L.GROUP_IDS["icon"][0], x + self.px(8), y, self.px(8))
            x += self.px(36)
        words = text or L.label(concept, self.lang)
        limit = self.w - x - self.px(20 + 40 * len(icons_here))
        if rng.random() < 0.5:
            self.text(x, y, words, 19, limit=limit)
        else:
            self.text(self.w / 2, y, words, 18, anchor="mm", limit=min(limit, self.w * .5))
        for k, n in enumerate(icons_here):
            self.icon(L.GROUP_IDS["icon"][n], self.w - self.px(24 + 40 * k), y, self.px(8.5))
        return top + h

    def tab_bar(self, bottom, concepts):
        h = self.px(rng_range(self.rng, 46, 58))
        top = bottom - h
        self.draw.rectangle((0, top, self.w, bottom), fill=self.card)
        self.draw.line((0, top, self.w, top), fill=self.line)
        n, chosen = len(concepts), self.rng.randrange(len(concepts))
        glyph = self.rng.random() < 0.7
        for k, concept in enumerate(concepts):
            x0, x1 = self.w * k / n, self.w * (k + 1) / n
            cx = (x0 + x1) / 2
            colour = self.accent if k == chosen else self.grey if not self.dark else self.ink
            if glyph:
                r = self.px(8)
                cy = top + h * .34
                if self.rng.random() < 0.5:
                    self.draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=colour, width=2)
                else:
                    self.rounded((cx - r, cy - r, cx + r, cy + r), self.px(3), colour)
                ink = self.text(cx, top + h * .76, L.label(concept, self.lang), 11.5, colour, "mm", x1 - x0 - self.px(4))
            else:
                ink = self.text(cx, top + h / 2, L.label(concept, self.lang), 14, colour, "mm", x1 - x0 - self.px(6))
            self.add(concept, "tab", (x0, top, x1, bottom), ink)
        return top

    def keyboard(self, bottom, adb=False):
        rng = self.rng
        if adb:
            h = self.px(28)
            self.draw.rectangle((0, bottom - h, self.w, bottom), fill=self.card)
            self.text(self.w / 2, bottom - h / 2, "ADB Keyboard {ON}", 12, anchor="mm")
            return bottom - h
        h = min(self.px(rng_range(rng, 190, 230)), self.h * .42)
        top = bottom - h
        self.draw.rectangle((0, top, self.w, bottom), fill=(60, 62, 66) if self.dark else (208, 211, 217))
        rows = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
        cap = (100, 102, 106) if self.dark else (252, 252, 252)
        rh, kw = h / 4.3, self.w / 10
        for r, row in enumerate(rows):
            x = (self.w - kw * len(row)) / 2
            y = top + rh * (r + .15)
            for ch in row:
                self.rounded((x + kw * .08, y + rh * .06, x + kw * .92, y + rh * .9), self.px(4), cap)
                self.text(x + kw / 2, y + rh / 2, ch, 15, anchor="mm")
                x += kw
        y = top + rh * 3.15
        for x0, x1 in ((.02, .2), (.22, .78), (.8, .98)):
            self.rounded((self.w * x0, y + rh * .06, self.w * x1, y + rh * .9), self.px(4), cap)
        return top

    def filler(self, short=False):
        rng = self.rng
        if short and rng.random() < 0.4:
            return rng.choice([f"{rng.randint(1, 23)}:{rng.randint(0, 59):02d}", f"{rng.randint(1, 99)}%", f"¥{rng.randint(1, 999)}", str(rng.randint(1, 999))])
        text = rng.choice(L.FILLER_ZH if self.lang == "zh" else L.FILLER_EN)
        return text[: rng.randint(3, 8 if self.lang == "zh" else 14)] if short else text


def rng_range(rng, a, b):
    return rng.uniform(a, b)


def pick(rng, groups, count, used):
    pool = [c for g in groups for c in L.GROUP_IDS[g] if c not in used]
    chosen = rng.sample(pool, min(count, len(pool)))
    used.update(chosen)
    return chosen


# ---- whole screens -------------------------------------------------------------


def home(p, used, want=()):
    rng = p.rng
    if rng.random() < 0.6:
        top, bottom = hsv(rng.random(), rng.uniform(.1, .6), rng.uniform(.3, .9)), hsv(rng.random(), rng.uniform(.1, .6), rng.uniform(.3, .9))
        strip = Image.new("RGB", (1, 8))
        for k in range(8):
            strip.putpixel((0, k), tuple(int(a + (b - a) * k / 7) for a, b in zip(top, bottom)))
        p.image.paste(strip.resize((p.w, p.h), Image.BILINEAR), (0, 0))
        p.ink = (255, 255, 255) if sum(top) + sum(bottom) < 840 else (15, 15, 15)
    y0, y1 = p.status_bar(), p.nav_bar()
    cols = rng.randint(3, 5) if p.units == 360 else rng.randint(5, 8)
    size = p.px(rng.uniform(38, 54 if cols < 5 else 46))
    cell_h = size + p.px(rng.uniform(34, 52))
    dock = rng.random() < 0.5
    if rng.random() < 0.4:
        h = p.px(rng.uniform(50, 130))
        if rng.random() < 0.5:
            p.text(p.w / 2, y0 + h * .45, f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}", 44, anchor="mm")
            p.text(p.w / 2, y0 + h * .85, p.filler(True), 13, anchor="mm")
        else:
            p.rounded((p.px(14), y0 + p.px(8), p.w - p.px(14), y0 + h), p.px(14), p.card)
        y0 += h
    if rng.random() < 0.3:
        box = (p.px(20), y0 + p.px(6), p.w - p.px(20), y0 + p.px(42))
        p.rounded(box, p.px(20), p.card)
        c = L.ID["搜索"]
        if c not in used:
            used.add(c)
            ink = p.text(box[0] + p.px(16), (box[1] + box[3]) / 2, L.label(c, p.lang), 14, p.grey)
            p.add(c, "field", box, ink)
        y0 = box[3]
    y0 += p.px(rng.uniform(4, 20))
    rows = max(1, int((y1 - y0 - (cell_h if dock else 0)) / cell_h))
    rows = min(rows, rng.randint(3, 7))
    count = rows * cols - rng.randint(0, cols)
    names = list(want) + pick(rng, ["app"], max(1, count) - len(want), used)
    rng.shuffle(names)
    places = [((k % cols + .5) * p.w / cols, y0 + (k // cols) * cell_h) for k in range(min(len(names), rows * cols))]
    if dock:
        extra = pick(rng, ["app"], rng.randint(3, cols), used)
        names = names[: len(places)] + extra
        for k in range(len(extra)):
            places.append(((k + .5) * p.w / len(extra), y1 - cell_h))
    for concept, (cx, y) in zip(names, places):
        box = (cx - size / 2, y, cx + size / 2, y + size)
        colour = hsv(rng.random(), rng.uniform(.1, .9), rng.uniform(.5, 1))
        p.rounded(box, rng.choice([size / 2, size * .25, size * .3]), colour)
        glyph = rng.random()
        inner = (255, 255, 255) if sum(colour) < 500 else (30, 30, 30)
        if glyph < 0.35:
            p.text(cx, y + size / 2, L.label(concept, p.lang)[0], 22, inner, "mm")
        elif glyph < 0.6:
            p.draw.ellipse((cx - size * .25, y + size * .25, cx + size * .25, y + size * .75), outline=inner, width=max(2, int(p.u * 3)))
        elif glyph < 0.8:
            p.draw.polygon([(cx, y + size * .22), (cx + size * .25, y + size * .72), (cx - size * .25, y + size * .72)], fill=inner)
        width = p.w / cols
        ink = p.text(cx, y + size + p.px(13), L.label(concept, p.lang), 12.5, None, "mm", width - p.px(4))
        p.add(concept, "app", (min(box[0], ink[0]), box[1], max(box[2], ink[2]), ink[3] + p.px(2)), ink)
    return "home"


def listing(p, used, want=(), groups=None, title=None):
    rng = p.rng
    kind = "list"
    if groups is None:
        groups = rng.choice([["setting"], ["setting"], ["item"], ["tab", "item"], ["app"], ["button", "tab"]])
    y0, y1 = p.status_bar(), p.nav_bar()
    if title is None:
        title = pick(rng, ["app", "tab"], 1, used)[0]
    y = p.title_bar(y0, title, icons=rng.choice([0, 0, 1, 2]))
    if rng.random() < 0.3:
        tabs = pick(rng, ["tab"], rng.randint(3, 5), used)
        y1 = p.tab_bar(y1, tabs)
    if rng.random() < 0.3:
        tabs = pick(rng, ["tab"], rng.randint(2, 4), used)
        h = p.px(40)
        for k, c in enumerate(tabs):
            x0, x1 = p.w * k / len(tabs), p.w * (k + 1) / len(tabs)
            ink = p.text((x0 + x1) / 2, y + h / 2, L.label(c, p.lang), 15, None, "mm", x1 - x0 - p.px(6))
            p.add(c, "tab", (x0, y, x1, y + h), ink)
        y += h
    row = p.px(rng.uniform(44, 72))
    lead = rng.choice([None, "disc", "square", "disc"])
    sub = rng.random() < 0.4 and row > p.px(52)
    tail = rng.choice([None, "arrow", "switch", "mixed", "mixed"]) if groups == ["setting"] else rng.choice([None, "arrow", "time", None])
    inset = rng.choice([0, 0, p.px(12)])
    rows = max(1, int((y1 - y - p.px(6)) / row))
    rows = min(rows, rng.randint(4, 16))
    names = list(want) + pick(rng, groups, rows - len(want), used)
    names = names[:max(rows, len(want))]
    rng.shuffle(names)
    for concept in names:
        if y + row > p.h:
            break
        if inset:
            p.rounded((inset, y + 1, p.w - inset, y + row - 1), p.px(8), p.card)
        elif rng.random() < 0.8:
            p.draw.line((p.px(16), y + row - 1, p.w, y + row - 1), fill=p.line)
        x, cy = inset + p.px(16), y + row / 2
        if lead:
            r = min(row * .3, p.px(18))
            colour = hsv(rng.random(), rng.uniform(.2, .8), rng.uniform(.6, 1))
            if lead == "disc":
                p.draw.ellipse((x, cy - r, x + 2 * r, cy + r), fill=colour)
            else:
                p.rounded((x, cy - r, x + 2 * r, cy + r), r * .4, colour)
            x += 2 * r + p.px(12)
        limit = p.w - inset - x - p.px(76)
        ink = p.text(x, cy - (row * .16 if sub else 0), L.label(concept, p.lang), 16, None, "lm", limit)
        if sub:
            p.text(x, cy + row * .2, p.filler(), 12, p.grey, "lm", limit)
        what = rng.choice(["arrow", "switch", None]) if tail == "mixed" else tail
        right = p.w - inset - p.px(18)
        if what == "arrow":
            p.draw.line([(right - p.px(6), cy - p.px(5)), (right, cy), (right - p.px(6), cy + p.px(5))], fill=p.grey, width=max(1, int(p.u * 1.5)))
        elif what == "time":
            p.text(right, cy, p.filler(True), 12, p.grey, "rm", p.px(56))
        elif what == "switch":
            on = rng.random() < 0.5
            w, h = p.px(40), p.px(22)
            p.rounded((right - w, cy - h / 2, right, cy + h / 2), h / 2, p.accent if on else p.grey)
            k = right - h * .5 if on else right - w + h * .5
            p.draw.ellipse((k - h * .4, cy - h * .4, k + h * .4, cy + h * .4), fill=(255, 255, 255))
            p.elements.append(Element(concept, L.label(concept, p.lang), "switch", (right - w - p.px(8), max(y, cy - p.px(20)), right + p.px(8), min(y + row, cy + p.px(20))), (right - w, cy - h / 2, right, cy + h / 2)))
        p.add(concept, "row", (inset, y, p.w - inset, y + row), ink)
        y += row
    if rng.random() < 0.25 and y1 - y > p.px(90):
        cx, cy, r = p.w - p.px(40), y1 - p.px(40), p.px(24)
        p.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=p.accent)
        c = L.GROUP_IDS["icon"][3]
        if not any(e.concept == c for e in p.elements):
            p.icon(c, cx, cy, p.px(10), (255, 255, 255) if sum(p.accent) < 560 else (20, 20, 20))
    return kind


def dialog(p, used, want=()):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    for k in range(rng.randint(2, 8)):            # a dimmed page behind
        p.text(p.px(20), y0 + p.px(50 + 60 * k), p.filler(), 14, p.line)
    if rng.random() < 0.7:
        p.image.paste(tuple(int(c * .5) for c in p.back), (0, 0, p.w, p.h))
    count = max(len(want), rng.choice([1, 2, 2, 2, 3]))
    wide = count > 2 or rng.random() < 0.25
    names = list(want) + pick(rng, ["button"], count - len(want), used)
    rng.shuffle(names)
    w = p.w * rng.uniform(.72, .94)
    bh = p.px(rng.uniform(40, 54))
    lines = rng.randint(1, 3)
    h = p.px(48 + 26 * lines) + bh * (count if wide else 1) + p.px(16)
    x0 = (p.w - w) / 2
    y = rng.choice([(p.h - h) / 2, y1 - h - p.px(10), y0 + rng.random() * max(1, y1 - y0 - h)])
    p.rounded((x0, y, x0 + w, y + h), p.px(rng.choice([4, 12, 20])), p.card)
    p.text(p.w / 2, y + p.px(28), p.filler(True), 18, anchor="mm", limit=w - p.px(30))
    for k in range(lines):
        p.text(p.w / 2, y + p.px(60 + 26 * k), p.filler(), 14, p.grey, "mm", w - p.px(30))
    y += p.px(48 + 26 * lines)
    for k, concept in enumerate(names):
        if wide:
            box = (x0 + p.px(14), y + k * bh + p.px(3), x0 + w - p.px(14), y + (k + 1) * bh - p.px(3))
        else:
            box = (x0 + w * k / count + p.px(8), y, x0 + w * (k + 1) / count - p.px(8), y + bh)
        p.label_button(concept, box)
    return "dialog"


def search(p, used, want=(), keyboard=None):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    board = rng.random() < 0.5 if keyboard is None else keyboard
    if board:
        y1 = p.keyboard(y1, rng.random() < 0.4)
    h = p.px(rng.uniform(36, 46))
    y = y0 + p.px(rng.uniform(6, 14))
    go = L.ID["搜索"] if rng.random() < 0.6 else L.ID["取消"]
    used.add(go)
    x0 = p.px(14)
    if rng.random() < 0.5:
        p.icon(L.GROUP_IDS["icon"][0], x0 + p.px(10), y + h / 2, p.px(8))
        x0 += p.px(34)
    box = (x0, y, p.w - p.px(78), y + h)
    p.rounded(box, rng.choice([p.px(4), h / 2]), p.card if rng.random() < .5 else None, p.accent if board else p.line, max(1, round(p.u * 1.5)))
    p.text(x0 + p.px(14), y + h / 2, p.filler(True), 14, p.grey, "lm", box[2] - x0 - p.px(20))
    if board:
        p.draw.line((x0 + p.px(10), y + h * .25, x0 + p.px(10), y + h * .75), fill=p.accent, width=max(2, int(p.u * 1.5)))
    p.label_button(go, (p.w - p.px(74), y, p.w - p.px(6), y + h), rng.choice(["plain", "fill", "line"]))
    y += h + p.px(14)
    p.text(p.px(16), y + p.px(10), p.filler(True), 13, p.grey)
    y += p.px(30)
    names = list(want) + pick(rng, rng.choice([["item"], ["tab"], ["app"], ["item", "tab"]]), rng.randint(3, 14), used)
    x = p.px(14)
    rng.shuffle(names)
    chips = rng.random() < 0.6 or bool(want)
    for concept in names:
        font = p.font(14, L.label(concept, p.lang))
        w = min(font.getlength(L.label(concept, p.lang)) + p.px(26), p.w - p.px(30)) if chips else p.w - p.px(28)
        if x + w > p.w - p.px(10):
            x, y = p.px(14), y + p.px(42)
        if y + p.px(36) > y1:
            break
        b = (x, y, x + w, y + p.px(34))
        if chips:
            p.rounded(b, p.px(17), p.line)
        ink = p.text(x + p.px(13), y + p.px(17), L.label(concept, p.lang), 14, limit=w - p.px(16))
        p.add(concept, "item", b, ink)
        x += w + p.px(10)
    p.input, p.board = box, board
    return "search"


def chat(p, used, want=(), keyboard=None):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    who = pick(rng, ["item"], 1, used)[0]
    y = p.title_bar(y0, who, icons=rng.choice([0, 1, 1, 2]))
    board = rng.random() < 0.5 if keyboard is None else keyboard
    if board:
        y1 = p.keyboard(y1, rng.random() < 0.4)
    h = p.px(rng.uniform(48, 58))
    top = y1 - h
    p.draw.rectangle((0, top, p.w, y1), fill=p.card)
    send = L.ID["发送"]
    x1 = p.w - p.px(8)
    have = {e.concept for e in p.elements}
    if rng.random() < 0.75 or send in want:
        used.add(send)
        p.label_button(send, (x1 - p.px(62), top + h * .14, x1, y1 - h * .14), rng.choice(["fill", "line", "soft"]))
        x1 -= p.px(70)
    else:
        p.icon(L.GROUP_IDS["icon"][14], x1 - p.px(16), top + h / 2, p.px(10))
        x1 -= p.px(40)
    if rng.random() < 0.6:
        p.icon(L.GROUP_IDS["icon"][19], x1 - p.px(14), top + h / 2, p.px(10))
        x1 -= p.px(36)
    x0 = p.px(10)
    if rng.random() < 0.5 and L.GROUP_IDS["icon"][13] not in have:
        p.icon(L.GROUP_IDS["icon"][13], x0 + p.px(12), top + h / 2, p.px(10))
        x0 += p.px(36)
    elif L.GROUP_IDS["icon"][3] not in have and rng.random() < 0.5:
        p.icon(L.GROUP_IDS["icon"][3], x0 + p.px(12), top + h / 2, p.px(10))
        x0 += p.px(36)
    box = (x0, top + h * .14, x1, y1 - h * .14)
    p.rounded(box, p.px(6), p.back, p.accent if board else p.line)
    if board:
        p.draw.line((x0 + p.px(8), top + h * .3, x0 + p.px(8), y1 - h * .3), fill=p.accent, width=max(2, int(p.u * 1.5)))
    y += p.px(12)
    while y + p.px(50) < top:
        text, mine = p.filler(), rng.random() < 0.5
        font = p.font(15, text)
        w = min(font.getlength(text) + p.px(22), p.w * .72)
        a = p.w - p.px(54) - w if mine else p.px(54)
        r = p.px(17)
        cx = p.w - p.px(28) if mine else p.px(28)
        p.draw.ellipse((cx - r, y, cx + r, y + 2 * r), fill=hsv(rng.random(), .5, .8))
        p.rounded((a, y, a + w, y + p.px(38)), p.px(8), p.accent if mine else p.card)
        p.text(a + p.px(11), y + p.px(19), text, 15, None if not mine else ((255, 255, 255) if sum(p.accent) < 500 else (0, 0, 0)), "lm", w - p.px(20))
        y += p.px(rng.uniform(48, 70))
    p.input, p.board = box, board
    return "chat"


def form(p, used, want=(), keyboard=None):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    board = rng.random() < 0.25 if keyboard is None else keyboard
    if board:
        y1 = p.keyboard(y1, rng.random() < 0.5)
    title = pick(rng, ["app", "tab"], 1, used)[0]
    y = p.title_bar(y0, title) + p.px(rng.uniform(4, 50))
    fields = pick(rng, ["field"], rng.randint(2, 5), used)
    fh = p.px(rng.uniform(42, 54))
    for k, concept in enumerate(fields):
        if y + fh > y1 - p.px(60):
            break
        box = (p.px(20), y, p.w - p.px(20), y + fh)
        if rng.random() < 0.5:
            p.rounded(box, p.px(6), None, p.grey)
        else:
            p.rounded(box, p.px(8), p.line)
        ink = p.text(p.px(34), y + fh / 2, L.label(concept, p.lang), 15, p.grey if rng.random() < .6 else p.ink)
        p.add(concept, "field", box, ink)
        y += fh + p.px(rng.uniform(8, 18))
    names = list(want) + pick(rng, ["button"], rng.randint(1, 4), used)
    for concept in names:
        if y + fh > y1:
            break
        if rng.random() < 0.6:
            p.label_button(concept, (p.px(20), y, p.w - p.px(20), y + fh))
        else:
            w = p.px(rng.uniform(90, 150))
            x = rng.uniform(p.px(10), p.w - w - p.px(10))
            p.label_button(concept, (x, y, x + w, y + fh * .85))
        y += fh + p.px(8)
    p.board = board
    return "form"


def shop(p, used, want=()):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    y = y0
    if rng.random() < 0.7:
        title = pick(rng, ["app", "tab"], 1, used)[0]
        y = p.title_bar(y0, title, icons=rng.choice([0, 1, 2, 3]))
    if rng.random() < 0.5:
        y1 = p.tab_bar(y1, pick(rng, ["tab"], rng.randint(3, 5), used))
    elif rng.random() < 0.8:
        h = p.px(54)
        names = list(want)[:2] + pick(rng, ["button"], rng.randint(1, 3), used)
        want = list(want)[2:]
        p.draw.rectangle((0, y1 - h, p.w, y1), fill=p.card)
        n = len(names)
        for k, c in enumerate(names):
            p.label_button(c, (p.w * k / n + p.px(5), y1 - h * .88, p.w * (k + 1) / n - p.px(5), y1 - h * .12))
        y1 -= h
    if rng.random() < 0.6:                                       # a row of round entries
        entries = pick(rng, rng.choice([["tab"], ["app"]]), rng.randint(3, 5) * rng.randint(1, 2), used)
        cols = 4 if len(entries) % 4 == 0 else 5 if len(entries) % 5 == 0 else 3
        ch = p.px(rng.uniform(72, 88))
        for k, c in enumerate(entries):
            cx, cy, r = (k % cols + .5) * p.w / cols, y + (k // cols) * ch + p.px(28), p.px(19)
            p.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=hsv(rng.random(), rng.uniform(.2, .7), rng.uniform(.7, 1)))
            ink = p.text(cx, cy + r + p.px(14), L.label(c, p.lang), 13, None, "mm", p.w / cols - p.px(4))
            p.add(c, "app", (min(cx - r, ink[0]), cy - r, max(cx + r, ink[2]), ink[3] + p.px(3)), ink)
        y += ch * math.ceil(len(entries) / cols) + p.px(6)
    cols = rng.randint(1, 3) if p.units == 360 else rng.randint(3, 5)
    cw = p.w / cols
    ch = p.px(rng.uniform(110, 190)) if cols > 1 else p.px(rng.uniform(80, 130))
    names = list(want) + pick(rng, ["item"], 20, used)
    k = 0
    while y + ch <= y1 and k < len(names):
        for col in range(cols):
            if k >= len(names):
                break
            x = col * cw
            box = (x + p.px(6), y + p.px(6), x + cw - p.px(6), y + ch - p.px(4))
            p.rounded(box, p.px(8), p.card)
            colour = hsv(rng.random(), rng.uniform(.1, .5), rng.uniform(.6, .95))
            c = names[k]
            if cols == 1:
                p.rounded((box[0] + 4, box[1] + 4, box[0] + ch * .8, box[3] - 4), p.px(5), colour)
                tx, ty, lim = box[0] + ch * .8 + p.px(12), box[1] + p.px(22), box[2] - box[0] - ch * .8 - p.px(20)
            else:
                p.rounded((box[0] + 3, box[1] + 3, box[2] - 3, box[3] - p.px(50)), p.px(5), colour)
                tx, ty, lim = box[0] + p.px(8), box[3] - p.px(36), box[2] - box[0] - p.px(14)
            ink = p.text(tx, ty, L.label(c, p.lang), 15, None, "lm", lim)
            p.text(tx, ty + p.px(21), f"¥{rng.randint(1, 999)}", 13, p.accent if sum(p.accent) > 200 else p.grey, "lm", lim)
            p.add(c, "item", box, ink)
            k += 1
        y += ch
    return "shop"


def dial(p, used, want=()):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    h = (y1 - y0) * rng.uniform(.45, .7)
    top = y1 - h
    p.text(p.w / 2, (y0 + top) / 2, str(rng.randint(100, 99999999)), 30, anchor="mm")
    order = "123456789 0 " if rng.random() < 0.6 else "789456123 0 "
    rh = h / 5
    shape = rng.choice(["disc", "card", None])
    for k, ch in enumerate(order):
        if ch == " ":
            continue
        cx, cy = p.w * (k % 3 + .5) / 3, top + rh * (k // 3 + .5)
        box = (cx - p.w / 6 + p.px(6), cy - rh / 2 + p.px(4), cx + p.w / 6 - p.px(6), cy + rh / 2 - p.px(4))
        if shape == "disc":
            r = min(rh * .45, p.w / 7)
            p.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=p.card)
            box = (cx - r, cy - r, cx + r, cy + r)
        elif shape == "card":
            p.rounded(box, p.px(8), p.card)
        concept = L.GROUP_IDS["key"]["123456789 0".replace(" ", "").index(ch)]
        ink = p.text(cx, cy, ch, 24, anchor="mm")
        used.add(concept)
        p.add(concept, "key", box, ink)
    c = list(want)[:1] or [L.ID["呼叫"]]
    used.add(c[0])
    p.label_button(c[0], (p.w * .3, top + rh * 4.1, p.w * .7, top + rh * 4.9), "fill")
    return "dial"


def player(p, used, want=()):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    y = p.title_bar(y0, text=p.filler(True), icons=rng.choice([0, 1, 2]))
    side = min(p.w * .8, (y1 - y) * .45)
    p.rounded(((p.w - side) / 2, y + p.px(8), (p.w + side) / 2, y + side), p.px(12), hsv(rng.random(), .4, .6))
    y += side + p.px(30)
    p.text(p.px(24), y, p.filler(), 18, limit=p.w * .7)
    y += p.px(40)
    p.draw.line((p.px(24), y, p.w - p.px(24), y), fill=p.grey, width=max(2, int(p.u * 2)))
    have = {e.concept for e in p.elements}
    icons = [c for c in L.GROUP_IDS["icon"][6:] if c not in have]
    names = rng.sample(icons, rng.randint(3, 5))
    y += p.px(rng.uniform(34, 60))
    for k, c in enumerate(names):
        p.icon(c, p.w * (k + .5) / len(names), min(y, y1 - p.px(24)), p.px(rng.uniform(11, 17)))
    y += p.px(70)
    names = list(want) + pick(rng, ["button", "tab"], rng.randint(2, 4), used)
    n = len(names)
    if y + p.px(40) < y1:
        for k, c in enumerate(names):
            p.label_button(c, (p.w * k / n + p.px(6), y, p.w * (k + 1) / n - p.px(6), y + p.px(40)))
    return "player"


def loading(p, used, want=()):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    if rng.random() < 0.5:
        p.title_bar(y0, pick(rng, ["app", "tab"], 1, used)[0])
    cx, cy, r = p.w / 2, p.h * rng.uniform(.35, .65), p.px(rng.uniform(16, 32))
    a = rng.randint(0, 359)
    p.draw.arc((cx - r, cy - r, cx + r, cy + r), a, a + rng.randint(220, 310), fill=p.accent, width=max(3, int(p.u * 4)))
    if rng.random() < 0.8:
        word = rng.choice(["加载中…", "正在加载", "请稍候…"] if p.lang == "zh" else ["Loading...", "Loading", "Please wait..."])
        p.text(cx, cy + r + p.px(26), word, 15, p.grey, "mm")
    return "loading"


def broken(p, used, want=()):
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    p.title_bar(y0, pick(rng, ["app", "tab"], 1, used)[0])
    cy = p.h * rng.uniform(.3, .5)
    p.text(p.w / 2, cy, "网络异常，请检查网络设置" if p.lang == "zh" else "No internet connection", 16, p.grey, "mm")
    c = (list(want) + [L.ID[rng.choice(["重新加载", "重试", "刷新"])]])[0]
    used.add(c)
    w = p.px(rng.uniform(110, 180))
    p.label_button(c, ((p.w - w) / 2, cy + p.px(40), (p.w + w) / 2, cy + p.px(84)))
    return "broken"


def scatter(p, used, want=()):
    """Things anywhere: the page that teaches that every place and pair is possible."""
    rng = p.rng
    y0, y1 = p.status_bar(), p.nav_bar()
    rh = p.px(rng.uniform(40, 64))
    groups = rng.choice([["button"], ["button", "tab"], ["item", "tab"], ["setting", "button"], ["app", "item"], ["app", "setting", "button", "tab", "item"]])
    y = y0 + p.px(rng.uniform(0, 30))
    names = list(want)
    while y + rh < y1:
        x = p.px(rng.uniform(2, 60))
        while x < p.w - p.px(40):
            if rng.random() < 0.12:
                free = [c for c in L.GROUP_IDS["icon"] if c not in {e.concept for e in p.elements}]
                if free:
                    r = p.px(rng.uniform(8, 13))
                    if x + 2 * r + p.px(20) < p.w:
                        p.icon(rng.choice(free), x + r + p.px(8), y + rh / 2, r)
                    x += 2 * r + p.px(30)
                continue
            concept = names.pop() if names else pick(rng, groups, 1, used)[0] if len(used) < 150 else None
            if concept is None:
                break
            words = L.label(concept, p.lang)
            w = p.font(16, words).getlength(words) + p.px(rng.uniform(16, 60))
            if x + w > p.w:
                if concept in want:
                    names.append(concept)
                else:
                    used.discard(concept)
                break
            p.label_button(concept, (x, y + p.px(4), x + w, y + rh - p.px(4)))
            x += w + p.px(rng.uniform(4, 90))
        y += rh + p.px(rng.choice([0, 0, 4, 20, 60]))
    return "scatter"


def wall(p, used, want=()):
    """Nothing but labels and icons, close together: the fastest way to learn to read. Only for the auxiliary loss."""
    rng = p.rng
    y = 0
    while y < p.h - p.px(14):
        size = rng.choice([11.5, 12.5, 13, 14, 15, 16, 17, 19])
        h = p.px(size * rng.uniform(1.3, 2.6))
        if y + h > p.h:
            break
        p.cjk, p.latin = rng.choice(_find_fonts(tuple(CJK_FONTS))), rng.choice(_find_fonts(tuple(LATIN_FONTS)))
        x = p.px(rng.uniform(0, 20))
        while x < p.w - p.px(20):
            p.lang = rng.choice(["zh", "en"])
            concept = rng.randrange(len(L.CONCEPTS))
            if L.CONCEPTS[concept][0] == "icon":
                r = p.px(rng.uniform(7.5, 13))
                if r * 2 < h and x + 2 * r < p.w:
                    p.icon(concept, x + r, y + h / 2, r)
                x += 2 * r + p.px(6)
                continue
            words = L.label(concept, p.lang)
            w = p.font(size, words).getlength(words) + p.px(rng.uniform(4, 20))
            if x + w > p.w:
                break
            ink = p.ink
            if rng.random() < 0.4:
                colour = hsv(rng.random(), rng.uniform(0, .95), rng.uniform(.1, 1))
                light = colour[0] * .3 + colour[1] * .59 + colour[2] * .11
                p.rounded((x, y, x + w, y + h), rng.choice([0, p.px(6)]), colour)
                ink = (rng.randint(225, 255),) * 3 if light < 140 else (rng.randint(0, 40),) * 3
            elif rng.random() < 0.3:
                ink = p.grey
            where = p.text(x + w / 2, y + h / 2, words, size, ink, "mm")
            p.add(concept, "button", (x, y, x + w, y + h), where)
            x += w + p.px(rng.choice([0, 3, 10]))
        y += h + p.px(rng.choice([0, 1, 6]))
    return "wall"


KINDS = {home: 20, listing: 20, dialog: 10, search: 8, chat: 7, form: 7, shop: 10, dial: 3, player: 4, loading: 3, broken: 2, scatter: 16}
BY_NAME = {f.__name__: f for f in KINDS}
BY_NAME["wall"] = wall


def draw_screen(rng, width, height, lang=None, kind=None, want=(), **options):
    lang = lang or rng.choice(["zh", "en"])
    p = Painter(rng, width, height, lang)
    p.input, p.board = None, False
    maker = BY_NAME[kind] if kind else rng.choices(list(KINDS), list(KINDS.values()))[0]
    used = set(want)
    name = maker(p, used, want, **options)
    elements = [e for e in p.elements if e.box[2] - e.box[0] > 8 and e.box[3] - e.box[1] > 8 and e.box[1] < height - 8]
    return Screen(p.image, name, lang, elements, p.board, p.input, used | {e.concept for e in p.elements})
