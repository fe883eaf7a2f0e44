# SPDX-License-Identifier: Apache-2.0
"""The parts of training/ that need neither PyTorch nor a GPU: how questions are worded, how results are judged."""
import math

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
    assert 0 < quoted < 20              # the other questions read as before


def test_interval_of_a_share(training):
    """Wilson's formula: it holds p where |hits / n - p| = z sqrt(p (1 - p) / n)."""
    from significance import interval
    z = 1.959964
    for hits, n in ((213, 223), (1, 223), (2, 5), (0, 7), (9, 9)):
        low, high = interval(hits, n)
        assert 0 <= low <= hits / n <= high <= 1
        for p in (low, high):
            if 0 < p < 1:
                assert abs(hits / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), abs=1e-6)


@pytest.mark.parametrize("lost,won,p", [(0, 0, 1), (1, 0, 1), (6, 0, 2 / 64), (0, 6, 2 / 64), (5, 5, 1), (8, 2, 2 * 56 / 1024)])
def test_paired_verdicts(training, lost, won, p):
    from significance import paired
    before = [True] * lost + [False] * won + [True] * 40 + [False] * 7
    after = [False] * lost + [True] * won + [True] * 40 + [False] * 7
    assert paired(before, after) == (lost, won, pytest.approx(p))
