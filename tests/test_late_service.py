"""Labels on a topic of their own, through real processes on both backends."""

import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from river import datasets, linear_model, preprocessing, tree
from river.datasets import synth

from streamlearn.core.records import Record, decode_entry
from tests.service_process import App, Apps, apps, backend  # noqa: F401
from tests.test_labels import questions_and_answers


def sent(app: App, told: Iterator[tuple[int, dict[str, Any], Any]] | list[tuple[int, dict[str, Any], Any]]) -> None:
    """Produce questions to the first topic and answers to the second, a few at a time, in turn."""
    runs: list[tuple[int, list[dict[str, Any]]]] = []
    for number, x, y in told:
        topic = 0 if y is None else 1
        body = {"id": f"e{number}", "ts": number}
        body |= {"features": x} if y is None else {"label": y}
        if not runs or runs[-1][0] != topic:
            runs.append((topic, []))
        runs[-1][1].append(body)
    for topic, values in runs:
        app.produce(values, topic=topic)
