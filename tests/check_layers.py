#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes may only point down the table of docs/ARCHITECTURE.md; prints each one that does not."""
import pathlib
import re
import sys

ALLOWED = {
    "base": set(),
    "quant": {"base"},
    "tokenizer": {"base"},
    "media": {"base"},
    "backend": {"quant", "base"},
    "parallel": {"backend", "base"},
    "model": {"parallel", "backend", "quant", "base"},
    "engine": {"model", "parallel", "backend", "quant", "tokenizer", "media", "base"},
    "server": {"base"},
    "cli": {"base", "server", "bench"},
    "bench": {"base"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)

root = pathlib.Path(__file__).resolve().parent.parent / "src"
errors, files = [], 0
for path in sorted(root.rglob("*.[ch]*")):
    folder = path.relative_to(root).parts[0]
    files += 1
    for target in INCLUDE.findall(path.read_text()):
        top = target.split("/")[0]
        if "/" not in target or top not in ALLOWED and top != "agl":
            errors.append(f"{path}: \"{target}\" is not a path from src/ or include/")
        elif top not in (folder, "agl") and top not in ALLOWED[folder]:
            errors.append(f"{path}: {folder}/ may not include {target}")
        other = {"cpu": "cuda", "cuda": "cpu"}
        for mine, theirs in other.items():
            if f"backend/{mine}/" in str(path) and target.startswith(f"backend/{theirs}/"):
                errors.append(f"{path}: backend/{mine} and backend/{theirs} do not know each other")
print("\n".join(errors) if errors else f"layers: {files} files, all includes point down")
sys.exit(bool(errors))
