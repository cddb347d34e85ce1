"""How good the answers were, subject by subject, beside the service's own scores.

python subjects.py predictions.jsonl labels.jsonl scores.jsonl
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def lines(file: str) -> list[Any]:
    """The JSON values in a file, one a line."""
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def main(predictions: str, labels: str, scores: str) -> None:
    """Print the last scores message as a table, and the share of right answers by subject."""
    last = lines(scores)[-1]
    print(f"after {last['events']} events, {last['labels']} with a label")
    print("           accuracy  balanced  kappa")
    for who, metrics in last["all"].items():
        values = [metrics[name] for name in ("accuracy", "balanced_accuracy", "cohen_kappa")]
        print(f"{who:10}" + "".join(f"{value:9.3f}" for value in values))
    exercises = {label["group"]: label["label"] for label in lines(labels)}
    right = defaultdict(list)
    for prediction in lines(predictions):
        carried = prediction["carry"]
        right[carried["subject"]].append(prediction["prediction"] == exercises[carried["group"]])
    print("subject   " + "".join(f"{subject:6}" for subject in right))
    print("accuracy  " + "".join(f"{sum(hits) / len(hits):6.2f}" for hits in right.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
