"""The reference: transformers with fp32 arithmetic on the bf16 weights, PIL preprocessing, string-mode prompts, greedy.

`Reference.answer(messages)` takes OpenAI-style messages (image_url parts with a data: URL or a file name) and gives the text without its stop token.
"""

import base64
import concurrent.futures
import io
import os
import re

import numpy as np
import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers import AutoConfig, Glm4vForConditionalGeneration, GenerationConfig

try:
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil as PilProcessor
except ImportError:
    from transformers import Glm4vImageProcessor as PilProcessor

TRIPLET = "<|begin_of_image|><|image|><|end_of_image|>"


def load_image(url, folder="."):
    if url.startswith("data:"):
        image = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
    else:
        image = Image.open(os.path.join(folder, url.removeprefix("file://")))
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return image.convert("RGB")


def flatten(messages, folder="."):
    """String mode: pictures in front, each followed by a newline, then the texts joined by newlines. Gives (prompt with one <|image|> each, images)."""
    out, images = "[gMASK]<sop>", []
    for m in messages:
        content = m["content"]
        if isinstance(content, str):
            text = content
        else:
            parts = []
            for part in content:
                if part["type"] == "image_url":
                    images.append(load_image(part["image_url"]["url"], folder))
                    parts.append(TRIPLET)
            parts += [part["text"] for part in content if part["type"] == "text"]
            text = "\n".join(parts)
        out += f"<|{m['role']}|>\n{text}"
    return out + "<|assistant|>\n", images


class Reference:
    def __init__(self, folder, device=None, dtype=torch.float32):
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        # On a GPU torch rounds the inputs of fp32 convolutions to TF32 unless told otherwise.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # The stored weights are bf16; reading them as fp32 loses nothing.
        self.model = Glm4vForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(self.device).eval()
        self.processor = PilProcessor.from_pretrained(folder)
        self.eos = GenerationConfig.from_pretrained(folder).eos_token_id
        self.image_id = self.tok.token_to_id("<|image|>")

    def prepare(self, messages, folder="."):
        prompt, images = flatten(messages, folder)
        feats = self.processor(images=images, return_tensors="pt") if images else None
        if images:
            grids = iter(feats["image_grid_thw"].tolist())
            prompt = re.sub(re.escape("<|image|>"), lambda _: "<|image|>" * (lambda g: g[0] * g[1] * g[2] // 4)(next(grids)), prompt)
        return self.tok.encode(prompt, add_special_tokens=False).ids, feats

    @torch.no_grad()
    def answers(self, batch, folder="."):
        """Greedy answers for several conversations at once (left padding)."""
        with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            made = list(pool.map(lambda m: self.prepare(m, folder), batch))
        longest = max(len(i) for i, _ in made)
        pad = self.eos[0]
        ids = torch.tensor([[pad] * (longest - len(i)) + i for i, _ in made])
        mask = torch.tensor([[0] * (longest - len(i)) + [1] * len(i) for i, _ in made])
        inputs = dict(input_ids=ids, attention_mask=mask)
        feats = [f for _, f in made if f is not None]
        if feats:
            inputs["pixel_values"] = torch.cat([f["pixel_values"] for f in feats]).to(self.model.dtype)
            inputs["image_grid_thw"] = torch.cat([f["image_grid_thw"] for f in feats])
            inputs["mm_token_type_ids"] = (ids == self.image_id).long()
        inputs = {k: v.to(self.device) for k, v in inputs.items()}
        out = self.model.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=200, eos_token_id=self.eos, pad_token_id=pad)
        texts = []
        for row in out[:, longest:].tolist():
            cut = next((k for k, t in enumerate(row) if t in self.eos), len(row))
            texts.append(self.tok.decode(row[:cut], skip_special_tokens=True))
        return texts

    def answer(self, messages, folder="."):
        return self.answers([messages], folder)[0]
