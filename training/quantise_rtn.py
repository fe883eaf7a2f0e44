"""Rounds the decoder's linear weights of a checkpoint to few bits, and stores the rounded values as F32.

    python quantise_rtn.py CHECKPOINT OUT_DIR --bits 4 [--group 128] [--symmetric]

Round to nearest, with nothing measured and nothing searched: each run of `group` weights along the input
gets the scale that just holds its largest weight (symmetric: -7..7 for 4 bits), or its smallest and
largest (asymmetric: 0..15 with a zero point that is one of these numbers). Scales are fp16. Taken are q, k, v, o,
gate_up and down of every decoder layer; embeddings, lm_head, norms, biases and the vision tower stay as they are.
The result is the baseline that any better method has to beat. F32, because BF16 would round the
values a second time, by up to a quarter of an 8-bit step.
"""

import argparse
import os
import shutil

import torch
from safetensors.torch import load_file, save_file


def round_groups(weight, bits, group, symmetric):
    """weight [out, in] -> F32 of the same shape, made of at most 2^bits values a group."""
    assert weight.shape[1] % group == 0, (weight.shape, group)
    w = weight.float().unflatten(1, (-1, group))
    if symmetric:
        top = 2 ** (bits - 1) - 1
        scale = (w.abs().amax(-1, keepdim=True) / top).clamp(min=1e-7).half().float()
        q = (w / scale).round().clamp(-top, top)
    else:
        top = 2 ** bits - 1
        low, high = w.amin(-1, keepdim=True).clamp(max=0), w.amax(-1, keepdim=True).clamp(min=0)
        scale = ((high - low) / top).clamp(min=1e-7).half().float()
        zero = (-low / scale).round().clamp(0, top)
        q = (w / scale + zero).round().clamp(0, top) - zero
    return (q * scale).flatten(1)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("checkpoint")
    ap.add_argument("out")
    ap.add_argument("--bits", type=int, required=True)
    ap.add_argument("--group", type=int, default=128)
    ap.add_argument("--symmetric", action="store_true")
    args = ap.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = load_file(os.path.join(args.checkpoint, "model.safetensors"))
    taken, error, power = 0, 0.0, 0.0
    for name, t in tensors.items():
        if ".language_model.layers." in name and name.endswith("_proj.weight"):
            rounded = round_groups(t.to(device), args.bits, args.group, args.symmetric).cpu()
            error += (rounded - t.float()).square().sum().item()
            power += t.float().square().sum().item()
            taken += t.numel()
            tensors[name] = rounded
    os.makedirs(args.out, exist_ok=True)
    for name in os.listdir(args.checkpoint):
        if name != "model.safetensors":
            shutil.copy(os.path.join(args.checkpoint, name), args.out)
    save_file(tensors, os.path.join(args.out, "model.safetensors"), metadata={"format": "pt"})
    print(f"INT{args.bits} RTN, group {args.group}, {'symmetric' if args.symmetric else 'asymmetric'}: {taken:,} weights of {sum(t.numel() for t in tensors.values()):,}, "
          f"relative error {(error / power) ** 0.5:.4f}")


if __name__ == "__main__":
    main()
