"""Trains the checkpoint. One GPU; several short runs may follow one another.

    python train.py --model-dir ../models/autoglm-phone-demo --state STATE_DIR --seconds 540 --total 1000 \
        --prompts prompts/agent_zh.txt prompts/agent_en.txt [client prompts ...]

`--seconds` is the time of this run, `--total` that of all runs together; the
learning rate follows the share of `--total` that has passed. The state in
STATE_DIR (fp32 weights in parts of at most 15 MB, and progress.json) is read
at the start, if there, and written at the end. Optimizer moments are not kept: each
run warms up again for 100 steps. `--init FOLDER` starts from an exported checkpoint
instead; the run then counts as the last `--seconds` of `--total`. The auxiliary heads
are not exported, so a short run from there leaves them out with `--aux 0`.

`--mix` takes one stage or several: `--mix wall=60,text=40@0.3 one=80,text=20` draws by
the first list until 30 % of `--total` have passed.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

import batches
import labels as L
import network
from make_tokenizer import FIRST_NUMBER

PART = 15_000_000


# ---- state -----------------------------------------------------------------------


def save_state(folder, params, progress):
    os.makedirs(folder, exist_ok=True)
    parts, size = [{}], 0
    for name, t in params.items():
        a = t.detach().float().cpu().numpy()
        if size + a.nbytes > PART and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = a
        size += a.nbytes
    for k, part in enumerate(parts):
        np.savez(os.path.join(folder, f"state{k}.npz"), **part)
    progress["parts"] = len(parts)
    with open(os.path.join(folder, "progress.json"), "w") as f:
        json.dump(progress, f, indent=1)


def load_state(folder):
    path = os.path.join(folder or "", "progress.json")
    if not folder or not os.path.exists(path):
        return None, dict(step=0, elapsed=0.0, runs=0)
    progress = json.load(open(path))
    params = {}
    for k in range(progress["parts"]):
        with np.load(os.path.join(folder, f"state{k}.npz")) as z:
            params.update({n: torch.from_numpy(z[n]) for n in z.files})
    return params, progress


# ---- optimizer: Muon for the matrices inside, AdamW for the rest -------------------


class Muon:
    """Momentum made orthogonal (five Newton-Schulz steps), scaled to the size of an AdamW update."""

    def __init__(self, params, momentum=0.95):
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.m = {s: torch.zeros((len(ps), *s), device=ps[0].device) for s, ps in self.groups.items()}
        self.beta = momentum

    @torch.no_grad()
    def step(self, lr, decay):
        for shape, ps in self.groups.items():
            g = torch.stack([p.grad for p in ps])
            m = self.m[shape]
            m.lerp_(g, 1 - self.beta)
            x = g.lerp(m, self.beta).bfloat16()
            if shape[0] > shape[1]:
                x = x.mT
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
            if shape[0] > shape[1]:
                x = x.mT
            x = x.float() * (0.2 * math.sqrt(max(shape)))
            for p, u in zip(ps, x):
                p.mul_(1 - lr * decay).add_(u, alpha=-lr)


def is_inner_matrix(name, p):
    return p.ndim == 2 and ".weight" in name and ("layers." in name or "blocks." in name or "merger." in name)


# ---- loss ------------------------------------------------------------------------


def smear_weights(device, sigma, reach=10):
    d = torch.arange(-reach, reach + 1, device=device).float()
    w = torch.exp(-d * d / (2 * sigma * sigma))
    return d.long(), w / w.sum()


def answer_loss(rows, head, labels, soft, smear):
    """Cross-entropy; a coordinate's target is a narrow bell around the right number. Gives (loss sum, count, logits, chosen labels, chosen soft)."""
    keep = labels >= 0
    y, s = labels[keep], soft[keep]
    logits = F.linear(rows[keep], head).float()
    logp = F.log_softmax(logits, -1)
    plain = -logp.gather(1, y[:, None])[:, 0]
    d, w = smear
    near = (y[:, None] + d).clamp(FIRST_NUMBER, FIRST_NUMBER + 989)
    bell = -(logp.gather(1, near) * w).sum(1)
    return torch.where(s, bell, plain), y, s, logits


class PointerLoss:
    """Where the coordinates are written, one head of each of the last two layers shall look at the label of the target.

    Left alone, the decoder learns to read and to answer long before it learns to find; this shows it the way.
    The same head looks already in front of the first word of the thought, which says whether the target is on the screen;
    if it is not, at the first token of the prompt.
    """

    def __init__(self, batch, layers):
        self.batch, self.layers, self.loss, self.mass = batch, layers, [], []
        self.copy_mass = self.turn_mass = None
        self.keep = batch["soft"] & batch["look"].any(1)[:, None]

    def __call__(self, layer, q, key):
        if layer not in self.layers:
            return
        n, _, T, d = q.shape
        S = key.shape[2]
        score = (q[:, 0] @ key[:, 0].transpose(1, 2))[self.keep].float() * d ** -0.5           # [M, S]
        row, col = self.keep.nonzero(as_tuple=True)
        ahead = torch.arange(S, device=q.device)[None] > (S - T + col)[:, None]
        logp = F.log_softmax(score.masked_fill(ahead, -1e9), 1)
        a = self.batch["look_at"]
        inside = self.batch["look"][row]
        mass = logp[:, a:a + inside.shape[1]].masked_fill(~inside, -1e9).logsumexp(1)
        self.loss.append(-mass.clamp(min=-20).mean())
        self.mass.append(mass.detach().exp().mean())
        j = torch.arange(S, device=q.device)[None]
        c = self.batch["copies"]
        if c.shape[0]:                    # another head looks at the source of a copied token
            self.copy_mass = self.aim(q[:, 1], key[:, 1], c, (j >= S - T + c[:, 2:3]) & (j <= S - T + c[:, 3:4]))
        c = self.batch["turns"]
        if c.shape[0]:
            look = self.batch["look"][c[:, 0]]
            target = F.pad(look, (a, S - a - look.shape[1]))
            target[:, 0] = c[:, 2] > 0
            self.turn_mass = self.aim(q[:, 0], key[:, 0], c, target)

    def aim(self, q, key, at, inside):
        """Adds the loss of the rows and positions `at` [M, 2...] of one head looking at the keys `inside` [M, S]; gives the mean of its attention there."""
        T, S = q.shape[1], key.shape[1]
        score = (q[at[:, 0], at[:, 1]][:, None] @ key[at[:, 0]].transpose(1, 2))[:, 0].float() * q.shape[2] ** -0.5
        ahead = torch.arange(S, device=q.device)[None] > (S - T + at[:, 1])[:, None]
        mass = F.log_softmax(score.masked_fill(ahead, -1e9), 1).masked_fill(~inside, -1e9).logsumexp(1)
        self.loss.append(-mass.clamp(min=-20).mean())
        return mass.detach().exp().mean()


def quick_metrics(y, s, logits):
    """Share of right tokens outside the coordinates, and mean distance of the coordinates."""
    with torch.no_grad():
        guess = logits.argmax(1)
        plain = (guess == y)[~s].float().mean().item() if (~s).any() else float("nan")
        off = (guess - y)[s].abs().float()
        close = (off < 25).float().mean().item() if s.any() else float("nan")
        return plain, close


def recolour(images):
    """In place: a quarter of the pictures get their colour channels rolled, a tenth are inverted, so that a picture seen again is not quite the same."""
    n = images.shape[0]
    r = torch.rand(n)
    for k in range(n):
        if r[k] < 0.25:
            images[k] = images[k].roll(1 if r[k] < 0.125 else 2, 0)
        elif r[k] < 0.35:
            images[k] = 255 - images[k]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model-dir", required=True, help="folder with tokenizer.json")
    ap.add_argument("--preset", default="demo")
    ap.add_argument("--state", default=None, help="folder to resume from")
    ap.add_argument("--init", default=None, help="exported checkpoint to start from")
    ap.add_argument("--out", default=os.environ.get("OUTPUT_DIR", "state"))
    ap.add_argument("--prompts", nargs="*", default=[])
    ap.add_argument("--seconds", type=float, default=540)
    ap.add_argument("--total", type=float, default=1000)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--decay", type=float, default=0.02)
    ap.add_argument("--aux", type=float, default=1.0)
    ap.add_argument("--pointer", type=float, default=0.5, help="weight of the attention loss")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--workers", type=int, default=15)
    ap.add_argument("--steps", type=int, default=10**9)
    ap.add_argument("--turn", type=float, default=3.0, help="further weight of the word that says whether the target is there")
    ap.add_argument("--pictures", type=int, default=48, help="of a batch of the kind \"one\"; fewer make more steps of a larger model")
    ap.add_argument("--mix", nargs="*", default=[], help="shares of the kinds of batches, like one=62,steps=18,text=10,wall=10; several with @END are stages")
    ap.add_argument("--general", help="a file of plain text for batches of the kind \"general\"")
    ap.add_argument("--profile", action="store_true", help="profile ten steps and say where the time goes")
    ap.add_argument("--small", action="store_true", help="tiny batches, to try the script on a CPU")
    ap.add_argument("--log-every", type=int, default=50)
    args = ap.parse_args()
    started = time.time()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(args.seed)
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)              # it would plan anew for every shape
    tok_path = os.path.join(args.model_dir, "tokenizer.json")
    tok = Tokenizer.from_file(tok_path)
    saved, progress = load_state(args.state)
    if args.init:
        saved, progress = load_file(os.path.join(args.init, "model.safetensors")), dict(step=0, elapsed=args.total - args.seconds, runs=0)

    passed = torch.full((1,), progress["elapsed"] / args.total).share_memory_()
    stream = batches.Stream(tok_path, batches.read_prompts(args.prompts), args.seed + 7919 * (progress["runs"] + 1), args.small,
                            batches.read_stages(args.mix), args.general, args.pictures, passed)
    # Out of order: a worker that draws a slow batch does not hold up the others.
    loader = iter(torch.utils.data.DataLoader(stream, batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None, pin_memory=device == "cuda", in_order=False))

    cfg = network.make_config(args.preset, tok)
    model = network.make_model(cfg).float()
    params = {n: p for n, p in model.named_parameters()}
    hidden = cfg["text_config"]["hidden_size"]
    if saved is None:
        with torch.no_grad():
            # Neighbouring numbers begin as neighbours.
            n = torch.arange(10, 1000).float()[:, None]
            freq = torch.exp(torch.rand(hidden) * math.log(60.0)) / 1000 * math.pi
            wave = 0.02 * math.sqrt(2) * torch.cos(n * freq + torch.rand(hidden) * 2 * math.pi)
            for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
                params[name][FIRST_NUMBER:FIRST_NUMBER + 990] = wave
            for name, p in params.items():                        # deep sums start small
                if name.endswith(("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight")):
                    p.fill_(0.5)
    aux = {"aux.norm.weight": torch.ones(hidden), "aux.cls.weight": torch.randn(L.CLASS_COUNT, hidden) * 0.02, "aux.cls.bias": torch.zeros(L.CLASS_COUNT),
           "aux.at.weight": torch.randn(2, hidden) * 0.02, "aux.at.bias": torch.full((2,), 0.5),
           "aux.x.weight": torch.randn(hidden, hidden) * 0.02, "aux.y.weight": torch.randn(hidden, hidden) * 0.02}
    params.update({n: torch.nn.Parameter(t) for n, t in aux.items()})
    if saved is not None:
        for n, p in params.items():
            if n in saved or not n.startswith("aux."):
                p.data.copy_(saved[n])
    params = {n: torch.nn.Parameter(p.data.to(device)) for n, p in params.items()}
    print(f"{sum(p.numel() for n, p in params.items() if not n.startswith('aux.')):,} parameters, {device}; resuming at step {progress['step']}, {progress['elapsed']:.0f} s", flush=True)

    inner = [p for n, p in params.items() if is_inner_matrix(n, p) and ".visual." not in n]
    inner_vision = [p for n, p in params.items() if is_inner_matrix(n, p) and ".visual." in n]
    outer_wd = [p for n, p in params.items() if not is_inner_matrix(n, p) and p.ndim >= 2]
    outer = [p for n, p in params.items() if not is_inner_matrix(n, p) and p.ndim < 2]
    muon, muon_vision = Muon(inner), Muon(inner_vision)
    adam = torch.optim.AdamW([dict(params=outer_wd, weight_decay=args.decay), dict(params=outer, weight_decay=0.0)], lr=args.lr, betas=(0.9, 0.98), fused=device == "cuda")
    smear = {}

    step0, elapsed0 = progress["step"], progress["elapsed"]
    begin = time.time()
    step, waited, stats = step0, 0.0, []
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]) if args.profile else None
    while step - step0 < args.steps:
        if profiler and step - step0 == 60:
            torch.cuda.synchronize()
            profiler.start()
            profile_begin = time.time()
        if profiler and step - step0 == 80:
            torch.cuda.synchronize()
            print(f"20 steps in {time.time() - profile_begin:.2f} s")
            profiler.stop()
            print(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=28, max_name_column_width=60))
            profiler = None
        elapsed = time.time() - begin
        if elapsed > args.seconds:
            break
        share = (elapsed0 + elapsed) / args.total
        passed.fill_(share)
        rate = 1.0 if share < 0.35 else max(0.005, 1 - (share - 0.35) / 0.65)
        lr = args.lr * rate * min(1.0, (step - step0 + 1) / (300 if saved is None else 100))
        t0 = time.time()
        batch = batches.to_device(next(loader), device)
        waited += time.time() - t0

        if "images" in batch:
            recolour(batch["images"])
        p16 = {n: p.to(dtype) for n, p in params.items()}
        pointer = PointerLoss(batch, (cfg["text_config"]["num_hidden_layers"] - 2, cfg["text_config"]["num_hidden_layers"] - 1)) if "look" in batch and args.pointer else None
        rows, seen = network.forward(p16, cfg, batch, pointer)
        sigma = 6.0 if share < 0.3 else 3.0
        if sigma not in smear:
            smear[sigma] = smear_weights(device, sigma, 16 if sigma > 4 else 10)
        total, loss = 0.0, None
        if rows is not None:
            each, y, s, logits = answer_loss(rows, p16["lm_head.weight"], batch["labels"], batch["soft"], smear[sigma])
            weight = 1.0 + 1.0 * s
            if "turns" in batch:
                turn = torch.zeros_like(batch["soft"])
                turn[batch["turns"][:, 0], batch["turns"][:, 1]] = True
                weight = weight + args.turn * turn[batch["labels"] >= 0]
            total = loss = (each * weight).sum() / weight.sum()
        if pointer is not None:
            total = total + args.pointer * sum(pointer.loss) / 2
        cls_loss = at_loss = None
        if seen is not None:
            f = network.rms(seen, p16["aux.norm.weight"])
            logit = F.linear(f, p16["aux.cls.weight"], p16["aux.cls.bias"]).float().flatten(0, 1)
            target = batch["cls"].flatten()
            ce = F.cross_entropy(logit, target, reduction="none")
            hit = target > 0
            cls_loss = ce[hit].mean() + 0.3 * ce[~hit].mean()
            at = F.linear(f, p16["aux.at.weight"], p16["aux.at.bias"]).float().flatten(0, 1)
            at_loss = (at - batch["at"].flatten(0, 1))[hit].abs().mean()
            # The centre also as a number word, in the words' own space: what the decoder has to copy.
            d, w = smear[sigma]
            numbers = p16["lm_head.weight"][FIRST_NUMBER:FIRST_NUMBER + 990]
            some = hit.nonzero()[:, 0]
            some = some[torch.randperm(some.shape[0], device=device)[:4000]]
            word_loss = 0.0
            for axis, name in enumerate(("aux.x.weight", "aux.y.weight")):
                logp = F.log_softmax(F.linear(F.linear(f.flatten(0, 1)[some], p16[name]), numbers).float(), 1)
                n = (batch["at"].flatten(0, 1)[some, axis] * 1000).long().clamp(10, 999) - 10
                word_loss = word_loss - (logp.gather(1, (n[:, None] + d).clamp(0, 989)) * w).sum(1).mean()
            total = total + args.aux * (0.1 * word_loss + (1.0 if share < 0.5 else 0.4) * (0.5 * cls_loss + 2.0 * at_loss))
        total.backward()
        torch.nn.utils.clip_grad_norm_([p for p in params.values() if p.grad is not None], 1.0)
        if rows is not None:
            muon.step(lr, args.decay)
        if seen is not None:                      # a batch without pictures leaves the tower alone
            muon_vision.step(lr, args.decay)
        for g in adam.param_groups:
            g["lr"] = lr
        adam.step()
        for p in params.values():
            p.grad = None
        step += 1

        if step % 10 == 0 or step - step0 <= 3:
            plain, close = quick_metrics(y, s, logits) if rows is not None else (float("nan"),) * 2
            stats.append((batch["kind"], loss.item() if rows is not None else float("nan"), plain, close, cls_loss.item() if cls_loss is not None else float("nan"), at_loss.item() if at_loss is not None else float("nan"),
                          pointer.mass[0].item() if pointer else float("nan"), pointer.mass[1].item() if pointer else float("nan"), float(word_loss.detach()) / 2 if seen is not None else float("nan"),
                          pointer.copy_mass.item() if pointer and pointer.copy_mass is not None else float("nan"),
                          pointer.turn_mass.item() if pointer and pointer.turn_mass is not None else float("nan")))
        if step % args.log_every == 0:
            line = f"step {step} {elapsed0 + elapsed:.0f}s lr {lr:.1e} {(step - step0) / (time.time() - begin):.1f} steps/s waited {waited:.0f}s"
            for kind in ("one", "steps", "text", "wall", "general"):
                part = [x[1:] for x in stats if x[0] == kind]
                if part:
                    m = [np.mean([v for v in col if v == v] or [0]) for col in zip(*part)]
                    line += f" | {kind} loss {m[0]:.3f} tok {m[1]:.3f}" + (f" near {m[2]:.3f} cls {m[3]:.3f} at {m[4]:.3f} look {m[5]:.3f} {m[6]:.3f} word {m[7]:.2f} copy {m[8]:.3f} turn {m[9]:.3f}" if kind not in ("text", "general") else "")
            print(line, flush=True)
            stats = []
    progress.update(step=step, elapsed=elapsed0 + time.time() - begin, runs=progress["runs"] + 1)
    save_state(args.out, params, progress)
    print(f"done: step {step}, {progress['elapsed']:.0f} s of training, {time.time() - started:.0f} s in all, waited {waited:.0f} s for data"
          + (f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""))


if __name__ == "__main__":
    main()
