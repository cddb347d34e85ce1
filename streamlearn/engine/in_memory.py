"""The service in memory: the same model set-up, shard, undo and predictions, without a log.

For notebooks, tests and first looks. Nothing is kept: no journal, no checkpoint on disk.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from streamlearn.core.events.event import EventSpec
from streamlearn.core.records import Record
from streamlearn.core.shard.facts import Predicted, Refused
from streamlearn.core.shard.snapshot import fresh_state
from streamlearn.core.shard.state import ShardSpec
from streamlearn.engine.model import model_template
from streamlearn.engine.offline import Offline
from streamlearn.engine.registry import Schemas
from streamlearn.env import RealEnv


def run(
    model: Any, events: Iterable[Mapping[str, Any] | bytes], event: EventSpec | None = None, horizon: int = 1
) -> Iterator[dict[str, Any]]:
    """Predict and learn each event as `streamlearn serve` would; yield what it would publish, decoded.

    Args:
        model: A river model; it is copied, and stays as it is.
        events: Objects like `{"id", "ts", "features", "label"}`, all but `features` optional, or their JSON
            bytes.
        event: The field mapping, for events of another shape.
        horizon: The number of labels that a forecaster looks ahead; 1 for every other model.

    Yields:
        The prediction as published, decoded (docs/events.md); for an event that is refused
        `{"dead_letter": {"stage", "reason"}, "source": {...}}`.

    Raises:
        ConfigError: The model cannot be served.
        Stop: The model fails at every event, or a failure cannot be undone.

    Example:
        >>> from river import linear_model
        >>> events = [{"features": {"x": 1.0}, "label": True}, {"features": {"x": 2.0}}, {"features": 3}]
        >>> for answer in run(linear_model.LogisticRegression(), events):
        ...     print(answer.get("prediction"), answer.get("dead_letter"))
        False None
        True None
        None {'stage': 'guard', 'reason': 'no_features'}
    """
    env = RealEnv()
    template = model_template("memory", "", {}, [], model, horizon)
    spec = ShardSpec(template.name, template.version, 1, event or EventSpec(), horizon=horizon)
    sections = fresh_state(template.pickled)
    offline = Offline(spec, sections, template.trusted, Schemas(env, ""))
    for offset, message in enumerate(events):
        value = message if isinstance(message, bytes) else orjson.dumps(message)
        record = Record("events", 0, offset, round(env.now() * 1000), None, value)
        for fact in offline.step(record):
            if isinstance(fact, Predicted):
                yield orjson.loads(fact.output.value or b"")
            elif isinstance(fact, Refused):
                source = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
                yield {"dead_letter": {"stage": fact.stage, "reason": fact.reason}, "source": source}
