"""Plain text from this machine's documentation, for batches of the kind "general".

    python general_text.py OUT_FILE [--megabytes 24] [--root DIR ...]

Takes Chinese manual pages and the Debian reference, then English manual pages and the texts of
/usr/share/doc, each file at most once and at most 60 kB of it, in an order that depends on the names
alone; half of the space goes to the Chinese part, as far as there is any. Macros and font escapes of
manual pages are taken out. The last 2 % of the result are never trained on (see batches.Maker).
"""

import argparse
import glob
import gzip
import hashlib
import os
import re

CHINESE = ["usr/share/man/zh_CN/man*/*", "usr/share/debian-reference/*zh-cn.txt.gz", "usr/share/doc/**/*zh_CN*"]
ENGLISH = ["usr/share/man/man[1578]/*", "usr/share/doc/**/*.txt*", "usr/share/doc/**/README*"]
# A reference is one long file; everything else is cut, so that no single page fills the text.
LONGEST, LONGEST_BOOK = 60_000, 2_000_000


def read(path):
    data = open(path, "rb").read()
    if path.endswith(".gz"):
        data = gzip.decompress(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def plain(text):
    """A manual page without its macros; other text only loses its runs of spaces and empty lines."""
    lines = []
    for line in text.split("\n"):
        if line.startswith((".\\\"", "'\\\"", ".TH", ".ie", ".el", ".if", ".de", ".ds", ".nr")):
            continue
        if line.startswith("."):
            line = line.partition(" ")[2].replace('"', "")
        lines.append(line)
    text = "\n".join(lines)
    text = re.sub(r"\\f(\[[^]]*\]|\(..|.)|\\[&%|^/,:]|\\s[-+]?\d", "", text)
    text = text.replace("\\-", "-").replace("\\(aq", "'").replace("\\(cq", "'").replace("\\(bu", "*").replace("\\e", "\\").replace("\\ ", " ")
    return re.sub(r"\n{2,}", "\n", re.sub(r"[ \t]{2,}", " ", text)).strip() + "\n"


def collect(roots, patterns, limit):
    """Texts of the files that fit the patterns, up to `limit` bytes of UTF-8."""
    files = {}
    for root in roots:
        for pattern in patterns:
            for path in glob.glob(os.path.join(root, pattern), recursive=True):
                if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) > 600:
                    files.setdefault(os.path.relpath(path, root), path)
    out, size, seen = [], 0, set()
    for name in sorted(files, key=lambda n: hashlib.sha256(n.encode()).digest()):
        text = plain(read(files[name]))[:LONGEST_BOOK if "debian-reference" in name else LONGEST]
        head = hashlib.sha256(text[:400].encode()).digest()      # pages that lead to the same page
        if len(text) < 400 or head in seen:
            continue
        seen.add(head)
        out.append(text)
        size += len(text.encode())
        if size >= limit:
            break
    return out, size


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--megabytes", type=float, default=24)
    ap.add_argument("--root", nargs="*", default=["/"], help="folders that hold usr/share, like unpacked packages")
    args = ap.parse_args()
    limit = int(args.megabytes * 1e6)
    chinese, size_zh = collect(args.root, CHINESE, limit // 2)
    english, size_en = collect(args.root, ENGLISH, limit - min(size_zh, limit // 2))
    # Interleaved, so that the held-out end has both languages.
    texts = [(k / len(part), text) for part in (chinese, english) for k, text in enumerate(part)]
    with open(args.out, "w", encoding="utf-8") as f:
        for _, text in sorted(texts, key=lambda pair: pair[0]):
            f.write(text)
    print(f"{len(chinese)} Chinese texts, {size_zh:,} bytes; {len(english)} English texts, {size_en:,} bytes")


if __name__ == "__main__":
    main()
