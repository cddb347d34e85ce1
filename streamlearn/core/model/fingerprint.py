"""A known-answer test of this machine's floating point.

glibc chooses its `exp`, `log` and `pow` by CPU, and OpenBLAS its kernels: two machines can differ in
the last bit, and then two models differ for ever. Machines with equal fingerprints give equal bits for
the functions that river's models call; a shard is redone only where the fingerprint is its era's.
"""

import hashlib
import math
import struct
from functools import cache

_FUNCTIONS = (math.exp, math.log, math.log1p, math.sqrt, math.sin, math.cos, math.tanh, math.erf, math.lgamma)


@cache
def fingerprint() -> str:
    """16 hex digits that are equal on machines whose floating point is."""
    import numpy as np

    answers: list[float] = []
    for step in range(1, 512):
        x = step * 0.0173 + 1.0 / step
        answers.extend(function(x) for function in _FUNCTIONS)
        answers.append(x ** (0.5 + 1.0 / step))
    grid = np.array(answers, dtype=np.float64)
    square = grid[:1024].reshape(32, 32)
    parts = (grid, np.exp(-grid % 7), np.dot(square, square.T), np.array([grid.sum(), grid.std()]))
    digest = hashlib.blake2b(digest_size=8)
    digest.update(struct.pack(f"<{len(answers)}d", *answers))
    for array in parts:
        digest.update(array.tobytes())
    return digest.hexdigest()
