# SPDX-License-Identifier: Apache-2.0
"""The demonstration model end to end: held-out screens and dialogues through the real binary.

tests/fixtures/demo/cases.json is written by training/make_fixtures.py: `text` is what transformers
generates greedily in fp32, `box` the target's place in 0-999 units. The server must say the same,
to the character, so a tap lands where the model meant.
"""
import base64
import copy
import json
import re

import pytest

from conftest import DEMO
from support import ROOT, Server

FOLDER = ROOT / "tests" / "fixtures" / "demo"
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
pytestmark = pytest.mark.skipif(not (DEMO / "config.json").exists(), reason=f"{DEMO} is not there")


@pytest.fixture(scope="module")
def demo():
    """Without --model: the server falls back to the demonstration model and says so."""
    with Server() as running:
        yield running


def test_training_claims_no_input_that_the_server_lacks(monkeypatch):
    """What the next checkpoint learns to say of speech: not that some other model would handle it."""
    monkeypatch.syspath_prepend(str(ROOT / "training"))
    import dialogues
    answers = {(name, lang): entry[lang][2] for name, entry in dialogues.INTENTS for lang in entry}
    assert {lang for name, lang in answers if name == "audio"} == {"zh", "en"}
    for (name, _), answer in answers.items():
        if re.search("speech|hear|audio|语音|声音", answer) and name in ("modal", "audio"):
            assert re.search("no speech|cannot hear|不支持语音|不能听", answer), answer
        assert not re.search("another model|other model|另一个模型|语音识别|recognition", answer), answer


def request_of(case, stream=False):
    messages = copy.deepcopy(case["messages"])
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                data = (FOLDER / part["image_url"]["url"]).read_bytes()
                # Mislabelled on purpose, as clients do: content decides.
                part["image_url"]["url"] = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"model": "autoglm-phone-9b", "messages": messages, "temperature": 0, "max_tokens": 200, "stream": stream}


def answer(server, body):
    response = server.post("/v1/chat/completions", body)
    response.raise_for_status()
    if not body["stream"]:
        return response.json()["choices"][0]["message"]["content"]
    events = [json.loads(line[6:]) for line in response.text.splitlines()
              if line.startswith("data: ") and line != "data: [DONE]"]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_same_answer_as_transformers(demo, case):
    text = answer(demo, request_of(case))
    assert text == case["text"]
    assert "</answer>" not in text and "<|" not in text
    if case["action"]:
        assert f'do(action="{case["action"]}"' in text or f'{case["action"]}(' in text
    if case["box"]:
        x, y = map(int, re.search(r"element=\[(\d+),(\d+)\]", text).groups())
        left, top, right, bottom = case["box"]
        assert left <= x <= right and top <= y <= bottom


def test_streamed_is_the_same(demo):
    assert answer(demo, request_of(CASES[0], stream=True)) == CASES[0]["text"]


def test_says_that_it_is_the_demonstration_model(demo):
    models = demo.get("/v1/models").json()["data"]
    assert models[0]["id"] == "autoglm-phone-9b"
    assert models[0]["root"].endswith("autoglm-phone-demo")
    assert "demonstration" in demo.log.lower()
