"""Compares the training forward pass with transformers on random weights (CPU, fp32): python check_network.py MODEL_DIR"""

import sys

import torch
from tokenizers import Tokenizer

import batches
import network


def main():
    tok_path = sys.argv[1] + "/tokenizer.json"
    torch.manual_seed(0)
    cfg = network.make_config("tiny", Tokenizer.from_file(tok_path))
    model = network.make_model(cfg).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    params = dict(model.named_parameters())
    maker = batches.Maker(tok_path, ["system " * 100], 5, small=True)
    worst = 0.0
    for kind in ("one", "steps", "text"):
        b = batches.to_device(batches.to_tensors(maker.batch(kind)), "cpu")
        with torch.no_grad():
            rows, _ = network.forward(params, cfg, b)
            levels = b["levels"]
            last_ids = levels[-1][0]
            images = b.get("images")
            for k in range(0, last_ids.shape[0], max(1, last_ids.shape[0] // 4)):
                ids = torch.cat([i[k * i.shape[0] // last_ids.shape[0]] for i, _ in levels])
                inputs = dict(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None])
                if images is not None:
                    im = images[k * images.shape[0] // last_ids.shape[0]]
                    H, W = im.shape[1:]
                    gh, gw = H // 14, W // 14
                    mean, std = torch.tensor(network.MEAN)[:, None, None], torch.tensor(network.STD)[:, None, None]
                    x = ((im.float() / 255 - mean) / std)[:, None].repeat(1, 2, 1, 1)
                    x = x.view(3, 2, gh // 2, 2, 14, gw // 2, 2, 14).permute(2, 5, 3, 6, 0, 1, 4, 7).reshape(gh * gw, 1176)
                    inputs.update(pixel_values=x, image_grid_thw=torch.tensor([[1, gh, gw]]), mm_token_type_ids=(ids == cfg["image_token_id"]).long()[None])
                h = model.model(**inputs).last_hidden_state[0, -last_ids.shape[1]:]
                keep = b["labels"][k] >= 0               # the rest may be padding
                worst = max(worst, (h - rows[k])[keep].abs().max().item() / h.abs().max().item())
        print(kind, "largest relative difference so far", worst)
    assert worst < 1e-4, worst


if __name__ == "__main__":
    main()
