#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Expected results of both networks, computed with the reference (transformers, float32, eager).

    make_model_vectors.py [CASE ...]      writes tests/fixtures/model/golden_CASE.safetensors

Needs torch, transformers, numpy and safetensors. The weights are those of tests/support/test_checkpoint.h:
hashes of (seed, name, index), rounded to the case's dtype and then computed with in float32. Pixels and
token ids come from the same hash. Each file holds, for the prompts `text`, `one` (one image) and `many`
(three images):

    PROMPT.ids [n]   PROMPT.positions [3, n]   PROMPT.rows [k]   PROMPT.logits [k, vocab]   PROMPT.greedy [m]
    image.N.size [2] (height, width)   image.N.rows [cells, hidden], or for the large case
    image.N.picked [p] (flat indices), image.N.values [p] and image.N.norm [1]
"""
import math
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Glm4vConfig, Glm4vForConditionalGeneration
from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "support"))
import make_tiny_checkpoint as tiny  # noqa: E402

# Heads of 128 as in the 9B model, and 4, 8 and 32 query heads over 2 key heads.
CASES = {
    "gqa2": dict(hidden=512, heads=4, kv_heads=2, layers=3, intermediate=768, old_layout=True, vision_hidden=256,
                 vision_heads=2, merger=384, image_size=336),
    "gqa4": dict(hidden=1024, heads=8, kv_heads=2, layers=2, intermediate=512, rope_theta=500000.0,
                 vision_hidden=128, vision_heads=4, vision_depth=3, merger=256, image_size=336, dtype="bfloat16", seed=2),
    "tied": dict(layers=4, tied=True, dtype="float16", seed=3),
    "9b": dict(hidden=4096, heads=32, kv_heads=2, layers=1, intermediate=13696, vocab=2048, old_layout=True,
               vision_hidden=1536, vision_heads=12, vision_depth=1, merger=13696, image_size=336, dtype="bfloat16", seed=4),
}
SIZES = [(56, 84), (84, 28), (140, 112)]   # of the images: height, width
IMAGE_TOKEN, IMAGE_START, IMAGE_END = 270, 266, 267
GREEDY_TOKENS, GREEDY_TOKENS_LARGE, PICKED = 100, 8, 256


def hash_values(seed, name, count):
    """tiny.hash_values, in numpy."""
    out = np.empty(count, np.float32)
    key = np.uint64(tiny.hash_key(seed, name))
    for first in range(0, count, 1 << 22):
        z = np.arange(first + 1, min(first + (1 << 22), count) + 1, dtype=np.uint64) * np.uint64(tiny.GOLDEN_RATIO) + key
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
        out[first:first + len(z)] = z.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return out


def build(shape):
    config = Glm4vConfig(**tiny.config(shape))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    state = {}
    for name, size, kind in tiny.tensors(shape):
        base, scale = tiny.scale_of(kind, size)
        values = np.float32(base) + np.float32(scale) * hash_values(shape["seed"], name, math.prod(size))
        assert values[:4].tolist() == [tiny.float32(base + scale * u) for u in tiny.hash_values(shape["seed"], name, min(4, len(values)))]
        state[name] = torch.from_numpy(values).reshape(size).to(getattr(torch, shape["dtype"])).float()
    model = Glm4vForConditionalGeneration(config) if shape["hidden"] < 2048 else build_large(config)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert not unexpected and all("lm_head" in name and shape["tied"] for name in missing), (missing, unexpected)
    model.tie_weights()
    model.eval()
    model.set_attn_implementation("eager")
    return model


def build_large(config):
    """Skip the initialisation of weights that are replaced anyway."""
    from transformers.initialization import no_init_weights
    with no_init_weights():
        return Glm4vForConditionalGeneration(config)


def image(shape, index):
    height, width = SIZES[index]
    u = hash_values(shape["seed"], f"image.{index}", height * width * 3)
    return np.floor((u + 1) * 128).astype(np.uint8).reshape(height, width, 3)


def cells(index):
    height, width = SIZES[index]
    return height // 28 * (width // 28)


def prompt(shape, name, images):
    """Token ids: runs of bytes, each image wrapped in its start and end tokens."""
    u = hash_values(shape["seed"], f"prompt.{name}", 64)
    text = np.floor((u + 1) * 128).astype(int).tolist()
    ids = [258, 260, 263] + text[:9]
    for i in images:
        ids += [IMAGE_START] + [IMAGE_TOKEN] * cells(i) + [IMAGE_END] + text[10 + 5 * i:14 + 3 * i]
    return ids + text[40:52] + [264]


def run_case(name):
    shape = {**tiny.SHAPE, **CASES[name]}
    large = shape["hidden"] >= 2048
    model = build(shape)
    processor = Glm4vImageProcessor(do_resize=False)
    out, pictures = {}, {}
    for i in range(1 if large else len(SIZES)):
        picture = processor(images=[torch.from_numpy(image(shape, i)).permute(2, 0, 1)], do_resize=False, return_tensors="pt")
        pictures[i] = picture
        rows = model.model.visual(picture["pixel_values"].float(), grid_thw=picture["image_grid_thw"]).pooler_output.numpy()
        assert rows.shape == (cells(i), shape["hidden"])
        out[f"image.{i}.size"] = np.array(SIZES[i], np.int32)
        if large:
            picked = (np.arange(PICKED, dtype=np.int64) * 7919 % rows.size).astype(np.int32)
            out[f"image.{i}.picked"] = picked
            out[f"image.{i}.values"] = rows.reshape(-1)[picked]
            out[f"image.{i}.norm"] = np.array([np.linalg.norm(rows.astype(np.float64))], np.float32)
        else:
            out[f"image.{i}.rows"] = rows
    for kind, images in (("text", []), ("one", [0]), ("many", [1, 2, 0])):
        if large and kind == "many":
            continue
        ids = torch.tensor([prompt(shape, kind, images)])
        types = (ids == IMAGE_TOKEN).int()
        extra = {}
        if images:
            extra = dict(pixel_values=torch.cat([pictures[i]["pixel_values"].float() for i in images]),
                         image_grid_thw=torch.cat([pictures[i]["image_grid_thw"] for i in images]))
        positions, _ = model.model.get_rope_index(ids, types, image_grid_thw=extra.get("image_grid_thw"))
        logits = model(input_ids=ids, mm_token_type_ids=types, **extra).logits[0].numpy()
        count = ids.shape[1]
        rows = np.array([0, count // 2, count - 1] if not large else [count - 1], np.int32)
        tokens = GREEDY_TOKENS_LARGE if large else GREEDY_TOKENS
        answer = model.generate(input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), **extra,
                                do_sample=False, max_new_tokens=tokens, eos_token_id=None, pad_token_id=256)
        out[kind + ".ids"] = ids[0].numpy().astype(np.int32)
        out[kind + ".positions"] = positions[:, 0].numpy().astype(np.int32)
        out[kind + ".rows"] = rows
        out[kind + ".logits"] = np.ascontiguousarray(logits[rows])
        out[kind + ".greedy"] = answer[0, count:].numpy().astype(np.int32)
        print(name, kind, count, "tokens, distinct greedy:", len(set(out[kind + ".greedy"].tolist())))
    save_file(out, ROOT / "fixtures" / "model" / f"golden_{name}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        for case in sys.argv[1:] or CASES:
            run_case(case)
