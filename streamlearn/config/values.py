"""Kinds of values in the configuration: durations, times, topics, paths, each with its check.

Invariant: a check raises `ValueError` saying what the value is not; where it stands is for `config.load`
to say.
"""

import contextlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from streamlearn.core.events.event import calendar_time
from streamlearn.core.events.where import compile_where

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_PLACE = re.compile(r"([A-Za-z0-9._-]+)-(\d{1,5})@(\d{1,18})")
MAX_DURATION_D = 36_500
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def duration_s(text: str) -> float:
    """Seconds in a duration such as `7d`, `1h`, `30s` or `500ms`, at most 36500d. Raises `ValueError`."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError("is not a duration like 7d, 1h, 15m, 30s or 500ms")
    seconds = float(match[1]) * _UNITS_S[match[2]]
    if seconds > MAX_DURATION_D * 86400.0:
        raise ValueError(f"is longer than {MAX_DURATION_D}d")
    return seconds


def rfc3339_ms(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time with a zone (`2026-01-31T08:00:00Z`).

    Raises `ValueError`, also for a time without a zone: which one was meant would be a guess.
    """
    when = calendar_time(text)
    if when is None or when.tzinfo is None:
        raise ValueError("is not an RFC 3339 time with a zone, like 2026-01-31T08:00:00Z")
    return round((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def check_duration(text: str) -> str:
    """`text`, if it is a duration above nothing."""
    if duration_s(text) <= 0:
        raise ValueError("must be longer than nothing")
    return text


def check_start(text: str) -> str:
    """`text`, if a stream can start there."""
    if text in ("earliest", "latest"):
        return text
    if "@" in text:
        start_places(text)
        return text
    if text.startswith("-"):
        duration_s(text[1:])
    else:
        rfc3339_ms(text)
    return text


def start_places(text: str) -> dict[tuple[str, int], int]:
    """The places in a list like `events-0@600, events-1@20`: by topic and partition, the first offset.

    >>> start_places("events-0@600, events-1@20")
    {('events', 0): 600, ('events', 1): 20}
    """
    places = {}
    for item in text.split(","):
        match = _PLACE.fullmatch(item.strip())
        if match is None:
            raise ValueError(f"has {item.strip()!r}, which is no place: write TOPIC-PARTITION@OFFSET")
        places[match[1], int(match[2])] = int(match[3])
    return places


def check_topic(text: str) -> str:
    """`text`, if a topic may have that name."""
    if not _TOPIC.fullmatch(text) or text in (".", ".."):
        raise ValueError("is not a topic name: 1 to 249 of the characters A-Z a-z 0-9 . _ -")
    return text


def check_topic_or_none(text: str) -> str:
    """`text`, if a topic may have that name or it is ""."""
    return check_topic(text) if text else text


def check_path(text: str) -> str:
    """`text`, if it is a path into a value, or ""."""
    if text and not all(text.split(".")):
        raise ValueError("is not a path: members joined by single dots, like meta.id or values.0")
    return text


def check_where(text: str) -> str:
    """`text`, if it is a condition, or ""."""
    if text:
        compile_where(text)
    return text


def check_features(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The path, or paths, of features; "" for none."""
    if value == "":
        return value
    paths = value if isinstance(value, tuple) else (value,)
    if not paths or not all(paths):
        raise ValueError("names nothing")
    if len(set(paths)) < len(paths):
        raise ValueError("names a path twice")
    if "*" in paths and value != "*":
        raise ValueError('has "*" in a list; it stands alone')
    for path in paths:
        check_path(path)
    return value


def check_http(text: str) -> str:
    """`text`, if it is an address, or ""."""
    if text and not re.fullmatch(r"https?://[^\s/]+\S*", text):
        raise ValueError("is not an address like http://registry:8081")
    return text


def check_use(text: str) -> str:
    """`text`, if it can name a model, or ""."""
    if text and not all(text.partition(":")):
        raise ValueError("must be preset:NAME or module:attribute")
    return text


def check_url(text: str) -> str:
    """`text`, if it can name a place for checkpoints, or ""."""
    if text and (not text.startswith("file:") or text == "file:"):
        raise ValueError('must be "" or file:DIR')
    return text


def as_names(value: object) -> object:
    """One name, a comma-separated text (environment variables have no lists) or a list of names."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def as_scalar(value: object) -> object:
    """A text that reads as true, false or a number is that: environment variables have no types."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def as_paths(value: object) -> object:
    """A table by path: an unquoted `meta.rpm = ...` is a nested table in TOML."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, object] = {}
    for name, section in value.items():
        inner = as_paths(section)
        flat |= (
            {f"{name}.{path}": item for path, item in inner.items()}
            if isinstance(inner, dict)
            else {name: inner}
        )
    return flat


Topic = Annotated[str, AfterValidator(check_topic)]
Path = Annotated[str, AfterValidator(check_path)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(as_names)]
