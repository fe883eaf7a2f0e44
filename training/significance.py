"""How sure a share is, and whether two runs over the same questions differ. No library needed."""

import math


def interval(hits, n, z=1.959964):
    """Wilson's interval of a share, 95 %: (low, high)."""
    share, d = hits / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / d
    half = z / d * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(before, after):
    """(right to wrong, wrong to right, p) of two lists of verdicts on the same questions.

    p is McNemar's test in its exact form: how often fair coins would share out the changed verdicts at least as unevenly.
    """
    assert len(before) == len(after)
    lost = sum(bool(a) and not b for a, b in zip(before, after))
    won = sum(bool(b) and not a for a, b in zip(before, after))
    n = lost + won
    tail = sum(math.comb(n, k) for k in range(min(lost, won) + 1))
    return lost, won, min(1.0, 2 * tail / 2 ** n)
