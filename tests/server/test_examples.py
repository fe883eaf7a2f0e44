# SPDX-License-Identifier: Apache-2.0
"""The files of examples/, run as the README says, and the README's snippets, which are those files."""
import os
import pathlib
import re
import subprocess
import sys

import pytest
from support import ROOT, encode, screen

EXAMPLES = ROOT / "examples"


def run_example(command, **options):
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, cwd=ROOT, **options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "screen.png").write_bytes(encode(screen()))
    return tmp_path / "screen.png"


def test_curl(served, picture):
    shown = run_example([EXAMPLES / "curl.sh", served.root, picture])
    assert shown.count('"chat.completion"') == 2 and "data: [DONE]" in shown and '"usage"' in shown


@pytest.mark.parametrize("name", ["openai_client.py", "langchain_client.py", "llama_index_client.py"])
def test_python(served, picture, name):
    arguments = [picture] if name == "openai_client.py" else []
    assert run_example([sys.executable, EXAMPLES / name, served.base, *arguments]).strip()


def test_library(tiny, tmp_path):
    """The public header and the static library are enough."""
    libraries = re.search(r"^DEPS\s*:=\s*(.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    found = subprocess.run(["pkg-config", "--libs", *libraries], capture_output=True, text=True, check=True).stdout.split()
    build = pathlib.Path(os.environ.get("AUTOGLM_BINARY", ROOT / "build" / "autoglm")).parent
    run_example(["cc", "-std=c17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/include", EXAMPLES / "library.c", build / "libagl.a",
                 "-o", tmp_path / "library", *found, "-lm", "-pthread"])
    assert run_example([tmp_path / "library", tiny, "打开设置"]).strip()


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_readme_names_what_exists(readme):
    text = (ROOT / readme).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (ROOT / link).exists(), f"{readme}: {link}"
    help_text = subprocess.run([str(ROOT / "build" / "autoglm"), "serve", "--help"], capture_output=True, text=True).stdout
    for flag in set(re.findall(r"`(--[a-z][a-z-]+)", text)):
        assert flag in help_text, f"{readme}: {flag}"
