#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write tests/fixtures/media: small picture files and what the reference makes of them.

Needs Pillow 13 (it changed the order of passes), numpy and transformers 5.17 (Glm4vImageProcessorPil). Run from the repository root.
The same versions write the same bytes.

vectors.json:
  decode      [{file, kind, height, width, orientation, rgb_sha256}]
              RGB after orientation and alpha on white (what vLLM shows the model).
  refuse      [{file, names}]  files that are refused, and the word the message holds
  resize      [{in: [h, w], out: [h, w], rgb_sha256}]  Pillow's bicubic of the picture noise(h, w)
  processor   [{file | noise: [h, w], size: [h, w], grid: [t, h, w], rgb_sha256, pixel_values_sha256,
                samples: [[row, column, value], ...]}]
              rgb: resized picture. pixel_values: float32 [rows, 1176] little endian.
  target      [[h, w, pixels_max, H, W], ...]  smart resize; H = W = 0: refused

noise(h, w) is a picture anyone can make: level i of h * w * 3 is ((i * 2654435761) mod 2^32) >> 24
in the left half of the index range and 255 * ((i / 96) mod 2) in the right one: noise, then hard edges.

Patch values, so that an implementation can be bit-exact. The PIL back end computes, per level x of channel c,
    float32 r = (float32)((double)x * (1.0 / 255.0))            one rounding, from float64
    float32 v = (r - (float32)mean[c]) / (float32)std[c]        float32 subtraction, float32 division
There are only 3 * 256 different values: a table of float32 [3][256] made once this way is exact.
Rows are in 2x2 merge order, a row is [channel 3][frame 2][14][14] and both frames are the same picture.
"""
import hashlib
import io
import json
import math
import pathlib
import random
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil, smart_resize

OUT = pathlib.Path("tests/fixtures/media")
SIZE = {"shortest_edge": 12544, "longest_edge": 9633792}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def sha(data):
    return hashlib.sha256(data).hexdigest()


# ---- PNG writer: all depths, all filters in turn, Adam7 ----------------------------------------

def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def filtered(row, above, bpp, kind):
    out = bytearray([kind])
    for i, x in enumerate(row):
        a = row[i - bpp] if i >= bpp else 0
        b = above[i]
        c = above[i - bpp] if i >= bpp else 0
        p = a + b - c
        paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        out.append((x - (0, a, b, (a + b) // 2, paeth)[kind]) & 255)
    return bytes(out)


def pack(samples, depth):
    """[width, channels] integers to the bytes of one row."""
    if depth == 16:
        return samples.astype(">u2").tobytes()
    if depth == 8:
        return samples.astype(np.uint8).tobytes()
    bits = "".join(format(int(v), f"0{depth}b") for v in samples.reshape(-1))
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))


def png(samples, depth, colour, interlace=False, extra=b"", idat=1 << 30, after=b""):
    height, width, channels = samples.shape
    bpp = max(1, channels * depth // 8)
    rows, turn = b"", 0
    for x, y, dx, dy in ADAM7 if interlace else [(0, 0, 1, 1)]:
        part = samples[y::dy, x::dx]
        if part.size == 0:
            continue
        above = None
        for line in part:
            row = pack(line, depth)
            rows += filtered(row, above or bytes(len(row)), bpp, turn % 5)
            above, turn = row, turn + 1
    stream = zlib.compress(rows, 9)
    body = b"".join(chunk(b"IDAT", stream[i:i + idat]) for i in range(0, len(stream), idat))
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + extra + body + after + chunk(b"IEND", b"")


# ---- reference -----------------------------------------------------------------------------------

def on_white(image):
    """vLLM's rgba_to_rgb."""
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.split()[3])
    return white


def reference(data, deviation=None):
    image = Image.open(io.BytesIO(data))
    image.load()
    image = ImageOps.exif_transpose(image)
    if deviation is not None:  # documented in src/media/image_png.c: RGBA computed by hand
        image = Image.fromarray(deviation, "RGBA")
    if image.has_transparency_data:
        return on_white(image.convert("RGBA"))
    return image.convert("RGB")


def picture(height, width, channels, maximum, seed):
    """Slopes, a disc and some noise; every channel differs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for c in range(channels):
        plane = (x * (c + 2) + y * (3 - c % 3)) / (width * (c + 2) + height * (3 - c % 3))
        disc = (x - width * (c + 1) / 5) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
        planes.append(np.where(disc, 1 - plane, plane))
    levels = np.stack(planes, -1) * maximum + rng.integers(0, 2, (height, width, channels)) * (maximum / 40)
    return np.clip(levels, 0, maximum).astype(np.uint32)


def noise(height, width):
    index = np.arange(height * width * 3, dtype=np.uint64)
    left = ((index * 2654435761) % 2**32 >> 24).astype(np.uint8)
    right = (255 * ((index // 96) % 2)).astype(np.uint8)
    return np.where(index < index.size // 2, left, right).reshape(height, width, 3)


def tiff(orientation, big):
    e = ">" if big else "<"
    entries = struct.pack(e + "HHIHH", 0x0103, 3, 1, 6, 0) + struct.pack(e + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return (b"MM" if big else b"II") + struct.pack(e + "HIH", 42, 8, 2) + entries + struct.pack(e + "I", 0)


# ---- files ---------------------------------------------------------------------------------------

FILES, DEVIATIONS = {}, {}


def add_png():
    h, w = 29, 43
    for colour, name, channels, depths in [(0, "gray", 1, (1, 2, 4, 8, 16)), (2, "rgb", 3, (8, 16)),
                                           (4, "la", 2, (8, 16)), (6, "rgba", 4, (8, 16))]:
        for depth in depths:
            levels = picture(h, w, channels, 2**depth - 1, 10 * colour + depth)
            for interlace in (False, True):
                name_full = f"png_{name}{depth}{'_adam7' if interlace else ''}.png"
                FILES[name_full] = png(levels, depth, colour, interlace)
                if colour == 0 and depth == 16:
                    gray = (levels[..., 0] >> 8).astype(np.uint8)
                    DEVIATIONS[name_full] = np.dstack([gray, gray, gray, np.full_like(gray, 255)])
    rng = np.random.default_rng(3)
    for depth in (1, 2, 4, 8):
        count = min(2**depth, 200)
        palette = chunk(b"PLTE", rng.integers(0, 256, count * 3, dtype=np.uint8).tobytes())
        alpha = chunk(b"tRNS", rng.integers(0, 256, max(1, count // 2), dtype=np.uint8).tobytes())
        # Depth 8: indices beyond the palette are black.
        index = picture(h, w, 1, 2**depth - 1, depth)
        FILES[f"png_palette{depth}.png"] = png(index, depth, 3, extra=palette)
        FILES[f"png_palette{depth}_trns_adam7.png"] = png(index, depth, 3, True, palette + alpha)
    one = chunk(b"tRNS", bytes([255, 255, 0, 255]))
    palette = chunk(b"PLTE", rng.integers(0, 256, 48, dtype=np.uint8).tobytes())
    FILES["png_palette4_hole.png"] = png(picture(h, w, 1, 15, 4), 4, 3, extra=palette + one)
    for depth, key in ((1, 1), (8, 90)):
        levels = picture(h, w, 1, 2**depth - 1, depth)
        levels[3:9, 5:20] = key
        FILES[f"png_gray{depth}_trns.png"] = png(levels, depth, 0, extra=chunk(b"tRNS", struct.pack(">H", key)))
    for depth, key in ((2, 1), (4, 9), (16, 0x5a33)):
        levels = picture(h, w, 1, 2**depth - 1, depth)
        levels[3:9, 5:20] = key
        name = f"png_gray{depth}_trns.png"
        FILES[name] = png(levels, depth, 0, extra=chunk(b"tRNS", struct.pack(">H", key)))
        gray = (levels[..., 0] >> 8 if depth == 16 else levels[..., 0] * 255 // (2**depth - 1)).astype(np.uint8)
        DEVIATIONS[name] = np.dstack([gray] * 3 + [np.where(levels[..., 0] == key, 0, 255).astype(np.uint8)])
    for depth, key in ((8, (10, 200, 30)), (16, (0x0a77, 0xc811, 0x1e22))):
        levels = picture(h, w, 3, 2**depth - 1, depth + 1)
        levels[3:9, 5:20] = key
        name = f"png_rgb{depth}_trns.png"
        FILES[name] = png(levels, depth, 2, extra=chunk(b"tRNS", struct.pack(">3H", *key)))
        if depth == 16:
            alpha = np.where((levels == key).all(-1), 0, 255).astype(np.uint8)
            DEVIATIONS[name] = np.dstack([(levels >> 8).astype(np.uint8), alpha])
    levels = picture(h, w, 3, 255, 77)
    FILES["png_many_idat.png"] = png(levels, 8, 2, idat=100, extra=chunk(b"tEXt", b"Comment\0none") + chunk(b"gAMA", b"\0\0\xb1\x8f"))
    FILES["png_exif6.png"] = png(levels, 8, 2, extra=chunk(b"eXIf", tiff(6, True)))
    FILES["png_exif8_behind.png"] = png(levels, 8, 2, after=chunk(b"eXIf", tiff(8, False)))
    FILES["png_1x1.png"] = png(levels[:1, :1], 8, 2)
    for height, width in ((1, 7), (5, 1), (3, 2)):  # Adam7 passes without pixels
        FILES[f"png_{width}x{height}_adam7.png"] = png(levels[:height, :width], 8, 2, True)
    FILES["png_rgba8_screen.png"] = png(np.dstack([picture(230, 108, 3, 255, 5), np.full((230, 108), 255)]), 8, 6)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def add_jpeg():
    image = Image.fromarray(picture(45, 67, 3, 255, 8).astype(np.uint8))
    for sampling, name in ((0, "444"), (1, "422"), (2, "420")):
        FILES[f"jpeg_{name}.jpg"] = saved(image, "JPEG", quality=85, subsampling=sampling)
    FILES["jpeg_progressive.jpg"] = saved(image, "JPEG", quality=80, progressive=True)
    FILES["jpeg_progressive_gray.jpg"] = saved(image.convert("L"), "JPEG", quality=70, progressive=True)
    FILES["jpeg_gray.jpg"] = saved(image.convert("L"), "JPEG", quality=85)
    FILES["jpeg_restart.jpg"] = saved(image, "JPEG", quality=85, restart_marker_blocks=3)
    FILES["jpeg_rgb.jpg"] = saved(image, "JPEG", quality=85, keep_rgb=True)
    inks = saved(Image.fromarray(picture(45, 67, 4, 255, 9).astype(np.uint8), "CMYK"), "JPEG", quality=85)
    FILES["jpeg_cmyk.jpg"] = inks
    adobe = inks.index(b"Adobe")
    FILES["jpeg_ycck.jpg"] = inks[:adobe + 11] + b"\x02" + inks[adobe + 12:]  # transform 2: YCCK
    assert inks[adobe + 11] == 0
    for orientation in range(1, 9):
        exif = b"Exif\0\0" + tiff(orientation, orientation % 2 == 0)
        FILES[f"jpeg_exif{orientation}.jpg"] = saved(image, "JPEG", quality=60, exif=exif)


def add_webp():
    image = Image.fromarray(picture(51, 38, 3, 255, 12).astype(np.uint8))
    alpha = Image.fromarray(picture(51, 38, 4, 255, 13).astype(np.uint8), "RGBA")
    FILES["webp_lossy.webp"] = saved(image, "WEBP", quality=80)
    FILES["webp_lossless.webp"] = saved(image, "WEBP", lossless=True)
    FILES["webp_alpha.webp"] = saved(alpha, "WEBP", quality=80)
    FILES["webp_alpha_lossless.webp"] = saved(alpha, "WEBP", lossless=True, exact=True)
    FILES["webp_exif5.webp"] = saved(image, "WEBP", quality=70, exif=tiff(5, False))
    other = Image.fromarray(picture(51, 38, 3, 255, 14).astype(np.uint8))
    FILES["webp_animated.webp"] = saved(image, "WEBP", quality=70, save_all=True, append_images=[other], duration=100)
    FILES["webp_animated_alpha.webp"] = saved(alpha, "WEBP", lossless=True, save_all=True, append_images=[other.convert("RGBA")], duration=100)


def refused():
    image = Image.fromarray(picture(6, 5, 3, 255, 1).astype(np.uint8))
    box = struct.pack(">I", 24) + b"ftyp%s\0\0\0\0mif1miaf"
    return {
        "refused.gif": (saved(image, "GIF"), "GIF"),
        "refused.bmp": (saved(image, "BMP"), "BMP"),
        "refused.tif": (saved(image, "TIFF"), "TIFF"),
        "refused.heic": (box.replace(b"%s", b"heic"), "HEIC"),
        "refused.avif": (box.replace(b"%s", b"avif"), "AVIF"),
    }


# ---- vectors -------------------------------------------------------------------------------------

def decode_vectors():
    vectors = []
    for name, data in sorted(FILES.items()):
        (OUT / name).write_bytes(data)
        rgb = np.array(reference(data, DEVIATIONS.get(name)))
        orientation = Image.open(io.BytesIO(data))
        orientation.load()
        vectors.append({"file": name, "kind": Image.open(io.BytesIO(data)).format, "height": rgb.shape[0],
                        "width": rgb.shape[1], "orientation": orientation.getexif().get(0x0112, 1),
                        "rgb_sha256": sha(rgb.tobytes())})
    return vectors


def resize_vectors():
    pairs = [((2400, 1080), (2408, 1092)), ((300, 200), (84, 84)), ((64, 48), (64, 84)), ((64, 48), (112, 48)),
             ((1, 1), (84, 84)), ((7, 5), (560, 280)), ((1500, 40), (28, 28)), ((33, 1700), (28, 1708)),
             ((90, 90), (90, 90)), ((500, 3), (140, 84)), ((200, 200), (1, 1)), ((17, 19), (16, 18)), ((64, 65), (63, 7)),
             # Pillow 13 goes down first if the height loses more than twice what the width loses.
             ((1600, 720), (1596, 728)), ((100, 60), (58, 39)), ((100, 60), (57, 39)), ((150, 90), (101, 50)), ((60, 50), (59, 51))]
    rng = random.Random(5)
    for _ in range(40):
        pairs.append(tuple((rng.randint(1, 260), rng.randint(1, 260)) for _ in range(2)))
    vectors = []
    for (h, w), (height, width) in pairs:
        rgb = Image.fromarray(noise(h, w)).resize((width, height), Image.BICUBIC)
        vectors.append({"in": [h, w], "out": [height, width], "rgb_sha256": sha(np.array(rgb).tobytes())})
    return vectors


def processor_vectors():
    processor = Glm4vImageProcessorPil(size=SIZE)
    jobs = [({"file": name}, reference(FILES[name], DEVIATIONS.get(name)))
            for name in ("png_rgba8_screen.png", "png_1x1.png", "png_rgba16.png", "jpeg_420.jpg", "jpeg_exif6.jpg", "webp_alpha.webp")]
    jobs += [({"noise": [h, w]}, Image.fromarray(noise(h, w))) for h, w in ((480, 270), (97, 1001), (2400, 1080))]
    vectors = []
    for job, image in jobs:
        result = processor(image, return_tensors="np")
        values, grid = result["pixel_values"], result["image_grid_thw"][0].tolist()
        assert values.dtype == np.float32 and values.shape == (grid[1] * grid[2], 1176)
        size = [grid[1] * 14, grid[2] * 14]
        rgb = np.array(image.resize((size[1], size[0]), Image.BICUBIC))
        check_table(values, rgb)
        cells = [(0, 0), (1, 7), (values.shape[0] // 2, 400), (values.shape[0] - 1, 1175), (3, 588), (2, 196)]
        vectors.append({**job, "size": size, "grid": grid, "rgb_sha256": sha(rgb.tobytes()),
                        "pixel_values_sha256": sha(np.ascontiguousarray(values).astype("<f4").tobytes()),
                        "samples": [[r, c, float(values[r, c])] for r, c in cells]})
    return vectors


def check_table(values, rgb):
    """The order of operations told above, proved on every value."""
    mean = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
    levels = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    table = np.stack([(levels - mean[c]) / std[c] for c in range(3)])
    assert table.dtype == np.float32
    planes = np.stack([table[c][rgb[..., c]] for c in range(3)])
    h, w = rgb.shape[0] // 28, rgb.shape[1] // 28
    cells = planes.reshape(3, h, 2, 14, w, 2, 14).transpose(1, 4, 2, 5, 0, 3, 6)
    rows = np.repeat(cells[:, :, :, :, :, None], 2, axis=5).reshape(-1, 1176)
    assert (rows.view(np.uint32) == values.view(np.uint32)).all()


def target_vectors():
    rng = random.Random(28)
    fixed = [(1, 1), (28, 28), (50, 30), (98, 98), (10, 100), (53, 15), (1067, 480), (1200, 540), (1600, 720), (2400, 1080),
             (3200, 1440), (30, 4000), (4000, 4000), (27, 27), (42, 70), (1, 200), (1, 201), (201, 1), (65535, 65535), (65535, 400), (300, 60000)]
    jobs = [(h, w, 9633792) for h, w in fixed] + [(h, w, 5000000) for h, w in ((2400, 1080), (3200, 1440), (2160, 3840))]
    while len(jobs) < 2024:
        h, w = (int(math.exp(rng.uniform(0, math.log(9000)))) for _ in range(2))
        jobs.append((h, w, rng.choice((9633792, 9633792, 5000000, 11760000))))
    vectors = []
    for h, w, pixels_max in jobs:
        try:
            size = smart_resize(2, h, w, min_pixels=SIZE["shortest_edge"], max_pixels=pixels_max)
        except ValueError:
            size = (0, 0)
        vectors.append([h, w, pixels_max, *size])
    return vectors


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    add_png()
    add_jpeg()
    add_webp()
    refuse = []
    for name, (data, word) in refused().items():
        (OUT / name).write_bytes(data)
        refuse.append({"file": name, "names": word})
    parts = {"decode": decode_vectors(), "refuse": refuse, "resize": resize_vectors(), "processor": processor_vectors(),
             "target": target_vectors()}
    lines = ",\n".join(f' "{key}": [\n  ' + ",\n  ".join(json.dumps(v) for v in rows) + "\n ]" for key, rows in parts.items())
    (OUT / "vectors.json").write_text("{\n" + lines + "\n}\n")
    total = sum(p.stat().st_size for p in OUT.iterdir())
    print(f"{len(FILES)} pictures, {total} bytes in all")


main()
