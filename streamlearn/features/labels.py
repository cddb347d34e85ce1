"""The labels that a model has seen, in an order that a checkpoint keeps.

Invariant: the order is a function of the labels alone.
"""

from collections.abc import Iterator
from typing import Any


class SortedLabels(set[Any]):
    """A set that is iterated over in sorted order; the labels of a stream have one type.

    River's HoeffdingAdaptiveTreeClassifier adds probabilities up in the order of its set `classes`. A set of
    strings that was pickled can come back in another order, and then the sums differ in their last bits.

    >>> list(SortedLabels(["walk", "sit", "run"]))
    ['run', 'sit', 'walk']
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__()))
