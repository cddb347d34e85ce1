"""From an answer per frame to one per utterance: whose probabilities are largest, multiplied over the frames.

    python vote.py predictions.jsonl labels.jsonl

Each frame was answered before its utterance ended, by a model that had never heard that utterance; so was the
answer made of them. The baselines guess before each utterance from the labels known then: the speaker of the
utterance before (no change), and the most frequent speaker so far (prior).
"""

import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

LEAST = 1e-6
"""A speaker whom one frame rules out is not ruled out for the utterance."""


def lines(file: str) -> list[Any]:
    """The JSON values in a file, one a line."""
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def voted(frames: list[dict[str, Any]]) -> str | None:
    """The answer of an utterance; None before the model has an opinion."""
    names = sorted({name for frame in frames for name in frame["probabilities"]})
    if not names:
        return None

    def total(name: str) -> float:
        return sum(math.log(max(frame["probabilities"].get(name, 0.0), LEAST)) for frame in frames)

    return max(names, key=total)


def main(predictions: str, labels: str) -> None:
    """Print the share of right answers, over all utterances and over the last half of them."""
    frames = defaultdict(list)
    for prediction in lines(predictions):
        frames[prediction["carry"]["group"]].append(prediction)
    known = Counter[str]()
    before = None
    hits: dict[str, list[float]] = defaultdict(list)
    for label in lines(labels):
        heard, speaker = frames[label["group"]], label["label"]
        hits["a frame"].append(sum(frame["prediction"] == speaker for frame in heard) / len(heard))
        hits["an utterance"].append(voted(heard) == speaker)
        hits["no change"].append(before == speaker)
        hits["prior"].append(bool(known) and max(known, key=known.__getitem__) == speaker)
        before = speaker
        known[speaker] += 1
    print(f"{known.total()} utterances   all  last half")
    for name, right in hits.items():
        half = right[len(right) // 2 :]
        print(f"{name:14}  {sum(right) / len(right):.3f}      {sum(half) / len(half):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
