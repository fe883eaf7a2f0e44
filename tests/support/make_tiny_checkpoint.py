#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the small random checkpoint of tests/support/test_checkpoint.h, with nothing but Python.

    make_tiny_checkpoint.py FOLDER [--dtype float32|bfloat16|float16] [--layers N] ...

Every weight is a hash of (seed, tensor name, index): C, this script and the script that makes the
golden vectors build the same numbers.
"""
import argparse
import json
import math
import pathlib
import shutil
import struct

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "model" / "tiny"
FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
         "preprocessor_config.json"]
SHAPE = dict(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128, vocab=320, max_positions=4096,
             rope_theta=10000.0, vision_hidden=64, vision_depth=2, vision_heads=2, merger=96, image_size=112,
             dtype="float32", seed=1, old_layout=False, tied=False)
MASK = (1 << 64) - 1
GOLDEN_RATIO = 0x9E3779B97F4A7C15


def hash_key(seed, name):
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 & MASK
    return key ^ (seed * GOLDEN_RATIO & MASK)


def hash_values(seed, name, count):
    """`count` values in [-1, 1), multiples of 2^-23."""
    z0 = hash_key(seed, name)
    out = []
    for i in range(count):
        z = (z0 + (i + 1) * GOLDEN_RATIO) & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        out.append(((z ^ z >> 31) >> 40) * 2.0**-23 - 1.0)
    return out


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def scale_of(kind, shape):
    """weight = offset + scale * hash, rounded to float32."""
    if kind == "linear":
        return 0.0, float32(math.sqrt(3.0 / math.prod(shape[1:])))
    return {"norm": (1.0, 0.25), "bias": (0.0, 0.25), "table": (0.0, 1.0)}[kind]


def tensors(s):
    """(name, shape, kind) of every tensor, in file order."""
    hidden, out, head_dim = s["hidden"], [], s["hidden"] // s["heads"]

    def add(name, shape, kind="linear"):
        out.append((name, list(shape), kind))

    text = "model.language_model."
    add(text + "embed_tokens.weight", [s["vocab"], hidden], "table")
    for layer in range(s["layers"]):
        prefix = f"{text}layers.{layer}."
        for norm in ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm",
                     "post_mlp_layernorm"):
            add(f"{prefix}{norm}.weight", [hidden], "norm")
        for part, heads in (("q", s["heads"]), ("k", s["kv_heads"]), ("v", s["kv_heads"])):
            add(f"{prefix}self_attn.{part}_proj.weight", [heads * head_dim, hidden])
            add(f"{prefix}self_attn.{part}_proj.bias", [heads * head_dim], "bias")
        add(f"{prefix}self_attn.o_proj.weight", [hidden, s["heads"] * head_dim])
        add(f"{prefix}mlp.gate_up_proj.weight", [2 * s["intermediate"], hidden])
        add(f"{prefix}mlp.down_proj.weight", [hidden, s["intermediate"]])
    add(text + "norm.weight", [hidden], "norm")
    if not s["tied"]:
        add("lm_head.weight", [s["vocab"], hidden])

    visual, width, side = "model.visual.", s["vision_hidden"], s["image_size"] // 14
    add(visual + "patch_embed.proj.weight", [width, 3, 2, 14, 14])
    add(visual + "patch_embed.proj.bias", [width], "bias")
    add(visual + "post_conv_layernorm.weight", [width], "norm")
    add(visual + "embeddings.position_embedding.weight", [side * side, width], "table")
    for block in range(s["vision_depth"]):
        prefix = f"{visual}blocks.{block}."
        add(prefix + "norm1.weight", [width], "norm")
        add(prefix + "norm2.weight", [width], "norm")
        add(prefix + "attn.qkv.weight", [3 * width, width])
        add(prefix + "attn.proj.weight", [width, width])
        add(prefix + "mlp.gate_proj.weight", [hidden, width])
        add(prefix + "mlp.up_proj.weight", [hidden, width])
        add(prefix + "mlp.down_proj.weight", [width, hidden])
    add(visual + "post_layernorm.weight", [width], "norm")
    add(visual + "downsample.weight", [hidden, width, 2, 2])
    add(visual + "downsample.bias", [hidden], "bias")
    add(visual + "merger.proj.weight", [hidden, hidden])
    add(visual + "merger.post_projection_norm.weight", [hidden], "norm")
    add(visual + "merger.post_projection_norm.bias", [hidden], "bias")
    add(visual + "merger.gate_proj.weight", [s["merger"], hidden])
    add(visual + "merger.up_proj.weight", [s["merger"], hidden])
    add(visual + "merger.down_proj.weight", [hidden, s["merger"]])
    return out


def config(s):
    pairs = s["hidden"] // s["heads"] // 4
    temporal = pairs // 4
    section = [temporal, (pairs - temporal) // 2, pairs - temporal - (pairs - temporal) // 2]
    if s["old_layout"]:
        rope = dict(rope_theta=s["rope_theta"], partial_rotary_factor=0.5,
                    rope_scaling=dict(rope_type="default", mrope_section=section))
    else:
        rope = dict(rope_parameters=dict(rope_theta=s["rope_theta"], partial_rotary_factor=0.5,
                                         rope_type="default", mrope_section=section))
    return dict(
        architectures=["Glm4vForConditionalGeneration"], model_type="glm4v", dtype=s["dtype"],
        image_start_token_id=266, image_end_token_id=267, video_start_token_id=268, video_end_token_id=269,
        image_token_id=270, video_token_id=271, tie_word_embeddings=s["tied"],
        text_config=dict(
            model_type="glm4v_text", attention_bias=True, attention_dropout=0.0, pad_token_id=256,
            eos_token_id=[256, 263, 265, 275], hidden_act="silu", hidden_size=s["hidden"],
            intermediate_size=s["intermediate"], max_position_embeddings=s["max_positions"],
            num_attention_heads=s["heads"], num_hidden_layers=s["layers"], num_key_value_heads=s["kv_heads"],
            rms_norm_eps=1e-05, vocab_size=s["vocab"], **rope),
        vision_config=dict(
            model_type="glm4v_vision", attention_bias=False, depth=s["vision_depth"], hidden_act="silu",
            hidden_size=s["vision_hidden"], image_size=s["image_size"], in_channels=3,
            intermediate_size=s["merger"], num_heads=s["vision_heads"], out_hidden_size=s["hidden"],
            patch_size=14, rms_norm_eps=1e-05, spatial_merge_size=2, temporal_patch_size=2))


def encode(values, dtype):
    if dtype == "bfloat16":
        bits = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
        return struct.pack(f"<{len(values)}H", *((b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits))
    if dtype == "float16":
        return struct.pack(f"<{len(values)}e", *(float32(v) for v in values))
    return struct.pack(f"<{len(values)}f", *values)


def write(folder, **changes):
    """Write the checkpoint; `changes` override SHAPE. Returns the folder."""
    s = {**SHAPE, **changes}
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(s), indent=1))
    for file in FILES:
        shutil.copy(FIXTURES / file, folder / file)
    header, data, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, shape, kind in tensors(s):
        base, scale = scale_of(kind, shape)
        raw = encode([base + scale * u for u in hash_values(s["seed"], name, math.prod(shape))], s["dtype"])
        header[name] = dict(dtype={"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[s["dtype"]],
                            shape=shape, data_offsets=[offset, offset + len(raw)])
        offset += len(raw)
        data.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(data)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    for key, value in SHAPE.items():
        flag = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(value), default=value)
    options = vars(parser.parse_args())
    write(options.pop("folder"), **options)


if __name__ == "__main__":
    main()
