#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Logits of a whole model against transformers on the same machine, and transformers' own speed.

    compare_transformers.py --program build/tests/cuda/model_logits [--shape models/shapes/autoglm-phone-9b]
                            [--device cuda] [--formats bfloat16 float16 float32] [--work DIR] [--json FILE]

Makes a checkpoint of the shape with random weights (BF16, as the published one), computes its logits with
transformers in float32, and compares ours in each format: relative error of logits and of the image's rows, how
many arg-maxes agree, and how far behind the reference's best our choice is where they do not. transformers in
bfloat16 is measured the same way, as the yardstick for a 16-bit computation. What the reference is computed with is
printed and measured against float64 first: it must not be rounded to TF32. Needs torch, transformers, numpy,
safetensors; 22 GB of disk and 64 GB of device memory at the 9B shape.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, Glm4vForConditionalGeneration
from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor

SHARD_BYTES = 5 << 30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOAT32_ERROR_MAX = 1e-5    # F32 has 1e-7 to 1e-6, TF32 3e-4
TABLE_ERROR_MAX = 1e-5      # a table in BF16 has 4e-3


def exact_products():
    """No TF32 in products and convolutions; by default convolutions have it on a GPU. torch 2.9 brought other names,
    and answers by the old ones only while both say the same."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for part in (torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None), getattr(torch.backends.cudnn, "rnn", None)):
        if hasattr(part, "fp32_precision"):
            part.fp32_precision = "ieee"


def exact_attention():
    """Attention as two products and a softmax: the fused kernel that takes F32 on a GPU makes its sums from TF32 parts."""
    for kernel in ("flash", "mem_efficient", "cudnn"):
        if hasattr(torch.backends.cuda, f"enable_{kernel}_sdp"):
            getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(False)


def precision(device):
    """The settings that hold, and the relative errors they lead to: of a product, the tower's two kinds of convolution
    and attention in float32 against float64."""
    def error(run, *shapes):
        generator = torch.Generator(device=device).manual_seed(1)
        values = [torch.randn(shape, generator=generator, device=device) for shape in shapes]
        exact = run(*(value.double() for value in values))
        return ((run(*values) - exact).norm() / exact.norm()).item()

    def setting(part, old):
        return getattr(part, "fp32_precision", None) or ("tf32" if old.allow_tf32 else "ieee")
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    kernels = [k for k in ("flash", "mem_efficient", "cudnn", "math") if getattr(cuda, f"{k}_sdp_enabled", bool)()]
    measured = dict(product=error(lambda a, b: a @ b, (256, 1536), (1536, 1536)),
                    patches=error(lambda x, w: F.conv3d(x, w, stride=(2, 14, 14)), (256, 3, 2, 14, 14), (1536, 3, 2, 14, 14)),
                    downsample=error(lambda x, w: F.conv2d(x, w, stride=2), (64, 1536, 2, 2), (1024, 1536, 2, 2)),
                    attention=error(F.scaled_dot_product_attention, *[(1, 12, 512, 128)] * 3))
    return dict(torch=torch.__version__, transformers=transformers.__version__, products=setting(cuda.matmul, cuda.matmul),
                convolutions=setting(getattr(cudnn, "conv", None), cudnn), attention=kernels, measured=measured)


def build(shape, device, seed):
    """The model with random weights: matrices N(0, 0.02), embeddings too, norms near 1, biases near 0."""
    from transformers.initialization import no_init_weights
    config = AutoConfig.from_pretrained(shape)
    config._attn_implementation = "sdpa"
    with no_init_weights(), torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = Glm4vForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    model.eval()
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.data = value.data.to(torch.bfloat16)  # not model.to(): that rounds the rotary tables as well
            centre = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
            value.normal_(centre, 0.1 if centre else 0.02, generator=generator)
    return model, exact_tables(model)


def exact_tables(model):
    """Rotary tables are buffers in float32 that stay out of the checkpoint. Angles are position times frequency, so an
    error of theirs grows with the picture: they are set to the rounded float64 values, which no device's power function
    changes. Returns how far off they were."""
    worst, parts = 0.0, {"visual": model.config.vision_config, "language_model": model.config.text_config}
    tables = {name: module for name, module in model.named_modules() if hasattr(module, "inv_freq")}
    for part, config in parts.items():
        modules = [module for name, module in tables.items() if part in name]
        assert modules, f"no rotary table in {part}"
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta") or getattr(config, "rope_theta", 10000.0)
        for module in modules:
            count = len(module.inv_freq)
            exact = theta ** (-torch.arange(count, dtype=torch.float64) / count)
            worst = max(worst, (module.inv_freq.double().cpu() / exact - 1).abs().max().item())
            module.inv_freq = exact.float().to(module.inv_freq.device)
    if worst > TABLE_ERROR_MAX:
        sys.exit(f"rotary tables are off by {worst:.1e}")
    return worst


def save(model, shape, folder):
    """Weights in shards beside the shape's own configuration files."""
    for path in pathlib.Path(shape).iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, folder)
    shards, size = [{}], 0
    for name, value in model.state_dict().items():
        if size > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = value.contiguous().cpu()
        size += value.numel() * value.element_size()
    index = {}
    for number, shard in enumerate(shards):
        name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, str(folder / name), metadata={"format": "pt"})
        index |= {tensor: name for tensor in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def make_prompts(config, tokens, height, width, seed):
    random = np.random.default_rng(seed)
    text = random.integers(1000 if config.text_config.vocab_size > 4000 else 10,
                           min(config.text_config.vocab_size, config.image_token_id) - 20, tokens).astype(np.int32)
    cells = height // 28 * (width // 28)
    image = np.concatenate([text[:24], [config.image_start_token_id], [config.image_token_id] * cells,
                            [config.image_end_token_id], text[24:64]]).astype(np.int32)
    # A screen: flat areas, edges and some noise.
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([(x // 90 * 37 + y // 120 * 91 + 50 * c) % 256 for c in range(3)], -1)
    pixels = np.clip(pixels + random.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)
    return {"text": dict(ids=text, tail=tokens), "image": dict(ids=image, tail=16, pixels=pixels)}


def reference(model, prompt, processor):
    """Image rows and the logits of the last `tail` rows, F32 on the host."""
    device, dtype = model.device, next(model.parameters()).dtype
    ids = torch.from_numpy(prompt["ids"]).long()[None].to(device)
    types = (ids == model.config.image_token_id).int()
    extra, parts = {}, []
    if "pixels" in prompt:
        picture = processor(images=[torch.from_numpy(prompt["pixels"]).permute(2, 0, 1)], do_resize=False,
                            return_tensors="pt").to(device)
        extra = dict(pixel_values=picture["pixel_values"].to(dtype), image_grid_thw=picture["image_grid_thw"])
        rows = model.model.visual(extra["pixel_values"], grid_thw=extra["image_grid_thw"]).pooler_output
        parts.append(rows.float().cpu().numpy().reshape(-1))
    logits = model(input_ids=ids, mm_token_type_ids=types, logits_to_keep=prompt["tail"], **extra).logits[0]
    parts.append(logits.float().cpu().numpy().reshape(-1))
    return parts


def speed(model, tokens, count=64):
    """transformers' own time to first token and per token, one stream, milliseconds."""
    ids = torch.randint(10, min(1000, model.config.image_token_id), (1, tokens), device=model.device)
    types = torch.zeros_like(ids).int()

    def run(new):
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), do_sample=False,
                       min_new_tokens=new, max_new_tokens=new, eos_token_id=None, pad_token_id=0)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3
    run(2)
    first = min(run(1) for _ in range(3))
    whole = min(run(1 + count) for _ in range(2))
    return dict(prompt=tokens, ttft_ms=first, itl_ms=(whole - first) / count)


def ours(args, folder, prompts_file, dtype, sizes):
    out = pathlib.Path(args.work) / "ours.bin"
    start = time.perf_counter()
    subprocess.run([args.program, str(folder), args.device, dtype, str(prompts_file), str(out), *sizes], check=True,
                   stdout=subprocess.DEVNULL)
    values, at, result = np.fromfile(out, np.float32), 0, {}
    for name, counts in sizes.items():
        result[name] = []
        for count in counts:
            result[name].append(values[at:at + count])
            at += count
    assert at == len(values), (at, len(values))
    out.unlink()
    return result, time.perf_counter() - start


def compare(actual, expected, vocab):
    """Numbers of one prompt: image rows (if any), then logits."""
    def error(a, b):
        return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))
    a, b = actual[-1].reshape(-1, vocab), expected[-1].reshape(-1, vocab)
    best, wanted, row = a.argmax(-1), b.argmax(-1), np.arange(len(b))
    gap = (b[row, wanted] - b[row, best]) / b.std(-1)
    return dict(rows=error(actual[0], expected[0]) if len(actual) > 1 else None, logits=error(a, b),
                top1=float((best == wanted).mean()), worst_gap=float(gap.max()), count=len(b))


def print_precision(report):
    """Says what the reference is computed with; ends the run if that is not float32."""
    p = report["precision"]
    print(f"reference: torch {p['torch']}, transformers {p['transformers']}; products {p['products']}, convolutions {p['convolutions']}, "
          f"attention {' '.join(p['attention'])}; rotary tables were within {report['table_error']:.1e}")
    print("float32 against float64: " + ", ".join(f"{name} {error:.1e}" for name, error in p["measured"].items()), flush=True)
    if max(p["measured"].values()) > FLOAT32_ERROR_MAX:
        sys.exit("the reference would not be computed in float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--shape", default="models/shapes/autoglm-phone-9b")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--formats", nargs="+", default=["bfloat16", "float16", "float32"], choices=tuple(DTYPES))
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--image", type=int, nargs=2, default=(2408, 1092), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--work", default=tempfile.gettempdir())
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint in --work/checkpoint")
    parser.add_argument("--speed", action="store_true", help="time transformers too")
    parser.add_argument("--json", default=None)
    args = parser.parse_args()
    exact_products()
    folder = pathlib.Path(args.work) / "checkpoint"
    folder.mkdir(exist_ok=True)
    report = dict(shape=args.shape, device=torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
                  tokens=args.tokens, image=list(args.image), results={})
    with torch.no_grad():
        start = time.perf_counter()
        model, report["table_error"] = build(args.shape, args.device, args.seed)
        save(model, args.shape, folder)
        print(f"checkpoint written in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        prompts = make_prompts(model.config, args.tokens, *args.image, args.seed)
        tensors = {}
        for name, prompt in prompts.items():
            tensors[f"{name}.ids"] = torch.from_numpy(prompt["ids"])
            tensors[f"{name}.tail"] = torch.tensor([prompt["tail"]], dtype=torch.int32)
            if "pixels" in prompt:
                tensors[f"{name}.pixels"] = torch.from_numpy(prompt["pixels"])
        prompts_file = pathlib.Path(args.work) / "prompts.safetensors"
        save_file(tensors, str(prompts_file))
        processor = Glm4vImageProcessor(do_resize=False)
        if args.speed:
            report["transformers_speed"] = speed(model, args.tokens)
        half = {name: reference(model, prompt, processor) for name, prompt in prompts.items()}
        if args.device == "cuda":
            exact_attention()
        report["precision"] = precision(args.device)
        print_precision(report)
        model = model.float()
        exact = {name: reference(model, prompt, processor) for name, prompt in prompts.items()}
    vocab = model.config.text_config.vocab_size
    sizes = {name: [len(part) for part in parts] for name, parts in exact.items()}
    del model
    if args.device == "cuda":
        torch.cuda.empty_cache()
    results = report["results"]
    results["transformers bfloat16"] = {name: compare(half[name], exact[name], vocab) for name in exact}
    for dtype in args.formats:
        actual, seconds = ours(args, folder, prompts_file, dtype, sizes)
        results[f"autoglm {dtype}"] = {name: compare(actual[name], exact[name], vocab) for name in exact}
        print(f"{dtype}: {seconds:.1f} s with loading", file=sys.stderr)
    print(f"{'against transformers float32':30s} {'prompt':8s} {'image rows':>10s} {'logits':>9s} {'top-1':>7s} {'worst gap':>9s}")
    for name, by_prompt in results.items():
        for prompt, r in by_prompt.items():
            rows = f"{r['rows']:.2e}" if r["rows"] is not None else "-"
            print(f"{name:30s} {prompt:8s} {rows:>10s} {r['logits']:9.2e} {r['top1']:7.1%} {r['worst_gap']:9.3f}")
    if "transformers_speed" in report:
        t = report["transformers_speed"]
        print(f"transformers bfloat16 alone: {t['ttft_ms']:.1f} ms to the first token of {t['prompt']}, {t['itl_ms']:.2f} ms a token")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(report, indent=1))
    if not args.keep:
        shutil.rmtree(folder)
    os.unlink(prompts_file)


if __name__ == "__main__":
    main()
