"""Two streams of river's generator Sine: in June the meaning of the label turns round with event 12,000."""

import itertools

from river.datasets import synth


def may():
    """5,000 points, which lie over a line or under it."""
    return synth.Sine(classification_function=0, seed=5).take(5_000)


def june():
    """20,000 more; over is under from the 12,001st on."""
    before = synth.Sine(classification_function=0, seed=6).take(12_000)
    after = synth.Sine(classification_function=1, seed=6).take(8_000)
    return itertools.chain(before, after)
