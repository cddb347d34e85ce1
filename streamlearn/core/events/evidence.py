"""The one rule by which first records decide for good: a majority of `SETTLED` votes, whatever came first.

The unit of times and the type of labels are settled by it. The guard counts as far for each feature, but in a
row: one value of another kind begins the count anew, because a feature that is mixed must not settle at all.
"""

from collections.abc import Mapping
from typing import Final

SETTLED: Final = 20
"""The number of votes that decide."""


def is_settled(votes: Mapping[str, int], leading: str) -> bool:
    """Tell if enough votes were given, and more for the leading one than for all others together.

    >>> is_settled({"ms": 19}, "ms"), is_settled({"ms": 19, "s": 1}, "ms")
    (False, True)
    """
    total = sum(votes.values())
    return total >= SETTLED and 2 * votes[leading] > total
