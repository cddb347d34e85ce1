"""Columns of text that would be numbers but for how they are written: said, because a model takes each such
text for a category of its own, and nothing else would tell.
"""

import itertools
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any

import orjson

from streamlearn.core.convert import is_coated
from streamlearn.core.paths import optional

LOOKED_AT = 1000
_MOSTLY = 0.9
_LEAST = 10


def note(column: str, example: str, where: str = "--types") -> str:
    """A note about such a column. `where`: how a column is declared."""
    return (
        f"{column} is text, and nearly all of it would be numbers without the signs for thousands, money or"
        f" percent (e.g. {example!r}): each text is a category of its own to the model. Take the signs out"
        f" where the data are made (pandas: thousands=','), or declare it as str ({where}) if it is text"
    )


def notes(events: Iterable[bytes], features: str, declared: Container[str] = ()) -> list[str]:
    """Notes about the first events. `features`: the path of what holds them; without it, all members do."""
    texts: Counter[str] = Counter()
    coated: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for event in itertools.islice(events, LOOKED_AT):
        for name, value in _features(event, features).items():
            if type(value) is str and name not in declared:
                texts[name] += 1
                if is_coated(value):
                    coated[name] += 1
                    examples.setdefault(name, value)
    return [
        note(name, examples[name])
        for name, count in coated.items()
        if count > _MOSTLY * texts[name] and count >= _LEAST
    ]


def _features(event: bytes, path: str) -> dict[str, Any]:
    try:
        doc = orjson.loads(event)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(doc, dict):
        return {}
    features = optional(path)(doc)
    return features if isinstance(features, dict) else doc
