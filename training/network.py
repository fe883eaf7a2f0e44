"""The network for training: parameters and names are those of transformers' Glm4vForConditionalGeneration,
the forward pass is our own so that one screen serves many questions.

A batch is a tree of token levels: level 0 is one system prefix for the whole
batch, level 1 the picture of each screen, level 2 the questions about it.
Every level attends to its ancestors and, causally, to itself; so the result is
that of the separate sequences, at a fraction of the work. `check_network.py`
compares it with transformers.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import Glm4vConfig, Glm4vForConditionalGeneration

PRESETS = dict(
    # 12.3 M parameters, shipped
    demo=dict(hidden=512, layers=4, heads=4, inter=256, vision=256, depth=5, vision_heads=2, merger=256),
    # for measurements (vocabulary 8192); see README.md
    quality=dict(hidden=1024, layers=6, heads=8, inter=2048, vision=384, depth=6, vision_heads=3, merger=1024),
    tiny=dict(hidden=256, layers=2, heads=2, inter=128, vision=128, depth=1, vision_heads=1, merger=128),
)


def make_config(preset, tokenizer, max_positions=32768):
    s = PRESETS[preset]
    ids = {t: tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|user|>", "<|observation|>", "</answer>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>")}
    eos = [ids[t] for t in ("<|endoftext|>", "<|user|>", "<|observation|>", "</answer>")]
    return {
        "architectures": ["Glm4vForConditionalGeneration"], "model_type": "glm4v",
        "image_start_token_id": ids["<|begin_of_image|>"], "image_end_token_id": ids["<|end_of_image|>"],
        "video_start_token_id": ids["<|begin_of_video|>"], "video_end_token_id": ids["<|end_of_video|>"],
        "image_token_id": ids["<|image|>"], "video_token_id": ids["<|video|>"],
        "tie_word_embeddings": False, "transformers_version": "4.57.1",
        "text_config": {
            "model_type": "glm4v_text", "attention_bias": True, "attention_dropout": 0.0, "pad_token_id": eos[0], "eos_token_id": eos, "hidden_act": "silu",
            "hidden_size": s["hidden"], "initializer_range": 0.02, "intermediate_size": s["inter"], "max_position_embeddings": max_positions,
            "num_attention_heads": s["heads"], "num_hidden_layers": s["layers"], "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-05, "dtype": "bfloat16",
            "use_cache": True, "vocab_size": tokenizer.get_vocab_size(), "partial_rotary_factor": 0.5, "rope_theta": 10000,
            "rope_scaling": {"rope_type": "default", "mrope_section": [8, 12, 12]}},
        "vision_config": {
            "model_type": "glm4v", "hidden_size": s["vision"], "depth": s["depth"], "num_heads": s["vision_heads"], "attention_bias": False, "intermediate_size": s["merger"],
            "hidden_act": "silu", "hidden_dropout_prob": 0.0, "initializer_range": 0.02, "image_size": 336, "patch_size": 14, "out_hidden_size": s["hidden"],
            "rms_norm_eps": 1e-05, "spatial_merge_size": 2, "temporal_patch_size": 2}}


def make_model(config):
    return Glm4vForConditionalGeneration(Glm4vConfig(**config))


# ---- small pieces -------------------------------------------------------------------


def rms(x, w, eps=1e-5):
    return F.rms_norm(x, (x.shape[-1],), w, eps)


def add_rms(x, y, w, eps=1e-5):
    return x + rms(y, w, eps)


def swiglu(g, u):
    return F.silu(g) * u


def swiglu_fused(gu):
    g, u = gu.chunk(2, -1)
    return F.silu(g) * u


def rope_half(x, cos, sin):
    """Vision: pairs (i, i + d/2). x [B, T, heads, d], cos and sin [T, 1, d/2] in the type of x."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def rope_pairs(x, cos, sin):
    """Text: pairs (2j, 2j+1) of the first 64 dims. x [B, T, heads, 128], cos and sin [B or 1, T, 1, 32]."""
    r, rest = x[..., :64], x[..., 64:]
    a, b = r[..., 0::2], r[..., 1::2]
    out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return torch.cat((out, rest), -1)


# ---- vision -----------------------------------------------------------------------

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_grid_cache = {}


def block_order(gh, gw, device):
    """Patch numbers row * gw + column in the order in which the tower sees them: 2x2 cells together."""
    r = torch.arange(gh, device=device).view(gh // 2, 1, 2, 1)
    c = torch.arange(gw, device=device).view(1, gw // 2, 1, 2)
    return (r * gw + c).permute(0, 1, 2, 3).reshape(-1)


def grid_tables(gh, gw, device):
    key = (gh, gw, device)
    if key not in _grid_cache:
        order = block_order(gh, gw, device)
        row, col = (order // gw).float(), (order % gw).float()
        sample = torch.stack(((col + .5) / gw * 2 - 1, (row + .5) / gh * 2 - 1), -1)[None, :, None]
        inv = 1.0 / (10000 ** (torch.arange(0, 64, 2, device=device).float() / 64))
        angle = torch.cat((row[:, None] * inv, col[:, None] * inv), -1)[:, None]
        _grid_cache[key] = (order, sample, angle.cos(), angle.sin())
    return _grid_cache[key]


def vision(p, cfg, images):
    """images uint8 [B, 3, H, W] -> [B, H*W/784, hidden]."""
    dtype = p["lm_head.weight"].dtype
    B, _, H, W = images.shape
    gh, gw = H // 14, W // 14
    order, sample, cos, sin = grid_tables(gh, gw, images.device)
    cos, sin = cos.to(dtype), sin.to(dtype)
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    x = ((images.float() / 255 - mean) / std).to(dtype)
    x = x.view(B, 3, gh // 2, 2, 14, gw // 2, 2, 14).permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(B, gh * gw, 588)
    v = "model.visual."
    C = cfg["vision_config"]["hidden_size"]
    w = p[v + "patch_embed.proj.weight"]
    x = F.linear(x, (w[:, :, 0] + w[:, :, 1]).reshape(C, 588), p[v + "patch_embed.proj.bias"])
    x = rms(x, p[v + "post_conv_layernorm.weight"])
    table = p[v + "embeddings.position_embedding.weight"].float().view(24, 24, C).permute(2, 0, 1)[None]
    pos = F.grid_sample(table, sample, mode="bicubic", align_corners=False, padding_mode="border")[0, :, :, 0].t()
    x = x + pos.to(dtype)
    heads = cfg["vision_config"]["num_heads"]
    for k in range(cfg["vision_config"]["depth"]):
        b = f"{v}blocks.{k}."
        qkv = F.linear(rms(x, p[b + "norm1.weight"]), p[b + "attn.qkv.weight"]).view(B, -1, 3, heads, 128)
        qk = rope_half(qkv[:, :, :2].flatten(2, 3), cos, sin).transpose(1, 2)
        a = F.scaled_dot_product_attention(qk[:, :heads], qk[:, heads:], qkv[:, :, 2].transpose(1, 2))
        x = x + F.linear(a.transpose(1, 2).reshape(B, -1, C), p[b + "attn.proj.weight"])
        n = rms(x, p[b + "norm2.weight"])
        x = x + F.linear(swiglu(F.linear(n, p[b + "mlp.gate_proj.weight"]), F.linear(n, p[b + "mlp.up_proj.weight"])), p[b + "mlp.down_proj.weight"])
    x = rms(x, p[v + "post_layernorm.weight"])
    hidden = cfg["text_config"]["hidden_size"]
    x = x.view(B, -1, 4 * C)
    x = F.linear(x, p[v + "downsample.weight"].permute(0, 2, 3, 1).reshape(hidden, 4 * C), p[v + "downsample.bias"])
    m = v + "merger."
    x = F.linear(x, p[m + "proj.weight"])
    x = F.gelu(F.layer_norm(x, (hidden,), p[m + "post_projection_norm.weight"], p[m + "post_projection_norm.bias"]))
    return F.linear(swiglu(F.linear(x, p[m + "gate_proj.weight"]), F.linear(x, p[m + "up_proj.weight"])), p[m + "down_proj.weight"])


# ---- text -------------------------------------------------------------------------


def text_angles(pos):
    """pos [3, B, T] -> cos, sin [B, T, 1, 32]; 8 pairs turn with time, 12 with height, 12 with width."""
    inv = 1.0 / (10000 ** (torch.arange(0, 64, 2, device=pos.device).float() / 64))
    axis = torch.tensor([0] * 8 + [1] * 12 + [2] * 12, device=pos.device)
    angle = pos.float()[axis].permute(1, 2, 0) * inv          # [B, T, 32]
    return angle.cos()[:, :, None], angle.sin()[:, :, None]


def decoder(p, cfg, levels, watch=None):
    """watch, if given, is called with (layer, q, key) of the last level: [n, heads, T, 128], [n, heads, S, 128].

    levels: list of (x [B_l, T_l, hidden], pos [3, B_l, T_l]); B_l is a multiple of B_(l-1). Gives the last level's normed rows."""
    t = cfg["text_config"]
    heads, kv, group = t["num_attention_heads"], t["num_key_value_heads"], t["num_attention_heads"] // t["num_key_value_heads"]
    xs = [x for x, _ in levels]
    dtype = xs[0].dtype
    angles = [tuple(a.to(dtype) for a in text_angles(pos)) for _, pos in levels]
    last = len(xs) - 1
    for k in range(t["num_hidden_layers"]):
        b = f"model.language_model.layers.{k}."
        w = p[b + "self_attn.q_proj.weight"], p[b + "self_attn.k_proj.weight"], p[b + "self_attn.v_proj.weight"]
        wb = p[b + "self_attn.q_proj.bias"], p[b + "self_attn.k_proj.bias"], p[b + "self_attn.v_proj.bias"]
        W, Bs = torch.cat(w), torch.cat(wb)
        before_k, before_v = None, None
        for l in range(len(xs)):
            x = xs[l]
            n, T, C = x.shape
            qkv = F.linear(rms(x, p[b + "input_layernorm.weight"]), W, Bs).view(n, T, heads + 2 * kv, 128)
            qk = rope_pairs(qkv[:, :, :heads + kv], *angles[l])
            q, key, val = qk[:, :, :heads].transpose(1, 2), qk[:, :, heads:].transpose(1, 2), qkv[:, :, heads + kv:].transpose(1, 2)
            if before_k is not None:
                r = n // before_k.shape[0]
                grow = lambda a: a[:, None].expand(-1, r, -1, -1, -1).reshape(n, kv, a.shape[2], 128)
                key, val = torch.cat((grow(before_k), key), 2), torch.cat((grow(before_v), val), 2)
            before_k, before_v = key, val
            if k == t["num_hidden_layers"] - 1 and l < last:
                continue                      # only the last level's rows are wanted from the last layer
            S = key.shape[2]
            if group > 1:
                key = key[:, :, None].expand(-1, -1, group, -1, -1).reshape(n, heads, S, 128)
                val = val[:, :, None].expand(-1, -1, group, -1, -1).reshape(n, heads, S, 128)
            if watch is not None and l == last:
                watch(k, q, key)
            if S == T:
                a = F.scaled_dot_product_attention(q, key, val, is_causal=True)
            else:
                a = F.scaled_dot_product_attention(q, key, val, attn_mask=causal_lower_right(T, S))
            a = F.linear(a.transpose(1, 2).reshape(n, T, heads * 128), p[b + "self_attn.o_proj.weight"])
            x = add_rms(x, a, p[b + "post_self_attn_layernorm.weight"])
            m = rms(x, p[b + "post_attention_layernorm.weight"])
            m = F.linear(swiglu_fused(F.linear(m, p[b + "mlp.gate_up_proj.weight"])), p[b + "mlp.down_proj.weight"])
            xs[l] = add_rms(x, m, p[b + "post_mlp_layernorm.weight"])
    return rms(xs[last], p["model.language_model.norm.weight"])


def forward(p, cfg, batch, watch=None):
    """Gives (rows of the last level, vision rows or None)."""
    table, dtype = p["model.language_model.embed_tokens.weight"], p["lm_head.weight"].dtype
    seen = vision(p, cfg, batch["images"]) if batch.get("images") is not None else None
    if not batch["levels"]:
        return None, seen
    levels = []
    for ids, pos in batch["levels"]:
        x = F.embedding(ids, table)
        mask = ids == cfg["image_token_id"]
        if seen is not None and batch["image_level"] == len(levels):
            r = ids.shape[0] // seen.shape[0]
            rows = seen[:, None].expand(-1, r, -1, -1).reshape(-1, seen.shape[-1])
            x = x.masked_scatter(mask[..., None], rows.to(x.dtype))
        levels.append((x, pos))
    return decoder(p, cfg, levels, watch), seen
