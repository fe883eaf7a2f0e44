# SPDX-License-Identifier: Apache-2.0
"""The parts of training/ that need neither PyTorch nor a GPU: how questions are worded."""
import pytest

from support import ROOT


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "training"))


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_no_question_names_two_labels(training, lang):
    """"select {x}" with "All" would ask for the button "Select all": such a label stands in quotes."""
    import labels
    import phrases
    import tasks
    names = [labels.label(concept, lang) for concept in range(len(labels.CONCEPTS))]
    quoted = 0
    for table in (phrases.TAP, phrases.SWITCH, phrases.LONG, phrases.DOUBLE):
        for words in table[lang]["train"] + table[lang]["test"]:
            asked = {}
            for name in names:
                text = tasks.name_in(words, lang, name)
                assert name in text
                assert asked.setdefault(text.lower(), name) == name
                longer = [n for n in names if name.lower() in n.lower() and n != name and n.lower() in text.lower()]
                assert not longer, f"{text!r} asks for {name!r} and for {longer}"
                quoted += text != words.format(x=name)
    assert 0 < quoted < 20                  # the other questions read as before
