"""How well a checkpoint predicts the held-out end of the general text (transformers): python perplexity.py CHECKPOINT TEXT --out FILE

The end is what batches.Maker never trains on. It is cut into pieces as long as those of the training; the loss is the mean over all
tokens but the first of each piece, in nats. It shows the cost of a quantisation long before an answer changes.
"""

import argparse
import json
import math

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Glm4vForConditionalGeneration


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("checkpoint")
    ap.add_argument("text")
    ap.add_argument("--width", type=int, default=384)
    ap.add_argument("--pieces", type=int, default=256)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--out")
    args = ap.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = Tokenizer.from_file(args.checkpoint + "/tokenizer.json")
    model = Glm4vForConditionalGeneration.from_pretrained(args.checkpoint, dtype=torch.float32).to(device).eval()
    data = open(args.text, "rb").read()
    data = data[len(data) * 49 // 50:]
    start = tok.encode("[gMASK]<sop>", add_special_tokens=False).ids
    ids = tok.encode(data.decode("utf-8", "ignore"), add_special_tokens=False).ids
    inner = args.width - len(start)
    count = min(args.pieces, len(ids) // inner)
    stride = (len(ids) - inner) // max(1, count - 1)              # spread over all of the held-out text
    pieces = torch.tensor([start + ids[k * stride:k * stride + inner] for k in range(count)])
    total, right = 0.0, 0
    with torch.no_grad():
        for part in pieces.split(args.batch):
            part = part.to(device)
            logits = model(input_ids=part, attention_mask=torch.ones_like(part)).logits[:, len(start):-1].flatten(0, 1).float()
            target = part[:, len(start) + 1:].flatten()
            total += F.cross_entropy(logits, target, reduction="sum").item()
            right += (logits.argmax(1) == target).sum().item()
    tokens = count * (inner - 1)
    result = dict(subject=args.checkpoint, tokens=tokens, nats=total / tokens, perplexity=math.exp(total / tokens), next_token_right=right / tokens)
    print(f"{tokens} tokens: {result['nats']:.4f} nats, perplexity {result['perplexity']:.3f}, next token right {100 * result['next_token_right']:.2f}%")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
