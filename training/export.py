"""Writes the checkpoint folder from a training state.

    python export.py --state STATE_DIR --model-dir ../models/autoglm-phone-demo [--preset demo]

MODEL_DIR must hold tokenizer.json and chat_template.jinja (the template of GLM-4.1V, byte for byte).
"""

import argparse
import json
import os

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import batches
import network
from train import load_state


def write(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=2)
        f.write("\n")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--model-dir", required=True)
    ap.add_argument("--preset", default="demo")
    args = ap.parse_args()
    tok = Tokenizer.from_file(os.path.join(args.model_dir, "tokenizer.json"))
    cfg = network.make_config(args.preset, tok)
    params, progress = load_state(args.state)
    tensors = {n: t.to(torch.bfloat16).contiguous() for n, t in params.items() if not n.startswith("aux.")}
    save_file(tensors, os.path.join(args.model_dir, "model.safetensors"), metadata={"format": "pt"})
    write(os.path.join(args.model_dir, "config.json"), cfg)
    write(os.path.join(args.model_dir, "generation_config.json"), {
        "_from_model_config": True, "do_sample": True, "eos_token_id": cfg["text_config"]["eos_token_id"], "pad_token_id": cfg["text_config"]["pad_token_id"],
        "top_p": 0.6, "temperature": 0.8, "top_k": 2, "transformers_version": "4.57.1"})
    write(os.path.join(args.model_dir, "preprocessor_config.json"), {
        "size": {"shortest_edge": batches.SHORTEST_EDGE, "longest_edge": batches.LONGEST_EDGE}, "do_rescale": True, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": list(network.MEAN), "image_std": list(network.STD), "image_processor_type": "Glm4vImageProcessor", "processor_class": "Glm4vProcessor"})
    size = sum(os.path.getsize(os.path.join(args.model_dir, f)) for f in os.listdir(args.model_dir))
    print(f"{sum(t.numel() for t in tensors.values()):,} parameters, {len(tensors)} tensors, folder {size / 1e6:.2f} MB, after {progress['step']} steps and {progress['elapsed']:.0f} s")


if __name__ == "__main__":
    main()
