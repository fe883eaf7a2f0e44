# SPDX-License-Identifier: Apache-2.0
"""Starts the real binary and talks to it over a real socket.

AUTOGLM_BINARY names another program than build/autoglm. The tiny checkpoint has random weights and a
byte tokenizer: its answers mean nothing, but every route, field and limit is the real one. Where the
demonstration checkpoint is present, the tests that take `served` run against it too.
"""
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from support import ROOT, Server  # noqa: E402

DEMO = ROOT / "models" / "autoglm-phone-demo"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    subprocess.run([sys.executable, ROOT / "tests" / "support" / "make_tiny_checkpoint.py", folder], check=True,
                   stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def server(tiny):
    """One server of the tiny checkpoint for all tests that only ask it something."""
    with Server("--model", tiny, "--served-model-name", "autoglm-phone-9b", "tiny", "--threads", "2",
                "--kv-cache-memory-bytes", "64M", "--enable-dev-routes") as running:
        yield running


@pytest.fixture(scope="session", params=["tiny", "demo"] if (DEMO / "config.json").exists() else ["tiny"])
def served(request):
    """The tiny server, and one of the demonstration model where it is present."""
    if request.param == "tiny":
        yield request.getfixturevalue("server")
        return
    with Server("--model", DEMO, "--served-model-name", "autoglm-phone-9b") as running:
        yield running


@pytest.fixture
def start():
    """start(*flags) -> Server; stopped at the end of the test."""
    running = []

    def launch(*flags, **options):
        running.append(Server(*flags, **options))
        return running[-1].__enter__()

    yield launch
    for one in running:
        one.stop()
